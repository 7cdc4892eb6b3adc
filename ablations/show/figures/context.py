"""What arms make of a long context: curves of the loss by position, and the map of passkeys."""

import math
import typing

from ablations.config.trialkeys import unlike
from ablations.judge.result import ArmResult, Result
from ablations.show.figures.marks import mark
from ablations.show.figures.palette import COLOURS, INK, MUTED, is_narrow, legend, look_of, width

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

SHADES = 20
FOUND = 1.0
"""Nats of margin, at least, that have the full colour: a factor of e for each token of a passkey."""


def position_curves(result: Result) -> "Figure | None":
    """Loss by position, and each arm's difference to the baseline, seed by seed."""
    import matplotlib.pyplot as plt
    import numpy as np

    ends = result.indices("loss_to_<i>")
    if not ends:
        return None
    looks, names = look_of(result), [f"loss_to_{end}" for end in ends]
    figure, (top, below) = plt.subplots(2, 1, figsize=(width(), 5.4), sharex=True, layout="constrained")
    base = result.arms[result.baseline]
    for name, arm in result.arms.items():
        seeds = sorted(set.intersection(*(set(arm.values.get(metric, {})) for metric in names)))
        if not seeds:
            continue
        look = {**looks[name], "markersize": 4.0}
        mean = [arm.mean(metric, seeds) for metric in names]
        if arm.kind != "aa":
            (line,) = top.plot(ends, mean, label=name, **look)
            mark(line, [name], f"{name}: mean of {len(seeds)} seeds")
        paired = [seed for seed in seeds if all(seed in base.values.get(metric, {}) for metric in names)]
        if name == result.baseline or not paired:
            continue
        apart = np.array([[arm.values[m][seed] - base.values[m][seed] for m in names] for seed in paired])
        (line,) = below.plot(ends, apart.mean(axis=0), label=name, **look)
        band = below.fill_between(
            ends, apart.min(axis=0), apart.max(axis=0), color=look["color"], alpha=0.12, linewidth=0
        )
        mark(line, [name], f"{name}: mean of {len(paired)} seeds")
        mark(band, [name], f"{name}: lowest to highest of {len(paired)} seeds")
    below.axhline(0, color=INK, linewidth=0.9)
    before = unlike(result.plan.keys).get("data.seq_len")
    for axes in (top, below):
        if before is not None:
            axes.axvline(before, color=MUTED, linewidth=0.8, linestyle=(0, (1, 2)))
    below.set_xscale("log", base=2)
    below.set_xticks(ends, [str(end) for end in ends])
    below.minorticks_off()
    trained = f" (dotted: trained so far on {before})" if before is not None else ""
    below.set_xlabel(f"tokens before the predicted one, up to{trained}")
    top.set_title("Loss by position (nats per token)")
    below.set_title(f"Difference to {result.baseline}, same seed")
    legend(figure, top, below)
    return figure


def needle_map(result: Result) -> "Figure | None":
    """Depth x length, a panel for each arm: how surely a passkey is found."""
    import matplotlib.pyplot as plt

    found = {arm.name: cells for arm in result.arms.values() if arm.kind != "aa" and (cells := _margins(arm))}
    if not found:
        return None
    lengths, depths, _ = next(iter(found.values()))
    across = min(len(found), 2 if is_narrow() else 3)
    down = math.ceil(len(found) / across)
    most = max(FOUND, *(value for _, _, margins in found.values() for row in margins for value in row))
    colours = _colours(most)
    figure, axes = plt.subplots(
        down, across, figsize=(width(), 0.9 + 1.6 * down), layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for place, (name, (_, _, margins)) in enumerate(found.items()):
        _panel(axes[place // across][place % across], name, lengths, depths, margins, colours)
    for place in range(len(found), across * down):
        axes[place // across][place % across].set_visible(False)
    figure.supxlabel("tokens of the context", fontsize=9, color=INK)
    figure.supylabel("depth", fontsize=9, color=INK)
    where = "bottom" if is_narrow() else "right"
    bar = figure.colorbar(colours, ax=axes, location=where, label="margin (nats a token)")
    bar.outline.set_visible(False)
    return figure


def _margins(arm: ArmResult) -> tuple[list[int], list[float], list[list[float]]] | None:
    """Lengths, depths, and the mean over seeds of depths x lengths."""
    import numpy as np

    seen = [needles for seed in arm.of_status("complete") if (needles := arm.records[seed].needles) is not None]
    if not seen:
        return None
    return seen[0].lengths, seen[0].depths, np.mean([one.margins for one in seen], axis=0).T.tolist()


def _colours(most: float) -> "ScalarMappable":
    """The likelier the bluer; orange where another token is likelier."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, TwoSlopeNorm, to_rgba

    strengths = [(shade + 0.5) / SHADES for shade in range(SHADES)]
    shades = [to_rgba(COLOURS[1], s) for s in reversed(strengths)] + [to_rgba(COLOURS[0], s) for s in strengths]
    return ScalarMappable(TwoSlopeNorm(0.0, -most, most), ListedColormap(shades))


def _panel(
    axes: "Axes",
    name: str,
    lengths: list[int],
    depths: list[float],
    margins: list[list[float]],
    colours: "ScalarMappable",
) -> None:
    for row, (depth, values) in enumerate(zip(depths, margins, strict=True)):
        cells = axes.broken_barh([(i - 0.47, 0.94) for i in range(len(lengths))], (row - 0.46, 0.92), linewidth=0)
        cells.set(array=values, cmap=colours.cmap, norm=colours.norm)
        said = ", ".join(f"{value:.2f} in {length}" for value, length in zip(values, lengths, strict=True))
        mark(cells, [name], f"{name}, depth {depth:.0%}: {said}")
    axes.set_title(name)
    axes.set_xlim(-0.5, len(lengths) - 0.5)
    axes.set_ylim(len(depths) - 0.5, -0.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
    axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
