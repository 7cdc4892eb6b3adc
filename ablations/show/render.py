"""The result as Markdown, as CSV, and in a sentence.

`table.csv` holds what a rerun on the same machine must repeat byte for byte; what depends on the clock goes to
`timings.csv`.
"""

import csv
import io
import json
import math
import statistics

from ablations import numbers
from ablations.config.schema import ExpectedConfig
from ablations.judge.result import Result
from ablations.judge.stats import Difference
from ablations.judge.verdicts import Verdict, region_of
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT
from ablations.show.sections import all_tables
from ablations.show.table import Table


def table_md(result: Result) -> str:
    lines = [f"# {result.sweep}, scale={result.scale}", "", f"**{result.plan.question}**", ""]
    lines += [summary_sentence(result), ""]
    for table in all_tables(result).values():
        lines += [f"## {table.title}", "", *_markdown(table), ""]
        if table.note:
            lines += [table.note, ""]
    lines += ["## Plan", "", f"`plan.json`, written before the first trial: SHA-256 `{result.plan_sha}`.", ""]
    lines += [f"Decision rule: {result.plan.decision_rule}", ""]
    lines += ["Deviations from the plan:" if result.deviations else "No deviation from the plan.", ""]
    if result.deviations:
        lines += [*(f"- {line}" for line in result.deviations), ""]
    reasons = failure_lines(result)
    if reasons:
        lines += ["Trials that did not complete:", "", *(f"- {line}" for line in reasons), ""]
    return "\n".join(lines)


def failure_lines(result: Result) -> list[str]:
    """Diverged and failed trials with the reason, then those that are missing."""
    lines = []
    for arm in result.arms.values():
        for seed, record in sorted(arm.records.items()):
            if record.status != "complete":
                lines.append(f"{arm.name}, seed {seed}: {record.status}, {record.reason or 'no reason recorded'}")
    return lines + [f"{arm}, seed {seed}: not run yet" for arm, seed in result.missing]


def _markdown(table: Table) -> list[str]:
    rule = [":--" if i in table.words else "--:" for i in range(len(table.columns))]
    rows = [table.columns, rule, *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]


def summary_sentence(result: Result) -> str:
    """What was found, in one sentence: `bias against aux_loss: -0.0041 nats [-0.0123, +0.0040], not resolved (...)`;
    and what the scale says about its numbers."""
    parts = [_finding(result, i) for i in range(len(result.verdicts))]
    if not parts:
        for arm in result.arms.values():
            d = result.difference(arm.name)
            if arm.kind == "arm" and d is not None and numbers.present(d.mean):
                word = "resolved" if d.resolved else "not resolved"
                parts.append(f"{arm.name} against {result.baseline}: {_measured(d)}, {word}")
    for arm in result.arms.values():
        diverged = len(arm.of_status("diverged"))
        if diverged:
            parts.append(f"{arm.name} diverged in {diverged} of {len(arm.seeds)} seeds")
    text = "; ".join(parts) or "nothing to compare yet"
    note = f" {result.plan.note}" if result.plan.note else ""
    if result.missing:
        return f"So far ({result.planned - len(result.missing)} of {result.planned} trials): {text}.{note}"
    return f"{text[0].upper() if text.startswith('nothing') else text[0]}{text[1:]}.{note}"


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
        return str(metric_of(expected.metric).better)
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


def table_csv(result: Result) -> str:
    """One row per arm by name, floats as `repr`, nothing that depends on the clock: equal records, equal bytes."""
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
            "tokens_equivalent": result.tokens_equivalent(result.difference(arm.name)),
            "max_vio_floor": arm.mean("max_vio_floor"),
            "max_vio_max": arm.mean("max_vio_max"),
        }
        for metric in sorted(result.differences):
            row |= {metric: arm.mean(metric), f"{metric}_sd": arm.sd(metric)}
            d = result.difference(arm.name, metric)
            for name in ("n", "mean", "sd", "largest", "low", "high", "p", "p_holm", "correlation"):
                row[f"{metric}_difference_{name}"] = getattr(d, name) if d else None
        rows.append(row)
    return _csv(rows)


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
        cells = [v if not isinstance(v, float) else repr(v) if numbers.present(v) else None for v in row.values()]
        writer.writerow(["" if cell is None else cell for cell in cells])
    return out.getvalue()
