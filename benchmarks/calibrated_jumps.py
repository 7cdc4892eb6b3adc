"""Nats of a skill that comes as a jump, simulated: how often a t holds the truth, alone and beside counts of seeds.

Of an arm's trainings one share jump, of the baseline's another, and of a third arm's a third, which may show what a
jump is worth. It takes off a nat, which is all that there was; all else is noise of a hundredth.
"""

from dataclasses import dataclass

import numpy as np

from ablations.judge.jumps import beyond_counts
from ablations.judge.stats import Difference, differences

NOISE = 0.01


@dataclass(frozen=True)
class Case:
    """Shares of the trainings of the arm, of the baseline and of the third arm that jump."""

    arm: float
    none: float
    other: float = 0.5
    seeds: int = 6
    comparisons: int = 1
    """How many share the level."""
    of_other: float = 1.0
    """What a jump takes off the third arm's loss."""
    begun: float = 0.0
    """Of the trainings that jump, those that have only begun, by a fifth."""

    @property
    def level(self) -> float:
        return 0.05 / self.comparisons


SHARES = ((0.0, 0.0), (0.1, 0.0), (0.5, 0.0), (0.9, 0.0), (0.3, 0.1), (0.9, 0.9), (1.0, 0.9), (1.0, 0.5))
CASES = (
    *(Case(arm, none) for arm, none in SHARES),
    *(Case(0.1, 0.0, other) for other in (0.1, 0.0)),
    *(Case(arm, none, seeds=3) for arm, none in ((0.1, 0.0), (0.5, 0.0), (1.0, 0.9))),
    *(Case(arm, none, seeds=n, comparisons=4) for arm, none in ((0.1, 0.0), (0.5, 0.5)) for n in (3, 8)),
    Case(1.0, 0.9, 1.0),
    Case(0.3, 0.0, of_other=0.3),
    *(Case(arm, 0.0, seeds=n, begun=0.5) for arm, n in ((0.3, 6), (0.5, 6), (0.3, 16))),
)
"""First of six seeds, beside a third arm of which half jump. Then one that shows a jump seldom, or never; fewer seeds,
more comparisons; trainings of which nearly all jump, where a t is left if all did; a third arm to which it is worth
less; and trainings of which half have only begun to fall."""


def coverage(case: Case, sweeps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Of the intervals of a t, and of those that are no surer than counts."""
    truth, held = (case.none - case.arm) * (1 - 0.8 * case.begun), [0, 0]
    of_arms = {"arm": (case.arm, 1.0), "none": (case.none, 1.0), "other": (case.other, case.of_other)}
    pairs = [("arm", "none"), *((f"left_out_{i}", "none") for i in range(1, case.comparisons))]
    for _ in range(sweeps):
        jumped = {name: rng.random(case.seeds) < share for name, (share, _) in of_arms.items()}
        came = {name: dict(enumerate(own.astype(float))) for name, own in jumped.items()}
        fallen = {name: own * np.where(rng.random(case.seeds) < case.begun, 0.2, 1.0) for name, own in jumped.items()}
        nats = {
            name: dict(enumerate(1.0 - of_arms[name][1] * own + rng.normal(0.0, NOISE, case.seeds)))
            for name, own in fallen.items()
        }
        by_t = differences(nats, pairs, "answer_nats")
        for place, found in enumerate((by_t, beyond_counts(by_t, nats, came, {}, True))):
            held[place] += _holds(found[0], truth)
    return held[0] / sweeps, held[1] / sweeps


def _holds(d: Difference, truth: float) -> bool:
    return d.low is not None and d.high is not None and d.low <= truth <= d.high
