"""How figures look: colours, line styles and type, the same for an arm in every figure.

Colours are Okabe and Ito's (told apart by colour-blind readers); the baseline is ink, the control and the A/A arm are
grey.
"""

import typing
from typing import Any

from ablations.judge.result import Result
from ablations.show.figures.marks import mark_as

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, FAINT = "#1b1f24", "#6b727b", "#d5d9de"
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
LINES: list[Any] = ["-", (0, (6, 1.5)), (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (2, 1))]
WIDTH, NARROW = 9.5, 3.9
"""Inches: of a figure in a page's column, and of one on a phone, so that type is about as large as the page's."""

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
    "figure.figsize": (WIDTH, 4.0),
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
NARROW_STYLE: Any = STYLE | {
    "figure.figsize": (NARROW, 4.0),
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "path.simplify_threshold": 0.8,
}


def width() -> float:
    """Inches that a figure of the style in force has."""
    import matplotlib

    return float(matplotlib.rcParams["figure.figsize"][0])


def is_narrow() -> bool:
    return width() < 5.0


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
            turn, colour = divmod(index, len(COLOURS))  # a colour that comes again has another line and marker
            marker = MARKERS[1:][(colour + turn) % (len(MARKERS) - 1)]
            looks[name] = {"color": COLOURS[colour], "linestyle": LINES[turn % len(LINES)], "marker": marker}
            index += 1
    return looks


def legend(figure: "Figure", *panels: "Axes") -> None:
    """One legend above the panels, from the names that they drew; a name is of the arm that it is drawn for."""
    from matplotlib.offsetbox import HPacker, TextArea

    named: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    size, letter, handle = (7.5, 0.06, 0.42) if is_narrow() else (8.5, 0.07, 0.5)
    widest = handle + letter * max(map(len, named), default=0)  # inches, gap included
    columns = max(1, min(len(named), 6, int(width() / widest)))
    shown = figure.legend(
        list(named.values()), list(named), loc="outside upper left", ncols=columns, handlelength=1.8,
        columnspacing=1.4, fontsize=size, borderaxespad=0.2,
    )  # fmt: skip
    for entry in shown.findobj(HPacker):
        text = next((part for part in entry.get_children() if isinstance(part, TextArea)), None)
        if text is not None:
            mark_as(entry.findobj(), named[text.get_text()])
