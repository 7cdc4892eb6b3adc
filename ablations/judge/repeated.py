"""Whether trials that were run again gave what a published result says, cell by cell.

A trial is the same trial where its id is: the same code, keys, data, versions and instruction set. Then every number
must be equal, to the bit. Elsewhere rounding goes another way, and a training amplifies it like any other perturbation;
then an arm's difference must lie inside the interval that the result states for it.
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ablations.judge.result import ArmResult, Result, score_values
from ablations.judge.stats import ROUNDING, Difference
from ablations.metrics import at_shares
from ablations.metrics import metric as metric_of
from ablations.record.record import Record

Mark = Literal["equal", "inside", "outside", "missing"]
RIGHT: tuple[Mark, ...] = ("equal", "inside")


@dataclass(frozen=True)
class Again:
    """One trial of a published result, and what running it again has left."""

    arm: str
    seed: int
    published: Record
    rerun: Record
    share: float = 1.0
    """Of the tokens, where the arm is finished at several lengths."""

    @property
    def same_trial(self) -> bool:
        return self.published.id == self.rerun.id

    @property
    def differing(self) -> list[str]:
        """What the two records say differently: names of metrics, of scores, and `status`, `load`, `history`."""
        one, other = (_said(record) for record in (self.published, self.rerun))
        return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))

    @property
    def sides(self) -> tuple[dict[str, float], dict[str, float]]:
        """The numbers of both; of a shorter training its loss, under the name that the arm has it by."""
        one, other = _numbers(self.published), _numbers(self.rerun)
        if self.share == 1:
            return one, other
        (name,) = at_shares([self.share])
        one, other = ({name: side["loss"]} if "loss" in side else {} for side in (one, other))
        return one, other


@dataclass(frozen=True)
class Cell:
    """A metric of an arm, over the seeds that were run again."""

    arm: str
    metric: str
    published: float | None
    rerun: float | None
    low: float | None
    """What the rerun must lie between, where it need not be equal: of the difference to the baseline where `against`
    names one."""
    high: float | None
    mark: Mark
    against: str = ""


def cells(result: Result, trials: Sequence[Again]) -> list[Cell]:
    """Every metric and score of every arm that was run again, in the order of the result."""
    found = []
    for name, arm in result.arms.items():
        own = [trial for trial in trials if trial.arm == name]
        metrics = dict.fromkeys(metric for trial in own for side in trial.sides for metric in side)
        found += [_cell(result, arm, metric, own, trials) for metric in metrics]
    return found


def _cell(result: Result, arm: ArmResult, metric: str, own: Sequence[Again], every: Sequence[Again]) -> Cell:
    one, other = _by_seed(own, 0, metric), _by_seed(own, 1, metric)
    means = (_mean(one), _mean(other))
    if not one or one.keys() != other.keys():
        return Cell(arm.name, metric, *means, None, None, "missing")
    if one == other or all(trial.same_trial for trial in own):
        return Cell(arm.name, metric, *means, None, None, "equal" if one == other else "outside")
    difference = result.usual(arm, metric)
    rivals = _by_seed([t for t in every if difference and t.arm == difference.against], 1, metric)
    common = sorted(other.keys() & rivals.keys())
    if difference is not None and common:
        again = statistics.fmean(other[seed] - rivals[seed] for seed in common)
        low, high = _stated(difference, len(common), means[0] or 0.0)
        return Cell(arm.name, metric, difference.mean, again, low, high, _between(low, again, high), difference.against)
    low, high = _of_mean(arm, metric, one)
    again = statistics.fmean(other.values())
    return Cell(arm.name, metric, means[0], again, low, high, _between(low, again, high))


def _between(low: float, value: float, high: float) -> Mark:
    return "inside" if low <= value <= high else "outside"


def _by_seed(trials: Sequence[Again], side: Literal[0, 1], metric: str) -> dict[int, float]:
    """Of the published records (0) or of those of the rerun (1)."""
    return {trial.seed: trial.sides[side][metric] for trial in trials if metric in trial.sides[side]}


def _stated(difference: Difference, seeds: int, level: float) -> tuple[float, float]:
    """The interval as it is stated, and as wide as fewer seeds would have made it; where none could be stated, because
    the seeds differ by rounding alone, as far as rounding goes."""
    if difference.low is None or difference.high is None:
        rounding = ROUNDING * abs(level)
        return difference.mean - rounding, difference.mean + rounding
    wider = math.sqrt(max(1.0, difference.n / seeds))
    return (
        difference.mean - wider * (difference.mean - difference.low),
        difference.mean + wider * (difference.high - difference.mean),
    )


def _of_mean(arm: ArmResult, metric: str, one: Mapping[int, float]) -> tuple[float, float]:
    """Of an arm that is compared with nothing: 95 % about its mean over these seeds, from its spread over all."""
    from scipy import stats

    values = list(arm.values.get(metric, one).values())
    centre = statistics.fmean(one.values())
    if len(values) < 2:
        return centre, centre
    half = float(stats.t.isf(0.025, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(one))
    return centre - half, centre + half


def csv_cells(published: str, rerun: str) -> tuple[int, list[str]]:
    """How many cells of a table.csv are equal, and those that are not, as `arm column: published, rerun`."""
    sides = [{row["arm"]: row for row in csv.DictReader(io.StringIO(text))} for text in (published, rerun)]
    equal, differing = 0, []
    for arm in sorted({*sides[0], *sides[1]}):
        one, other = (side.get(arm, {}) for side in sides)
        for column in dict.fromkeys([*one, *other]):
            if one.get(column) == other.get(column):
                equal += 1
            else:
                differing.append(f"{arm} {column}: {one.get(column)}, {other.get(column)}")
    return equal, differing


def _numbers(record: Record) -> dict[str, float]:
    if record.status != "complete":
        return {}
    every = {**record.metrics, **score_values(record)}
    return {name: value for name, value in every.items() if not metric_of(name).yardstick}


def _said(record: Record) -> dict[str, Any]:
    """All that a rerun of the same trial must repeat: not the clock, and not where it ran."""
    said: dict[str, Any] = {**record.metrics}
    said |= {f"{task}/{name}": value for task, scores in record.scores.items() for name, value in scores.items()}
    return said | {name: getattr(record, name) for name in ("status", "load", "history", "validation")}


def _mean(values: Mapping[int, float]) -> float | None:
    return statistics.fmean(values.values()) if values else None
