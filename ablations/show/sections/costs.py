"""The tables of what an arm costs: size, speed, and what is left of a difference at equal cost."""

from ablations import numbers
from ablations.judge.equal_cost import FARTHEST, MIN_ROUNDS, Ratio, at_equal_cost, stretch, time_ratio
from ablations.judge.families import look_of
from ablations.judge.result import ArmResult, Result
from ablations.judge.stats import Difference
from ablations.numbers import ABSENT
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
        plan = arm.plan
        held = [] if arm.name == result.baseline else plan.matched.equal
        sizes = {size: getattr(plan, size) for size in SIZES}
        if result.chained:  # stages differ in what a token costs
            sizes["train_flops"] = arm.mean("flops")
        cells = [numbers.count(value) + " =" * (size in held) for size, value in sizes.items()]
        per = numbers.fixed(plan.tokens_per_active_parameter, 2)
        rows.append([arm.name, *cells, per, plan.about or ABSENT])
        knobs += [f"{arm.name} by {numbers.settings(plan.solved)}"] if plan.solved else []
    columns = ["arm", *SIZES.values(), "tokens per active parameter", "about"]
    tolerance = numbers.percent(result.plan.matched.tolerance)
    note = f"=: held equal to {result.baseline} within {tolerance}"
    note += f"; matched: {', '.join(knobs)}." if knobs else "."
    return Table("Size", columns, rows, note, words=(0, len(columns) - 1))


def speed_table(result: Result) -> Table:
    """Empty where nothing was measured; a column of what no arm was measured for is left out."""
    speeds = {name: arm.speed for name, arm in result.arms.items()}
    measured = [speed for speed in speeds.values() if speed is not None]
    weighed = any(speed.peak_training_bytes is not None for speed in measured)
    decoded = any(speed.decode_tokens_per_second is not None for speed in measured)
    drafted = any(speed.speculative_speedup is not None for speed in measured)
    columns = ["arm", "tokens/s", f"of {result.baseline}"]
    columns += ["training memory (MiB)"] * weighed
    columns += ["decoded tokens/s"] * decoded
    columns += ["self-speculative speed-up", "its tokens per forward"] * drafted
    base, rows = speeds[result.baseline], []
    for name, speed in speeds.items():
        if speed is None:
            rows.append([name] + [ABSENT] * (len(columns) - 1))
            continue
        memory, share = speed.peak_training_bytes, speed.tokens_per_second / base.tokens_per_second if base else None
        cells = [name, _number(speed.tokens_per_second, "{:,.0f}"), _number(share, "{:.2f}")]
        cells += [_number(None if memory is None else memory / 2**20, "{:,.0f}")] * weighed
        cells += [_number(speed.decode_tokens_per_second, "{:,.0f}")] * decoded
        drafts = (speed.speculative_speedup, speed.speculative_tokens_per_forward)
        rows.append(cells + [_number(value, "{:.2f}") for value in drafts] * drafted)
    note = "Measured apart from the trials, arms in alternation; not comparable between machines."
    note += " Memory: of two training steps in a new process." * weighed
    if result.chained:
        note += " Of a step that learns from text: what writing answers, a reference or a teacher take is not in it."
    if decoded:
        note += " Decoding: greedy with a cache, of the first seed's checkpoint, on beginnings of the test split."
    return Table("Speed", columns, rows if measured else [], note)


def equal_cost_table(result: Result) -> Table:
    """Empty where the control does not say what tokens are worth, where the loss falls by jumps, and where arms cost
    the same, or nobody knows."""
    if result.jumps:
        return Table("At equal cost", [], [])
    control, fraction = result.diagnostic("control"), result.control_fraction
    harm = result.difference(control.name, "loss") if control else None
    if control is None or fraction is None or harm is None or harm.low is None or harm.low <= 0:
        return Table("At equal cost", [], [])
    others = (arm for arm in result.arms.values() if arm.kind == "arm" and arm.name != result.baseline)
    arms = [arm for arm in others if arm.plan.branched == control.plan.branched]  # the slope is of one design
    losses = {arm.name: arm.values.get("loss", {}) for arm in result.arms.values()}
    names, families = (result.baseline, control.name), dict[str, list[tuple[str, str]]]()
    for pair, difference in result.differences["loss"].items():
        families.setdefault(difference.kind, []).append(pair)
    columns, rows, look = ["arm"], [[arm.name] for arm in arms], look_of(result.arms, result.plan)
    for name, spent in (("FLOPs", _flops(result, arms)), ("time", _times(result, arms))):
        ends = [{arm: ratio.ends[i] for arm, ratio in spent.items()} for i in range(3)]
        low, middle, high = (
            at_equal_cost(losses, costs, list(families.values()), *names, fraction, look) for costs in ends
        )
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
    base = result.arms[result.baseline].plan.flops_per_token
    return {arm.name: Ratio((_of_whole(result, arm, arm.plan.flops_per_token / base),) * 3) for arm in arms}


def _of_whole(result: Result, arm: ArmResult, per_token: float) -> float:
    """What a training costs over the baseline's, from the cost of a token: of a branch, the baseline's to where it
    begins."""
    tokens = arm.plan.tokens / result.arms[result.baseline].plan.tokens
    trunk = result.plan.branch_at or 0.0 if arm.plan.branched else 0.0
    return trunk + (tokens - trunk) * per_token


def _times(result: Result, arms: list[ArmResult]) -> dict[str, Ratio]:
    """Training time over the baseline's, from steps timed in turn; not of an arm whose FP8 is emulated."""
    emulated = result.plan.keys.model.precision.kernels == "emulated"
    base = result.arms[result.baseline]
    found = {}
    for arm in arms:
        if emulated and any(key.startswith("model.precision.") for key in arm.plan.set):
            continue
        ours, theirs = (of.speed.seconds_per_token if of.speed else [] for of in (arm, base))
        if min(len(ours), len(theirs)) < MIN_ROUNDS:
            continue
        low, middle, high = (_of_whole(result, arm, end) for end in time_ratio(ours, theirs).ends)
        found[arm.name] = Ratio((low, middle, high))
    return found


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else form.format(value)
