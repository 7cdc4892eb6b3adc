"""The limit on balance under which a search chose, judged again where the claims are: on the confirmation, over seeds.

A point is chosen by a seed or three of the search; whether its arm keeps the limit, and so whether a claim about it is
one "at equal balance", only the confirmation's own seeds can say.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from ablations.config.schema import SearchConfig
from ablations.metrics import metric, share_of_maximum


@dataclass(frozen=True)
class Constraint:
    metric: str
    limit: float
    """The largest share of the metric's maximum."""

    @classmethod
    def of(cls, rule: SearchConfig) -> "Constraint | None":
        """That of a plan's `search_rule`; None where it has none."""
        name, limit = rule.constraint_metric, rule.constraint_max
        return None if name is None or limit is None else cls(name, limit)


@dataclass(frozen=True)
class Held:
    """What one arm's confirmation says of the constraint."""

    arm: str
    constraint: Constraint
    shares: dict[int, float]
    """Seed -> the metric over its maximum, of complete trials with experts."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.shares.values()) if self.shares else None

    @property
    def within(self) -> int:
        """Seeds that keep the limit."""
        return sum(share <= self.constraint.limit for share in self.shares.values())

    @property
    def missed(self) -> bool:
        """As in the search: by the mean over seeds."""
        return self.mean is not None and self.mean > self.constraint.limit

    def __str__(self) -> str:
        label, mean = metric(self.constraint.metric).label, self.mean
        if mean is None:
            return f"{self.arm} has no {label}"
        return (
            f"{label} of {self.arm} is {100 * mean:.1f} % of its maximum, limit {100 * self.constraint.limit:g} % "
            f"({self.within} of {len(self.shares)} seeds keep it)"
        )


def held(constraint: Constraint, arm: str, values: Mapping[str, Mapping[int, float]]) -> Held:
    """`values[metric][seed]` of the arm's complete confirmation trials."""
    seeds = sorted(values.get(constraint.metric, {}))
    of_seed = {seed: {name: by[seed] for name, by in values.items() if seed in by} for seed in seeds}
    shares = {seed: share_of_maximum(of_seed[seed], constraint.metric) for seed in seeds}
    return Held(arm, constraint, {seed: share for seed, share in shares.items() if share is not None})
