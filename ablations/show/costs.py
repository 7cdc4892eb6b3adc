"""The tables of what an arm costs: size, speed, and what is left of a difference at equal cost."""

from ablations.equalcost import FARTHEST, MIN_ROUNDS, Ratio, at_equal_cost, stretch, time_ratio
from ablations.show import numbers
from ablations.show.numbers import ABSENT
from ablations.show.results import ArmResult, Result
from ablations.show.table import Table
from ablations.stats import Difference

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
        if plan.get("flops_per_token") is not None and plan.get("tokens") is not None:
            plan["train_flops"] = plan["flops_per_token"] * plan["tokens"]
        held = plan.get("matched", result.plan.get("matched", {})).get("equal", [])
        held = [] if arm.name == result.baseline else held
        cells = [numbers.count(plan.get(key)) + " =" * (key in held) for key in SIZES]
        per = numbers.fixed(arm.tokens_per_active_parameter, 2)
        rows.append([arm.name, *cells, per, plan.get("about") or ABSENT])
        knobs += [f"{arm.name} by {numbers.settings(plan['solved'])}"] if plan.get("solved") else []
    columns = ["arm", *SIZES.values(), "tokens per active parameter", "about"]
    tolerance = numbers.percent(result.plan.get("matched", {}).get("tolerance", 0))
    note = f"=: held equal to {result.baseline} within {tolerance}"
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
            _number(rate / reference if rate is not None and reference else None, "{:.2f}"),
        ]
        if weighed:
            cells.append(_number(memory / 2**20 if memory is not None else None, "{:,.0f}"))
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


def equal_cost_table(result: Result) -> Table:
    """Empty where the control does not say what tokens are worth, and where arms cost the same, or nobody knows."""
    control, fraction = result.arm_of_kind("control"), result.control_fraction
    harm = result.difference(control.name, "loss") if control else None
    if control is None or fraction is None or harm is None or harm.low is None or harm.low <= 0:
        return Table("At equal cost", [], [])
    arms = [arm for arm in result.arms.values() if arm.kind == "arm" and arm.name != result.baseline]
    losses = {arm.name: arm.values.get("loss", {}) for arm in result.arms.values()}
    pairs, names = list(result.differences["loss"]), (result.baseline, control.name)
    columns, rows = ["arm"], [[arm.name] for arm in arms]
    for name, spent in (("FLOPs", _flops(result, arms)), ("time", _times(result, arms))):
        ends = [{arm: ratio.ends[i] for arm, ratio in spent.items()} for i in range(3)]
        low, middle, high = (at_equal_cost(losses, costs, pairs, *names, fraction) for costs in ends)
        if any(f"{end:.2f}" != "1.00" for ratio in spent.values() for end in ratio.ends):
            columns += [f"training {name} of {result.baseline}", f"difference at equal {name}", "95 % interval"]
            for row in rows:
                found = [moved[row[0]] for moved in (low, middle, high) if row[0] in moved]
                row += _moved(spent[row[0]], found, fraction) if found else [ABSENT] * 3
    note = (
        f"Loss in nats, as if every arm had spent what {result.baseline} did: moved at each seed along the slope "
        f"between {result.baseline} and the control on {numbers.percent(fraction)} of its tokens. Beyond the control "
        "the slope is extrapolated, and the cell says to how many times its distance in ln(tokens); where the tokens "
        f"would change by more than a factor of {FARTHEST:g}, the difference is left out."
    )
    return Table("At equal cost", columns, rows if len(columns) > 1 else [], note)


def _moved(ratio: Ratio, found: list[Difference], fraction: float) -> list[str]:
    """The ratio, the difference at it, and an interval that holds those at both ends of the ratio's."""
    low, middle, high = ratio.ends
    cost = f"{middle:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low < high else "")
    stretches = [stretch(end, fraction) for end in ratio.ends]
    farthest = max((times for times in stretches if times is not None), default=0.0)
    if None in stretches:
        return [cost, ABSENT, ABSENT]
    lows, highs = ([end for d in found if (end := getattr(d, name)) is not None] for name in ("low", "high"))
    return [
        cost,
        numbers.signed(found[1].mean, 4) + (f" (extrapolated {farthest:.1f}x)" if farthest > 1 else ""),
        numbers.interval(min(lows), max(highs), 4) if len(lows) == len(highs) == 3 else ABSENT,
    ]


def _flops(result: Result, arms: list[ArmResult]) -> dict[str, Ratio]:
    """Training FLOPs over the baseline's."""
    base = _training_flops(result.arms[result.baseline])
    found = {arm.name: _training_flops(arm) for arm in arms}
    return {name: Ratio((own / base,) * 3) for name, own in found.items() if own is not None and base is not None}


def _training_flops(arm: ArmResult) -> float | None:
    each, tokens = arm.plan.get("flops_per_token"), arm.plan.get("tokens")
    return None if each is None or tokens is None or each * tokens <= 0 else float(each * tokens)


def _times(result: Result, arms: list[ArmResult]) -> dict[str, Ratio]:
    """Training time over the baseline's, from steps timed in turn; not of an arm whose FP8 is emulated."""
    kernels = result.plan.get("keys", {}).get("model", {}).get("precision", {}).get("kernels")
    base = result.arms[result.baseline]
    found = {}
    for arm in arms:
        emulated = kernels == "emulated" and any(key.startswith("model.precision.") for key in arm.plan.get("set", {}))
        if emulated or min(len(arm.seconds_per_token), len(base.seconds_per_token)) < MIN_ROUNDS:
            continue
        ratio = time_ratio(arm.seconds_per_token, base.seconds_per_token)
        tokens = arm.plan["tokens"] / base.plan["tokens"]
        low, middle, high = (tokens * end for end in ratio.ends)
        found[arm.name] = Ratio((low, middle, high))
    return found


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)
