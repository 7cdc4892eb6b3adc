"""What so many pairs can see, and how many it would take."""

import functools
import math
from collections.abc import Sequence

MAX_SEEDS = 100_000


@functools.lru_cache(maxsize=1024)
def power_of(ratio: float, n: int, level: float) -> float:
    """That n pairs exclude 0 on the right side, for an effect of `ratio` standard deviations.

    scipy's noncentral t itself: statsmodels' TTestPower adds the wrong tail, which is NaN for few pairs, and its
    solve_power stops at 10 standard deviations without a word.
    """
    from scipy import stats

    return float(stats.nct.sf(stats.t.isf(level / 2, n - 1), n - 1, ratio * math.sqrt(n)))


@functools.lru_cache(maxsize=1024)
def resolvable_ratio(n: int, level: float, power: float = 0.8) -> float:
    """Effect over sd that n pairs resolve."""
    from scipy import optimize

    high = 1.0
    while power_of(high, n, level) < power:
        high *= 2
    return float(optimize.brentq(lambda ratio: power_of(ratio, n, level) - power, 0.0, high, xtol=1e-6))


def seeds_needed(effect: float, sd: float, comparisons: int, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """Pairs with which an interval at alpha / comparisons excludes 0 for this effect with this power.

    None where there is nothing to compute (effect or sd is 0) or more than 100,000 would be needed.
    """
    return seeds_clear_of([effect], sd, comparisons, alpha, power)


def seeds_clear_of(
    distances: Sequence[float], sd: float, comparisons: int, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Pairs with which an interval ends before each of the edges that lie so far from the true value, one of either
    side, with this power: it reaches both at once as good as never, so that the chances of each add up.

    None as of `seeds_needed`.
    """
    if not distances or not all(distances) or sd <= 0:
        return None
    ratios, level = [abs(distance) / sd for distance in distances], alpha / comparisons

    def clear(n: int) -> float:
        return 1 - sum(1 - power_of(ratio, n, level) for ratio in ratios)

    low, high = 1, 2
    while clear(high) < power:
        low, high = high, 2 * high
        if low > MAX_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if clear(middle) >= power else (middle, high)
    return high
