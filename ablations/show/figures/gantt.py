"""What pipeline schedules do over time: a row per rank, and the activations that each rank holds.

Panels share the time axis, so that their ends compare. Fills are translucent, so that ink reads on them on light
pages and on dark ones.
"""

import math
import typing
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ablations import numbers
from ablations.show.figures.palette import COLOURS, FAINT, INK, MUTED, width
from models.pipeline.schedules import Action, Overlapped, Schedule, parts
from models.pipeline.simulate import Timed, Timeline

if typing.TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ablations.show.figures.bars import Span

ACTIONS = {
    "F": (COLOURS[0], "F forward"),
    "B": (COLOURS[1], "B backward (I + W)"),
    "I": (COLOURS[4], "I input gradient"),
    "W": (COLOURS[2], "W weight gradient"),
}
FIRST, SECOND, GROUND = 0.7, 0.33, 0.55
"""Opacity of a rank's first stage or direction, of its second, and of bubbles."""

LEFT, RIGHT, TITLE, BETWEEN, AXIS, GAP = 30.0, 36.0, 16.0, 9.0, 32.0, 1.5
"""Points: margins, a panel's title, between panels, below the last one, between rows."""
NUMBER, DIGIT = 6.0, 0.64
"""Points of a microbatch's number, and a digit's width relative to that."""


def idle(timeline: Timeline, rank: int) -> list[tuple[float, float]]:
    """(start, end) of a rank's bubbles."""
    found, last, least = [], 0.0, 1e-9 * timeline.end
    for start, end in [*((timed.start, timed.end) for timed in timeline.ranks[rank]), (timeline.end, timeline.end)]:
        if start - last > least:
            found.append((last, start))
        last = end
    return found


def held(timeline: Timeline, rank: int) -> list[tuple[float, float]]:
    """(time, activations held from then on), from 0 to the end. 1.0 is a microbatch's through a rank's layers, of
    which each chunk of a V or an interleaved schedule has half; of DualPipe's two stages on a rank each is 1.0."""
    share = len(timeline.schedule.ranks) / timeline.schedule.stages
    return [(0.0, 0.0), *((time, share * chunks) for time, chunks in timeline.activations(rank)), (timeline.end, 0.0)]


def peak(timeline: Timeline, rank: int) -> float:
    return max(activations for _, activations in held(timeline, rank))


def timeline_figure(timelines: Mapping[str, Timeline], unit: str = "") -> "Figure":
    """A panel per schedule. `unit`: of the chunks' times, for the axis."""
    from ablations.show.figures.bars import Halves

    ranks = max(len(timeline.ranks) for timeline in timelines.values())
    row = min(14.0, 3.0 + 80.0 / ranks)
    keys = _keys(timelines)
    lines = 1 if len(keys) <= 4 else 2
    figure, panels = _panels(timelines, [row] * len(timelines), 10.0 + 13.0 * lines, unit)
    for axes, (name, timeline) in zip(panels, timelines.items(), strict=True):
        mean, longest = (numbers.percent(x, 1) for x in (timeline.bubble_share, timeline.longest_bubble_share))
        _title(axes, name, timeline, f"bubble {mean} (mean), {longest} (longest)")
        _draw_timeline(axes, timeline, row)
    figure.legend(
        list(keys.values()), list(keys), loc="upper left", bbox_to_anchor=(0, 1), ncols=math.ceil(len(keys) / lines),
        fontsize=8, handlelength=1.6, columnspacing=1.6, borderaxespad=0.2, handler_map={tuple: Halves()},
    )  # fmt: skip
    return figure


def memory_figure(timelines: Mapping[str, Timeline], unit: str = "") -> "Figure":
    """Activations held over time: a panel per schedule, a profile per rank with its peak beside it. Equal heights are
    equal memory, also where ranks differ in number and so in layers: a schedule that holds more takes more room."""
    from ablations.show.figures.bars import draw_steps

    peaks = {name: [peak(t, rank) for rank in range(len(t.ranks))] for name, t in timelines.items()}
    most = max(map(len, peaks.values()))
    room = sum(50.0 + 6.0 * len(of_ranks) for of_ranks in peaks.values())
    high = min(5.0, room / sum(most * max(of_ranks) for of_ranks in peaks.values()))
    rows = [high * most / len(of_ranks) * max(of_ranks) + GAP for of_ranks in peaks.values()]
    figure, panels = _panels(timelines, rows, 8.0, unit)
    for axes, row, (name, timeline) in zip(panels, rows, timelines.items(), strict=True):
        highest = max(peaks[name])
        scale = (row - GAP) / row / highest
        _title(axes, name, timeline, f"peak {highest:g}")
        for rank, value in enumerate(peaks[name]):
            points = [(time, rank + 0.5 - scale * activations) for time, activations in held(timeline, rank)]
            draw_steps(axes, points, facecolor=(COLOURS[0], 0.3), edgecolor=COLOURS[0], linewidth=0.6, label="held")
            if rank in axes.get_yticks():
                _beside(axes, timeline.end, rank, f"{value:g}", INK if value == highest else MUTED)
    return figure


def _panels(
    timelines: Mapping[str, Timeline], rows: Sequence[float], top: float, unit: str
) -> "tuple[Figure, list[Axes]]":
    """`rows`: the height of a rank's row, by panel. All places are known in points, so that bars and numbers fit."""
    from matplotlib.figure import Figure

    heights = [row * len(timeline.ranks) for row, timeline in zip(rows, timelines.values(), strict=True)]
    across, height = 72 * width(), top + sum(TITLE + h + BETWEEN for h in heights) - BETWEEN + AXIS
    figure, panels, at = Figure(figsize=(width(), height / 72)), [], height - top
    end = max(timeline.end for timeline in timelines.values())
    for timeline, row, panel in zip(timelines.values(), rows, heights, strict=True):
        at -= TITLE + panel
        axes = figure.add_axes((LEFT / across, at / height, 1 - (LEFT + RIGHT) / across, panel / height))
        at -= BETWEEN
        count = len(timeline.ranks)
        axes.set_xlim(0, end)
        axes.set_ylim(count - 0.5, -0.5)
        axes.set_yticks(range(0, count, math.ceil(8.5 / row)))
        axes.tick_params(axis="y", length=0, labelsize=7.5, pad=2)
        axes.tick_params(axis="x", length=0, labelbottom=False)
        axes.spines[:].set_visible(False)
        axes.grid(visible=False)
        axes.set_ylabel("rank", fontsize=8, color=MUTED, labelpad=3)
        panels.append(axes)
    panels[-1].tick_params(axis="x", length=3, labelbottom=True)
    panels[-1].spines["bottom"].set_visible(True)
    panels[-1].set_xlabel(f"time ({unit})" if unit else "time")
    return figure, panels


def _title(axes: "Axes", name: str, timeline: Timeline, fact: str) -> None:
    axes.set_title(name, pad=4)
    extent = f"{len(timeline.ranks)} ranks, {timeline.schedule.microbatches} microbatches, {fact}"
    axes.set_title(extent, loc="right", pad=4, fontsize=8.5, fontweight="normal")


def _draw_timeline(axes: "Axes", timeline: Timeline, row: float) -> None:
    from ablations.show.figures.bars import draw_bars

    height = row - GAP
    groups: dict[tuple[str, bool, float], list[Span]] = defaultdict(list)
    named: dict[tuple[str, bool, float], list[int]] = defaultdict(list)
    for rank, steps in enumerate(timeline.ranks):
        for timed in steps:
            for action, place in _places(timed):
                key = (action.kind, is_second(action, timeline.schedule), place)
                groups[key].append((timed.start, timed.end, rank + place * height / row))
                named[key].append(action.microbatch)
    empty = [(start, end, float(rank)) for rank in range(len(timeline.ranks)) for start, end in idle(timeline, rank)]
    if empty:
        draw_bars(axes, empty, height, inset=0, edgecolor=FAINT, alpha=GROUND, label="bubble")
    for (kind, second, place), spans in sorted(groups.items()):
        thick, label = (height / 2 - 0.3, "pair") if place else (height, "step")
        alpha = SECOND if second else FIRST
        draw_bars(axes, spans, thick, edgecolor=ACTIONS[kind][0], alpha=alpha, label=f"{label} {kind}")
        if _has_room(axes, spans, timeline.schedule.microbatches - 1, thick):
            _number(axes, spans, named[kind, second, place])
    end = f"{timeline.end:.4g}" if 1e-3 <= timeline.end < 1e4 else f"{timeline.end:.1e}"
    _beside(axes, timeline.end, (len(timeline.ranks) - 1) / 2, end, MUTED)


def is_second(action: Action, schedule: Schedule) -> bool:
    """Of the direction that enters at the last rank, or of the second stage that a microbatch meets on its rank."""
    return action.direction == 1 or action.stage >= len(schedule.ranks)


def _places(timed: Timed) -> list[tuple[Action, float]]:
    """The actions of a step, and where in the row: of a pair F in the upper half, B in the lower."""
    if isinstance(timed.step, Overlapped):
        return list(zip(parts(timed.step), (-0.25, 0.25), strict=True))
    return [(action, 0.0) for action in parts(timed.step)]


def _has_room(axes: "Axes", spans: "list[Span]", number: int, height: float) -> bool:
    """Whether `number` fits into each of these bars."""
    points = (72 * width() - LEFT - RIGHT) / axes.get_xlim()[1]
    narrowest = points * min(end - start for start, end, _ in spans)
    return height >= 0.9 * NUMBER and narrowest >= DIGIT * NUMBER * len(str(number)) + 1.0


def _number(axes: "Axes", spans: "list[Span]", microbatches: list[int]) -> None:
    for (start, end, place), microbatch in zip(spans, microbatches, strict=True):
        axes.text(
            (start + end) / 2, place, str(microbatch), fontsize=NUMBER, ha="center", va="center_baseline",
            parse_math=False,
        )  # fmt: skip


def _beside(axes: "Axes", end: float, row: float, words: str, colour: str) -> None:
    axes.annotate(
        words, (end, row), xytext=(4, 0), textcoords="offset points", va="center", fontsize=7.5, color=colour,
        annotation_clip=False,
    )  # fmt: skip


def _keys(timelines: Mapping[str, Timeline]) -> dict[str, Any]:
    """The legend's: what occurs in any panel."""
    from matplotlib.patches import Patch

    steps = [(t.schedule, timed.step) for t in timelines.values() for rank in t.ranks for timed in rank]
    actions = [(schedule, action) for schedule, step in steps for action in parts(step)]
    kinds = {action.kind for _, action in actions}

    def key(colour: str, alpha: float) -> Patch:
        return Patch(facecolor=(colour, alpha), linewidth=0)

    keys: dict[str, Any] = {label: key(c, FIRST) for kind, (c, label) in ACTIONS.items() if kind in kinds}
    if any(isinstance(step, Overlapped) for _, step in steps):
        keys["F&B overlapped"] = (key(ACTIONS["F"][0], FIRST), key(ACTIONS["B"][0], FIRST))
    keys["bubble"] = key(FAINT, GROUND)
    if any(is_second(action, schedule) for schedule, action in actions):
        keys["fainter: second stage or direction"] = key(ACTIONS["F"][0], SECOND)
    return keys
