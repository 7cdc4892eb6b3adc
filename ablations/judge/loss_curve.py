"""The relative loss error of a training against another's: how V3 compares FP8 with BF16 (appendix B.1, figure 10)."""

from collections.abc import Sequence

EMA = 0.9
"""The paper's smoothing of the curves."""


def loss_error(losses: Sequence[float], reference: Sequence[float]) -> float:
    """Mean of ema(loss) / ema(reference) - 1 over the second half of the training, signed.

    Curves are compared at equal shares of their training, so that one of fewer tokens meets the other at the same place
    of the learning-rate schedule. Both are recorded points of the training loss, 200 at most.
    """
    import numpy as np

    ours, theirs = smoothed(losses), smoothed(reference)
    shares = np.linspace(0, len(ours) - 1, len(theirs))
    errors = np.interp(shares, range(len(ours)), ours) / np.array(theirs) - 1
    return float(errors[len(theirs) // 2 :].mean())


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average, begun at the first point."""
    found: list[float] = []
    for loss in losses:
        found.append(EMA * found[-1] + (1 - EMA) * loss if found else loss)
    return found
