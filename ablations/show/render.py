"""The result as Markdown and as CSV.

`table.csv` holds what a rerun on the same machine must repeat byte for byte; what depends on the clock goes to
`timings.csv`.
"""

import csv
import io
import json
import re
import statistics

from ablations import numbers
from ablations.judge.result import Result
from ablations.show.answer import answer, findings
from ablations.show.sections.every import all_tables
from ablations.show.table import Table


def table_md(result: Result) -> str:
    lines = [f"# {result.sweep}, scale={result.scale}", "", f"**{inert(result.plan.question)}**", ""]
    lines += [inert(answer(result)), "", *(f"- {inert(line)}" for line in findings(result)), ""]
    for table in all_tables(result).values():
        lines += [f"## {inert(table.title)}", "", *markdown(table), ""]
        if table.note:
            lines += [inert(table.note), ""]
    lines += ["## Plan", "", f"`plan.json`, written before the first trial: SHA-256 `{result.plan_sha}`.", ""]
    lines += [f"Decision rule: {inert(result.plan.decision_rule)}", ""]
    if result.decision_rule != result.plan.decision_rule:
        lines += [f"The rule of a later version, which the verdicts follow: {inert(result.decision_rule)}", ""]
    lines += ["Deviations from the plan:" if result.deviations else "No deviation from the plan.", ""]
    if result.deviations:
        lines += [*(f"- {inert(line)}" for line in result.deviations), ""]
    reasons = failure_lines(result)
    if reasons:
        lines += ["Trials that did not complete:", "", *(f"- {inert(line)}" for line in reasons), ""]
    return "\n".join(lines)


def failure_lines(result: Result) -> list[str]:
    """Diverged and failed trials with the reason, then those that are missing."""
    lines = []
    for arm in result.arms.values():
        for seed, record in sorted(arm.records.items()):
            if record.status != "complete":
                lines.append(f"{arm.name}, seed {seed}: {record.status}, {record.reason or 'no reason recorded'}")
    return lines + [f"{arm}, seed {seed}: not run yet" for arm, seed in result.missing]


def markdown(table: Table) -> list[str]:
    """Its head and rows, a line each."""
    rule = [":--" if i in table.words else "--:" for i in range(len(table.columns))]
    rows = [table.columns, rule, *table.rows]
    return ["| " + " | ".join(inert(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]


def inert(said: str) -> str:
    """A text in one line of Markdown that makes no tag and no link of its own."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(said.splitlines())).replace("](", "]\\(")


def table_csv(result: Result) -> str:
    """`table_rows`, floats to ten digits: equal records, equal bytes. Sums differ between processors in the last."""
    return _csv(table_rows(result))


def table_rows(result: Result) -> list[dict[str, object]]:
    """One per arm by name, with nothing that depends on the clock."""
    rows = []
    for arm in sorted(result.arms.values(), key=lambda arm: arm.name):
        row: dict[str, object] = {
            "arm": arm.name,
            "kind": arm.kind,
            "chosen": json.dumps(arm.chosen, sort_keys=True),
            "seeds": len(arm.seeds),
            **{status: len(arm.of_status(status)) for status in ("complete", "diverged", "failed")},
            **{key: getattr(arm.plan, key) for key in ("total_params", "active_params", "flops_per_token", "tokens")},
            "mistuning": arm.mistuning,
            "tokens_equivalent": result.tokens_equivalent(result.usual(arm)),
            "max_vio_floor": arm.mean("max_vio_floor"),
            "max_vio_max": arm.mean("max_vio_max"),
        }
        for metric in sorted(result.differences):
            row |= {metric: arm.mean(metric), f"{metric}_sd": arm.sd(metric)}
            d = result.usual(arm, metric)
            for name in ("n", "mean", "sd", "largest", "low", "high", "p", "p_holm", "correlation"):
                row[f"{metric}_difference_{name}"] = getattr(d, name) if d else None
        rows.append(row)
    return rows


def timings_csv(result: Result) -> str:
    """Speed measured apart, and the mean seconds of trials as they ran, side by side with others."""
    rows = []
    for arm in sorted(result.arms.values(), key=lambda arm: arm.name):
        row: dict[str, object] = {"arm": arm.name}
        row |= {name: getattr(arm.speed, name, None) for name in ("tokens_per_second", "peak_training_bytes")}
        for name in ("train_s", "eval_s"):
            seconds = [r.timings[name] for r in arm.records.values() if name in r.timings]
            row[f"{name}_mean"] = statistics.fmean(seconds) if seconds else None
        rows.append(row)
    return _csv(rows)


def _csv(rows: list[dict[str, object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        cells = [v if not isinstance(v, float) else f"{v:.10g}" if numbers.present(v) else None for v in row.values()]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()
