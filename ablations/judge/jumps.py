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
    "nothing of: no end of an interval lies nearer to its mean than the counts of seeds that came halfway leave it. "
    "How far a share of seeds may lie from what is seen is Clopper and Pearson's limit at level 0.05/m; times what "
    "coming halfway is worth in that arm, and added in squares over the arms (Newcombe's method 10), that is how far a "
    "difference may. It is worth all nats that the answers of the worst seed short of halfway have; of a loss over "
    "more than answers, the most that two seeds of the arm lie apart of which one came halfway and the other did not. "
    "Where an arm has no such seeds it is the most of any other arm and, where each has one kind of seeds, of all "
    "together; where nothing shows it, as where all seeds of all arms came, a t is all there is. The A/A arm and the "
    "control are judged by the t alone."
)

Values = Mapping[str, Mapping[int, float]]
"""Arm -> seed -> value."""
Weights = Mapping[str, Mapping[str, float]]
"""Contrast -> arm -> its weight."""


def beyond_counts(
    found: Sequence[Difference], values: Values, came: Values, weights: Weights, answers_only: bool
) -> list[Difference]:
    """A family's comparisons of a metric in nats, and contrasts of these `weights`, none surer than the counts of seeds
    that `came` halfway (1 or 0). `answers_only`: nothing else is learned."""
    if not found:
        return []
    worth = worth_of_halfway(values, came, of_answers(found[0].metric, answers_only))
    return [_widened(d, came, weights, worth) for d in found]


def of_answers(name: str, answers_only: bool) -> bool:
    """Whether a metric is of answers alone, where nothing else is learned or in any case."""
    found = metric_of(name)
    return found.unit == ANSWER_NATS or (answers_only and found.of_loss and found.needs != "mtp")


def worth_of_halfway(values: Values, came: Values, answers: bool) -> dict[str, float]:
    """By how much lower each arm's trainings may end that come halfway (JUMPS_RULE); empty where nothing shows it.
    `answers`: the values are of answers alone, of which whoever knows them has no nats."""
    sides = {arm: _sides(seeds, came[arm]) for arm, seeds in values.items() if arm in came}
    if answers:  # and not what those lost that came halfway, of which some may have only begun
        worth = {arm: max(short) for arm, (short, _) in sides.items() if short}
    else:
        worth = {arm: max(short) - min(beyond) for arm, (short, beyond) in sides.items() if short and beyond}
    all_short, all_beyond = ([value for side in sides.values() for value in side[i]] for i in (0, 1))
    if not worth and all_short and all_beyond:  # each arm has but one kind, and arms differ in more than that
        worth = {"": max(all_short) - min(all_beyond)}
    most = max(worth.values(), default=0.0)
    return {arm: max(0.0, worth.get(arm, most)) for arm in sides} if most > 0 else {}


def _sides(values: Mapping[int, float], came: Mapping[int, float]) -> tuple[list[float], list[float]]:
    """Of seeds short of halfway, and of those beyond."""
    short, beyond = ([value for seed, value in values.items() if came.get(seed) == side] for side in (0, 1))
    return short, beyond


def reach_of(shares: Sequence[Share], level: float) -> tuple[float, float]:
    """How far below and above its mean a difference of nats may lie, for all that the counts say.

    Zou and Donner's limits (2008) of a weighted sum of shares, which of a difference of two are Newcombe's method 10,
    from exact limits of each: beside a t they miss no more often than the level says, and Wilson's, which Newcombe
    took, up to 2.5 times as often at three seeds and a level of 0.05/4.
    """
    below, above = list[float](), list[float]()
    for share in shares:
        fewer, more = _exact(share.came, share.of, level)
        one, other = (more, fewer) if share.weight > 0 else (fewer, more)
        below.append(share.weight * share.worth * one)
        above.append(share.weight * share.worth * other)
    return math.hypot(*below), math.hypot(*above)


@functools.lru_cache(maxsize=4096)
def _exact(came: int, of: int, level: float) -> tuple[float, float]:
    """How far below and above what is seen a share may lie."""
    from scipy import stats

    found = stats.binomtest(came, of)
    limits = found.proportion_ci(1 - level, method="exact")
    return found.statistic - limits.low, limits.high - found.statistic


def seeds_within(rooms: tuple[float, float], shares: Sequence[Share], level: float, most: int) -> int | None:
    """Seeds of which as large shares leave less open than there is room below and above; None where `most` are too
    few."""
    for n in range(2, most + 1):
        alike = [replace(share, came=round(n * share.came / share.of), of=n) for share in shares]
        below, above = reach_of(alike, level)
        if below < rooms[0] and above < rooms[1]:
            return n
    return None


def _widened(d: Difference, came: Values, weights: Weights, worth: Mapping[str, float]) -> Difference:
    """As it is where no t was taken, and where a t leaves more."""
    of = weights.get(d.arm, {d.arm: 1.0, d.against: -1.0})
    seeds = set.intersection(*(set(came.get(arm, {})) for arm in of))
    if d.low is None or d.high is None or d.sd == 0 or not seeds or not worth:
        return d
    shares = tuple(
        Share(arm, weight, sum(came[arm][s] == 1 for s in seeds), len(seeds), worth[arm]) for arm, weight in of.items()
    )
    below, above = reach_of(shares, d.alpha / d.comparisons)
    low, high = min(d.low, d.mean - below), max(d.high, d.mean + above)
    if (low, high) == (d.low, d.high):
        return d
    return replace(d, low=low, high=high, resolvable=None, p=None, p_holm=None, shares=shares)
