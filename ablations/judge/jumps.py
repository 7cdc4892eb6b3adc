"""What a t does not know of a skill that comes as a jump: how many more seeds might have come to it, or fewer.

Where a tenth of all trainings jump, half of all sets of six seeds hold none that did; their nats then spread by next to
nothing, and a paired t of them covers the truth 46 times in a hundred (`python -m benchmarks.calibration`). Counts of
seeds know it: with none of six, a share of up to 0.39 is left (Wilson's interval at 95 %).
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablations.judge.counts import Counts, counts_of
from ablations.judge.stats import Difference

JUMPS_RULE = (
    " The nats of a skill's answers fall as seeds come to it, which a t of seeds that have not, or all have, knows "
    "nothing of: where some trainings of the sweep's arms came halfway and others did not, no end of an interval lies "
    "nearer to its mean than the counts of seeds leave it, Newcombe's interval of the difference of two shares at "
    "level 0.05/m times what coming halfway is worth: in an arm of both kinds of seeds the difference of their means, "
    "on average over such arms. The A/A arm and the control are judged by the t alone."
)

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value."""


def beyond_counts(found: Sequence[Difference], values: Values, came: Values) -> list[Difference]:
    """A family's comparisons of a metric in nats, none surer than the counts of seeds that `came` halfway (1 or 0), as
    far as the arms of both show what that is worth: where all came or none, a t is all there is. Estimates of more arms
    than two stay as they are."""
    fall = worth_of_halfway(values, came)
    if fall is None:
        return list(found)
    return [_widened(d, counts_of(came.get(d.arm, {}), came.get(d.against, {})), fall) for d in found]


def worth_of_halfway(values: Values, came: Values) -> float | None:
    """By how much lower those trainings end that came halfway: within arms, which differ in more than that, where one
    has both kinds; else between them. None where all did or none, or where they end no lower."""
    sides = [_sides(seeds, came.get(arm, {})) for arm, seeds in values.items()]
    pooled = [value for short, _ in sides for value in short], [value for _, beyond in sides for value in beyond]
    both = [side for side in sides if all(side)] or [pooled]
    falls = [statistics.fmean(short) - statistics.fmean(beyond) for short, beyond in both if short and beyond]
    fall = statistics.fmean(falls) if falls else 0.0
    return fall if fall > 0 else None


def _sides(values: Mapping[int, float], came: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Of seeds short of halfway, and of those beyond."""
    short, beyond = ([value for seed, value in values.items() if came.get(seed) == side] for side in (0, 1))
    return short, beyond


def reach_of(counts: Counts, fall: float, level: float) -> tuple[float, float]:
    """How far below and above its mean a difference of nats may lie, for all that the counts say."""
    below, above = _newcombe(counts, level)
    return fall * below, fall * above


@functools.lru_cache(maxsize=4096)
def _newcombe(counts: Counts, level: float) -> tuple[float, float]:
    """How far above and below what is seen the difference of two shares may lie.

    Newcombe (1998), method 10, from Wilson's interval of each share.
    """
    from scipy import stats

    mine, theirs = (stats.binomtest(came, counts.of) for came in (counts.mine, counts.theirs))
    ours, others = (share.proportion_ci(1 - level, method="wilson") for share in (mine, theirs))
    p, q = mine.statistic, theirs.statistic
    return math.hypot(ours.high - p, q - others.low), math.hypot(p - ours.low, others.high - q)


def seeds_within(distance: float, counts: Counts, fall: float, level: float, most: int) -> int | None:
    """Seeds of which such shares leave open less than this on either side; None where `most` are too few."""
    for n in range(2, most + 1):
        alike = Counts(round(n * counts.mine / counts.of), round(n * counts.theirs / counts.of), n)
        if max(reach_of(alike, fall, level)) < distance:
            return n
    return None


def _widened(d: Difference, counts: Counts, fall: float) -> Difference:
    """As it is where no t was taken, and where a t leaves more."""
    if d.low is None or d.high is None or d.sd == 0 or not counts.of:
        return d
    below, above = reach_of(counts, fall, d.alpha / d.comparisons)
    low, high = min(d.low, d.mean - below), max(d.high, d.mean + above)
    if (low, high) == (d.low, d.high):
        return d
    return replace(d, low=low, high=high, resolvable=None, p_holm=None, counts=counts, fall=fall)
