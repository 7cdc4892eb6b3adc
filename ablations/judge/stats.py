"""What the numbers of a sweep can carry: paired differences, their intervals, what they resolve, what they cost.

Pairing: an arm and the arm it is compared with share, per seed, the batches, the evaluation items and the initial
values, so their difference per seed has an eighth of the spread that the loss has. The comparisons of one metric that
are asked for the same reason are one family (`ablations/judge/families.py`). The intervals are Bonferroni's: a paired t
at level alpha / m each, which cover all m true differences at once in at least 1 - alpha of sweeps, whatever the
correlation (through the shared baseline) and the variances; of a skill's nats they are at least as wide as counts of
seeds leave them (`ablations/judge/jumps.py`; where all seeds have come to it, nothing knows of those that would not).
What else a verdict reads leaves a claim open or void, but for divergence (`ablations/judge/verdicts.py`), so that it
inherits that guarantee.

Holm's p values are printed beside them. Holm rejects at least as often, but has no interval of finite length that
goes with it: cutting Bonferroni's at 0 where Holm rejects covers 92 % (`benchmarks/calibration.py` shows it).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ablations.judge.counts import Share
from ablations.judge.power import resolvable_ratio
from ablations.metrics import metric as metric_of

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["claim", "exploratory", "diagnostic"]
"""Why arms are compared: a claim names them; nobody has claimed anything of them; or they show what can be seen."""

ROUNDING = 1e-12
"""Over the values themselves: differences that spread less than this differ by rounding only."""


@dataclass(frozen=True)
class Difference:
    """One paired comparison, `arm` minus `against`, over the seeds that both have. Which way is better is the metric's
    to say (`ablations/metrics.py`)."""

    arm: str
    against: str
    metric: str
    n: int
    """Common seeds."""
    mean: float
    """0.0 where n = 0."""
    sd: float
    """Of the paired differences; 0.0 where n < 2."""
    largest: float
    """The largest paired difference, without its sign; 0.0 where n = 0. A claim of identity is judged by it."""
    low: float | None
    """Ends of the simultaneous 1 - alpha interval of the family. None: unbounded, because no error can be estimated
    (n < 2, or differences whose spread is no more than the rounding of the values), or because the metric comes as a
    jump."""
    high: float | None
    p: float | None
    """Two-sided paired t; 1.0 where the interval is unbounded. None where that is as wide as counts of seeds leave
    it."""
    p_holm: float | None
    """Holm over the family. It can be under alpha where the interval holds 0; verdicts follow the interval. None as of
    `p`."""
    correlation: float
    """Of the two arms over seeds; 0.0 where it is undefined (n < 2, or an arm that does not vary)."""
    resolvable: float | None
    """Smallest effect that an interval of this family would exclude 0 for with 80 % power, at this n and sd; None
    where the interval is unbounded, or as wide as counts of seeds leave it."""
    comparisons: int = 1
    """Size m of the family."""
    alpha: float = 0.05
    kind: Kind = "claim"
    """Which of the metric's families it belongs to."""
    shares: tuple[Share, ...] = ()
    """Of seeds that came halfway, in each arm, where they leave more open than a t does: the interval is wider by it
    (ablations/judge/jumps.py)."""

    @property
    def name(self) -> str:
        """`a minus b`; a contrast's own name."""
        return f"{self.arm} minus {self.against}" if self.against else self.arm

    @property
    def resolved(self) -> bool:
        """The interval excludes 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def mirrored(self) -> "Difference":
        """`against` minus `arm`: the same comparison, read from its other side."""
        low = None if self.high is None else 0.0 - self.high  # so that no zero gets a sign
        high = None if self.low is None else 0.0 - self.low
        shares = tuple(share.mirrored for share in reversed(self.shares))
        return replace(
            self, arm=self.against, against=self.arm, mean=0.0 - self.mean, low=low, high=high, shares=shares
        )


Family = Mapping[tuple[str, str], Difference]
"""(arm, against) -> the comparison; each pair of arms once, in one order."""


def between(family: Family, arm: str, against: str) -> Difference | None:
    """`arm` minus `against`, in whichever order the family holds the two."""
    if (arm, against) in family:
        return family[arm, against]
    reverse = family.get((against, arm))
    return reverse.mirrored if reverse is not None else None


def paired_intervals(
    paired: "np.ndarray", comparisons: int, alpha: float = 0.05
) -> tuple["np.ndarray", "np.ndarray", "np.ndarray"]:
    """Simultaneous intervals and the unadjusted two-sided p of paired differences [..., seeds], seeds >= 2.

    Returns low, high, p, each [...]. scipy's one-sample t at level alpha / comparisons (Bonferroni).
    """
    from scipy import stats

    result = stats.ttest_1samp(paired, 0.0, axis=-1)
    interval = result.confidence_interval(1 - alpha / comparisons)
    return interval.low, interval.high, result.pvalue


def holm(p: "np.ndarray") -> "np.ndarray":
    """Holm's step-down adjusted p of families [..., comparisons].

    Not statsmodels' multipletests, which collects garbage at each call: seven tenths of the time of reading a result.
    """
    import numpy as np

    m, order = p.shape[-1], p.argsort(axis=-1)
    stepped = np.take_along_axis(p, order, -1) * np.arange(m, 0, -1)
    adjusted = np.empty_like(p)
    np.put_along_axis(adjusted, order, np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0), -1)
    return adjusted


def differences(
    values: Mapping[str, Mapping[int, float]],
    pairs: Sequence[tuple[str, str]],
    metric: str,
    alpha: float = 0.05,
    kind: Kind = "claim",
    look: Callable[[float], float] | None = None,
) -> list[Difference]:
    """`values[arm][seed]` compared pairwise; `pairs` (arm, against) is the whole family of this metric and `kind`.

    A repeated pair counts once, and so does its reverse, which is the same comparison: the first order is kept. A
    declared pair counts in m even where its seeds are missing, so that the family stays the registered one. `look`:
    what the family may spend of its level now, where it is looked at more than once (ablations/judge/looks.py).
    Raises ValueError on a value that is not finite and on an arm compared with itself.
    """
    import numpy as np

    once: dict[frozenset[str], tuple[str, str]] = {}
    for pair in pairs:
        once.setdefault(frozenset(pair), pair)
    family = list(once.values())
    if not family:
        return []
    if look is not None:
        alpha = look(alpha)
    jump, sides = metric_of(metric).jump, []
    for arm, against in family:
        if arm == against:
            raise ValueError(f"{metric}: {arm} is compared with itself")
        left, right = values.get(arm, {}), values.get(against, {})
        seeds = sorted(left.keys() & right.keys())
        both = np.array([[left[s] for s in seeds], [right[s] for s in seeds]], dtype=np.float64)
        if not np.isfinite(both).all():
            raise ValueError(f"{metric}: {arm} or {against} has a value that is not finite; leave diverged seeds out")
        sides.append(both)
    rows = [_described(both, jump) for both in sides]
    for n in {both.shape[1] for both in sides} - {0, 1}:  # scipy takes as long for one pair as for all
        places = [i for i, both in enumerate(sides) if both.shape[1] == n]
        correlations = _correlations(np.stack([sides[i] for i in places]))
        for i, correlation in zip(places, correlations, strict=True):
            rows[i]["correlation"] = float(correlation)
        tested = [i for i in places if not jump and _has_error_bar(sides[i], rows[i]["sd"])]
        if not tested:
            continue
        intervals = paired_intervals(np.stack([sides[i][0] - sides[i][1] for i in tested]), len(family), alpha)
        for i, low, high, p in zip(tested, *intervals, strict=True):
            resolvable = rows[i]["sd"] * resolvable_ratio(n, alpha / len(family))
            rows[i] |= {"low": float(low), "high": float(high), "p": float(p), "resolvable": resolvable}
    p_holm = holm(np.array([row["p"] for row in rows]))
    return [
        Difference(
            arm=arm,
            against=against,
            metric=metric,
            **row,
            p_holm=float(p),
            comparisons=len(family),
            alpha=alpha,
            kind=kind,
        )
        for (arm, against), row, p in zip(family, rows, p_holm, strict=True)
    ]


def _described(both: "np.ndarray", jump: bool) -> dict[str, Any]:
    """What a Difference says of its pairs [2, seeds] before anything is tested."""
    import numpy as np

    n = both.shape[1]
    paired = both[0] - both[1]
    same = n > 1 and not jump and not paired.any()  # the same bits in both arms: nothing to resolve
    return {
        "n": n,
        "mean": float(paired.mean()) if n else 0.0,
        "largest": float(np.abs(paired).max()) if n else 0.0,
        "sd": float(paired.std(ddof=1)) if n > 1 else 0.0,
        "low": 0.0 if same else None,
        "high": 0.0 if same else None,
        "p": 1.0,
        "correlation": 0.0,
        "resolvable": 0.0 if same else None,
    }


def _has_error_bar(both: "np.ndarray", sd: float) -> bool:
    """The rounding of sums is none: by it a constant shift would exclude 0 at any p. Nor is 0 of the same bits."""
    import numpy as np

    return sd > ROUNDING * float(np.abs(both).max())


def _correlations(both: "np.ndarray") -> "np.ndarray":
    """Of [pairs, 2, seeds]; what is constant goes along with nothing."""
    import numpy as np
    from scipy import stats

    spread, largest = np.ptp(both, axis=2), np.abs(both).max(axis=2)
    varies = (spread > ROUNDING * largest).all(axis=1)
    found = np.zeros(len(both))
    if varies.any():
        found[varies] = stats.pearsonr(both[varies, 0], both[varies, 1], axis=-1).statistic
    return found


def lack_of_signal(scores: Sequence[float], chance: float, items: int, ceiling: float = 1.0) -> str | None:
    """Why per-seed accuracies can tell nothing apart; None where they lie above chance + 3 SE and below the ceiling -
    3 SE.

    The items are the same for every seed, so their sampling error does not shrink with seeds: SE^2 is p (1 - p) / items
    plus the squared standard error of the mean over seeds.
    """
    import numpy as np

    if items < 1:
        raise ValueError(f"items={items}: a score is taken over at least one item")
    if not len(scores):
        return "no score"
    mean = float(np.mean(scores))
    over_seeds = float(np.var(scores, ddof=1)) / len(scores) if len(scores) > 1 else 0.0
    at_chance = math.sqrt(chance * (1 - chance) / items + over_seeds)
    at_mean = math.sqrt(max(0.0, mean * (1 - mean)) / items + over_seeds)
    above_chance = mean > chance + 3 * max(at_chance, at_mean)
    below_ceiling = mean < ceiling - 3 * at_mean
    if above_chance and below_ceiling:
        return None
    if below_ceiling:
        return "not above chance"
    return "at the ceiling" if above_chance else "too few items"


def tokens_saved(effect: float, control: Difference, token_fraction: float = 0.9) -> float | None:
    """Share of the tokens that an effect (arm minus baseline, nats) is worth; negative: that many more are needed.

    The control arm (baseline on `token_fraction` of the tokens) gives the slope dL / d ln(tokens), and the arm reaches
    the baseline's loss with exp(-effect / slope) of its tokens. None where the control is not resolved as a harm, or
    where the arm would need more tokens than a number can say.
    """
    if control.low is None or control.low <= 0:
        return None
    slope = control.mean / math.log(token_fraction)
    try:
        return -math.expm1(-effect / slope)
    except OverflowError:
        return None
