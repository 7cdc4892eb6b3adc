"""Success that comes as a jump, which some seeds have and others have not, is no normal variable: seeds are counted,
and two counts are told apart by Fisher's exact test."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace

COUNTS_RULE = (
    " How many seeds came halfway is no matter of a t: a claim on it agrees where Fisher's exact test finds more seeds "
    "of its arm than of the other at level 0.025/m, disagrees where it finds fewer, and is not resolved otherwise; it "
    "is void where that test tells the A/A arm from the baseline."
)


MOST = 200
"""Seeds that are thought of."""


@dataclass(frozen=True)
class Counts:
    """Of seeds that two arms have both finished, how many of each came halfway."""

    mine: int
    theirs: int
    of: int

    @functools.cached_property
    def p_more(self) -> float:
        """One-sided: as many more of mine, or still more, by chance."""
        return _fisher(self.mine, self.theirs, self.of)

    @functools.cached_property
    def p_fewer(self) -> float:
        return _fisher(self.theirs, self.mine, self.of)

    @property
    def mirrored(self) -> "Counts":
        return Counts(self.theirs, self.mine, self.of)

    def apart(self, level: float) -> bool:
        return min(self.p_more, self.p_fewer) <= level


@dataclass(frozen=True)
class Share:
    """Of `of` seeds of an arm `came` halfway; it counts by `weight` in what is estimated."""

    arm: str
    weight: float
    came: int
    of: int
    worth: float = 1.0
    """What coming halfway takes off the metric."""

    @property
    def mirrored(self) -> "Share":
        return replace(self, weight=0.0 - self.weight)


def counts_of(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Counts:
    """From each seed's 1 or 0."""
    seeds = sorted(mine.keys() & theirs.keys())
    return Counts(sum(mine[s] == 1 for s in seeds), sum(theirs[s] == 1 for s in seeds), len(seeds))


def seeds_telling(mine: float, theirs: float, level: float) -> int | None:
    """Seeds of which such shares of either arm would be told apart; None where they are alike, or MOST are too few."""
    for n in range(2, MOST + 1):
        counts = Counts(round(mine * n), round(theirs * n), n)
        if counts.apart(level):
            return n
    return None


def _fisher(more: int, fewer: int, of: int) -> float:
    from scipy import stats

    if not of:
        return 1.0
    return float(stats.fisher_exact([[more, of - more], [fewer, of - fewer]], alternative="greater").pvalue)
