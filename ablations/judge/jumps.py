"""What a t does not know of a skill that comes as a jump: how many more seeds might have come to it, or fewer.

Where a tenth of all trainings jump, half of all sets of six seeds hold none that did; their nats then spread by next to
nothing, and a paired t of them covers the truth 47 times in a hundred (tests/ablations/judge/test_jumps.py). Counts of
seeds know it: with none of six, a share of up to 0.39 is left (Wilson's interval at 95 %).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablations.judge.counts import Counts, counts_of
from ablations.judge.stats import Difference

JUMPS_RULE = (
    " The nats of a skill's answers fall as seeds come to it, which a t of seeds that have not, or all have, knows "
    "nothing of: where some of the sweep's trainings came halfway and others did not, no end of an interval lies "
    "nearer to its mean than the counts of seeds leave it, Newcombe's interval of the difference of two shares at "
    "level 0.05/m times what coming halfway is worth there: the mean over all trainings short of it, less that over "
    "all others."
)

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value."""


def beyond_counts(found: Sequence[Difference], values: Values, came: Values) -> list[Difference]:
    """A family's comparisons of a metric in nats, none surer than the counts of seeds that `came` halfway (1 or 0)."""
    fall = worth_of_halfway(values, came)
    if fall is None:
        return list(found)
    return [_widened(d, counts_of(came.get(d.arm, {}), came.get(d.against, {})), fall) for d in found]


def worth_of_halfway(values: Values, came: Values) -> float | None:
    """By how much lower those trainings end that came halfway, over all arms; None where they do not, and where all
    did or none."""
    sides: dict[bool, list[float]] = {True: [], False: []}
    for arm, seeds in values.items():
        for seed, value in seeds.items():
            if seed in came.get(arm, {}):
                sides[came[arm][seed] == 1].append(value)
    if not sides[True] or not sides[False]:
        return None
    fall = math.fsum(sides[False]) / len(sides[False]) - math.fsum(sides[True]) / len(sides[True])
    return fall if fall > 0 else None


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
    return replace(d, low=low, high=high, resolvable=None, counts=counts, fall=fall)
