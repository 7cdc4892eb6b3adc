"""What came out at the end: differences with intervals and each seed's own, loss against balance."""

import math
import statistics
import typing
from typing import Any

from ablations import numbers
from ablations.judge.families import by_seed
from ablations.judge.result import Result
from ablations.judge.stats import Difference
from ablations.judge.verdicts import region_of
from ablations.metrics import metric as metric_of
from ablations.show.figures.marks import mark
from ablations.show.figures.palette import FAINT, INK, MUTED, is_narrow, legend, look_of, width
from ablations.show.table import difference_cells

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


def frontier(result: Result) -> "Figure | None":
    """Left: the search, validation split. Right: the confirmation, test split, as paired differences."""
    import matplotlib.pyplot as plt

    looks = look_of(result)
    searched = search_points(result)
    panels = 2 if searched else 1
    shape, height = ((panels, 1), 2.6 * panels + 0.4) if is_narrow() else ((1, panels), 3.6)
    figure, axes = plt.subplots(*shape, figsize=(width(), height), layout="constrained", squeeze=False)
    right = axes.flat[-1]
    if searched:
        left = axes.flat[0]
        for name, points in searched.items():
            look = looks.get(name, {"color": MUTED, "marker": "o"})
            for max_vio, loss, chosen in points:
                face = look["color"] if chosen else "none"
                (point,) = left.plot(
                    max_vio, loss, marker=look["marker"], linestyle="", markersize=8 if chosen else 5.5,
                    markerfacecolor=face, markeredgecolor=look["color"], markeredgewidth=1.3,
                )  # fmt: skip
                mark(point, [name], f"{name}: {loss:.4f} at MaxVio_global {max_vio:.3f}")
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
        bars = right.errorbar(
            [balance], [mean], yerr=bar, color=looks[name]["color"], marker=looks[name]["marker"], markersize=7,
            linestyle="", linewidth=1.4, capsize=3, label=name,
        )  # fmt: skip
        for part in bars.get_children():
            mark(part, [name], f"{name}: {_said(d) if d else '0'} at MaxVio_global {balance:.3f}")
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
    """1, 2 and 5 of each power of ten; where fewer than three of them are in sight, whatever is round."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    powers = [digit * 10.0**power for power in range(-4, 4) for digit in (1, 2, 5)]
    coarse, fine = ([t for t in ticks if low <= t <= high] for ticks in (powers, MaxNLocator(4).tick_values(low, high)))
    axes.xaxis.set_major_locator(FixedLocator(coarse if len(coarse) > 2 else fine))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.tick_params(axis="x", labelsize=8.5)
    axes.set_xlabel("MaxVio_global")


def _said(d: Difference) -> str:
    """`+0.0041 [-0.0012, +0.0094]`"""
    return " ".join(difference_cells(d, metric_of(d.metric).digits)[:2])


def forest(result: Result) -> "Figure | None":
    """One panel per metric that a claim is about: differences, simultaneous intervals, regions, the paper's value."""
    import matplotlib.pyplot as plt

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
        len(families), 1, figsize=(width(), 0.8 + sum(0.32 * h + 0.6 for h in heights)), layout="constrained",
        squeeze=False, height_ratios=heights,
    )  # fmt: skip
    sides = {name: BETTER_SIDE[metric_of(name).better] for name in families}
    alike = len(set(sides.values())) == 1
    for panel, (name, rows) in zip(axes[:, 0], families.items(), strict=True):
        _forest_panel(panel, result, rows, _claims(result, name))
        known = metric_of(name)
        said = {*known.unit.split()} - {"a", "an"} <= {*known.label.split()}  # as of "nats of an answer"
        unit = "" if said else f" ({known.unit})"
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


def _forest_panel(axes: "Axes", result: Result, rows: list[Difference], claims: dict[tuple[str, str], Claimed]) -> None:
    looks, own = look_of(result), [by_seed(result.arms, result.plan, d) for d in rows]
    ends = [0.0, *(value for seeds in own for value in seeds.values() if math.isfinite(value))]
    for d in rows:
        ends += [end for end in (d.low, d.mean, d.high) if end is not None and math.isfinite(end)]
        claim = claims.get((d.arm, d.against))
        ends += [claim.paper] if claim and claim.paper is not None else []
        ends += [end for end in (claim.region if claim else ()) if math.isfinite(end)]
    room = 0.08 * ((max(ends) - min(ends)) or 1.0)
    left, right = min(ends) - room, max(ends) + room
    names = [d.arm if d.against in (result.baseline, "") else f"{d.arm} - {d.against}" for d in rows]
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
        drawn = axes.plot(d.mean, row, marker="o", color=look["color"], markersize=6, linestyle="")
        if d.low is not None and d.high is not None:
            drawn += axes.plot([d.low, d.high], [row, row], color=look["color"], linewidth=2, solid_capstyle="butt")
        arms = [name for name in (d.arm, d.against) if name in result.arms and name != result.baseline]
        for artist in drawn:
            mark(artist, arms, f"{names[row]}: {_said(d)}")
        mark(_seeds(axes, row, own[row], look), arms, *_said_of_seeds(d, own[row]))
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set_xlim(left, right)
    if is_narrow():
        axes.locator_params(axis="x", nbins=4)  # of five digits each, more would touch
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), names)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _seeds(axes: "Axes", row: int, own: dict[int, float], look: dict[str, Any]) -> "Line2D":
    """A small point for each seed, just below its row's interval."""
    (points,) = axes.plot(
        list(own.values()), [row + 0.24] * len(own), marker="o", markersize=2.8, markeredgewidth=0, linestyle="",
        color=look["color"], alpha=0.6, zorder=1.5,
    )  # fmt: skip
    return points


def _said_of_seeds(d: Difference, own: dict[int, float]) -> list[str]:
    digits = metric_of(d.metric).digits
    return [f"{d.arm}, seed {seed}: {numbers.signed(value, digits)}" for seed, value in own.items()]
