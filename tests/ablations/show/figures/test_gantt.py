"""Timelines: what is drawn is what was simulated, as one can read it back from the artists and from the SVG."""

import io
import itertools
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text

from ablations.show.figures.bars import CompactPath, Span
from ablations.show.figures.every import Picture
from ablations.show.figures.gantt import ACTIONS, FIRST, SECOND, held, memory_figure, peak, timeline_figure
from ablations.show.figures.palette import FAINT, STYLE, WIDTH
from ablations.show.page import inline_svg
from models.pipeline.schedules import SCHEDULES, make_schedule, parts
from models.pipeline.simulate import Costs, Timeline, simulate

ODD = Costs(f=1.0, i=1.3, w=0.7, overlapped=2.6, transfer=0.11)
SVG = "{http://www.w3.org/2000/svg}"


def timeline_of(name: str, stages: int = 8, microbatches: int = 20, costs: Costs = ODD) -> Timeline:
    return simulate(make_schedule(name, stages, microbatches), costs)


@pytest.fixture(scope="module")
def timelines() -> dict[str, Timeline]:
    return {name: timeline_of(name) for name in SCHEDULES}


@pytest.fixture(scope="module")
def figure(timelines: dict[str, Timeline]) -> Iterator[Figure]:
    with matplotlib.rc_context(STYLE):
        yield timeline_figure(timelines)


def svg_of(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def words(svg: bytes) -> list[str]:
    return ["".join(node.itertext()).strip() for node in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn(figure: Figure, name: str) -> list[CompactPath]:
    axes = next(axes for axes in figure.axes if axes.get_title("left") == name)
    return [artist for artist in axes.get_children() if isinstance(artist, CompactPath)]


def spans_of(bars: CompactPath) -> list[Span]:
    """What `draw_bars` was given."""
    ends = np.asarray(bars.get_path().vertices).reshape(-1, 2, 2)
    return [(float(start), float(end), float(row)) for (start, row), (end, _) in ends]


def bars(figure: Figure, name: str) -> list[tuple[str, Span]]:
    return [(str(artist.get_label()), span) for artist in drawn(figure, name) for span in spans_of(artist)]


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_is_a_bar_from_its_start_to_its_end(
    name: str, figure: Figure, timelines: Mapping[str, Timeline]
) -> None:
    expected: Counter[tuple[str, float, float, int]] = Counter()
    for rank, steps in enumerate(timelines[name].ranks):
        for timed in steps:
            actions = parts(timed.step)
            label = "pair" if len(actions) == 2 else "step"
            expected.update((f"{label} {action.kind}", timed.start, timed.end, rank) for action in actions)
    found = Counter((label, *span[:2], round(span[2])) for label, span in bars(figure, name) if label != "bubble")
    assert found == expected
    for label, (_, _, row) in bars(figure, name):
        offset = row - round(row)
        assert 0.2 < {"pair F": -offset, "pair B": offset}.get(label, 0.25) < 0.3, "F above, B below"
        assert offset == 0 or label.startswith("pair")


@pytest.mark.parametrize("name", SCHEDULES)
def test_steps_and_bubbles_tile_every_ranks_row(name: str, figure: Figure, timelines: Mapping[str, Timeline]) -> None:
    timeline = timelines[name]
    empty = [span for label, span in bars(figure, name) if label == "bubble"]
    area = sum(end - start for start, end, _ in empty)
    assert area / (timeline.end * len(timeline.ranks)) == pytest.approx(timeline.bubble_share)
    for rank in range(len(timeline.ranks)):
        row = sorted({span[:2] for _, span in bars(figure, name) if round(span[2]) == rank})
        assert row[0][0] == 0 and row[-1][1] == timeline.end
        assert all(before[1] == pytest.approx(after[0]) for before, after in itertools.pairwise(row))


@pytest.mark.parametrize("name", SCHEDULES)
def test_colours_tell_actions_and_tints_tell_the_second_stage(name: str, figure: Figure) -> None:
    counts: Counter[float] = Counter()
    for artist in drawn(figure, name):
        label, alpha = str(artist.get_label()), artist.get_alpha()
        colour = FAINT if label == "bubble" else ACTIONS[label.split()[1]][0]
        assert to_rgba(artist.get_edgecolor(), 1) == to_rgba(colour)
        if label[-1] in "FBI" and alpha is not None:
            counts[alpha] += len(spans_of(artist))
    both = name in ("interleaved_1f1b", "zbv", "dualpipe", "dualpipev")
    assert counts[SECOND] == (counts[FIRST] if both else 0)


def test_dualpipes_two_directions_enter_at_the_two_ends(figure: Figure) -> None:
    found = {}
    for artist in drawn(figure, "dualpipe"):
        if artist.get_label() == "step F":
            found |= {rank: artist.get_alpha() for start, _, rank in spans_of(artist) if start == 0}
    assert found == {0: FIRST, 7: SECOND}


def test_the_svg_holds_all_bars_at_their_places(figure: Figure, timelines: Mapping[str, Timeline]) -> None:
    strokes: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for path in ET.fromstring(svg_of(figure)).iter(f"{SVG}path"):
        if float(re.findall(r"stroke-width: ([\d.]+)|$", path.get("style", ""))[0] or 0) > 2:
            ends = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.get("d", "")), dtype=float).reshape(-1, 4)
            strokes[FAINT in path.get("style", "")].append(ends[:, 2] - ends[:, 0])
    empty, steps = np.concatenate(strokes[True]), np.concatenate(strokes[False])
    everything = [pair for name in timelines for pair in bars(figure, name)]
    assert len(empty) + len(steps) == len(everything) > 3000
    width = 72 * WIDTH * figure.axes[0].get_position().width / max(t.end for t in timelines.values())
    assert empty.sum() / width == pytest.approx(
        sum(t.bubble(rank) for t in timelines.values() for rank in range(len(t.ranks))), rel=1e-3
    )
    full = sum(end - start for label, (start, end, _) in everything if label != "bubble")
    assert 0.8 * full < steps.sum() / width < 0.95 * full, "neighbours are kept apart"


def test_titles_ends_and_keys_are_text(figure: Figure, timelines: Mapping[str, Timeline]) -> None:
    text = words(svg_of(figure))
    for name, timeline in timelines.items():
        longest = max(map(timeline.bubble, range(len(timeline.ranks)))) / timeline.end
        bubbles = f"bubble {100 * timeline.bubble_share:.1f} % (mean), {100 * longest:.1f} % (longest)"
        facts = f"{len(timeline.ranks)} ranks, 20 microbatches, {bubbles}"
        assert {name, facts, f"{timeline.end:.4g}"} <= set(text)
    keys = {"F forward", "B backward (I + W)", "I input gradient", "W weight gradient", "F&B overlapped", "bubble"}
    assert keys <= set(text)
    with matplotlib.rc_context(STYLE):
        few = words(svg_of(timeline_figure({"1f1b": timelines["1f1b"]}, unit="ms")))
    assert keys & set(few) == {"F forward", "B backward (I + W)", "bubble"} and "time (ms)" in few


def numbers(axes: Axes) -> dict[tuple[float, float], Text]:
    """By the middle of the bar that they are in."""
    return {key(*text.get_position()): text for text in axes.texts if text.get_fontsize() == 6}


def key(time: float, row: float) -> tuple[float, float]:
    return round(time, 6), round(row, 6)


@pytest.mark.parametrize("name", ["1f1b", "zb1p", "dualpipe"])
def test_numbers_are_the_microbatches(name: str) -> None:
    timeline = timeline_of(name, 4, 8)
    with matplotlib.rc_context(STYLE):
        found = numbers(timeline_figure({name: timeline}).axes[0])
    expected: set[tuple[float, int, int]] = set()
    for rank, steps in enumerate(timeline.ranks):
        for timed in steps:
            middle = round((timed.start + timed.end) / 2, 6)
            expected |= {(middle, rank, action.microbatch) for action in parts(timed.step)}
    assert {(time, round(row), int(text.get_text())) for (time, row), text in found.items()} == expected


def test_numbers_fit_into_their_bars(figure: Figure) -> None:
    with matplotlib.rc_context(STYLE):
        renderer = FigureCanvasAgg(figure).get_renderer()
        checked = 0
        for axes in figure.axes:
            found = numbers(axes)
            for _, (start, end, row) in bars(figure, axes.get_title("left")):
                text = found.get(key((start + end) / 2, row))
                if text is not None:
                    (left, _), (right, _) = axes.transData.transform([(start, row), (end, row)])
                    assert text.get_window_extent(renderer).width < right - left
                    checked += 1
            assert len(axes.texts) == len(found) + 1, "and the end"
        assert 100 < checked == sum(len(numbers(axes)) for axes in figure.axes)


def test_numbers_without_room_are_left_out_and_the_file_stays_small() -> None:
    with matplotlib.rc_context(STYLE):
        svg = svg_of(timeline_figure({"zbv": timeline_of("zbv", 32, 40)}))
    assert sum(word.isdecimal() for word in words(svg)) < 20, "ranks and the axis"
    assert len(svg) < 150_000, "of 3840 steps"


@pytest.mark.parametrize("draw", [timeline_figure, memory_figure])
def test_equal_timelines_give_equal_bytes_and_follow_the_pages_colours(draw, timelines) -> None:
    with matplotlib.rc_context(STYLE):
        first, again = (svg_of(draw({name: timeline_of(name) for name in timelines})) for _ in range(2))
    assert first == again
    page = inline_svg(Picture("timeline", "What each rank does.", first, b""))
    assert re.findall(r"#[0-9a-fA-F]{6}\b", page) == [] and "var(--blue)" in page


PEAKS = {"gpipe": 20, "1f1b": 8, "zb1p": 8, "zbv": 4, "dualpipe": 9, "dualpipev": 4.5}
"""On 8 stages. V3's table 2: PP, PP and PP + 1, of a rank's layers each; chunks of a V are half of a rank's layers."""


@pytest.mark.parametrize("name", PEAKS)
def test_peaks_are_those_of_v3s_table_2(name: str, timelines: Mapping[str, Timeline]) -> None:
    assert max(peak(timelines[name], rank) for rank in range(len(timelines[name].ranks))) == PEAKS[name]


def test_equal_heights_of_profiles_are_equal_memory(timelines: Mapping[str, Timeline]) -> None:
    with matplotlib.rc_context(STYLE):
        figure = memory_figure(timelines)
    heights, peaks, of_the_model = [], [], []
    for axes, (name, timeline) in zip(figure.axes, timelines.items(), strict=True):
        row = axes.get_position().height / len(timeline.ranks)
        profiles = drawn(figure, name)
        assert len(profiles) == len(timeline.ranks)
        for rank, profile in enumerate(profiles):
            x, y = np.asarray(profile.get_path().vertices).T
            assert y.max() == y[0] == y[-1] == rank + 0.5 and (x[0], x[-1]) == (0, timeline.end)
            assert y.min() > rank - 0.5, "it stays in its row"
            peaks.append(peak(timeline, rank))
            heights.append((y.max() - y.min()) * row)
            area = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
            integral = sum(value * (b - a) for (a, value), (b, _) in itertools.pairwise(held(timeline, rank)))
            assert area * row / heights[-1] == pytest.approx(integral / peaks[-1])
            of_the_model.append(peaks[-1] / len(timeline.ranks))
        assert [float(text.get_text()) for text in axes.texts] == peaks[-len(timeline.ranks) :]
    assert len(timelines["zbv"].ranks) < len(timelines["zb1p"].ranks), "with more layers each"
    assert np.allclose(np.array(heights) / heights[0], np.array(of_the_model) / of_the_model[0])
