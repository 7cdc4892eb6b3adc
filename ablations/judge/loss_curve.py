"""What a training's curve says: the relative loss error against another's, which is how V3 compares FP8 with BF16
(appendix B.1, figure 10), and where it falls most steeply."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

EMA = 0.9
"""The paper's smoothing of the curves."""
WINDOW, FROM = 1.35, 0.1
"""A fall is measured while the tokens grow by this factor, from this share of them on: what comes before is the
warmup."""
STILL = 0.9
"""The share of the steepest fall from which on a curve counts as falling that steeply."""


@dataclass(frozen=True)
class Fall:
    """In nats per e-fold of the tokens (dL / d ln T)."""

    tokens: float
    """At the end of the steepest window."""
    steepest: float
    last: float
    """Of the last window."""
    begins: bool = False
    """The steepest window is the first that is looked at: it may have fallen more steeply before."""

    @property
    def lasts(self) -> bool:
        """The training ends where it falls about as steeply as it ever did."""
        return self.last >= STILL * self.steepest


def steepest_fall(tokens: Sequence[float], losses: Sequence[float]) -> Fall | None:
    """Where a curve of recorded points falls most steeply; None where it is too short to tell."""
    import numpy as np

    places, values = np.log(np.asarray(tokens, dtype=float)), np.asarray(losses, dtype=float)
    slopes: dict[float, float] = {}
    for end, place in zip(tokens, places, strict=True):
        within = (places > place - math.log(WINDOW)) & (places <= place)
        if end >= FROM * WINDOW * tokens[-1] and within.sum() >= 5:
            slopes[end] = -float(np.polyfit(places[within], values[within], 1)[0])
    if len(slopes) < 2:
        return None
    where = max(slopes, key=lambda end: slopes[end])
    return Fall(where, slopes[where], slopes[max(slopes)], where == min(slopes))


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
