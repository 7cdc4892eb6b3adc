"""How figures look: colours, line styles and type, the same for an arm in every figure.

Colours are Okabe and Ito's (told apart by colour-blind readers); the baseline is ink, the control and the A/A arm are
grey.
"""

import typing
from typing import Any

from ablations.judge.result import Result
from ablations.show.marks import mark_as

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1b1f24", "#6b727b", "#d5d9de"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
WIDTH = 7.0
"""Inches; at 100 dpi the 700 pixels that a page gives a figure."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "v3-ablations",
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


def look_of(result: Result) -> dict[str, dict[str, Any]]:
    """Per arm: colour, line style, marker, the same in every figure."""
    looks: dict[str, dict[str, Any]] = {}
    index = 0
    for name, arm in result.arms.items():
        if name == result.baseline:
            looks[name] = {"color": INK, "linestyle": "-", "marker": "o"}
        elif arm.kind == "control":
            looks[name] = {"color": MUTED, "linestyle": (0, (4, 2)), "marker": "x"}
        elif arm.kind == "aa":
            looks[name] = {"color": MUTED, "linestyle": (0, (1, 1.5)), "marker": "+"}
        else:
            marker = MARKERS[1:][index % (len(MARKERS) - 1)]
            looks[name] = {"color": COLOURS[index % len(COLOURS)], "linestyle": "-", "marker": marker}
            index += 1
    return looks


def legend(figure: "Figure", *panels: "Axes") -> None:
    """One legend above the panels, from the names that they drew; a name is of the arm that it is drawn for."""
    from matplotlib.offsetbox import HPacker, TextArea

    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    widest = 0.5 + 0.07 * max(map(len, named), default=0)  # inches, handle and gap included
    columns = max(1, min(len(named), 6, int(WIDTH / widest)))
    shown = figure.legend(
        list(named.values()), list(named), loc="outside upper left", ncols=columns, handlelength=1.8,
        columnspacing=1.4, fontsize=8.5, borderaxespad=0.2,
    )  # fmt: skip
    for entry in shown.findobj(HPacker):
        text = next((part for part in entry.get_children() if isinstance(part, TextArea)), None)
        if text is not None:
            mark_as(entry.findobj(), named[text.get_text()])
