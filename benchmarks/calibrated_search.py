"""The whole procedure simulated: search, choice, confirmation and verdict, by the code that judges real sweeps.

Part of `python -m benchmarks.calibration`. Two arms have curves of their own over the learning rate; each is searched,
its vertex is taken, and eight seeds confirm it. A claim's region ends exactly at the difference that the two would
have, each at its best rate: whatever is resolved is then resolved falsely.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from ablations.config.schema import ExpectedConfig
from ablations.judge.choice import Choice, choose
from ablations.judge.grid import LEARNING_RATE, key_of, measure
from ablations.judge.stats import Difference, paired_intervals
from ablations.judge.verdicts import Beside, verdict
from benchmarks.calibrated_intervals import Noise, heavy_tailed, normal

GRID = ((0.00125, 0.00177, 0.0025, 0.00354, 0.005), 2)
"""Rates a factor of 1.4 apart, and how many seeds search them, as a sweep's defaults are."""
SEEDS, SEED_SD = 8, 0.02
MARGIN = 0.01
HARM = 0.05 + np.arange(SEEDS) / 1e4
"""That every sweep sees."""
FINE = np.linspace(math.log(GRID[0][0]), math.log(GRID[0][-1]), 401)


@dataclass(frozen=True)
class Curve:
    """Nats above the least, over ln(rate)."""

    best: float
    """ln(rate)."""
    curvature: float
    skew: float = 0.0
    """Third order: a curve that is steeper on its fast side, as real ones are."""
    cliff: float = math.inf
    """ln(rate) from which on it costs half a nat and more for each e-fold."""
    grows: float = 0.0
    """The power of the rate that a trial's scatter goes by; it is what is said at the best rate."""

    def __call__(self, x: np.ndarray) -> np.ndarray:
        away = x - self.best
        return self.curvature * away**2 + self.skew * away**3 + 0.5 * np.clip(x - self.cliff, 0, None)

    def scattered(self, x: np.ndarray) -> np.ndarray:
        """A trial's scatter, over that at the best rate."""
        return np.exp(self.grows * (x - self.best))

    @property
    def least(self) -> float:
        """Within the searched range."""
        return float(self(FINE).min())


CELLS: dict[str, Curve] = {
    "sharp": Curve(math.log(0.0025), 0.05),
    "shallow": Curve(math.log(0.0025), 0.01),
    "flat": Curve(math.log(0.0025), 0.001),
    "skewed": Curve(math.log(0.0024), 0.03, skew=0.015),
    "cliff at the top": Curve(math.log(0.0021), 0.03, cliff=math.log(0.0045)),
    "cliff beside the best": Curve(math.log(0.0026), 0.03, cliff=math.log(0.0034)),
    "noisier when fast": Curve(math.log(0.0025), 0.03, grows=1.0),
}


@dataclass(frozen=True)
class Case:
    """A cell of the table."""

    curve: str
    scatter: float
    """Nats. That of the searches which are published, `schedule`'s, is 0.004 to 0.008."""
    heavy: bool = False

    @property
    def name(self) -> str:
        return f"{self.curve}, {self.scatter:g}{', heavy-tailed' * self.heavy}"


CASES = (
    *(Case(curve, 0.002, heavy) for curve in CELLS for heavy in (False, True)),
    *(Case(curve, scatter) for scatter in (0.004, 0.008) for curve in CELLS),
)


def calibrate_case(case: Case, sweeps: int) -> dict[str, float]:
    return calibrate(CELLS[case.curve], heavy_tailed if case.heavy else normal, case.scatter, sweeps)


def calibrate(
    curve: Curve, noise: Noise, scatter: float, sweeps: int, grid: tuple[tuple[float, ...], int] = GRID
) -> dict[str, float]:
    """Of that many sweeps. scatter: the standard deviation of a trial, its seed's level apart. grid: the rates, and how
    many seeds search them."""
    rng = np.random.default_rng(0)
    bounded = held = false = resolved = 0
    bounds, short = list[float](), list[float]()
    claim = ExpectedConfig("arm", against="base", kind="equal", margin=MARGIN)
    for _ in range(sweeps):
        curves = [replace(curve, best=curve.best + rng.normal(0, 0.15)) for _ in range(2)]
        chosen = [_search(one, noise, scatter, grid, rng) for one in curves]
        points = [math.log(choice.point[LEARNING_RATE]) for choice in chosen]
        if any(choice.mistuning is None for choice in chosen):
            continue
        bounded += 1
        found = [choice.mistuning or 0.0 for choice in chosen]
        excess = [float(one(np.array(x))) - one.least for one, x in zip(curves, points, strict=True)]
        held += all(e <= bound for e, bound in zip(excess, found, strict=True))
        bounds.append(max(found))
        short += [e - bound for e, bound in zip(excess, found, strict=True)]
        # The arm's true advantage is such that, both at their best, it lies at the region's edge.
        level = rng.normal(0, SEED_SD, SEEDS)
        residual = noise(rng, (2, SEEDS)) * scatter
        residual *= np.array([[one.scattered(np.array(x))] for one, x in zip(curves, points, strict=True)])
        true = [MARGIN, 0.0]
        arm, base = (level + residual[i] + true[i] + excess[i] for i in range(2))
        difference = _compared("arm", arm - base)
        outcome = verdict(claim, difference, Beside(control=_compared("control", HARM), mistuning=max(found))).outcome
        false += outcome != "not resolved"
        resolved += difference.low is not None and difference.low - max(found) > 0
    count = max(1, bounded)
    return {
        "bounded": bounded / sweeps,
        "bound_holds": held / count,
        "short_by_95": max(0.0, float(np.quantile(short, 0.95))) if short else math.nan,
        "false_verdicts": false / count,
        "median_bound": float(np.median(bounds)) if bounds else math.nan,
        "sees_0.01": resolved / count,
    }


def _compared(arm: str, paired: np.ndarray) -> Difference:
    """As `ablations.judge.stats.differences` has it, which spends most of its time on p values that nothing reads."""
    low, high, p = (float(x) for x in paired_intervals(paired, 1))
    mean, sd, largest = float(paired.mean()), float(paired.std(ddof=1)), float(np.abs(paired).max())
    return Difference(arm, "base", "loss", len(paired), mean, sd, largest, low, high, p, p, 0.0, None)


def _search(
    curve: Curve, noise: Noise, scatter: float, grid: tuple[tuple[float, ...], int], rng: np.random.Generator
) -> Choice:
    rates, seeds = grid
    level = rng.normal(0, SEED_SD, seeds)
    x = np.log(np.array(rates))[:, None]
    drawn = curve(x) + level + noise(rng, (len(rates), seeds)) * scatter * curve.scattered(x)
    measured = {
        key_of({LEARNING_RATE: rate}): measure({s: float(x) for s, x in enumerate(row)}, [])
        for rate, row in zip(rates, drawn, strict=True)
    }
    return choose("arm", measured, None)
