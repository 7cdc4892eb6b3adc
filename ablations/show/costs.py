"""The tables of what an arm costs: size, and speed."""

from ablations.show import numbers
from ablations.show.numbers import ABSENT
from ablations.show.results import Result
from ablations.show.table import Table

SIZES = {
    "total_params": "parameters",
    "active_params": "active",
    "flops_per_token": "FLOPs per token",
    "kv_bytes": "KV bytes per token",
    "tokens": "tokens",
    "train_flops": "training FLOPs",
}


def size_table(result: Result) -> Table:
    """What each arm costs; what was held equal to the baseline is marked."""
    rows, knobs = [], []
    for arm in result.arms.values():
        plan = dict(arm.plan)
        if plan.get("flops_per_token") and plan.get("tokens"):
            plan["train_flops"] = plan["flops_per_token"] * plan["tokens"]
        held = plan.get("matched", result.plan.get("matched", {})).get("equal", [])
        held = [] if arm.name == result.baseline else held
        cells = [numbers.count(plan.get(key)) + " =" * (key in held) for key in SIZES]
        per = numbers.fixed(arm.tokens_per_active_parameter, 2)
        rows.append([arm.name, *cells, per, plan.get("about") or ABSENT])
        knobs += [f"{arm.name} by {numbers.settings(plan['solved'])}"] if plan.get("solved") else []
    columns = ["arm", *SIZES.values(), "tokens per active parameter", "about"]
    note = f"=: held equal to {result.baseline} within {result.plan.get('matched', {}).get('tolerance', 0):.0%}"
    note += f"; matched: {', '.join(knobs)}." if knobs else "."
    return Table("Size", columns, rows, note, words=(0, len(columns) - 1))


def speed_table(result: Result) -> Table:
    reference = result.arms[result.baseline].speed.get("tokens_per_second")
    decoded = any("decode_tokens_per_second" in arm.speed for arm in result.arms.values())
    drafted = any("speculative_speedup" in arm.speed for arm in result.arms.values())
    weighed = any("peak_training_bytes" in arm.speed for arm in result.arms.values())
    rows = []
    for arm in result.arms.values():
        rate, memory = arm.speed.get("tokens_per_second"), arm.speed.get("peak_training_bytes")
        cells = [
            arm.name,
            _number(rate, "{:,.0f}"),
            _number(rate / reference if rate and reference else None, "{:.2f}"),
        ]
        if weighed:
            cells.append(_number(memory / 2**20 if memory else None, "{:,.0f}"))
        if decoded:
            cells.append(_number(arm.speed.get("decode_tokens_per_second"), "{:,.0f}"))
        if drafted:
            cells.append(_number(arm.speed.get("speculative_speedup"), "{:.2f}"))
            cells.append(_number(arm.speed.get("speculative_tokens_per_forward"), "{:.2f}"))
        rows.append(cells)
    note = "Measured apart from the trials, arms in alternation; not comparable between machines."
    note += " Memory: of two training steps in a new process." * weighed
    columns = ["arm", "tokens/s", f"of {result.baseline}"]
    columns += ["training memory (MiB)"] * weighed
    columns += ["decoded tokens/s"] * decoded
    columns += ["self-speculative speed-up", "its tokens per forward"] * drafted
    if decoded:
        note += " Decoding: greedy with a cache, of the first seed's checkpoint, on beginnings of the test split."
    return Table("Speed", columns, rows if any(arm.speed for arm in result.arms.values()) else [], note)


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)
