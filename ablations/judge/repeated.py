"""Whether trials that were run again gave what a published result says, cell by cell.

A trial is the same trial where its id is: the same code, keys, data, versions and instruction set. Then every number
must be equal, to the bit. Elsewhere rounding goes another way, and a training amplifies it like any other perturbation;
then an arm's difference must lie where a second estimate of it would: about the published one, as far as the spread
over seeds lets two such means differ, for all cells together in 95 % of reruns. (The stated interval is about the true
mean: of a hundred faithful cells some always lie outside it.)
"""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ablations.judge.result import ArmResult, Result, score_values
from ablations.judge.stats import ROUNDING
from ablations.metrics import at_shares
from ablations.metrics import metric as metric_of
from ablations.record.record import Record

Mark = Literal["equal", "inside", "outside", "missing", "no error known"]
RIGHT: tuple[Mark, ...] = ("equal", "inside", "no error known")


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
    """Every metric and score of the published records, for each arm that was run again, in the result's order."""
    asked = [
        (arm, metric)
        for name, arm in result.arms.items()
        for metric in dict.fromkeys(m for trial in trials if trial.arm == name for m in trial.sides[0])
    ]
    return [_cell(result, arm, metric, trials, len(asked)) for arm, metric in asked]


def _cell(result: Result, arm: ArmResult, metric: str, every: Sequence[Again], count: int) -> Cell:
    """`count`: of all cells, which share the level."""
    own = [trial for trial in every if trial.arm == arm.name]
    one, other = _by_seed(own, 0, metric), _by_seed(own, 1, metric)
    means = (_mean(one), _mean(other))
    if one.keys() != other.keys():
        return Cell(arm.name, metric, *means, None, None, "missing")
    if one == other or all(trial.same_trial for trial in own):
        return Cell(arm.name, metric, *means, None, None, "equal" if one == other else "outside")
    difference = result.usual(arm, metric)
    rivals = _by_seed([t for t in every if difference and t.arm == difference.against], 1, metric)
    common = sorted(other.keys() & rivals.keys())
    if difference is not None and common:
        again = statistics.fmean(other[seed] - rivals[seed] for seed in common)
        span = reach(difference.sd, difference.n, len(common), count, means[0] or 0.0)
        return _within(Cell(arm.name, metric, difference.mean, again, None, None, "outside", difference.against), span)
    values = list(arm.values.get(metric, one).values())
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    span = reach(sd, len(values), len(other), count, means[0] or 0.0)
    return _within(Cell(arm.name, metric, means[0], means[1], None, None, "outside"), span)


def reach(sd: float, n: int, again: int, cells: int, level: float = 0.0) -> float | None:
    """How far a mean over `again` seeds may lie from one over `n` whose values spread by `sd`, in 95 % of reruns for so
    many cells together. None where one seed shows no spread; where seeds differ by the rounding of values of this
    `level` alone, as far as that goes."""
    from scipy import stats

    if n < 2:
        return None
    rounding = ROUNDING * abs(level)
    return max(rounding, float(stats.t.isf(0.025 / cells, n - 1)) * sd * math.sqrt(1 / n + 1 / again))


def _within(cell: Cell, span: float | None) -> Cell:
    """The cell, marked by whether it lies within this of the published number."""
    assert cell.published is not None and cell.rerun is not None
    if span is None:
        return replace(cell, mark="no error known")
    low, high = cell.published - span, cell.published + span
    return replace(cell, low=low, high=high, mark="inside" if low <= cell.rerun <= high else "outside")


def _by_seed(trials: Sequence[Again], side: Literal[0, 1], metric: str) -> dict[int, float]:
    """Of the published records (0) or of those of the rerun (1)."""
    return {trial.seed: trial.sides[side][metric] for trial in trials if metric in trial.sides[side]}


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
