"""What a result's numbers say: the verdicts on claims, and how sure the search was."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

from ablations.config.schema import ExpectedConfig
from ablations.judge import grid
from ablations.judge.choice import choose
from ablations.judge.constraint import Constraint, held
from ablations.judge.counts import counts_of
from ablations.judge.distinct import same_numbers
from ablations.judge.families import shorter_families
from ablations.judge.result import ArmResult, branched, diagnostic, lack_of_score_signal
from ablations.judge.stats import Difference, Family, between
from ablations.judge.verdicts import Beside, Verdict, Void, at_every_length, verdict
from ablations.metrics import COUNTED, metric
from ablations.record.documents import PlanDocument, SearchTrial

LACKS = {"too few items": "on too few items to be told from chance and ceiling"}
DIAGNOSTICS: tuple[Literal["aa"], Literal["control"]] = ("aa", "control")


def verdicts_of(
    arms: dict[str, ArmResult],
    plan: PlanDocument,
    families: dict[str, dict[tuple[str, str], Difference]],
    searched: set[str],
) -> list[Verdict]:
    """A control and an A/A arm are asked in the claim's own metric and design: a harm seen in loss says nothing about
    balance, and what is seen from scratch nothing about branches."""
    verdicts, shorter = [], shorter_families(arms, plan)
    for claim in plan.expected:
        against, names = plan.rival(claim), plan.members(claim)
        absent = [name for name in names if name not in arms]
        if absent:
            why = f"{' and '.join(absent)} {'was' if len(absent) == 1 else 'were'} not part of this run."
            verdicts.append(Verdict(claim.arm, against, claim.metric, claim.kind, "not resolved", why, None, None))
            continue
        family: Family = families[claim.metric]
        difference = between(family, claim.arm, against)
        assert difference is not None, "each claim's pair is in its metric's family"
        pair = [arms[name] for name in names]
        branches = branched(arms, plan.baseline, names)
        aa, control = (diagnostic(arms, kind, branches) for kind in DIAGNOSTICS)
        beside = Beside(
            void=_void(claim, pair, aa, arms[plan.baseline]),
            control=_nonempty(family.get((control.name, plan.baseline))) if control is not None else None,
            aa=_nonempty(family.get((aa.name, plan.baseline))) if aa is not None else None,
            mistuning=mistuning_of(pair, searched, plan.reach(claim) * per_nat(claim.metric, arms[plan.baseline])),
            diverged={arm.name: len(gone) for arm in pair if (gone := arm.of_status("diverged"))},
            trials=len(pair[0].seeds),
            no_signal=_no_signal(claim.metric, pair),
        )
        if claim.metric == COUNTED:
            came = {arm.name: arm.values.get(COUNTED, {}) for arm in arms.values()}
            aa_counts = None if aa is None else counts_of(came[aa.name], came[plan.baseline])
            beside = dataclasses.replace(beside, counts=counts_of(came[claim.arm], came[against]), aa_counts=aa_counts)
        found = verdict(claim, difference, beside)
        found = dataclasses.replace(found, difference=_nonempty(found.difference))
        if plan.horizons and _is_taken(claim.metric, arms, max(plan.horizons)):
            earlier = between(shorter[claim.metric], claim.arm, against)
            found = at_every_length(found, claim, earlier, max(plan.horizons), beside.diverged)
        verdicts.append(_at_equal_balance(found, pair))
    return verdicts


def _is_taken(name: str, arms: Mapping[str, ArmResult], share: float) -> bool:
    """Whether shorter trainings are measured by this, too: they are asked no tasks. Where none is finished they may."""
    found = [arm.shorter[share] for arm in arms.values() if share in arm.shorter]
    return not found or any(name in metrics for metrics in found)


def _no_signal(name: str, pair: list[ArmResult]) -> str | None:
    """Why accuracies tell nothing apart, where none of them can; an arm that can is better than one that cannot."""
    lacking = {arm.name: lack for arm in pair if (lack := lack_of_score_signal(arm, name)) is not None}
    if len(lacking) < len(pair):
        return None
    return " and ".join(f"{arm} is {LACKS.get(lack, lack)}" for arm, lack in lacking.items())


def _void(claim: ExpectedConfig, pair: list[ArmResult], aa: ArmResult | None, baseline: ArmResult) -> Void | None:
    """Why no number of this run can speak for or against the claim; None where they can."""
    failed = [(arm.name, g) for arm in pair for g in arm.guards if g.name in ("distinct", "seeds") and not g.passed]
    for name, guard in failed:
        what = "the toggle did nothing" if guard.name == "distinct" else "chosen on the seeds that judge it"
        return Void(what, f"{what}: {name} {guard.detail}")
    if aa is not None and claim.kind != "identical" and (gone := aa.of_status("diverged")):
        why = f"{len(gone)}/{len(aa.seeds)} of {aa.name} diverged, which is {baseline.name} but for 1e-6 on its weights"
        return Void("the A/A arm diverged", why)
    if aa is not None and claim.kind != "identical" and same_numbers(aa, baseline):
        why = f"{aa.name} ends in the same bits as {baseline.name}: its perturbation did nothing, so noise is unknown"
        return Void("no noise was measured", why)
    return None


def _at_equal_balance(found: Verdict, pair: list[ArmResult]) -> Verdict:
    """The verdict, with what it cannot say where an arm misses the search's limit. A claim on balance itself can."""
    missed = [str(arm.held) for arm in pair if arm.held is not None and arm.held.missed]
    if not missed or metric(found.metric).maximum is not None:
        return found
    why = f"{found.why.rstrip('.')}; not at equal balance: {' and '.join(missed)}."
    return dataclasses.replace(found, why=why, caveat="not at equal balance")


def _nonempty(difference: Difference | None) -> Difference | None:
    """Without a common seed there is no difference, only a place in the family."""
    return difference if difference is not None and difference.n else None


def per_nat(name: str, baseline: ArmResult) -> float:
    """How far a nat of loss moves a metric: those that are losses themselves in proportion, in whatever unit; the
    others by nothing that is known, such as how well a load is balanced."""
    if name == "loss" or not metric(name).of_loss:
        return float(name == "loss")
    value, loss = baseline.mean(name), baseline.mean("loss")
    return value / loss if value and loss else 1.0


def mistuning_of(arms: list[ArmResult], searched: set[str], reach: float) -> float | None:
    """The largest bound of the arms, times what they can move the estimate by; infinite where an arm was searched and
    has none. None where that moves nothing, and where nothing was searched."""
    if reach == 0:
        return None
    bounds = [math.inf if arm.mistuning is None else arm.mistuning for arm in arms if arm.name in searched]
    return max(bounds) * reach if bounds else None


def with_search(arm: ArmResult, search: list[SearchTrial], constraint: Constraint | None) -> ArmResult:
    """With what the search says of the chosen point, and what became of its limit. What its rate may cost is what was
    said at the search; where nothing could be said then, what today's rule says; and nothing where it says nothing."""
    kept = held(constraint, arm.name, arm.values) if constraint is not None else None
    points: dict[grid.Key, list[SearchTrial]] = {}
    for trial in search:
        if trial.arm == arm.name:
            points.setdefault(grid.key_of(trial.point), []).append(trial)
    measured = {key: grid.measure({t.seed: t.loss for t in own}, [t.share for t in own]) for key, own in points.items()}
    binding = constraint.limit if constraint is not None and arm.plan.search else None
    found = choose(arm.name, measured, binding, arm.chosen.get(grid.LEARNING_RATE)) if measured else None
    cost = arm.mistuning
    if found is not None and grid.LEARNING_RATE in arm.chosen:
        cost = found.mistuning if cost is None or found.mistuning is None else cost
    return dataclasses.replace(arm, choice=found, held=kept, mistuning=cost)
