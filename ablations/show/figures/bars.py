"""Many bars as one path. An SVG element for each would make a timeline of a long run megabytes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.legend_handler import HandlerBase
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform

Span = tuple[float, float, float]
"""Start, end, and the row that the bar is centred on."""


class CompactPath(PathPatch):
    """A path in data coordinates, written with two decimals of a pixel."""

    inset = 0.0
    """Points that both ends of a bar give up, so that neighbours stay apart on any ground."""

    def draw(self, renderer: RendererBase) -> None:
        path = self.get_path()
        points = np.asarray(self.get_transform().transform(np.asarray(path.vertices)))
        if self.inset:
            starts, ends = points[::2, 0], points[1::2, 0]
            give = np.minimum(renderer.points_to_pixels(self.inset), 0.08 * (ends - starts))
            points[::2, 0], points[1::2, 0] = starts + give, ends - give
        rounded = Path(np.round(points, 2), path.codes)
        rounded.should_simplify = False  # It would drop bars.
        gc = renderer.new_gc()
        gc.set_foreground(self.get_edgecolor(), isRGBA=True)
        gc.set_linewidth(float(self.get_linewidth()))
        gc.set_capstyle("butt")
        gc.set_joinstyle("round")
        gc.set_snap(False)
        face: Any = self.get_facecolor() if self.get_fill() else None
        renderer.draw_path(gc, rounded, IdentityTransform(), face)
        gc.restore()


def draw_bars(axes: Axes, spans: Sequence[Span], height: float, inset: float = 0.2, **look: Any) -> CompactPath:
    """Bars `height` points high. They are thick lines: half of the numbers that rectangles need."""
    vertices = np.array([((start, row), (end, row)) for start, end, row in spans]).reshape(-1, 2)
    bars = CompactPath(Path(vertices, [Path.MOVETO, Path.LINETO] * len(spans)), fill=False, linewidth=height, **look)
    bars.inset = inset
    axes.add_artist(bars)
    return bars


def draw_steps(axes: Axes, points: Sequence[tuple[float, float]], **look: Any) -> CompactPath:
    """A filled step line: each value holds until the next point. The first and the last are the ground."""
    outline = [points[0]]
    for time, value in points[1:]:
        outline += [(time, outline[-1][1]), (time, value)]
    area = CompactPath(Path(np.array(outline)), **look)
    axes.add_artist(area)
    return area


class Halves(HandlerBase):
    """A legend's key of two colours, one above the other."""

    def create_artists(
        self, legend: Any, orig_handle: Any, xdescent: float, ydescent: float, width: float, height: float,
        fontsize: float, trans: Any,
    ) -> list[Any]:  # fmt: skip
        return [
            Rectangle(
                (-xdescent, -ydescent + at * height), width, height / 2, transform=trans, linewidth=0,
                facecolor=patch.get_facecolor(),
            )
            for patch, at in zip(orig_handle, (0.5, 0.0), strict=True)
        ]  # fmt: skip
