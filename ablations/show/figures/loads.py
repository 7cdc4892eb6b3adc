"""How many tokens each expert gets, arm by arm: orange above the mean load, blue below it, clear at the mean.

Cells are of the palette's own colours, more or less see-through, so that the map reads on light pages and on dark ones.
"""

import typing
from collections.abc import Mapping

from ablations.judge.result import Result
from ablations.show.figures.marks import mark
from ablations.show.figures.palette import COLOURS, MUTED, is_narrow, width

if typing.TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

MOST_LAYERS = 4
"""Of more the first, the middle and the last are drawn."""
SHADES = 20
"""On either side of the mean. matplotlib makes a raster of a colour bar of more than 50."""
BELOW, ABOVE = COLOURS[0], COLOURS[1]


def load_map(result: Result) -> "Figure | None":
    """Arms x experts per layer. Which expert is busy differs by seed, so experts are sorted by load before the mean."""
    import matplotlib.pyplot as plt
    import numpy as np

    loads = _loads(result)
    if not loads:
        return None
    first = next(iter(loads.values()))
    if len(loads) > 1 and all(load.shape == first.shape and np.allclose(load, first) for load in loads.values()):
        loads = {"every arm": first}
    layers = max(len(load) for load in loads.values())
    chosen = list(range(layers)) if layers <= MOST_LAYERS else [0, layers // 2, layers - 1]
    colours = _colours(max(1.5, max(float(load.max()) for load in loads.values())))
    height = 0.75 + len(chosen) * (0.42 + 0.26 * len(loads))
    figure, axes = plt.subplots(
        len(chosen), 1, figsize=(width(), height), layout="constrained", squeeze=False, sharex=True
    )
    for place, layer in enumerate(chosen):
        axes[place][0].set_title(f"MoE layer {layer + 1}")
        _panel(axes[place][0], {name: load[layer] for name, load in loads.items() if layer < len(load)}, colours)
    joint = "\n" if is_narrow() else " "
    axes[-1][0].set_xlabel(f"experts, busiest first{joint}(the busiest one's load at the right)")
    where, share, pad = ("bottom", 1.0, 0.02) if is_narrow() else ("right", min(1.0, 2.2 / height), 0.07)
    bar = figure.colorbar(colours, ax=axes[:, 0], shrink=share, pad=pad, label="load / mean load", location=where)
    bar.outline.set_visible(False)
    return figure


def _loads(result: Result) -> "dict[str, np.ndarray]":
    """Layers x experts, busiest first, the mean over seeds; arms may differ in both."""
    import numpy as np

    loads = {}
    for name, arm in result.arms.items():
        rows = [arm.records[seed].load for seed in arm.of_status("complete") if arm.records[seed].load]
        if rows and arm.kind != "aa":
            loads[name] = np.mean([np.sort(np.array(load), axis=1)[:, ::-1] for load in rows], axis=0)
    return loads


def _colours(highest: float) -> "ScalarMappable":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, TwoSlopeNorm, to_rgba

    strengths = [(shade + 0.5) / SHADES for shade in range(SHADES)]
    shades = [to_rgba(BELOW, s) for s in reversed(strengths)] + [to_rgba(ABOVE, s) for s in strengths]
    return ScalarMappable(TwoSlopeNorm(1.0, 0.0, highest), ListedColormap(shades))


def _panel(axes: "Axes", loads: "Mapping[str, np.ndarray]", colours: "ScalarMappable") -> None:
    experts = max(map(len, loads.values()))
    for row, (name, load) in enumerate(loads.items()):
        cells = axes.broken_barh([(i - 0.47, 0.94) for i in range(len(load))], (row - 0.46, 0.92), linewidth=0)
        cells.set(array=load, cmap=colours.cmap, norm=colours.norm)
        mark(cells, [name], f"{name}: {load.max():.2f} to {load.min():.2f} of the mean load")
        busiest = axes.annotate(
            f"{load.max():.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=MUTED
        )
        mark(busiest, [name])
    axes.set_xlim(-0.5, experts - 0.5)
    axes.set_ylim(len(loads) - 0.5, -0.5)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.set_yticks(range(len(loads)), list(loads))
    ticks = list(range(experts)) if experts <= (8 if is_narrow() else 16) else [0, experts - 1]
    axes.set_xticks(ticks, [str(tick + 1) for tick in ticks])
