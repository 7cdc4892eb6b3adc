"""What the arms' differences would be at equal cost: an arm that is dearer per token could have had fewer of them."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ablations.judge.stats import Difference, differences

Losses = Mapping[str, Mapping[int, float]]


MIN_ROUNDS = 6
"""Fewer give the median no 95 % interval."""
FARTHEST = 1.5
"""The most tokens, over the baseline's or the reverse, that the control's slope is followed to."""


def stretch(cost: float, token_fraction: float) -> float | None:
    """How many times farther an arm of this cost is moved than the control's slope was measured over, in ln(tokens):
    at most 1 within its range. None beyond `FARTHEST`, where nothing can be said."""
    if cost <= 0 or max(cost, 1 / cost) > FARTHEST:
        return None
    return abs(math.log(cost) / math.log(token_fraction))


@dataclass(frozen=True)
class Ratio:
    """A cost over the baseline's."""

    ends: tuple[float, float, float]
    """Low, middle, high: a 95 % interval where it was measured, three times the same where it is known."""


def time_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Of two steps that were timed in turn, at least `MIN_ROUNDS` times: the median over rounds of one over the other,
    so that what slows a whole round down cancels, and the interval of the median by its ranks."""
    from scipy.stats import quantile_test

    ratios = [one / other for one, other in zip(seconds, baseline, strict=True)]
    interval = quantile_test(ratios, p=0.5).confidence_interval(0.95)
    return Ratio((float(interval.low), statistics.median(ratios), float(interval.high)))


def at_equal_cost(
    losses: Losses,
    spent: Mapping[str, float],
    families: Sequence[Sequence[tuple[str, str]]],
    baseline: str,
    control: str,
    token_fraction: float,
    look: Callable[[float], float] | None = None,
) -> dict[str, Difference]:
    """{arm: difference to the baseline} of the arms in `spent`, had each spent what the baseline did.

    losses: `losses[arm][seed]`, nats, as trained. spent: what an arm's training cost over what the baseline's did.
    families: the comparisons that share their level, as of the differences as trained, and `look` what they may spend.
    The control is the baseline on `token_fraction` of the tokens: along the slope between the two at each seed, dL / d
    ln tokens, an arm of cost c is moved to 1 / c of its tokens. The slope's noise is so part of the interval; that it
    changes far from 1 is not.
    """
    moved = {arm: dict(of_seed) for arm, of_seed in losses.items()}
    for arm, cost in spent.items():
        steps = math.log(1 / cost) / math.log(token_fraction)
        seeds = set(losses[arm]) & set(losses[baseline]) & set(losses[control])
        moved[arm] = {s: losses[arm][s] + steps * (losses[control][s] - losses[baseline][s]) for s in sorted(seeds)}
    found = [difference for pairs in families for difference in differences(moved, pairs, "loss", look=look)]
    return {d.arm: d for d in found if d.n and d.against == baseline and d.arm in spent}
