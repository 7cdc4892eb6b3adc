"""Seeds in steps (`seeds=auto`): a sweep looks at its claims after so many of them, and goes on while one is open.

Whoever looks as often as he likes finds something: after each of 3 to 12 seeds, in a fifth of sweeps without anything
to find. So each look has a level of its own. They are spent as O'Brien and Fleming do (Lan and DeMets 1983): next to
nothing early, nearly all at the end; and they add up to the whole, so that, whatever the looks have in common, the
intervals of all of them hold together as often as those of a sweep that looks once.
"""

import math
from collections.abc import Sequence


def level(looks: Sequence[int], seen: int, alpha: float) -> float:
    """Of a family of comparisons after `seen` seeds, of the `alpha` that all its looks have together. The whole where
    there is but one look."""
    if not looks:
        return alpha
    number = looks.index(seen)
    before = _spent(looks[number - 1] / looks[-1], alpha) if number else 0.0
    return _spent(looks[number] / looks[-1], alpha) - before


def _spent(share: float, alpha: float) -> float:
    """By the time that this share of the seeds has been seen."""
    from scipy import stats

    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / math.sqrt(share)))
