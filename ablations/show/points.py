"""What came out at the end: differences with intervals, loss against balance, the experts' load."""

import math
import statistics
import typing
from typing import Any

from ablations import numbers
from ablations.judge.result import Result
from ablations.judge.stats import Difference
from ablations.judge.verdicts import region_of
from ablations.metrics import metric as metric_of
from ablations.show.palette import FAINT, INK, MUTED, WIDTH, legend, look_of

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def frontier(result: Result) -> "Figure | None":
    """Left: the search, validation split. Right: the confirmation, test split, as paired differences."""
    import matplotlib.pyplot as plt

    looks = look_of(result)
    searched = search_points(result)
    figure, axes = plt.subplots(1, 2 if searched else 1, figsize=(WIDTH, 3.6), layout="constrained", squeeze=False)
    right = axes[0][-1]
    if searched:
        left = axes[0][0]
        for name, points in searched.items():
            look = looks.get(name, {"color": MUTED, "marker": "o"})
            for max_vio, loss, chosen in points:
                face = look["color"] if chosen else "none"
                left.plot(
                    max_vio, loss, marker=look["marker"], linestyle="", markersize=8 if chosen else 5.5,
                    markerfacecolor=face, markeredgecolor=look["color"], markeredgewidth=1.3,
                )  # fmt: skip
        left.set_title("Search: validation loss (filled: chosen)")
        _log_max_vio(left)
    drawn = False
    for name, arm in result.arms.items():
        balance = arm.mean("max_vio_global")
        d = result.difference(name, "loss")
        mean = 0.0 if name == result.baseline else d.mean if d else None
        if balance is None or mean is None or not numbers.present(mean):
            continue
        drawn = True
        bar = None
        if d is not None and d.low is not None and d.high is not None:
            bar = [[mean - d.low], [d.high - mean]]
        right.errorbar(
            [balance], [mean], yerr=bar, color=looks[name]["color"], marker=looks[name]["marker"], markersize=7,
            linestyle="", linewidth=1.4, capsize=3, label=name,
        )  # fmt: skip
    if not drawn and not searched:
        plt.close(figure)
        return None
    right.axhline(0, color=INK, linewidth=0.9)
    right.set_title(f"Confirmed: test loss minus {result.baseline}")
    _log_max_vio(right)
    if drawn:
        legend(figure, right)
    return figure


def search_points(result: Result) -> dict[str, list[tuple[float, float, bool]]]:
    """Per arm: (MaxVio_global, validation loss, chosen), each the mean over the search seeds of one point."""
    groups: dict[str, dict[str, list[Any]]] = {}
    for trial in result.search:
        if trial.loss is not None and trial.max_vio_global is not None:
            key = repr(sorted(trial.point.items()))
            groups.setdefault(trial.arm, {}).setdefault(key, []).append(trial)
    return {
        name: [
            (
                max(statistics.fmean(t.max_vio_global for t in trials), 1e-3),
                statistics.fmean(t.loss for t in trials),
                name in result.arms and result.arms[name].chosen == trials[0].point,
            )
            for _, trials in sorted(points.items())
        ]
        for name, points in sorted(groups.items())
    }


def _log_max_vio(axes: "Axes") -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "25" else "")
    axes.tick_params(axis="x", which="both", labelsize=8.5)
    axes.set_xlabel("MaxVio_global")


MOST_LAYERS = 4
"""Of more the first, the middle and the last are drawn."""


def load_map(result: Result) -> "Figure | None":
    """Arms x experts per layer. Which expert is busy differs by seed, so experts are sorted by load before the mean."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import TwoSlopeNorm

    loads = {}
    for name, arm in result.arms.items():
        rows = [arm.records[seed].load for seed in arm.of_status("complete") if arm.records[seed].load]
        if rows and arm.kind != "aa":
            loads[name] = np.mean([np.sort(np.array(load), axis=1)[:, ::-1] for load in rows], axis=0)
    if not loads:
        return None
    layers = max(len(load) for load in loads.values())
    experts = max(load.shape[1] for load in loads.values())
    wide = {name: np.full((layers, experts), np.nan) for name in loads}  # arms may differ in layers and experts
    for name, load in loads.items():
        wide[name][: len(load), : load.shape[1]] = load
    loads = wide
    first = loads[next(iter(loads))]
    if len(loads) > 1 and all(np.allclose(load, first, equal_nan=True) for load in loads.values()):
        loads = {"every arm": first}
    chosen = list(range(layers)) if layers <= MOST_LAYERS else [0, layers // 2, layers - 1]
    highest = max(1.5, max(float(np.nanmax(load)) for load in loads.values()))
    height = 0.75 + len(chosen) * (0.42 + 0.26 * len(loads))
    figure, axes = plt.subplots(
        len(chosen), 1, figsize=(WIDTH, height), layout="constrained", squeeze=False, sharex=True
    )
    image = None
    for place, layer in enumerate(chosen):
        panel = axes[place][0]
        image = panel.imshow(
            np.stack([load[layer] for load in loads.values()]), aspect="auto", cmap="PuOr_r", interpolation="nearest",
            norm=TwoSlopeNorm(1.0, 0.0, highest),
        )  # fmt: skip
        panel.grid(False)
        panel.spines[:].set_visible(False)
        panel.tick_params(which="both", length=0)
        panel.set_yticks(range(len(loads)), list(loads))
        panel.set_xticks(range(experts) if experts <= 16 else [0, experts - 1])
        panel.set_xticklabels([str(tick + 1) for tick in panel.get_xticks()])
        panel.set_xticks(np.arange(0.5, experts - 1), minor=True)
        panel.set_yticks(np.arange(0.5, len(loads) - 1), minor=True)
        panel.set_title(f"MoE layer {layer + 1}")
        for row, load in enumerate(loads.values()):
            if np.isnan(load[layer]).all():
                continue
            panel.annotate(
                f"{np.nanmax(load[layer]):.2f}", (1.01, row), xycoords=("axes fraction", "data"), va="center",
                fontsize=8, color=MUTED,
            )  # fmt: skip
    axes[-1][0].set_xlabel("experts, busiest first (the busiest one's load at the right)")
    if image is not None:
        bar = figure.colorbar(image, ax=axes[:, 0], shrink=min(1.0, 2.2 / height), pad=0.07, label="load / mean load")
        bar.outline.set_visible(False)
    return figure


def forest(result: Result) -> "Figure | None":
    """One panel per metric that a claim is about: differences, simultaneous intervals, regions, the paper's value."""
    import matplotlib.pyplot as plt

    looks = look_of(result)
    metrics = list(dict.fromkeys([result.primary, *(e.metric for e in result.expected)]))
    # Beside what follows at the published dose, a slope per unit of the dose is in units of its own.
    slopes = {name for name in result.plan.contrasts if f"{name}_at" in result.plan.contrasts}
    families: dict[str, list[Difference]] = {}
    for metric in metrics:
        found = result.differences.get(metric, {}).values()
        if rows := [d for d in found if numbers.present(d.mean) and d.arm not in slopes]:
            families[metric] = rows
    if not families:
        return None
    heights = [max(2, len(rows)) for rows in families.values()]
    figure, axes = plt.subplots(
        len(families), 1, figsize=(WIDTH, 0.8 + sum(0.36 * h + 0.6 for h in heights)), layout="constrained",
        squeeze=False, height_ratios=heights,
    )  # fmt: skip
    sides = {name: BETTER_SIDE[metric_of(name).better] for name in families}
    alike = len(set(sides.values())) == 1
    for panel, (name, rows) in zip(axes[:, 0], families.items(), strict=True):
        _forest_panel(panel, rows, _claims(result, name), looks, result.baseline)
        known = metric_of(name)
        unit = f" ({known.unit})" if known.unit else ""
        panel.set_title(f"Difference in {known.label}{unit}" + ("" if alike else f"; {sides[name]}"))
    figure.supxlabel("arm minus the other" + (f"; {sides[name]}" if alike else ""), fontsize=9)
    return figure


BETTER_SIDE = {
    "lower": "left of 0 is better",
    "higher": "right of 0 is better",
    None: "neither side is better",
}


class Claimed(typing.NamedTuple):
    """Where a claim says that a difference lies."""

    region: tuple[float, float]
    paper: float | None


def _claims(result: Result, metric: str) -> dict[tuple[str, str], Claimed]:
    """By (arm, against), and by the reverse, in which the same comparison may be drawn."""
    found: dict[tuple[str, str], Claimed] = {}
    for expected in result.expected:
        if expected.metric == metric:
            (low, high), paper = region_of(expected), expected.paper_value
            arm, against = expected.arm, result.plan.rival(expected)
            found[arm, against] = Claimed((low, high), paper)
            found.setdefault((against, arm), Claimed((-high, -low), None if paper is None else -paper))
    return found


def _forest_panel(
    axes: "Axes",
    rows: list[Difference],
    claims: dict[tuple[str, str], Claimed],
    looks: dict[str, dict[str, Any]],
    baseline: str,
) -> None:
    ends = [0.0]
    for d in rows:
        ends += [end for end in (d.low, d.mean, d.high) if end is not None and math.isfinite(end)]
        claim = claims.get((d.arm, d.against))
        ends += [claim.paper] if claim and claim.paper is not None else []
        ends += [end for end in (claim.region if claim else ()) if math.isfinite(end)]
    room = 0.08 * ((max(ends) - min(ends)) or 1.0)
    left, right = min(ends) - room, max(ends) + room
    for row, d in enumerate(rows):
        claim, look = claims.get((d.arm, d.against)), looks.get(d.arm, {"color": INK})
        if claim:
            low, high = (min(max(end, left), right) for end in claim.region)
            axes.barh(row, high - low, left=low, height=0.72, color=FAINT, alpha=0.75, zorder=0.5)
            if claim.paper is not None:
                axes.plot(
                    claim.paper, row, marker="D", markersize=6, markerfacecolor="none", markeredgecolor=INK,
                    markeredgewidth=1.1, linestyle="",
                )  # fmt: skip
        if d.low is not None and d.high is not None:
            axes.plot([d.low, d.high], [row, row], color=look["color"], linewidth=2, solid_capstyle="butt")
        axes.plot(d.mean, row, marker="o", color=look["color"], markersize=6, linestyle="")
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlim(left, right)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    names = [d.arm if d.against in (baseline, "") else f"{d.arm} - {d.against}" for d in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
