"""What a t does not know of a skill that comes as a jump: how many more seeds might have come to it, or fewer.

Where a tenth of all trainings jump, half of all sets of six seeds hold none that did; their nats then spread by next to
nothing, and a paired t of them covers the truth 46 times in a hundred (`python -m benchmarks.calibration`). Counts of
seeds know it: with none of six, a share of up to 0.46 is left (Clopper and Pearson's interval at 95 %).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablations.judge.counts import Share
from ablations.judge.stats import Difference
from ablations.metrics import ANSWER_NATS
from ablations.metrics import metric as metric_of

JUMPS_RULE = (
    " The nats of a skill's answers fall as seeds come to it, which a t of seeds that have not, or all have, knows "
    "nothing of: no end of an interval lies nearer to its mean than the counts of seeds that came halfway leave it, at "
    "level 0.05/m the interval of a difference of two shares (Newcombe's method 10, or its like for more than two, of "
    "Clopper and Pearson's limits of each) times what coming halfway is worth. That is the most that two seeds of one "
    "arm lie apart of which one came halfway and the other did not; where no arm has both, of all arms; and where no "
    "seed of any came so far, all nats that an answer has. Where all came, a t is all there is. The A/A arm and the "
    "control are judged by the t alone."
)

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value."""
Weights = Mapping[str, Mapping[str, float]]
"""Contrast -> arm -> its weight."""


def beyond_counts(found: Sequence[Difference], values: Values, came: Values, weights: Weights) -> list[Difference]:
    """A family's comparisons of a metric in nats, and contrasts of these `weights`, none surer than the counts of seeds
    that `came` halfway (1 or 0)."""
    fall = worth_of_halfway(values, came, of_answers(found[0].metric)) if found else None
    return list(found) if fall is None else [_widened(d, came, weights, fall) for d in found]


def of_answers(name: str) -> bool:
    """Whether a metric is of answers alone, of which whoever knows them has no nats."""
    return metric_of(name).unit == ANSWER_NATS


def worth_of_halfway(values: Values, came: Values, answers: bool) -> float | None:
    """By how much lower those trainings may end that come halfway: the most within an arm, since arms differ in more
    than that; between arms where none has both kinds of seeds; and where no seed came so far, all that there is of
    nats of `answers`. None where all came, and where they end no lower."""
    sides = [_sides(seeds, came[arm]) for arm, seeds in values.items() if arm in came]
    pooled = [value for short, _ in sides for value in short], [value for _, beyond in sides for value in beyond]
    both = [side for side in sides if all(side)] or [pooled]
    falls = [max(short) - min(beyond) for short, beyond in both if short and beyond]
    if not falls and answers and pooled[0] and not pooled[1]:
        return max(pooled[0])
    return max((fall for fall in falls if fall > 0), default=None)


def _sides(values: Mapping[int, float], came: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Of seeds short of halfway, and of those beyond."""
    short, beyond = ([value for seed, value in values.items() if came.get(seed) == side] for side in (0, 1))
    return short, beyond


def reach_of(shares: Sequence[Share], fall: float, level: float) -> tuple[float, float]:
    """How far below and above its mean a difference of nats may lie, for all that the counts say.

    Zou and Donner's limits (2008) of a weighted sum of shares, which of a difference of two are Newcombe's method 10,
    from exact limits of each: beside a t they miss no more often than the level says, and Wilson's, which Newcombe
    took, up to 2.5 times as often at three seeds and a level of 0.05/4.
    """
    below, above = list[float](), list[float]()
    for share in shares:
        fewer, more = _exact(share.came, share.of, level)
        one, other = (more, fewer) if share.weight > 0 else (fewer, more)
        below.append(share.weight * one)
        above.append(share.weight * other)
    return fall * math.hypot(*below), fall * math.hypot(*above)


@functools.lru_cache(maxsize=4096)
def _exact(came: int, of: int, level: float) -> tuple[float, float]:
    """How far below and above what is seen a share may lie."""
    from scipy import stats

    found = stats.binomtest(came, of)
    limits = found.proportion_ci(1 - level, method="exact")
    return found.statistic - limits.low, limits.high - found.statistic


def seeds_within(
    rooms: tuple[float, float], shares: Sequence[Share], fall: float, level: float, most: int
) -> int | None:
    """Seeds of which as large shares leave less open than there is room below and above; None where `most` are too
    few."""
    for n in range(2, most + 1):
        alike = [replace(share, came=round(n * share.came / share.of), of=n) for share in shares]
        below, above = reach_of(alike, fall, level)
        if below < rooms[0] and above < rooms[1]:
            return n
    return None


def _widened(d: Difference, came: Values, weights: Weights, fall: float) -> Difference:
    """As it is where no t was taken, and where a t leaves more."""
    of = weights.get(d.arm, {d.arm: 1.0, d.against: -1.0})
    seeds = set.intersection(*(set(came.get(arm, {})) for arm in of))
    if d.low is None or d.high is None or d.sd == 0 or not seeds:
        return d
    shares = [Share(arm, weight, sum(came[arm][s] == 1 for s in seeds), len(seeds)) for arm, weight in of.items()]
    below, above = reach_of(shares, fall, d.alpha / d.comparisons)
    low, high = min(d.low, d.mean - below), max(d.high, d.mean + above)
    if (low, high) == (d.low, d.high):
        return d
    return replace(d, low=low, high=high, resolvable=None, p=None, p_holm=None, shares=tuple(shares), fall=fall)
