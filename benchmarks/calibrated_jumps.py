"""Nats of a skill that comes as a jump, simulated: how often a t holds the truth, alone and beside counts of seeds.

Of an arm and the baseline a share of all trainings jump, and of a third arm, which shows what that is worth, half of
them. A jump takes a nat off the loss; all else is noise of a hundredth.
"""

import numpy as np

from ablations.judge.jumps import beyond_counts
from ablations.judge.stats import Difference, differences

NOISE, OTHER = 0.01, 0.5
SHARES = ((0.0, 0.0), (0.1, 0.0), (0.5, 0.0), (0.9, 0.0), (0.3, 0.1), (0.9, 0.9), (1.0, 0.9), (1.0, 0.5))
"""Of the trainings of the arm and of the baseline, those that jump."""


def coverage(shares: tuple[float, float], seeds: int, sweeps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Of the intervals of a t, and of those that are no surer than counts."""
    truth, held = shares[1] - shares[0], [0, 0]
    for _ in range(sweeps):
        of_arms = {"arm": shares[0], "none": shares[1], "other": OTHER}
        jumped = {name: rng.random(seeds) < share for name, share in of_arms.items()}
        came = {name: dict(enumerate(own.astype(float))) for name, own in jumped.items()}
        nats = {name: dict(enumerate(1.0 - own + rng.normal(0.0, NOISE, seeds))) for name, own in jumped.items()}
        by_t = differences(nats, [("arm", "none")], "answer_nats")
        for place, (found,) in enumerate((by_t, beyond_counts(by_t, nats, came))):
            held[place] += _holds(found, truth)
    return held[0] / sweeps, held[1] / sweeps


def _holds(d: Difference, truth: float) -> bool:
    return d.low is not None and d.high is not None and d.low <= truth <= d.high
