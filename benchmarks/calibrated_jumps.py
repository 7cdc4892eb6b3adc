"""Nats of a skill that comes as a jump, simulated: how often a t holds the truth, alone and beside counts of seeds.

Of each of two arms a share of all trainings jump, which takes a nat off their loss; all else is noise of a hundredth.
"""

import numpy as np

from ablations.judge.counts import Counts
from ablations.judge.jumps import reach_of
from ablations.judge.stats import paired_intervals

ALPHA, NOISE = 0.05, 0.01
SHARES = ((0.0, 0.0), (0.1, 0.0), (0.5, 0.0), (0.9, 0.0), (0.3, 0.1), (0.9, 0.9), (1.0, 0.9), (1.0, 0.5))
"""Of the trainings of either arm, those that jump."""


def coverage(shares: tuple[float, float], seeds: int, sweeps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Of the intervals of a t, and of those that are no surer than counts."""
    jumped = [rng.random((sweeps, seeds)) < share for share in shares]
    nats = [1.0 - came + rng.normal(0.0, NOISE, came.shape) for came in jumped]
    paired, truth = nats[0] - nats[1], shares[1] - shares[0]
    low, high, _ = paired_intervals(paired, 1, ALPHA)
    counts = [Counts(int(a), int(b), seeds) for a, b in zip(*(came.sum(1) for came in jumped), strict=True)]
    below, above = np.array([reach_of(each, 1.0, ALPHA) for each in counts]).T
    wider = np.minimum(low, paired.mean(1) - below), np.maximum(high, paired.mean(1) + above)
    return _holds(low, high, truth), _holds(*wider, truth)


def _holds(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(((low <= truth) & (truth <= high)).mean())
