"""What a result's numbers say: the families of differences, the verdicts on claims, and how sure the search was."""

import dataclasses
import math

from ablations.config.schema import ExpectedConfig
from ablations.judge import grid
from ablations.judge.constraint import Constraint, held
from ablations.judge.distinct import same_numbers
from ablations.judge.result import ArmResult
from ablations.judge.stats import Difference, Family, between, differences
from ablations.judge.verdicts import Beside, Verdict, Void, verdict
from ablations.metrics import ALWAYS, metric
from ablations.record.documents import PlanDocument, SearchTrial


def families_of(arms: dict[str, ArmResult], plan: PlanDocument) -> dict[str, dict[tuple[str, str], Difference]]:
    """Per metric, (arm, against) -> difference: each arm with the baseline, and each pair that a claim is about. Arms
    that a run leaves out count: a family is the registered one, whatever `arms=` has chosen of it."""
    registered = {*arms, *plan.left_out}
    pairs = [(name, plan.baseline) for name in (*arms, *plan.left_out) if name != plan.baseline]
    wanted = [(claim.arm, claim.against or plan.baseline) for claim in plan.expected]
    pairs += [pair for pair in wanted if set(pair) <= registered]
    scores = sorted({metric for arm in arms.values() for metric in arm.values if "/" in metric})
    claimed = [claim.metric for claim in plan.expected]
    names = dict.fromkeys([plan.primary, *ALWAYS, *plan.metrics, *claimed, *scores])
    families = {}
    for name in names:
        values = {arm.name: arm.values.get(name, {}) for arm in arms.values()}
        families[name] = {(d.arm, d.against): d for d in differences(values, pairs, name)}
    return families


def verdicts_of(
    arms: dict[str, ArmResult],
    plan: PlanDocument,
    families: dict[str, dict[tuple[str, str], Difference]],
    searched: set[str],
) -> list[Verdict]:
    """A control and an A/A arm are asked in the metric of the claim: a harm seen in loss says nothing about balance."""
    named = {arm.kind: arm.name for arm in arms.values()}
    verdicts = []
    for claim in plan.expected:
        against = claim.against or plan.baseline
        absent = [name for name in (claim.arm, against) if name not in arms]
        if absent:
            why = f"{' and '.join(absent)} {'was' if len(absent) == 1 else 'were'} not part of this run."
            verdicts.append(Verdict(claim.arm, against, claim.metric, claim.kind, "not resolved", why, None, None))
            continue
        family: Family = families[claim.metric]
        difference = between(family, claim.arm, against)
        assert difference is not None, "each claim's pair is in its metric's family"
        pair = [arms[claim.arm], arms[against]]
        beside = Beside(
            void=_void(claim, pair, named.get("aa"), arms, plan),
            control=_nonempty(family.get((named.get("control", ""), plan.baseline))),
            aa=_nonempty(family.get((named.get("aa", ""), plan.baseline))),
            # The estimate is in nats of search loss: it says nothing about how well a load is balanced.
            mistuning=_mistuning(pair, searched) if claim.metric == "loss" else None,
            diverged=len(pair[0].of_status("diverged")),
            diverged_against=len(pair[1].of_status("diverged")),
            trials=len(pair[0].seeds),
        )
        found = verdict(claim, difference, beside)
        found = dataclasses.replace(found, difference=_nonempty(found.difference))
        verdicts.append(_at_equal_balance(found, pair))
    return verdicts


def _void(
    claim: ExpectedConfig, pair: list[ArmResult], aa: str | None, arms: dict[str, ArmResult], plan: PlanDocument
) -> Void | None:
    """Why no number of this run can speak for or against the claim; None where they can."""
    failed = [(arm.name, g) for arm in pair for g in arm.guards if g.name in ("distinct", "seeds") and not g.passed]
    for name, guard in failed:
        what = "the toggle did nothing" if guard.name == "distinct" else "chosen on the seeds that judge it"
        return Void(what, f"{what}: {name} {guard.detail}")
    if aa is not None and claim.kind != "identical" and (gone := arms[aa].of_status("diverged")):
        why = (
            f"{len(gone)}/{len(arms[aa].seeds)} of {aa} diverged, which is {plan.baseline} but for 1e-6 on its weights"
        )
        return Void("the A/A arm diverged", why)
    if aa is not None and claim.kind != "identical" and same_numbers(arms[aa], arms[plan.baseline]):
        why = f"{aa} ends in the same bits as {plan.baseline}: its perturbation did nothing, and no noise was measured"
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


def _mistuning(pair: list[ArmResult], searched: set[str]) -> float | None:
    """The larger estimate of two arms; infinite where an arm was searched and has none (an optimum on the edge)."""
    estimates = [math.inf if arm.mistuning is None else arm.mistuning for arm in pair if arm.name in searched]
    return max(estimates, default=None)


def with_search(arm: ArmResult, search: list[SearchTrial], constraint: Constraint | None) -> ArmResult:
    """With what the search says of the chosen point, and what became of its limit."""
    kept = held(constraint, arm.name, arm.values) if constraint is not None else None
    points: dict[grid.Key, list[SearchTrial]] = {}
    for trial in search:
        if trial.arm == arm.name:
            points.setdefault(grid.key_of(trial.point), []).append(trial)
    measured = {key: grid.measure([t.loss for t in own], [t.share for t in own]) for key, own in points.items()}
    binding = constraint.limit if constraint is not None and arm.plan.search else None
    edges = grid.edges(arm.chosen, measured, binding) if grid.key_of(arm.chosen) in measured else {}
    return dataclasses.replace(arm, edges=edges, held=kept)
