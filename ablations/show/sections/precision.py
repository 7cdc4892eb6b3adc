"""The table of a sweep over number formats: V3's relative loss error, and what a recipe does to a trained model."""

import itertools
import statistics

from ablations import numbers
from ablations.judge.loss_curve import loss_error
from ablations.judge.result import ArmResult, Result
from ablations.numbers import ABSENT
from ablations.show.table import Table
from models.precision.config import ROLES


def precision_table(result: Result) -> Table:
    """Empty where no arm names a recipe."""
    rows = []
    for arm in result.arms.values():
        if arm.mean("gradient_cosine") is None:
            continue
        error = result.difference(arm.name, "loss_error")
        interval = ABSENT
        if error is not None and error.low is not None and error.high is not None:
            interval = numbers.interval(100 * error.low, 100 * error.high, 2)
        rows.append(
            [
                arm.name,
                numbers.percent(error.mean, 2, sign=True) if error else ABSENT,
                interval,
                numbers.fixed(arm.mean("gradient_cosine"), 4),
                *(numbers.percent(arm.mean(f"rounding_error_{role}"), 2) for role in ROLES),
                *(numbers.percent(arm.mean(f"underflow_{role}"), 2) for role in ROLES),
                numbers.percent(arm.mean("unpromoted_error"), 2),
                numbers.count(arm.mean("saved_bytes_per_token")),
            ]
        )
    columns = ["arm", "relative loss error", "95 % interval, %", "gradient cosine"]
    columns += [f"{what}, {role}s" for what in ("rounding", "underflow") for role in ROLES]
    return Table("Precision", [*columns, "unpromoted adds", "kept bytes per token"], rows, _note(result))


def _note(result: Result) -> str:
    base, precision = result.arms[result.baseline], result.plan.keys.model.precision
    spread = _seed_spread(base)
    between = f" (two seeds of {base.name} differ by {numbers.percent(spread, 2)})" if spread is not None else ""
    emulated = ""
    if precision.kernels == "emulated":
        emulated = (
            f"FP8 is emulated: quantised operands in tiles and blocks of {precision.block}, products summed in "
            "FP32, which stands for promoted accumulation too. "
        )
    leaks = [
        f"{arm.name}: in FP8 training, later tokens change earlier logits by up to {change:.1e}, through scales that "
        "tokens share; evaluation is in BF16."
        for arm in result.arms.values()
        for guard in arm.guards
        if guard.name == "causality" and guard.facts.get("shared_scales")
        if (change := guard.number("largest_change")) is not None
    ]
    return (
        f"Relative loss error: the training curve against that of {base.name} with the same seed, both smoothed "
        f"(EMA 0.9), the mean of the second half{between}. On one microbatch of held-out text, at the trained weights: "
        "the cosine of the gradient with FP32's; the norm of what rounding changes over the norm, and the share of "
        "numbers that become 0, by role; what a tensor core's accumulator that is never promoted would add to the "
        f"gradient's error; and what is kept for the backward pass. {emulated}{' '.join(leaks)}"
    ).strip()


def _seed_spread(arm: ArmResult) -> float | None:
    """Root mean square of the loss error between two seeds of one arm: what a difference has to be seen against."""
    curves = [arm.records[seed].history.get("loss") for seed in arm.of_status("complete")]
    errors = [loss_error(a, b) for a, b in itertools.combinations([c for c in curves if c], 2)]
    return statistics.fmean(error**2 for error in errors) ** 0.5 if errors else None
