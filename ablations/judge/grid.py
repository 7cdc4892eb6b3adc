"""The points of a search: what was measured at each, which values lie at an end of their grid, and how grids widen.

Knows numbers only, so that a result can say of a published search what the search itself would have.
"""

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

LEARNING_RATE = "optim.lr"

Edge = Literal["low", "high"]
Point = dict[str, float]
Key = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Measured:
    """A search point over its seeds."""

    losses: dict[int, float]
    """By seed; infinite where the trial diverged or failed."""
    constraint: float
    """The constrained metric, as a share of its maximum: the mean over seeds, infinite where one diverged."""

    @property
    def loss(self) -> float:
        """The mean over seeds; infinite where one diverged, or none is there."""
        return statistics.fmean(self.losses.values()) if self.losses else math.inf

    @property
    def diverged(self) -> bool:
        return not math.isfinite(self.loss)


def key_of(point: Mapping[str, float]) -> Key:
    return tuple(sorted(point.items()))


def measure(losses: Mapping[int, float | None], constraints: Sequence[float | None]) -> Measured:
    """One point: its losses by seed, and the constrained metric where a trial has it."""
    found = {seed: math.inf if loss is None else loss for seed, loss in losses.items()}
    shares = [share for share in constraints if share is not None]
    diverged = not found or not all(map(math.isfinite, found.values()))
    return Measured(found, math.inf if diverged else statistics.fmean(shares) if shares else 0.0)


def eligible(measured: Mapping[Key, Measured], limit: float | None) -> dict[Key, Measured]:
    """The points that did not diverge and keep the constrained metric within `limit`."""
    kept = {key: m for key, m in measured.items() if not m.diverged}
    return kept if limit is None else {key: m for key, m in kept.items() if m.constraint <= limit}


T = TypeVar("T")


def curve(name: str, point: Mapping[str, float], values: Mapping[Key, T]) -> dict[float, T]:
    """A key's values -> what was measured there, at the point's values of all other keys."""
    others = {key: value for key, value in point.items() if key != name}
    return {
        dict(key)[name]: value
        for key, value in values.items()
        if name in dict(key) and {k: v for k, v in key if k != name} == others
    }


def edges(point: Mapping[str, float], measured: Mapping[Key, Measured], limit: float | None) -> dict[str, Edge]:
    """The searched strengths whose best value is the last on a side: it may lie beyond. Of three values or more; with
    fewer every one is the last.

    By the loss among the points within the limit; where no point is, by the balance itself, since that is then what a
    strength is chosen for. (Where a learning rate lies is its vertex's to say.)
    """
    within = eligible(measured, limit)
    if within:
        by_choice = {key: m.loss if key in within else math.inf for key, m in measured.items()}
    else:
        by_choice = {key: m.constraint for key, m in measured.items()}
    found: dict[str, Edge] = {}
    for name in point:
        along = curve(name, point, by_choice) if name != LEARNING_RATE else {}
        known = len(along) >= 3 and any(map(math.isfinite, along.values()))
        side = on_edge(along) if known else None
        if side is not None:
            found[name] = side
    return found


def widened(values: Sequence[float], sides: Collection[Edge]) -> list[float]:
    """A grid with a value added on each of these sides, as far as its outermost two are apart."""
    grid = sorted(values)
    low = [grid[0] * grid[0] / grid[1]] if "low" in sides else []
    high = [grid[-1] * grid[-1] / grid[-2]] if "high" in sides else []
    return [float(f"{value:.6g}") for value in (*low, *grid, *high)]


def refined(values: Sequence[float], best: float) -> list[float]:
    """A grid with a value added next to its best one, amid the wider of the two gaps beside it."""
    grid = sorted(values)
    place = grid.index(best)
    gaps = [(grid[i + 1] / grid[i], i) for i in (place - 1, place) if 0 <= i < len(grid) - 1]
    _, i = max(gaps)
    between = float(f"{math.sqrt(grid[i] * grid[i + 1]):.6g}")
    return [*grid[: i + 1], between, *grid[i + 1 :]]


def _best(points: Mapping[float, float]) -> tuple[list[float], int]:
    """The rates in order, and the place of the least loss; of equal ones, the innermost."""
    rates = sorted(points)
    middle = (len(rates) - 1) / 2
    return rates, min(range(len(rates)), key=lambda i: (points[rates[i]], abs(i - middle)))


def on_edge(points: Mapping[float, float]) -> Edge | None:
    """At which end of the searched range (rate -> search loss) the optimum lies; None inside, or with a single point.

    A diverged point is given as infinity; where all diverged the answer is `low`.
    """
    if len(points) < 2:
        return None
    rates, best = _best(points)
    if best == 0 or not math.isfinite(points[rates[best]]):
        return "low"
    return "high" if best == len(rates) - 1 else None
