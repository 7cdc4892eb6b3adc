"""Two trials, two arms or two sweeps side by side: what is set otherwise, what came out otherwise, and where they ran.

Two arms are paired by seed where they learned from the same text in the same batches; otherwise their seeds have
nothing in common, and the interval is Welch's, of two samples.
"""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ablations.judge.counts import Share
from ablations.judge.jumps import Values, of_answers, reach_of, worth_of_halfway
from ablations.judge.result import ArmResult, Result, score_values
from ablations.judge.stats import ROUNDING, differences
from ablations.metrics import COUNTED
from ablations.metrics import metric as find_metric
from ablations.record.record import Record
from tasks.config import DataConfig

OF_THE_SAME_TEXT = ("data.path", "data.name", "data.max_bytes")
"""Keys of the data that mean nothing where the text itself is the same."""
OF_THE_SAME_BATCHES = (*OF_THE_SAME_TEXT, "data.mask_documents", "data.answers_only")
"""Those that leave its batches as they are; any other may lay them out otherwise. (A longer training begins with a
shorter one's.)"""
ALPHA = 0.05
ABSENT = object()
"""Of a key that one side does not have."""


@dataclass(frozen=True)
class Changed:
    """A name with a value on each side; `ABSENT` where a side has none."""

    name: str
    one: Any
    other: Any


@dataclass(frozen=True)
class Outcome:
    """One metric of both sides. `low` and `high` bound `difference`, other minus one, in 95 % of repetitions; None
    where there is no error to estimate."""

    metric: str
    one: float
    other: float
    difference: float
    low: float | None
    high: float | None
    pairs: int
    """Common seeds; 0 where the sides are not paired."""


def changed(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Changed]:
    """The leaves of two nested mappings that differ, by dotted name."""
    left, right = dict(leaves(one)), dict(leaves(other))
    both = {name: (left.get(name, ABSENT), right.get(name, ABSENT)) for name in sorted({*left, *right})}
    return [Changed(name, here, there) for name, (here, there) in both.items() if here != there]


def outcomes(one: Sequence[Record], other: Sequence[Record], only: str | None = None) -> list[Outcome]:
    """Of the metrics and scores that both sides have, or of one, over complete trials. Records of a side differ in seed
    alone."""
    left, right = _values(one), _values(other)
    paired, alike = same_batches(one, other), same_batches(one, other, OF_THE_SAME_TEXT)
    found = []
    for metric in left if only is None else {only} & left.keys():
        if metric not in right or find_metric(metric).yardstick or (metric == "train_loss" and not alike):
            continue  # what a training's own loss is taken on is another yardstick for otherwise arranged text
        here, there = left[metric], right[metric]
        common = sorted(here.keys() & there.keys()) if paired else []
        if common:
            here, there = ({seed: side[seed] for seed in common} for side in (here, there))
        low, high = _interval(metric, here, there, bool(common))
        if low is not None and high is not None and low < high and find_metric(metric).falls_at_jumps:
            came = {"one": left.get(COUNTED, {}), "other": right.get(COUNTED, {})}
            answers = of_answers(metric, all(map(_answers_only, (one[0], other[0]))))
            low, high = _as_counted({"one": here, "other": there}, came, answers, low, high)
        first, second = (statistics.fmean(side.values()) for side in (here, there))
        found.append(Outcome(metric, first, second, second - first, low, high, len(common)))
    return found


def same_batches(one: Sequence[Record], other: Sequence[Record], but: Collection[str] = OF_THE_SAME_BATCHES) -> bool:
    """Whether a seed means the same tokens in the same order on both sides: the same text, and the same keys of the
    data, `but` these."""
    if not one or not other:
        return False
    left, right = one[0], other[0]
    usual = dict(leaves(asdict(DataConfig()), "data."))  # a key that was not there yet had its default
    keys = [usual | dict(leaves(side.config.get("data", {}), "data.")) for side in (left, right)]
    own, theirs = ({name: value for name, value in side.items() if name not in but} for side in keys)
    return left.data == right.data and own == theirs


@dataclass(frozen=True)
class Claimed:
    """A claim that both sweeps judge, by arm, rival, metric and kind, and what each says of it."""

    claim: str
    one: str
    other: str


def claims(one: Result, other: Result) -> list[Claimed]:
    judged = [
        {f"{v.arm} against {v.against or 'nothing'}: {v.metric} {v.kind}": v.outcome for v in result.verdicts}
        for result in (one, other)
    ]
    return [Claimed(claim, outcome, judged[1][claim]) for claim, outcome in judged[0].items() if claim in judged[1]]


def shared_arms(one: Result, other: Result) -> list[tuple[ArmResult, ArmResult]]:
    return [(arm, other.arms[name]) for name, arm in one.arms.items() if name in other.arms]


def _values(records: Sequence[Record]) -> dict[str, dict[int, float]]:
    values: dict[str, dict[int, float]] = {}
    for record in records:
        if record.status == "complete":
            for metric, value in {**record.metrics, **score_values(record)}.items():
                values.setdefault(metric, {})[record.seed] = value
    return values


def _interval(
    metric: str, one: Mapping[int, float], other: Mapping[int, float], paired: bool
) -> tuple[float | None, float | None]:
    if paired:
        (found,) = differences({"one": one, "other": other}, [("other", "one")], metric)
        return found.low, found.high
    varies = any(statistics.pstdev(side.values()) > ROUNDING * max(map(abs, side.values())) for side in (one, other))
    if min(len(one), len(other)) < 2 or find_metric(metric).jump or not varies:
        return None, None
    from scipy import stats

    interval = stats.ttest_ind(list(other.values()), list(one.values()), equal_var=False).confidence_interval()
    return float(interval.low), float(interval.high)


def _as_counted(values: Values, came: Values, answers: bool, low: float, high: float) -> tuple[float, float]:
    """No surer than the counts of seeds that came halfway (ablations/judge/jumps.py), whatever arms the sides are."""
    counted = {side: [came[side][seed] for seed in own if seed in came[side]] for side, own in values.items()}
    worth = worth_of_halfway(values, came, answers)
    if not worth or not all(counted.values()):
        return low, high
    mean = statistics.fmean(values["other"].values()) - statistics.fmean(values["one"].values())
    weights = {"other": 1.0, "one": -1.0}
    shares = [
        Share(side, weights[side], sum(c == 1 for c in own), len(own), worth[side]) for side, own in counted.items()
    ]
    below, above = reach_of(shares, ALPHA)
    return min(low, mean - below), max(high, mean + above)


def _answers_only(record: Record) -> bool:
    return bool(record.config.get("data", {}).get("answers_only"))


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name -> value of nested mappings; an empty one is a value."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
