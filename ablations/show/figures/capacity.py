"""What is answered of a skill, against what a model has to hold it in: its cache, or its weights."""

import typing
from collections.abc import Callable

from ablations import numbers
from ablations.judge.result import ArmResult, Result
from ablations.metrics import indices
from ablations.metrics import metric as metric_of
from ablations.show.figures.marks import mark
from ablations.show.figures.palette import is_narrow, legend, look_of, width

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 1.05
"""The largest is at least so many times the smallest, or arms are of one size."""
ALIKE, BESIDE = 1.25, 1.06
"""Arms of sizes closer than this stand side by side, each by so many times further right than the one before."""
CAPACITIES: dict[str, Callable[[ArmResult], float]] = {
    "KV bytes per token": lambda arm: arm.plan.kv_bytes,
    "parameters": lambda arm: arm.plan.total_params,
}


def capacity(result: Result) -> "Figure | None":
    """A panel for each level of the skill, or one for all; None where arms are of one size, or nothing was asked."""
    import matplotlib.pyplot as plt

    arms = [arm for arm in result.arms.values() if arm.kind == "arm" and arm.values.get("answer_nats")]
    label = _what_differs(arms)
    if label is None:
        return None
    levels = indices("answer_nats_level<level>", {name for arm in arms for name in arm.values})
    panels = {f"level {i}": f"answer_nats_level{i}" for i in levels} if len(levels) > 1 else {"": "answer_nats"}
    columns = 1 if is_narrow() else min(len(panels), 4)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(width(), 2.5 * rows + 0.6), layout="constrained", squeeze=False, sharex=True,
        sharey=True,
    )  # fmt: skip
    for panel, (title, metric) in zip(axes.flat, panels.items(), strict=False):
        _panel(panel, result, arms, metric, CAPACITIES[label])
        panel.set_title(title)
    for unused in axes.flat[len(panels) :]:
        unused.remove()
    figure.supxlabel(label, fontsize=9)
    figure.supylabel(metric_of("answer_nats").label, fontsize=9)
    legend(figure, axes[0, 0])
    return figure


def _what_differs(arms: list[ArmResult]) -> str | None:
    """The first capacity by which arms differ."""
    for label, size_of in CAPACITIES.items():
        sizes = [size_of(arm) for arm in arms]
        if sizes and min(sizes) > 0 and max(sizes) >= APART * min(sizes):
            return label
    return None


def _panel(axes: "Axes", result: Result, arms: list[ArmResult], metric: str, size_of: Callable[..., float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    looks, digits = look_of(result), metric_of(metric).digits
    alike = _alike([size_of(arm) for arm in arms])
    axes.set_xscale("log")
    for arm in arms:
        look, size, own = looks[arm.name], size_of(arm), arm.values.get(metric, {})
        beside = [other for other in arms if alike[size_of(other)] == alike[size]]
        place = size * BESIDE ** (beside.index(arm) - (len(beside) - 1) / 2)
        (seeds,) = axes.plot(
            [place] * len(own), list(own.values()), marker=look["marker"], markersize=3.2, markeredgewidth=0,
            linestyle="", color=look["color"], alpha=0.5,
        )  # fmt: skip
        mark(seeds, [arm.name], *(f"{arm.name}, seed {seed}: {numbers.fixed(v, digits)}" for seed, v in own.items()))
        mean = arm.mean(metric)
        if mean is not None:
            (point,) = axes.plot(
                place, mean, marker=look["marker"], markersize=8, markerfacecolor="none", linestyle="",
                markeredgecolor=look["color"], markeredgewidth=1.5, label=arm.name,
            )  # fmt: skip
            mark(point, [arm.name], f"{arm.name}: {numbers.fixed(mean, digits)} with {numbers.count(size)}")
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(alike.values()))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: numbers.count(value))
    axes.margins(x=0.15)


def _alike(sizes: list[float]) -> dict[float, float]:
    """The least size of those that each is drawn beside."""
    found: dict[float, float] = {}
    least = 0.0
    for size in sorted(sizes):
        least = size if size >= ALIKE * least else least
        found[size] = least
    return found
