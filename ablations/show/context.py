"""What arms make of a long context: tables by position and by length, curves, and the map of passkeys."""

import itertools
import math
import typing

from ablations import numbers
from ablations.config.trialkeys import unlike
from ablations.judge.result import ArmResult, Result
from ablations.metrics import indices
from ablations.show.marks import mark
from ablations.show.palette import COLOURS, INK, MUTED, is_narrow, legend, look_of, width
from ablations.show.table import Table, difference_cells
from models.base.typed import build
from models.config import ModelConfig
from models.cost import cost

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

SHADES = 20
FOUND = 1.0
"""Nats of margin, at least, that have the full colour: a factor of e for each token of a passkey."""


def _indices(result: Result, name: str) -> list[int]:
    return indices(name, {metric for arm in result.arms.values() for metric in arm.values})


def positions_table(result: Result) -> Table:
    """Empty where no context was measured."""
    ends = _indices(result, "loss_to_<i>")
    rows = []
    for arm in result.arms.values():
        cells = [numbers.fixed(arm.mean(f"loss_to_{end}"), 4) for end in ends]
        far = difference_cells(result.usual(arm, f"loss_to_{ends[-1]}"), 4)[:2] if ends else []
        rows.append([arm.name, *cells, *far])
    columns = ["arm", *(f"{begin + 1} to {end}" for begin, end in itertools.pairwise([0, *ends]))]
    note = (
        "Loss in nats per token by how many tokens stand before the one that is predicted, in contexts of the greatest "
        "length; the difference is that of the last column."
    )
    return Table("Loss by position", [*columns, "difference", "95 % interval"], rows if ends else [], note)


def contexts_table(result: Result) -> Table:
    """Passkeys and recall; empty where no context was measured."""
    lengths = _indices(result, "passkey_margin_<i>")
    rows = [
        [
            arm.name,
            *(numbers.fixed(arm.mean(f"passkey_margin_{length}"), 3) for length in lengths),
            *(numbers.fixed(arm.mean(f"recall_nats_{length}"), 3) for length in lengths),
        ]
        for arm in result.arms.values()
    ]
    columns = ["arm", *(f"passkey, {length}" for length in lengths), *(f"read twice, {length}" for length in lengths)]
    note = (
        "By the length of the context. Passkey: by how many nats a token of a passkey, hidden in test text and asked "
        "for at its end, is likelier than another drawn token, a mean over depths; 0 where none is found. Read twice: "
        "nats per token of a half of the context that is its other half once more; near the loss where that is not "
        "noticed."
    )
    return Table("Passkeys and recall by length", columns, rows if lengths else [], note)


def context_costs_table(result: Result) -> Table:
    """What each length costs, of every arm that costs something else; empty where no context was measured."""
    lengths, costs = _indices(result, "passkey_margin_<i>"), dict[tuple[str, ...], list[str]]()
    for arm in result.arms.values() if lengths else ():
        record = next((arm.records[seed] for seed in arm.of_status("complete")), None)
        if record is not None:
            model = build(ModelConfig, record.config["model"])
            found = [cost(model, length) for length in lengths]
            cells = [numbers.count(one.flops_per_token) for one in found]
            cells += [numbers.count(one.kv_bytes * length) for one, length in zip(found, lengths, strict=True)]
            costs.setdefault(tuple(cells), []).append(arm.name)
    every = len(costs) == 1
    rows = [["all" if every else ", ".join(names), *cells] for cells, names in costs.items()]
    columns = ["arm", *(f"FLOPs per token, {length}" for length in lengths)]
    columns += [f"cache bytes, {length}" for length in lengths]
    note = "Of training on contexts of a length (models/cost.py), and what the whole of one keeps in the cache."
    return Table("What a context costs", columns, rows, note, words=(0,))


def position_curves(result: Result) -> "Figure | None":
    """Loss by position, and each arm's difference to the baseline, seed by seed."""
    import matplotlib.pyplot as plt
    import numpy as np

    ends = _indices(result, "loss_to_<i>")
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
