"""From an interval to a word: whether a published claim agrees with what was measured."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ablations.config.schema import ExpectedConfig
from ablations.judge.counts import COUNTS_RULE, Counts, Share
from ablations.judge.jumps import JUMPS_RULE
from ablations.judge.power import seeds_needed
from ablations.judge.stats import Difference
from ablations.metrics import COUNTED
from ablations.metrics import metric as metric_of
from ablations.numbers import interval, percent, signed, size
from models.base.typed import ConfigError

Outcome = Literal["agrees", "disagrees", "not resolved", "no signal here", "depends on the length", "void"]
OPEN = ("not resolved", "no signal here", "depends on the length")

BOUNDS = "upper 95 % bounds of the excess over the best searched rate"
"""What is said of learning rates by a rule that bounds what they may cost."""
DECISION_RULE = (
    "Every comparison (each arm with the baseline, and each declared pair) is paired by seed over the seeds that both "
    "arms finished. A metric has three families: the comparisons that claims are about, in which a pair and its "
    "reverse are one; the A/A arm and the control; and all other arms with the baseline, which are exploratory. Each "
    "of the m of a family has a paired-t interval at level 0.05/m (Bonferroni), so that all of them hold together in "
    "at least 95 % of sweeps. A claim agrees when the interval of its difference lies inside the claim's region, "
    "disagrees when it lies wholly outside, and is not resolved otherwise; which way is better is the metric's. Every "
    "claim on a metric is void if the A/A arm's interval of that metric excludes 0: the one that branches off where an "
    "arm of the claim does, else the one from scratch, and so of the control. A claim whose region holds 0 "
    "(equal, not worse) agrees only where the positive control's interval lies wholly on the worse side of 0; else it "
    "reads 'no signal here' unless it disagrees, and so does any claim on accuracies that lie at chance or at the "
    "ceiling in all its arms, within 3 standard errors. A loss's interval is widened at both ends by what the two "
    f"arms' learning rates may cost (the larger of their {BOUNDS}, "
    "from a parabola in its logarithm with a level per search seed), and a verdict that does not survive this is not "
    "resolved. An arm with a diverged seed is neither better, equal nor not worse than another; where the other "
    "diverges, equal disagrees, and the rest is not resolved, because only survivors are compared. A claim about an "
    "arm whose trials end in the same bits as another arm's with other keys is void, since its toggle did nothing, "
    "and so is one whose values were chosen on a seed of the confirmation; where the A/A arm diverged, or ends in the "
    "baseline's bits, every statistical claim is void. A claim of identity is no statistic: it agrees where no seed "
    "differs by more than its margin and one of the A/A arm's does. Where the search had a limit on balance, the "
    "limit is judged again on the confirmation: a claim about an arm whose mean over seeds is above it is said not to "
    "be at equal balance. Where arms are finished at several lengths, a verdict is given at the last one "
    "and must hold its sign at the one before (within a margin a sign says nothing, and tasks are asked at the last "
    "alone); else it reads 'depends on the length'. Holm's p values are printed for the reader and decide nothing."
)

LOOKS_RULE = (
    " The claims are looked at after {looks} seeds, and the run ends at the first look that leaves none unresolved. "
    "Each family spends its level over the looks as O'Brien and Fleming do, so that its intervals at all of them "
    "hold together as often as those of a single look."
)


def decision_rule(looks: Sequence[int], expected: Sequence[ExpectedConfig], answers: bool = False) -> str:
    """Of a plan with these claims, which looks after so many seeds, empty where it looks but once; `answers`: its arms
    learn to answer, as a skill or a problem asks."""
    counted = any(claim.metric == COUNTED for claim in expected)
    falls = answers and any(metric_of(claim.metric).falls_at_jumps for claim in expected)
    spent = LOOKS_RULE.format(looks=", ".join(map(str, looks))) if looks else ""
    return DECISION_RULE + spent + (COUNTS_RULE if counted else "") + (JUMPS_RULE if falls else "")


@dataclass(frozen=True)
class Verdict:
    """A published claim against its measured difference."""

    arm: str
    against: str
    metric: str
    kind: str
    outcome: Outcome
    why: str
    """One sentence with the numbers."""
    difference: Difference | None
    """None where the comparison was not part of the run."""
    seeds_needed: int | None
    """Seeds that the paper's effect would need at this sd, this family and 80 % power; None without one."""
    caveat: str | None = None
    """What the outcome has to be read with, in a few words: `not at equal balance`."""
    open: bool = False
    """More seeds may change the outcome: it is not what diverged, or a learning rate without a bound, that decides."""
    without_paper: bool = False
    """The interval, with what learning rates may cost, leaves out the paper's effect."""
    slack: float = 0.0
    """What learning rates may cost, which no seeds make less; math.inf where nobody knows."""
    mistuned: bool = False
    """It is not resolved for what learning rates may cost: a finer search changes that sooner than seeds."""


@dataclass(frozen=True)
class Void:
    """Why nothing was measured that a claim is about: in a few words, and with the facts."""

    caveat: str
    why: str


@dataclass(frozen=True)
class Beside:
    """What a difference is judged beside."""

    void: Void | None = None
    """None where the claim can be judged."""
    control: Difference | None = None
    """Of the known harm, in the claim's metric. None: it was not run or, for scores, has no signal."""
    aa: Difference | None = None
    """Of the A/A arm."""
    mistuning: float | None = None
    """What the two arms' learning rates may cost in the claim's metric, the larger bound: None where nothing was
    searched, math.inf where that cannot be said."""
    diverged: Mapping[str, int] = field(default_factory=dict)
    """Arm -> how many of its trials diverged, of those that the difference is made of, where any did ..."""
    trials: int = 0
    """... of so many each."""
    no_signal: str | None = None
    """Why the two arms' accuracies can tell nothing apart; None where they can."""
    counts: Counts | None = None
    """Of the two arms, where the claim is on how many seeds came halfway ..."""
    aa_counts: Counts | None = None
    """... and of the A/A arm and the baseline."""


def verdict(expected: ExpectedConfig, difference: Difference, beside: Beside) -> Verdict:
    """Judge one claim (DECISION_RULE). Raises ConfigError where it lacks the margin, the region, or the metric with a
    direction of its kind."""
    edges = region_of(expected)
    paper = expected.paper_value
    needed, slack = None, beside.mistuning or 0.0
    if paper is not None and difference.low is not None and not difference.shares:
        far = abs(paper) - slack - ((expected.margin or 0.0) if expected.kind == "better" else 0.0)
        needed = seeds_needed(max(0.0, far), difference.sd, difference.comparisons, difference.alpha)
    outcome, why = _judge(expected, edges, difference, beside)
    if difference.shares and outcome in ("agrees", "disagrees", "not resolved"):
        why += f"; {_came(difference.shares)}, which leaves it as wide"
    excluded = not beside.diverged and leaves_out(difference, paper, slack)
    mistuned = outcome == "not resolved" and _turns(edges, difference, beside)
    if outcome == "not resolved":
        why += _resolution(difference, paper, needed, excluded)
        if slack and not mistuned and not beside.diverged:
            cost = "is not known" if math.isinf(slack) else f"may be {size(slack, 4)}"
            why += f"; what a learning rate costs {cost}, which no seeds make less"
    return Verdict(
        difference.arm,
        difference.against,
        difference.metric,
        expected.kind,
        outcome,
        f"{why}.",
        difference,
        needed,
        _caveat(outcome, beside, mistuned),
        outcome in OPEN and not beside.diverged and beside.mistuning != math.inf,
        excluded,
        slack,
        mistuned,
    )


def at_every_length(
    found: Verdict, expected: ExpectedConfig, earlier: Difference | None, share: float, diverged: Mapping[str, int]
) -> Verdict:
    """The verdict at the end, where it does not turn round against what a shorter training shows, of this share of the
    tokens: there `agrees` or `disagrees` would be a matter of when. Beside trials that `diverged` a sign says nothing;
    of identity, the largest difference says it."""
    d, names = found.difference, ("agrees", "disagrees")
    if found.outcome not in names or d is None or diverged:
        return found
    if earlier is None or not earlier.n:
        why = f"{found.why.rstrip('.')}; the shorter training that it must hold at was not finished."
        return replace(found, why=why, caveat=found.caveat or "not seen at the length before")
    before = f"but it was {_numbers(earlier)} after {percent(share)} of the tokens, with the other sign"
    if expected.kind == "identical":
        margin = region_of(expected)[1]
        holds = (earlier.largest > margin) == (d.largest > margin)
        before = f"but after {percent(share)} of the tokens it was up to {earlier.largest:.1e} in a seed"
    else:
        holds = d.mean * earlier.mean >= 0 or _says_nothing(expected, earlier.mean, d.mean)
    if holds:
        return found
    return replace(found, outcome="depends on the length", why=f"{found.why.rstrip('.')}; {before}.", open=True)


def _says_nothing(expected: ExpectedConfig, *means: float) -> bool:
    """The sign of these: both lie within a margin, or short of the one that an arm is to be better by, or of a value on
    the same side."""
    low, high = region_of(expected)
    sides = {(mean >= high) - (mean <= low) for mean in means}
    if expected.kind in ("equal", "not_worse"):
        return sides == {0}
    if expected.kind == "better":
        return bool(expected.margin) and 0 not in sides
    return len(sides) == 1


def _caveat(outcome: Outcome, beside: Beside, mistuned: bool) -> str | None:
    if mistuned:
        cost = beside.mistuning or 0.0
        return (
            "what a learning rate costs is not known"
            if math.isinf(cost)
            else f"a learning rate may cost {size(cost, 4)}"
        )
    if outcome != "void":
        return None
    return "the A/A arm differs" if beside.void is None else beside.void.caveat


def region_of(expected: ExpectedConfig) -> tuple[float, float]:
    """The open interval that the true difference lies in if the claim holds. Raises ConfigError."""
    key = f"sweep.expected[{expected.arm}, {expected.metric}]"
    if expected.kind == "value":
        region = expected.region
        if region is None or len(region) != 2 or not region[0] < region[1]:
            raise ConfigError(f"{key}.region={region}: kind `value` needs two numbers, the lower first")
        return region[0], region[1]
    if expected.kind == "better":
        margin = 0.0 - (expected.margin or 0.0)
    elif expected.margin is None or expected.margin <= 0:
        raise ConfigError(f"{key}.margin={expected.margin}: kind `{expected.kind}` needs a margin above 0")
    else:
        margin = expected.margin
    if expected.kind in ("equal", "identical"):
        return -margin, margin
    better = metric_of(expected.metric).better
    if better is None:
        raise ConfigError(f"{key}: kind `{expected.kind}` needs a metric of which lower or higher is better")
    return (-math.inf, margin) if better == "lower" else (0.0 - margin, math.inf)


def shows_harm(control: Difference | None) -> bool:
    """The interval of the control, a known harm, lies on the worse side of 0: on either, where neither is worse."""
    if control is None or control.low is None or control.high is None:
        return False
    better = metric_of(control.metric).better
    return control.resolved if better is None else control.low > 0 if better == "lower" else control.high < 0


def _judge(
    expected: ExpectedConfig,
    edges: tuple[float, float],
    difference: Difference,
    beside: Beside,
) -> tuple[Outcome, str]:
    """The rules, in the order in which they override each other."""
    control, aa = beside.control, beside.aa
    if beside.void is not None:
        return "void", beside.void.why
    if expected.kind == "identical":
        return _identical(edges[1], difference, aa, sum(beside.diverged.values()))
    if aa is not None and aa.resolved:
        return "void", (
            f"{aa.arm} repeats {aa.against} and yet differs from it, {_numbers(aa)}: the sweep tells identical arms "
            f"apart in {aa.metric}"
        )
    measured = f"{difference.name} is {_numbers(difference)}"
    if beside.no_signal is not None:
        return "no signal here", f"{measured}, but {beside.no_signal}"
    if beside.diverged:
        return _beside_divergence(expected, difference, beside, measured)
    if beside.counts is not None:
        return _counted(difference, beside.counts, beside.aa_counts)
    if difference.low is None or difference.high is None:
        cause = "one error bar needs two seeds" if difference.n < 2 else "it does not vary, so its error is unknown"
        return "not resolved", f"{measured}: {cause}"

    place = place_of(difference.low, difference.high, edges)
    region = _words(edges)
    holds_zero = edges[0] < 0 < edges[1]
    if holds_zero and place != "disagrees" and not shows_harm(control):
        seen = (
            "there is no control to show" if control is None else f"the control is {_numbers(control)}: it is not seen"
        )
        return (
            "no signal here",
            f"{measured}, but {seen} that this sweep can tell a known harm from none",
        )
    if _turns(edges, difference, beside):
        slack = beside.mistuning or 0.0
        if math.isinf(slack):
            return "not resolved", f"{measured}, but what its learning rate costs cannot be bounded (see Chosen values)"
        return (
            "not resolved",
            f"{measured}, but a learning rate may cost {size(slack, 4)}: wider by that, it is partly in {region}",
        )
    if place == "agrees":
        return place, f"{measured}: inside {region}{_as_the_control(expected, edges, control)}"
    if place == "disagrees":
        return place, f"{measured}: wholly outside {region}"
    return place, f"{measured}: partly inside {region}"


def _as_the_control(expected: ExpectedConfig, edges: tuple[float, float], control: Difference | None) -> str:
    """Where a known harm would agree as well, an agreement says little."""
    if control is None or control.low is None or control.high is None or expected.kind not in ("equal", "not_worse"):
        return ""
    if place_of(control.low, control.high, edges) != "agrees":
        return ""
    return f", and so is the control's known harm, {_numbers(control)}"


def _turns(edges: tuple[float, float], difference: Difference, beside: Beside) -> bool:
    """What learning rates may cost leaves open what the interval alone would decide."""
    low, high, slack = difference.low, difference.high, beside.mistuning or 0.0
    if low is None or high is None or beside.diverged or beside.counts is not None:
        return False
    place = place_of(low, high, edges)
    return place != "not resolved" and place_of(low - slack, high + slack, edges) != place


def _beside_divergence(
    expected: ExpectedConfig, difference: Difference, beside: Beside, measured: str
) -> tuple[Outcome, str]:
    """Differences are those of the seeds that survived in both arms."""
    trials = beside.trials or difference.n + max(beside.diverged.values())
    counted = " and ".join(f"{count}/{trials} of {name} diverged" for name, count in beside.diverged.items())
    mine, theirs = (beside.diverged.get(name, 0) for name in (difference.arm, difference.against))
    own = bool(mine) and expected.kind != "value"
    if difference.against and (own or (expected.kind == "equal" and mine != theirs)):
        word = {"better": "not better", "equal": "not equal", "not_worse": "worse"}[expected.kind]
        return "disagrees", f"{counted}: an arm that diverges is {word}"
    return "not resolved", f"{counted}: {measured} speaks only for the seeds that survived"


def _identical(margin: float, difference: Difference, aa: Difference | None, diverged: int) -> tuple[Outcome, str]:
    """By the largest difference of a seed."""
    if diverged:
        return "disagrees", f"{diverged} of their trials diverged"
    if not difference.n:
        return "not resolved", "no seed is finished in both arms"
    n, largest = difference.n, difference.largest
    measured = f"no seed of {n} differs by more than {largest:.1e}"
    if largest > margin:
        return "disagrees", f"{difference.name} is up to {largest:.1e} in a seed of {n}"
    if aa is None or not aa.n:
        return "no signal here", f"{measured}, but there is no A/A arm to show that a change would be seen"
    if aa.largest <= margin:
        return (
            "no signal here",
            f"{measured}, but {aa.arm}, with changed weights, differs by no more than {aa.largest:.1e}",
        )
    return "agrees", f"{measured}; {aa.arm}, whose weights are changed by 1e-6, differs by up to {aa.largest:.1e}"


def _counted(difference: Difference, counts: Counts, aa: Counts | None) -> tuple[Outcome, str]:
    level = difference.alpha / difference.comparisons / 2
    if aa is not None and aa.apart(level):
        return "void", (
            f"{aa.mine} of {aa.of} seeds of the A/A arm came halfway and {aa.theirs} of the arm that it repeats: the "
            f"sweep tells identical arms apart in {difference.metric}"
        )
    more = counts.mine >= counts.theirs
    p = counts.p_more if more else counts.p_fewer
    shares = Share(difference.arm, 1, counts.mine, counts.of), Share(difference.against, -1, counts.theirs, counts.of)
    measured = f"{_came(shares)}: Fisher's exact p, one-sided, is {p:.2g}"
    if p > level:
        return "not resolved", f"{measured}, above {level:.2g}"
    return ("agrees" if more else "disagrees"), f"{measured}, not above {level:.2g}"


def _came(shares: Sequence[Share]) -> str:
    """Of seeds that all these arms finished."""
    first, *others = shares
    return ", ".join(
        [
            f"{first.came} of {first.of} seeds of {first.arm} came halfway",
            *(f"{share.came} of {share.arm}" for share in others),
        ]
    )


def place_of(low: float, high: float, edges: tuple[float, float]) -> Outcome:
    """Where an interval lies to a region."""
    if edges[0] < low and high < edges[1]:
        return "agrees"
    if high <= edges[0] or low >= edges[1]:
        return "disagrees"
    return "not resolved"


def leaves_out(difference: Difference, value: float | None, slack: float = 0.0) -> bool:
    """The interval, wider by `slack` at both ends, excludes an effect of this size, which is one."""
    if not value or difference.low is None or difference.high is None:
        return False
    return not difference.low - slack <= value <= difference.high + slack


def _numbers(difference: Difference) -> str:
    if not difference.n:
        return "not measured in any seed that both have finished"
    if difference.low is None or difference.high is None:
        return f"{signed(difference.mean, 4)} over {difference.n} seeds, without an interval"
    return f"{signed(difference.mean, 4)} {interval(difference.low, difference.high, 4)} over {difference.n} seeds"


def _words(edges: tuple[float, float]) -> str:
    if math.isinf(edges[0]):
        return f"the claim (below {edges[1]:g})"
    if math.isinf(edges[1]):
        return f"the claim (above {edges[0]:g})"
    return f"the claim ({edges[0]:g} to {edges[1]:g})"


def _resolution(difference: Difference, paper: float | None, needed: int | None, excluded: bool) -> str:
    """What this many seeds can see, and how many would see the paper's effect."""
    text = ""
    if difference.resolvable is not None:
        seen = size(difference.resolvable, 4)
        text = f"; the smallest effect that {difference.n} seeds resolve with 80 % power is {seen}"
    if paper is None:
        return text + "; the paper gives no size in this metric"
    if paper == 0:
        return text + "; the paper's own difference is 0"
    if excluded:
        return text + f"; the paper's {signed(paper, 4)} lies outside this interval"
    if needed is None:
        return text + f"; how many seeds the paper's {signed(paper, 4)} needs cannot be said from these"
    return text + f"; the paper's {signed(paper, 4)} would need {needed} seeds"
