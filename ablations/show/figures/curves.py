"""What happens over training steps: loss, its paired difference, MaxVio."""

import math
import typing
from typing import Any

from ablations import numbers
from ablations.judge.result import ArmResult, Result
from ablations.judge.stats import Difference
from ablations.metrics import at_shares
from ablations.show.figures.marks import mark
from ablations.show.figures.palette import INK, MUTED, legend, look_of, width
from ablations.show.table import difference_cells
from models.measure.uniform import max_vio_floor

if typing.TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves_of(arm: ArmResult, column: str, table: str = "history") -> "tuple[np.ndarray, np.ndarray] | None":
    """(places, values as seeds x places) where all complete seeds have one; None without any."""
    import numpy as np

    rows = []
    for seed in sorted(arm.of_status("complete")):
        record = arm.records[seed]
        columns = getattr(record, "text_history" if (column, table) == ("loss", "history") else table)
        places = _places(columns)
        if places and len(columns.get(column, [])) == len(places):
            rows.append(dict(zip(places, columns[column], strict=True)))
    steps = sorted(set.intersection(*(set(row) for row in rows))) if rows else []
    if not steps:
        return None
    return np.array(steps), np.array([[row[step] for step in steps] for row in rows])


def _places(columns: dict[str, list[float]]) -> list[float]:
    """Tokens seen (arms with a batch-size ramp take other steps); records from before they were kept have steps."""
    return columns.get("tokens") or columns.get("step", [])


def _count_places(axes: "Axes", result: Result) -> None:
    """`100k` and not `100000`, and of what."""
    records = [r for arm in result.arms.values() for r in arm.records.values()]
    axes.set_xlabel("tokens" if any("tokens" in record.history for record in records) else "step")
    axes.xaxis.set_major_formatter(lambda value, _: numbers.count(value) if value else "0")


def band(
    axes: "Axes", steps: "np.ndarray", values: "np.ndarray", look: dict[str, Any], arm: str, named: bool = True,
    crowd: int = 1,
) -> None:  # fmt: skip
    """Mean line, and all seeds around it, the paler the more arms there are. `named`: in the legend."""
    label = arm if named else None
    (line,) = axes.plot(steps, values.mean(axis=0), color=look["color"], linestyle=look["linestyle"], label=label)
    band = axes.fill_between(
        steps, values.min(axis=0), values.max(axis=0), color=look["color"], alpha=min(0.15, 0.7 / crowd), linewidth=0
    )
    mark(line, [arm], f"{arm}: mean of {len(values)} seeds")
    mark(band, [arm], f"{arm}: lowest to highest of {len(values)} seeds")


def smoothed(values: "np.ndarray", width: int) -> "np.ndarray":
    """Centred moving mean along steps; the window shrinks at the ends."""
    import numpy as np

    kernel = np.ones(width)
    weights = np.convolve(np.ones(values.shape[1]), kernel, mode="same")
    return np.stack([np.convolve(row, kernel, mode="same") / weights for row in values])


def loss_curves(result: Result) -> "Figure | None":
    import matplotlib.pyplot as plt

    looks = look_of(result)
    base = result.arms[result.baseline]
    figure, (top, below) = plt.subplots(
        2, 1, figsize=(width(), 5.6), sharex=True, layout="constrained", height_ratios=[1.15, 1]
    )
    drawn = False
    for name, arm in result.arms.items():
        curves = curves_of(arm, "loss")
        if curves is None or arm.kind == "aa":
            continue
        drawn = True
        steps, values = curves
        band(top, steps, smoothed(values, max(1, len(steps) // 20)), looks[name], name, crowd=len(result.arms))
        for seed in arm.of_status("diverged"):
            _diverged(top, arm, seed, looks[name])
    for name, arm in result.arms.items():
        if name != result.baseline:
            paired_curve(below, base, arm, looks[name])
    if not drawn:
        plt.close(figure)
        return None
    below.axhline(0, color=INK, linewidth=0.9)
    settled = curves_of(base, "loss")
    if settled is not None:
        low, high = settled[1].mean(axis=0).min(), settled[1][:, len(settled[0]) // 20 :].mean(axis=0).max()
        top.set_ylim(low - 0.06 * (high - low), high)
    top.set_title("Training loss (nats per token)")
    below.set_title(f"Difference to {result.baseline}, same seed (nats per token)")
    _count_places(below, result)
    legend(figure, top, below)
    return figure


def _diverged(axes: "Axes", arm: ArmResult, seed: int, look: dict[str, Any]) -> None:
    """A thin line to where the trial stopped, ended by a cross."""
    history = arm.records[seed].text_history
    steps, losses = _places(history), history.get("loss", [])
    finite = [(s, v) for s, v in zip(steps, losses, strict=False) if math.isfinite(v)]
    if finite:
        drawn = axes.plot(*zip(*finite, strict=True), color=look["color"], linewidth=0.6, alpha=0.8)
        drawn += axes.plot(*finite[-1], marker="x", color=look["color"], markersize=6, clip_on=False)
        for artist in drawn:
            mark(artist, [arm.name], f"{arm.name}, seed {seed}: diverged")


def paired_curve(axes: "Axes", base: ArmResult, arm: ArmResult, look: dict[str, Any]) -> None:
    """Arm - baseline by seed: over training batches, smoothed (line, band), and on the validation set (markers)."""
    import numpy as np

    for table, marker in (("text_history", False), ("validation", True)):
        rows: list[dict[float, float]] = []
        for seed in sorted(set(base.of_status("complete")) & set(arm.of_status("complete"))):
            ours, theirs = (
                dict(zip(_places(columns), columns.get("loss", []), strict=False))
                for columns in (getattr(arm.records[seed], table), getattr(base.records[seed], table))
            )
            rows.append({step: ours[step] - theirs[step] for step in ours if step in theirs})
        steps = sorted(set.intersection(*map(set, rows))) if rows else []
        # An arm with another number of steps shares too few of the thinned ones to draw a line.
        if len(steps) < 3:
            continue
        values = np.array([[row[step] for step in steps] for row in rows])
        if marker:
            mean = values.mean(axis=0)
            (points,) = axes.plot(
                steps, mean, color=look["color"], marker=look["marker"], markersize=4.5, linestyle="",
                markeredgewidth=1.2,
            )  # fmt: skip
            at = zip(mean, steps, strict=True)
            mark(points, [arm.name], *(f"{arm.name}: {numbers.signed(m, 4)} at {numbers.count(s)}" for m, s in at))
        else:
            named = arm.kind == "aa"  # The panel above names the others.
            band(axes, np.array(steps), smoothed(values, max(1, len(steps) // 10)), look, arm.name, named)


def _arms_of(d: Difference) -> tuple[float, float]:
    """How far the interval reaches below and above; nothing where it has no bounds."""
    return (0.0, 0.0) if d.low is None or d.high is None else (d.mean - d.low, d.high - d.mean)


def length_curves(result: Result) -> "Figure | None":
    """Effect against the length of the training: each arm's difference at every horizon, with its interval."""
    import matplotlib.pyplot as plt

    if not result.plan.horizons:
        return None
    looks, shares = look_of(result), [*sorted(result.plan.horizons), 1.0]
    names = [*at_shares(result.plan.horizons), "loss"]
    tokens = result.arms[result.baseline].plan.tokens
    shown = [arm for name, arm in result.arms.items() if name != result.baseline]
    figure, axes = plt.subplots(figsize=(width(), 3.6), layout="constrained")
    for i, arm in enumerate(shown):
        aside = 1.02 ** (i - (len(shown) - 1) / 2)  # so that intervals do not hide each other
        found = [(share * tokens * aside, result.usual(arm, name)) for share, name in zip(shares, names, strict=True)]
        points = [(x, d) for x, d in found if d is not None]
        if not points:
            continue
        x, mean = [x for x, _ in points], [d.mean for _, d in points]
        spans, look = list(zip(*(_arms_of(d) for _, d in points), strict=True)), looks[arm.name]
        drawn = axes.errorbar(x, mean, yerr=spans, linewidth=1.3, capsize=2.5, markersize=5, label=arm.name, **look)
        for part in drawn.get_children():
            mark(part, [arm.name])
        mark(drawn.lines[0], [arm.name], *(f"{arm.name}: {' '.join(difference_cells(d, 4)[:2])}" for _, d in points))
    if not axes.containers:
        plt.close(figure)
        return None
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set_xscale("log")
    axes.set_xticks([share * tokens for share in shares], [numbers.count(share * tokens) for share in shares])
    axes.minorticks_off()
    other = "the arm below" if any(arm.plan.onto for arm in shown) else result.baseline
    axes.set_title(f"Test loss minus {other} (nats per token)")
    axes.set_xlabel("tokens, each length with a decay of its own")
    legend(figure, axes)
    return figure


def max_vio_curves(result: Result) -> "Figure | None":
    import matplotlib.pyplot as plt

    looks = look_of(result)
    figure, axes = plt.subplots(figsize=(width(), 3.5), layout="constrained")
    drawn = False
    for name, arm in result.arms.items():
        curves = curves_of(arm, "max_vio")
        if curves is None or arm.kind == "aa" or not curves[1].any():  # a dense model has 0 throughout
            continue
        drawn = True
        steps, values = curves
        smooth = smoothed(values, max(1, len(steps) // 25))
        band(axes, steps, smooth, looks[name], name, crowd=len(result.arms))
    if not drawn:
        plt.close(figure)
        return None
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.tick_params(axis="y", which="both", labelsize=8.5)
    for value, words in _max_vio_limits(result):
        axes.axhline(value, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.annotate(
            words, (1, value), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
            ha="right", va="bottom", fontsize=8, color=MUTED,
        )  # fmt: skip
    axes.set_title("MaxVio of the training batch (mean over layers)")
    _count_places(axes, result)
    legend(figure, axes)
    return figure


def _max_vio_limits(result: Result) -> list[tuple[float, str]]:
    """The most that routing can be uneven, and what uniform routing shows on one batch."""
    keys = result.plan.keys
    experts, top_k = keys.model.moe.n_routed_experts, keys.model.moe.top_k
    if experts <= top_k:
        return []
    return [
        (experts / top_k - 1, "all tokens on the same experts"),
        (max_vio_floor(keys.tokens_per_step, experts, top_k), "floor: uniform routing"),
    ]
