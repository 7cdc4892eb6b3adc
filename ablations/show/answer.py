"""What a sweep has found: in one sentence that a person would say, claim by claim, and what would settle the rest.

All of it is composed from the verdicts by rule; `says` in a claim gives its clause.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ablations import numbers
from ablations.config.schema import ExpectedConfig
from ablations.judge.judging import mistuning_of, per_nat
from ablations.judge.result import Result
from ablations.judge.stats import Difference
from ablations.judge.verdicts import Verdict, region_of
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT

MOST_TOLD = 3
"""Of more claims (but for one) one of each metric is told, of the primary one first, then a second one of each and so
on, settled ones before others; the rest are counted."""
OPENINGS = {
    "agrees": ("", ""),
    "disagrees": ("it is not so that ", "that "),
    "not resolved": ("open is whether ", "whether "),
    "depends on the length": ("it depends on the length of the training whether ", "whether "),
    "no signal here": ("nothing could be seen of whether ", "whether "),
    "void": ("nothing was measured of whether ", "whether "),
}
"""Before the first clause of those with an outcome, and before each other."""
COUNTED = {
    "agrees": ("agrees", "agree"),
    "disagrees": ("disagrees", "disagree"),
    "not resolved": ("is not resolved", "are not resolved"),
    "depends on the length": ("depends on the length", "depend on the length"),
    "no signal here": ("shows no signal", "show no signal"),
    "void": ("is void", "are void"),
}
"""What one claim does, and what several do."""


def answer(result: Result, extents: bool = True) -> str:
    """`A bias keeps experts even; open is whether it costs less than an auxiliary loss (-0.0590 to +0.0319 nats).`

    What holds is said first, then what does not, then what is open. `extents`: with how large a thing may be, where no
    interval stands near.
    """
    told, others = _told(_clauses(result, extents), result.primary)
    parts = []
    for outcome, (first, joint) in OPENINGS.items():
        if said := [one.text for one in told if one.outcome == outcome]:
            parts.append(first + _listed(said, joint))
    text = "; ".join(parts) or _without_claims(result)
    begun = any(first and text.startswith(first) for first, _ in OPENINGS.values())
    named = text.split(" ")[0].rstrip(",") in result.arms and not begun
    whole = text if named else text[0].upper() + text[1:]
    if result.missing:
        whole = f"So far ({result.planned - len(result.missing)} of {result.planned} trials): {text}"
    return " ".join(part for part in (f"{whole}.", _counted(others), _switched(result), result.plan.note) if part)


def _switched(result: Result) -> str:
    """Which of what claims are about begins in the middle: their effect is a switch's, and has had less time."""
    claimed = {name for expected in result.expected for name in result.plan.members(expected)} - {result.baseline}
    late = [arm.name for arm in result.arms.values() if arm.name in claimed and arm.plan.branched]
    if not late:
        return ""
    others = any(name in result.arms and name not in late for name in claimed)
    who = _listed(late) if others else "All of it"
    return (
        f"{who} {'are' if others and len(late) > 1 else 'is'} switched on at {result.plan.branch_at:.0%} of the steps."
    )


class _Clause(NamedTuple):
    text: str
    metric: str
    verdicts: list[Verdict]
    """Of one claim, or of several that say the same of an arm each."""

    @property
    def outcome(self) -> str:
        return self.verdicts[0].outcome


def _clauses(result: Result, extents: bool) -> list[_Clause]:
    """What the claims say; those that differ in their arms alone, and have no words of the sweep's own, together."""
    alike: dict[Any, list[tuple[ExpectedConfig, Verdict]]] = {}
    for place, (expected, verdict) in enumerate(zip(result.expected, result.verdicts, strict=True)):
        own = (claim(expected, result.plan.rival(expected), [""]), _aside(expected, verdict, extents), verdict.outcome)
        together = not expected.says and expected.region is None
        alike.setdefault(own if together else place, []).append((expected, verdict))
    clauses = []
    for pairs in alike.values():
        expected, verdict = pairs[0]
        arms = [one.arm for one, _ in pairs]
        said = claim(expected, result.plan.rival(expected), arms) if len(arms) > 1 else clause(expected, result)
        clauses.append(_Clause(said + _aside(expected, verdict, extents), expected.metric, [v for _, v in pairs]))
    return clauses


def _told(clauses: list[_Clause], primary: str) -> tuple[list[_Clause], list[Verdict]]:
    """The clauses that the answer tells, and the verdicts that it counts."""
    if len(clauses) <= MOST_TOLD + 1:
        return clauses, []
    ranks, before = [], Counter[str]()
    for place in sorted(range(len(clauses)), key=lambda place: clauses[place].verdicts[0].open):
        metric = clauses[place].metric
        ranks.append((before[metric], metric != primary, place))
        before[metric] += 1
    order = [place for *_, place in sorted(ranks)]
    others = [verdict for place in sorted(order[MOST_TOLD:]) for verdict in clauses[place].verdicts]
    return [clauses[place] for place in order[:MOST_TOLD]], others


def _aside(expected: ExpectedConfig, verdict: Verdict, extents: bool) -> str:
    return _with_caveat(_extent(expected, verdict) if extents else "", verdict)


def _counted(verdicts: list[Verdict]) -> str:
    """`Of the other 6 claims, 5 agree (1 not at equal balance) and 1 is not resolved.`"""
    counts = []
    for outcome, (one, several) in COUNTED.items():
        alike = [verdict for verdict in verdicts if verdict.outcome == outcome]
        caveats = [verdict.caveat for verdict in alike if verdict.caveat is not None and outcome != "void"]
        counted = [f"{caveats.count(caveat)} {caveat}" for caveat in dict.fromkeys(caveats)]
        aside = ", ".join(caveats if len(alike) == 1 else counted)
        if alike:
            does = one if len(alike) == 1 else several
            counts.append((len(alike), does + (f" ({aside})" if aside else "")))
    if len(counts) <= 1:
        return "".join(f"The other {f'{count} claims' if count > 1 else 'claim'} {does}." for count, does in counts)
    listed = [f"{count} {does}" for count, does in counts]
    return f"Of the other {len(verdicts)} claims, {', '.join(listed[:-1])} and {listed[-1]}."


def _listed(clauses: list[str], joint: str = "") -> str:
    """`a`, `a, and b`, `a, b, and c`; each but the first begins with `joint`."""
    first, *others = clauses
    if not others:
        return first
    others = [joint + other for other in others]
    return ", ".join([first, *others[:-1], f"and {others[-1]}"])


def clause(expected: ExpectedConfig, result: Result) -> str:
    return expected.says + _by(expected) if expected.says else claim(expected, result.plan.rival(expected))


def _by(expected: ExpectedConfig) -> str:
    """By how much at least something is claimed to be better, where that is said."""
    if expected.kind != "better" or expected.margin is None:
        return ""
    unit = metric_of(expected.metric).unit
    return f" by at least {expected.margin:g}" + (f" {unit}" if unit else "")


def _with_caveat(extent: str, verdict: Verdict) -> str:
    """The extent, and what the verdict has to be read with."""
    if verdict.caveat is None or verdict.outcome == "void":
        return extent
    return f"{extent.removesuffix(')')}; {verdict.caveat})" if extent else f" ({verdict.caveat})"


def _extent(expected: ExpectedConfig, verdict: Verdict) -> str:
    """How large it is at most, where that is what a reader asks next."""
    d, metric = verdict.difference, metric_of(expected.metric)
    if d is None or d.low is None or d.high is None or expected.kind == "identical" or verdict.outcome == "void":
        return ""
    unit = f" {metric.unit}" if metric.unit else ""
    if verdict.outcome == "not resolved":
        paper = numbers.signed(expected.paper_value, metric.digits)
        beyond = f", and not the paper's {paper}" if verdict.without_paper else ""
        return f" ({numbers.signed(d.low, metric.digits)} to {numbers.signed(d.high, metric.digits)}{unit}{beyond})"
    if verdict.outcome == "agrees" and expected.kind in ("not_worse", "equal"):
        worst = max(abs(d.low), abs(d.high))
        if expected.kind == "not_worse":
            worst = d.high if metric.better == "lower" else -d.low
            if worst <= 0:
                return ""
        return f" (to {numbers.size(worst, metric.digits)}{unit})"
    return ""


def _without_claims(result: Result) -> str:
    found = [d for arm in result.arms.values() if arm.kind == "arm" and (d := result.usual(arm)) is not None]
    seen = [d for d in found if _stands(result, d)]
    if not found:
        return "nothing to compare yet"
    if (repeated := _repeated(result)) is not None:
        return f"nothing was measured: {repeated.arm} repeats {repeated.against} and yet differs, {_measured(repeated)}"
    said = ", ".join(f"{d.arm} ({_measured(d)})" for d in seen) or "no arm"
    left = len(found) - len(seen)
    others = f"; the other {left} are not resolved" if left > 1 else "; the other is not resolved" if left else ""
    if not seen:
        others = "; none is resolved" if left > 1 else ", as far as it is resolved"
    return f"{said} {'differ' if len(seen) > 1 else 'differs'} from {result.baseline}{others}"


def _repeated(result: Result) -> Difference | None:
    """Of an A/A arm that differs from what it repeats, so that nothing stands."""
    found = [result.usual(arm) for arm in result.arms.values() if arm.kind == "aa"]
    return next((d for d in found if d is not None and d.resolved), None)


def _stands(result: Result, d: Difference) -> bool:
    """A difference that is resolved, beside what learning rates may cost, and of arms that came to their end."""
    pair = [result.arms[name] for name in (d.arm, d.against)]
    if d.low is None or d.high is None or any(arm.of_status("diverged") for arm in pair):
        return False
    searched = {arm.name for arm in pair if arm.choice is not None}
    slack = mistuning_of(pair, searched, per_nat(d.metric, result.arms[result.baseline])) or 0.0
    return d.low > slack or d.high < -slack


def findings(result: Result) -> list[str]:
    """A line for each claim, where there are none for each arm: what was measured, and what was claimed; then what
    diverged."""
    lines = [_finding(result, i) for i in range(len(result.verdicts))]
    if not lines:
        for arm in result.arms.values():
            d = result.usual(arm)
            if arm.kind == "arm" and d is not None and numbers.present(d.mean):
                word = "void" if _repeated(result) else "resolved" if _stands(result, d) else "not resolved"
                lines.append(f"{arm.name} against {result.baseline}: {_measured(d)}, {word}")
    for arm in result.arms.values():
        for status in ("diverged", "failed"):
            if gone := len(arm.of_status(status)):
                lines.append(f"{arm.name} {status} in {gone} of {len(arm.seeds)} seeds")
    return lines


def _finding(result: Result, index: int) -> str:
    expected, verdict = result.expected[index], result.verdicts[index]
    d, metric = verdict.difference, metric_of(expected.metric)
    against = result.plan.rival(expected)
    pair = f"{verdict.arm} against {against}" if against else verdict.arm
    paper = f" (claimed: {_claimed(expected)}"
    if expected.paper_value is not None:
        paper += f"; paper: {numbers.signed(expected.paper_value, metric.digits)}"
    if d is None or not numbers.present(d.mean):
        why = verdict.why.rstrip(".")
        return f"{pair} in {metric.label}: {_outcome(verdict)}, {why}"
    if metric.maximum is not None and against:  # a share of something: the values say more than their difference
        arms = [result.arms[name].mean(metric.name) for name in (verdict.arm, against)]
        here, there = (numbers.fixed(value, metric.digits) for value in arms)
        return f"{metric.label} of {verdict.arm} {here} against {there} of {against}: {_outcome(verdict)}{paper})"
    return f"{pair}: {_measured(d)}, {_outcome(verdict)}{paper})"


def _claimed(expected: ExpectedConfig) -> str:
    """What the difference should be, in as few words as there are."""
    if expected.kind == "better":
        return str(metric_of(expected.metric).better) + _by(expected)
    low, high = region_of(expected)
    if math.isinf(low):
        return f"at most {high:+g}"
    if math.isinf(high):
        return f"at least {low:+g}"
    return f"within {high:g}" if low == -high else f"{low:+g} to {high:+g}"


def _outcome(verdict: Verdict) -> str:
    return verdict.outcome if verdict.caveat is None else f"{verdict.outcome}, {verdict.caveat}"


def _measured(difference: Difference) -> str:
    metric = metric_of(difference.metric)
    band = numbers.interval(difference.low, difference.high, metric.digits)
    return f"{numbers.signed(difference.mean, metric.digits)} {metric.unit or metric.label}" + (
        f" {band}" if band != ABSENT else ""
    )


def claim(expected: ExpectedConfig, against: str, arms: Sequence[str] = ()) -> str:
    """An expected outcome in words: what must hold of arm - against, or of an estimate by itself (`against` empty).
    `arms`: of which it is said, where the same is claimed of several."""
    metric = metric_of(expected.metric)
    name, arms = metric.label, arms or [expected.arm]
    who = " and ".join(arms) if len(arms) == 2 else _listed(list(arms))
    have, are = ("have", "are") if len(arms) > 1 else ("has", "is")
    if not against:
        return _claimed_estimate(expected, name, who, are)
    if expected.kind == "better":
        return f"{who} {have} {metric.better} {name} than {against}{_by(expected)}"
    if expected.kind == "not_worse":
        side = "below" if metric.better == "higher" else "above"
        return f"{who} {are} at most {expected.margin:g} {side} {against} in {name}"
    if expected.kind == "equal":
        return f"{who} {are} within {expected.margin:g} of {against} in {name}"
    if expected.kind == "identical":
        return f"{who} {are} identical to {against} in {name}, to {expected.margin:g}"
    low, high = expected.region or [0.0, 0.0]
    return f"{who} minus {against} in {name} lies in [{low:g}, {high:g}]"


def brief(expected: ExpectedConfig, against: str) -> str:
    """The claim in as few words as say the same: `late_bias below aux_loss in loss by >= 0.0025`."""
    metric, by = metric_of(expected.metric), ""
    if expected.kind == "better" and against:
        if expected.margin is not None:
            by = f" by \N{GREATER-THAN OR EQUAL TO}\N{NO-BREAK SPACE}{expected.margin:g}"
        side = "above" if metric.better == "higher" else "below"
        return f"{expected.arm} {side} {against} in {metric.label}{by}"
    words = claim(expected, against).replace(f"{expected.arm} is ", f"{expected.arm} ", 1)
    return words.replace(" at most ", " \N{LESS-THAN OR EQUAL TO}\N{NO-BREAK SPACE}", 1)


def _claimed_estimate(expected: ExpectedConfig, name: str, who: str, are: str) -> str:
    low, high = region_of(expected)
    if math.isinf(low):
        return f"{who} {are} below {high:g} in {name}"
    if math.isinf(high):
        return f"{who} {are} above {low:g} in {name}"
    return f"{who} {'lies' if are == 'is' else 'lie'} within [{low:g}, {high:g}] in {name}"
