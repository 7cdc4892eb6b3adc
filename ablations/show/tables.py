"""The result as tables of finished text: `render.py` writes them as Markdown and to a terminal, `page.py` as HTML."""

import json
import statistics

from ablations.schema import ExpectedConfig
from ablations.show import numbers
from ablations.show.costs import equal_cost_table, size_table, speed_table
from ablations.show.numbers import ABSENT
from ablations.show.pipeline import pipeline_table
from ablations.show.precision import precision_table
from ablations.show.results import ArmResult, Result, score_detail
from ablations.show.table import Table
from ablations.stats import Difference, score_has_signal


def all_tables(result: Result) -> list[Table]:
    """In reading order: what was found, then what it rests on. Empty tables are left out."""
    tables = [
        verdict_table(result),
        loss_table(result),
        balance_table(result),
        layer_table(result),
        mtp_table(result),
        precision_table(result),
        pipeline_table(result),
        scores_table(result),
        sensitivity_table(result),
        guards_table(result),
        search_table(result),
        size_table(result),
        speed_table(result),
        equal_cost_table(result),
    ]
    return [table for table in tables if table.rows]


def seeds_cell(arm: ArmResult) -> str:
    """`6/6`, `5/6, 1 diverged`: complete of planned, and what became of the others."""
    parts = [f"{len(arm.of_status('complete'))}/{len(arm.seeds)}"]
    parts += [f"{len(arm.of_status(s))} {s}" for s in ("diverged", "failed") if arm.of_status(s)]
    return ", ".join(parts)


def claim(expected: ExpectedConfig, baseline: str) -> str:
    """An expected outcome in words: what must hold of arm - against (lower is better for every metric)."""
    against, name = expected.against or baseline, numbers.label(expected.metric)
    if expected.kind == "better":
        return f"{expected.arm} has lower {name} than {against}"
    if expected.kind == "not_worse":
        return f"{expected.arm} is at most {expected.margin:g} above {against} in {name}"
    if expected.kind == "equal":
        return f"{expected.arm} is within {expected.margin:g} of {against} in {name}"
    if expected.kind == "identical":
        return f"{expected.arm} is identical to {against} in {name}, to {expected.margin:g}"
    low, high = expected.region or [0.0, 0.0]
    return f"{expected.arm} minus {against} in {name} lies in [{low:g}, {high:g}]"


def verdict_table(result: Result) -> Table:
    rows = []
    for expected, verdict in zip(result.expected, result.verdicts, strict=True):
        d, places = verdict.difference, numbers.digits(expected.metric)
        rows.append(
            [
                claim(expected, result.baseline),
                verdict.outcome,
                expected.paper or ABSENT,
                numbers.signed(expected.paper_value, places),
                numbers.signed(d.mean if d else None, places),
                numbers.interval(d.low, d.high, places) if d else ABSENT,
                verdict.why or ABSENT,
            ]
        )
    columns = ["claim", "outcome", "paper", "paper's difference", "measured", "95 % interval", "why"]
    note = "Lower is better for every metric. Intervals are simultaneous over all comparisons of a metric."
    return Table("Verdicts", columns, rows, note, words=(0, 1, 2, 6))


def loss_table(result: Result) -> Table:
    metric = result.primary
    places = numbers.digits(metric)
    rows = []
    for arm in result.arms.values():
        d = result.difference(arm.name)
        rows.append(
            [
                arm.name,
                numbers.settings(arm.chosen),
                seeds_cell(arm),
                numbers.fixed(arm.mean(metric), places),
                *_difference_cells(d, places),
                numbers.percent(result.tokens_equivalent(d), 1, sign=True),
                numbers.fixed(d.resolvable if d else None, places),
                numbers.fixed(arm.mean("bits_per_byte"), 4),
                numbers.fixed(d.correlation if d else None, 3),
            ]
        )
    columns = ["arm", "chosen", "seeds", numbers.label(metric), "difference", "95 % interval", "Holm p"]
    columns += ["worth in tokens", "resolvable", "bits per byte", "correlation"]
    notes = [
        f"Means over complete trials on the test split; difference = arm - {result.baseline}, paired by seed.",
        "Worth in tokens: the training tokens that the difference saves (+) or costs (-), from the control's slope.",
        "Resolvable: the smallest effect that these pairs could have shown.",
    ]
    if any(arm.of_status("diverged") or arm.of_status("failed") for arm in result.arms.values()):
        notes.append("A diverged or failed trial enters no mean: such a row's mean is that of the survivors.")
    return Table(numbers.label(metric).capitalize(), columns, rows, " ".join(notes), words=(0, 1, 2))


def balance_table(result: Result) -> Table:
    rows = []
    for arm in result.arms.values():
        value, most = arm.mean("max_vio_global"), arm.mean("max_vio_max")
        rows.append(
            [
                arm.name,
                numbers.fixed(value, 3),
                numbers.percent(value / most if value is not None and most else None, 1),
                numbers.fixed(arm.mean("max_vio_floor"), 3),
                *_difference_cells(result.difference(arm.name, "max_vio_global"), 3),
                numbers.fixed(arm.mean("max_vio_batch"), 3),
                numbers.fixed(arm.mean("routing_entropy"), 3),
            ]
        )
    columns = ["arm", "MaxVio_global", "of maximum", "floor", "difference", "95 % interval", "Holm p"]
    columns += ["MaxVio_batch", "routing entropy"]
    most = next((arm.mean("max_vio_max") for arm in result.arms.values() if arm.mean("max_vio_max")), None)
    note = (
        f"MaxVio = max load / mean load - 1, mean over layers; its maximum is E/k - 1 = {numbers.fixed(most, 2)}; "
        + ("floor: what perfectly uniform routing shows on as many tokens. Entropy in nats.")
    )
    return Table("Balance", columns, rows if most else [], note)


def layer_table(result: Result) -> Table:
    """MaxVio of each MoE layer, on the whole test split and on training batches."""
    rows = []
    for arm in result.arms.values():
        most = arm.mean("max_vio_max")
        for kind in ("global", "batch"):
            stem = f"max_vio_{kind}_layer"
            names = [name for name in arm.values if name.startswith(stem)]
            layers = [arm.mean(name) for name in sorted(names, key=lambda name: int(name.removeprefix(stem)))]
            if not layers or not most:
                continue
            floor = arm.mean("max_vio_floor" if kind == "global" else "max_vio_batch_floor")
            cells = [
                f"{numbers.fixed(v, 3)} ({numbers.percent(v / most if v is not None else None, 1)})" for v in layers
            ]
            rows.append([arm.name, f"MaxVio_{kind}", *cells, numbers.fixed(floor, 3)])
    columns = ["arm", "metric", *(f"layer {i}" for i in range(1, len(rows[0]) - 2)), "floor"] if rows else []
    return Table("Balance by MoE layer", columns, rows, "Value, and its share of the maximum.", words=(0, 1))


def scores_table(result: Result) -> Table:
    """lm-eval scores; an accuracy that does not leave chance behind is marked, since it can decide nothing."""
    metrics = result.score_metrics
    rows = []
    for arm in result.arms.values():
        row = [arm.name]
        for metric in metrics:
            d = result.difference(arm.name, metric)
            row += [score_cell(arm, metric), numbers.signed(d.mean if d else None, 4)]
            row.append(numbers.interval(d.low, d.high, 4) if d else ABSENT)
        rows.append(row)
    columns = ["arm"]
    for metric in metrics:
        chance = next(
            (c for c, _ in (score_detail(arm, metric) for arm in result.arms.values()) if c is not None), None
        )
        suffix = f" (chance {chance:.2f})" if chance is not None and is_accuracy(metric) else ""
        columns += [numbers.label(metric) + suffix, "difference", "95 % interval"]
    return Table("lm-eval scores", columns, rows if metrics else [], "Means over trials, on items of the test split.")


def is_accuracy(metric: str) -> bool:
    return metric.rsplit("/", 1)[-1].split(",")[0] in ("acc", "acc_norm", "exact_match")


def score_cell(arm: ArmResult, metric: str) -> str:
    text = numbers.fixed(arm.mean(metric), 4)
    chance, items = score_detail(arm, metric)
    scores = list(arm.values.get(metric, {}).values())
    if scores and chance is not None and items and is_accuracy(metric) and not score_has_signal(scores, chance, items):
        return f"{text} (no signal)"
    return text


def sensitivity_table(result: Result) -> Table:
    """What the experiment can see at all: the noise of an arm that changes nothing, and a harm that is known."""
    aa, control = result.arm_of_kind("aa"), result.arm_of_kind("control")
    rows = []
    for metric in dict.fromkeys(
        [result.primary, *result.plan.get("metrics", []), *(e.metric for e in result.expected)]
    ):
        places = numbers.digits(metric)
        still = result.difference(aa.name, metric) if aa else None
        harm = result.difference(control.name, metric) if control else None
        rows.append(
            [
                numbers.label(metric),
                numbers.fixed(still.sd if still else None, places + 1),
                *_difference_cells(still, places)[:2],
                *_difference_cells(harm, places)[:2],
                ("detected" if harm.resolved else "not detected") if harm and harm.low is not None else ABSENT,
            ]
        )
    own = result.arms[result.baseline].plan.get("set", {})
    changed = {k: v for k, v in control.plan.get("set", {}).items() if own.get(k) != v} if control else {}
    columns = ["metric", "A/A sd (floor)", "A/A difference", "95 % interval", "control", "95 % interval", "control is"]
    note = "A/A: the baseline with its initial weights perturbed by 1e-6. "
    note += f"Control: the baseline with {numbers.settings(changed)}." if changed else ""
    return Table("What this experiment can see", columns, rows if aa or control else [], note.strip())


def guards_table(result: Result) -> Table:
    names = list(dict.fromkeys(guard.name for arm in result.arms.values() for guard in arm.guards))
    rows, failures = [], []
    for arm in result.arms.values():
        outcome = {guard.name: "pass" if guard.passed else "FAIL" for guard in arm.guards}
        rows.append([arm.name, *(outcome.get(name, ABSENT) for name in names)])
        failures += [f"{arm.name}, {g.name}: {g.detail or 'no detail'}." for g in arm.guards if not g.passed]
    return Table(
        "Guards", ["arm", *names], rows if names else [], " ".join(failures), words=tuple(range(1 + len(names)))
    )


def search_table(result: Result) -> Table:
    """One row per arm and point: the mean over the search seeds, on the search-validation split."""
    points: dict[tuple[str, str], list[int]] = {}
    for index, trial in enumerate(result.search):
        points.setdefault((trial.arm, json.dumps(trial.point, sort_keys=True)), []).append(index)
    rows = []
    for (name, key), indices in sorted(points.items()):
        trials, point = [result.search[i] for i in indices], json.loads(key)
        losses = [t.loss for t in trials if t.loss is not None]
        balance = [t.max_vio for t in trials if t.max_vio is not None]
        arm = result.arms.get(name)
        chosen = bool(arm) and arm is not None and arm.chosen == point
        rows.append(
            [
                name,
                numbers.settings(point),
                "chosen" if chosen else "",
                f"{len(losses)}/{len(trials)}",
                numbers.fixed(statistics.fmean(losses) if losses else None, 4),
                numbers.fixed(statistics.fmean(balance) if balance else None, 3),
                (numbers.fixed(arm.mistuning, 4) if arm.mistuning is not None else "none") if chosen and arm else "",
            ]
        )
    columns = ["arm", "point", "", "finished", "validation loss", "MaxVio_global", "mistuning bound"]
    note = "Mistuning bound: what a point between the searched ones could gain (none: the optimum is on the edge)."
    return Table("Search", columns, rows, note, words=(0, 1, 2))


def mtp_table(result: Result) -> Table:
    """The MTP modules on the true text of the test split, depth by depth."""
    names = {name for arm in result.arms.values() for name in arm.values if name.startswith("mtp_acceptance_")}
    depths = range(1, len(names) + 1)
    rows = []
    for arm in result.arms.values():
        if arm.mean("mtp_acceptance_1") is not None:
            cells = [numbers.fixed(arm.mean(f"mtp_loss_{k}"), 4) for k in depths]
            cells += [numbers.percent(arm.mean(f"mtp_acceptance_{k}"), 1) for k in depths]
            rows.append([arm.name, *cells, numbers.fixed(arm.mean("mtp_tokens_per_forward"), 3)])
    columns = ["arm", *(f"loss, depth {k}" for k in depths), *(f"accepted, depth {k}" for k in depths)]
    note = (
        "Accepted: depth k and all before it name the token that the main model would choose itself, given the true "
        "text. Tokens per forward: 1 and the accepted drafts, what greedy self-speculative decoding could reach."
    )
    return Table("Multi-token prediction", [*columns, "tokens per forward"], rows, note)


def _difference_cells(d: Difference | None, places: int) -> list[str]:
    """Difference, simultaneous interval, Holm p."""
    if d is None:
        return [ABSENT] * 3
    return [numbers.signed(d.mean, places), numbers.interval(d.low, d.high, places), numbers.p_value(d.p_holm)]
