"""The result as tables of finished text: `render.py` writes them as Markdown and to a terminal, `page.py` as HTML."""

import itertools
from collections.abc import Callable

from ablations import numbers
from ablations.config.trialkeys import unlike
from ablations.guards.meaning import MEANINGS
from ablations.judge.equal_cost import FARTHEST, stretch
from ablations.judge.judging import DIAGNOSTICS
from ablations.judge.result import ArmResult, Result
from ablations.judge.result import branched as is_branched
from ablations.judge.stats import Difference
from ablations.judge.verdicts import shows_harm
from ablations.metrics import indices
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT
from ablations.record.documents import ArmDocument
from ablations.record.guardresult import GuardResult
from ablations.show.answer import claim
from ablations.show.remedies import remedies_table
from ablations.show.sections.balance import balance_table, constraint_table, layer_table
from ablations.show.sections.context import context_costs_table, contexts_table, positions_table
from ablations.show.sections.costs import equal_cost_table, size_table, speed_table
from ablations.show.sections.estimates import estimates_table, other_text_table
from ablations.show.sections.pipeline import pipeline_table
from ablations.show.sections.precision import precision_table
from ablations.show.sections.scores import scores_table
from ablations.show.sections.searched import chosen_table, search_table
from ablations.show.sections.skill import answered_table, levels_table, skill_table
from ablations.show.sections.stages import stages_table
from ablations.show.sections.when import falls_table, lengths_table, remarks
from ablations.show.table import Table, difference_cells


def seeds_cell(arm: ArmResult) -> str:
    """`6/6`, `5/6, 1 diverged`: complete of planned, and what became of the others."""
    parts = [f"{len(arm.of_status('complete'))}/{len(arm.seeds)}"]
    parts += [f"{len(arm.of_status(s))} {s}" for s in ("diverged", "failed") if arm.of_status(s)]
    return ", ".join(parts)


def verdict_table(result: Result) -> Table:
    rows = []
    for expected, verdict in zip(result.expected, result.verdicts, strict=True):
        d, places = verdict.difference, metric_of(expected.metric).digits
        rows.append(
            [
                claim(expected, result.plan.rival(expected)),
                verdict.outcome if verdict.caveat is None else f"{verdict.outcome}, {verdict.caveat}",
                expected.paper or ABSENT,
                numbers.signed(expected.paper_value, places),
                numbers.signed(d.mean if d else None, places),
                numbers.interval(d.low, d.high, places) if d else ABSENT,
                verdict.why or ABSENT,
            ]
        )
    columns = ["claim", "outcome", "paper", "paper's difference", "measured", "95 % interval", "why"]
    note = f"{directions(result)} Intervals are simultaneous over the claims on a metric."
    if branches := [arm.name for arm in result.arms.values() if arm.kind == "arm" and arm.plan.branched]:
        who = [name for name in branches if name != result.baseline]
        note += (
            f" {', '.join(who)}: branched off the baseline's state at {result.plan.branch_at:.0%} of the steps"
            + (f", trained so far with {numbers.settings(before)}" if (before := unlike(result.plan.keys)) else "")
            + "; an effect is that of a switch there."
        )
    return Table("Verdicts", columns, rows, note, words=(0, 1, 2, 6))


def directions(result: Result) -> str:
    """`Lower is better: loss. Higher is better: gradient cosine.`, of the metrics that claims are about."""
    claimed = [metric_of(name) for name in dict.fromkeys(claim.metric for claim in result.expected)]
    words = {"lower": "Lower is better", "higher": "Higher is better", None: "Neither way is better"}
    said = {better: ", ".join(m.label for m in claimed if m.better == better) for better in words}
    return " ".join(f"{words[better]}: {labels}." for better, labels in said.items() if labels)


def loss_table(result: Result) -> Table:
    metric = result.primary
    places = metric_of(metric).digits
    rows, common = [], result.common_seeds
    for arm in result.arms.values():
        d = result.usual(arm)
        rows.append(
            [
                arm.name + (f" (onto {arm.plan.onto})" if arm.plan.onto else ""),
                numbers.settings(arm.chosen),
                seeds_cell(arm),
                numbers.fixed(arm.mean(metric, common), places),
                *difference_cells(d, places),
                worth(result, d),
                numbers.fixed(d.resolvable if d else None, places),
                numbers.fixed(arm.mean("bits_per_byte", common), 4),
                numbers.fixed(d.correlation if d else None, 3),
                d.kind if d else ABSENT,
            ]
        )
    columns = ["arm", "chosen", "seeds", metric_of(metric).label, "difference", "95 % interval", "Holm p"]
    columns += ["worth in tokens", "resolvable", "bits per byte", "correlation", "family"]
    ladder = " (or the arm that it stands on)" if any(arm.plan.onto for arm in result.arms.values()) else ""
    notes = [
        f"Means {_over(result)} on the test split; difference = arm - {result.baseline}{ladder}, paired by seed.",
        "Worth in tokens: the training tokens that the difference saves (+) or costs (-), from the control's slope; "
        f"left out where they would change by more than a factor of {FARTHEST:g}"
        f"{', and of a skill that some had not come halfway to' * result.jumps}"
        f"{', and of arms whose design has no control of its own' * _without_control(result)}.",
        "Resolvable: the smallest effect that these pairs could have shown. Intervals hold together within a family: "
        "what claims are about, what nobody claims (exploratory), and what shows what can be seen (diagnostic).",
    ]
    if any(arm.of_status("diverged") or arm.of_status("failed") for arm in result.arms.values()):
        notes.append("A diverged or failed trial enters no mean; a difference is that of the survivors in both arms.")
    if metric == result.primary and (warning := remarks(result)):
        notes.append(warning)
    return Table(metric_of(metric).label.capitalize(), columns, rows, " ".join(notes), words=(0, 1, 2, 11))


def worth(result: Result, difference: Difference | None) -> str:
    """In tokens; beyond what the control's slope was measured over, it says how far."""
    saved, fraction = result.tokens_equivalent(difference), result.control_fraction
    times = stretch(1 - saved, fraction) if saved is not None and fraction is not None else None
    farther = f" (extrapolated {times:.1f}x)" if times is not None and times > 1.05 else ""
    return numbers.percent(saved, 1, sign=True) + farther


def _without_control(result: Result) -> bool:
    """Whether the control that there is shows for some arms what tokens are worth, and not for others."""
    if result.control_fraction is None or result.jumps:
        return False
    asked = [arm for arm in result.arms.values() if arm.kind == "arm" and arm.name != result.baseline]
    return any(result.diagnostic("control", arm.plan.branched) is None for arm in asked)


def _over(result: Result) -> str:
    """Which seeds a mean is over, so that a reader knows whether two rows can be subtracted."""
    common = result.common_seeds
    if common is None:
        return "over each arm's own complete trials (no seed is complete in all of them, so that rows do not compare)"
    return (
        "over complete trials"
        if len(common) == len(result.seeds)
        else f"over the seeds that all arms have ({len(common)})"
    )


def sensitivity_table(result: Result) -> Table:
    """What the experiment can see at all: the noise of an arm that changes nothing, and a harm that is known."""
    rows = []
    designs = sorted({arm.plan.branched for arm in result.arms.values() if arm.kind != "arm"})
    metrics = dict.fromkeys([result.primary, *result.plan.metrics, *(e.metric for e in result.expected)])
    for branched, metric in itertools.product(designs, metrics):
        places = metric_of(metric).digits
        aa, control = (result.diagnostic(kind, branched) for kind in DIAGNOSTICS)
        still = result.difference(aa.name, metric) if aa else None
        harm = result.difference(control.name, metric) if control else None
        rows.append(
            [
                metric_of(metric).label + (", branched" if branched and len(designs) > 1 else ""),
                numbers.fixed(still.sd if still else None, places + 1),
                *difference_cells(still, places)[:2],
                *difference_cells(harm, places)[:2],
                _seen(harm) if harm and harm.low is not None else ABSENT,
            ]
        )
    control, own = result.diagnostic("control"), result.arms[result.baseline].plan
    changed = {k: v for k, v in control.plan.set.items() if own.set.get(k) != v} if control else {}
    columns = ["metric", "A/A sd (floor)", "A/A difference", "95 % interval", "control", "95 % interval", "control is"]
    note = "A/A: the baseline with its initial weights perturbed by 1e-6. "
    note += f"Control: the baseline with {numbers.settings(changed)}{_shorter(control, own)}. " if changed else ""
    note += "".join(_told_apart(result, branched) for branched in designs if len(designs) > 1)
    return Table("What this experiment can see", columns, rows, note.strip())


def _shorter(control: ArmResult | None, baseline: ArmDocument) -> str:
    """A share is of a sweep's tokens, of which a baseline may take several times as many."""
    if control is None or control.plan.tokens == baseline.tokens:
        return ""
    return f", {numbers.count(control.plan.tokens)} tokens where it has {numbers.count(baseline.tokens)}"


def _told_apart(result: Result, branched: bool) -> str:
    """What follows where one of two A/A arms differs from the baseline in what is claimed of arms of the other."""
    aa, other = (result.diagnostic("aa", design) for design in (branched, not branched))
    if aa is None or other is None:
        return ""
    members = [(claim.metric, result.plan.members(claim)) for claim in result.expected]
    beside = dict.fromkeys(m for m, names in members if is_branched(result.arms, result.baseline, names) != branched)
    differs = {
        name: [m for m in beside if (d := result.difference(name, m)) and d.resolved] for name in (aa.name, other.name)
    }
    if not (found := [m for m in differs[aa.name] if m not in differs[other.name]]):
        return ""
    labels = " and ".join(metric_of(metric).label for metric in found)
    return (
        f"{aa.name} differs from {result.baseline} in {labels}. What is claimed of that is of arms of the other kind, "
        f"and is judged beside {other.name}, which does not differ. "
    )


def _seen(control: Difference) -> str:
    """Whether its harm shows; a control that is clearly better by a metric shows none by it."""
    return "detected" if shows_harm(control) else "better" if control.resolved else "not detected"


SOME_ARMS = {"schedule", "ranks", "distinct", "seeds"}
"""Guards that concern arms with a pipeline, with finished trials or with a search."""


def guards_table(result: Result) -> Table:
    """One row for each guard: what it means to have passed it, and who has."""
    rows = []
    for name in _guard_names(result):
        asked = {arm.name: g for arm in result.arms.values() for g in arm.guards if g.name == name}
        failures = [f"{_failure(g)}: {arm}" for arm, g in asked.items() if not g.passed]
        counted = f"{sum(g.passed for g in asked.values())}/{len(asked)}"
        rows.append([name, MEANINGS.get(name, ABSENT), "; ".join([f"{counted} arms", *failures])])
    missing = [name for name in MEANINGS if name not in {row[0] for row in rows} | SOME_ARMS]
    note = f"Guards that this run did not have yet: {', '.join(missing)}." if missing and rows else ""
    return Table("Guards", ["guard", "an arm that has passed", "passed"], rows, note, words=(0, 1, 2))


def _failure(guard: GuardResult) -> str:
    return "done without" if guard.waived else "FAIL" if guard.ran else "did not run"


def found_by_guards_table(result: Result) -> Table:
    """What they measured; arms of which a guard says the same stand together."""
    said: dict[tuple[str, str], list[str]] = {}
    for name in _guard_names(result):
        for arm in result.arms.values():
            for guard in arm.guards:
                if guard.name == name:
                    said.setdefault((name, guard.said), []).append(arm.name)
    every = list(result.arms)
    rows = [[n, "all" if arms == every else ", ".join(arms), text or ABSENT] for (n, text), arms in said.items()]
    return Table("What the guards found", ["guard", "arms", "found"], rows, words=(0, 1, 2), folded=True)


def _guard_names(result: Result) -> list[str]:
    """In the order of `MEANINGS`; those of an earlier version last."""
    names = dict.fromkeys(guard.name for arm in result.arms.values() for guard in arm.guards)
    return sorted(names, key=lambda name: list(MEANINGS).index(name) if name in MEANINGS else len(MEANINGS))


def mtp_table(result: Result) -> Table:
    """The MTP modules on the true text of the test split, depth by depth."""
    names = {name for arm in result.arms.values() for name in arm.values}
    depths = indices("mtp_acceptance_<k>", names)
    ahead = indices("right_ahead_<k>", names)
    rows = []
    for arm in result.arms.values():
        if arm.mean("mtp_acceptance_1") is not None:
            cells = [numbers.fixed(arm.mean(f"mtp_loss_{k}"), 4) for k in depths]
            cells += [numbers.percent(arm.mean(f"mtp_acceptance_{k}"), 1) for k in depths]
            foreseen = [numbers.percent(arm.mean(f"right_ahead_{k}"), 1) for k in ahead]
            rows.append([arm.name, *cells, numbers.fixed(arm.mean("mtp_tokens_per_forward"), 3), *foreseen])
    columns = ["arm", *(f"loss, depth {k}" for k in depths), *(f"accepted, depth {k}" for k in depths)]
    columns += ["tokens per forward", *(f"right {k} behind an answer" for k in ahead)]
    note = (
        "Accepted: depth k and all before it name the token that the main model would choose itself, given the true "
        "text. Tokens per forward: 1 and the accepted drafts, what greedy self-speculative decoding could reach."
    )
    if ahead:
        note += " Right k behind an answer: where the main model is to answer, depth k names the token k further on."
    return Table("Multi-token prediction", columns, rows, note)


TABLES: dict[str, Callable[[Result], Table]] = {
    "verdicts": verdict_table,
    "remedies": remedies_table,
    "loss": loss_table,
    "lengths": lengths_table,
    "estimates": estimates_table,
    "other text": other_text_table,
    "skill": skill_table,
    "levels": levels_table,
    "answered": answered_table,
    "stages": stages_table,
    "positions": positions_table,
    "contexts": contexts_table,
    "context costs": context_costs_table,
    "balance": balance_table,
    "layers": layer_table,
    "constraint": constraint_table,
    "mtp": mtp_table,
    "precision": precision_table,
    "pipeline": pipeline_table,
    "scores": scores_table,
    "sensitivity": sensitivity_table,
    "guards": guards_table,
    "found by guards": found_by_guards_table,
    "falls": falls_table,
    "chosen": chosen_table,
    "search": search_table,
    "size": size_table,
    "speed": speed_table,
    "equal cost": equal_cost_table,
}
"""In reading order: what was found, then what it rests on. table.md and page.html show these, and no others."""


def all_tables(result: Result) -> dict[str, Table]:
    """Those of `TABLES` that have something to show."""
    tables = {name: table(result) for name, table in TABLES.items()}
    return {name: table for name, table in tables.items() if table.rows}
