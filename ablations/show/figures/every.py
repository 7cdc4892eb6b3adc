"""The figures of a result, drawn from a `Result` alone, as SVG and PNG.

Text stays text in the SVG, so that `page.py` can recolour it for a dark page. Equal results give equal SVG bytes.
"""

import dataclasses
import io
import typing

from ablations.judge.result import Result
from ablations.show.figures.capacity import capacity
from ablations.show.figures.context import needle_map, position_curves
from ablations.show.figures.curves import length_curves, loss_curves, max_vio_curves
from ablations.show.figures.loads import load_map
from ablations.show.figures.marks import marked
from ablations.show.figures.palette import NARROW_STYLE, STYLE
from ablations.show.figures.pipeline import memory, timelines
from ablations.show.figures.points import forest, frontier
from ablations.show.figures.rewards import reward_curves

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with what a page says beside it."""

    name: str
    caption: str
    svg: bytes
    png: bytes
    narrow: bytes | None = None
    """The SVG that fits a phone; a picture that has no such form is scrolled there."""


def draw_figures(result: Result) -> list[Picture]:
    """Every figure that has something to show; none for a sweep without a finished trial."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    pictures = []
    with matplotlib.rc_context(STYLE):
        for name, (draw, caption) in _FIGURES.items():
            figure = draw(result)
            if figure is None:
                continue
            svg, png = _svg(figure), io.BytesIO()
            figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
            plt.close(figure)
            pictures.append(Picture(name, caption, svg, png.getvalue()))
    with matplotlib.rc_context(NARROW_STYLE):
        return [_with_narrow(picture, result) for picture in pictures]


def _svg(figure: "Figure") -> bytes:
    lay_out(figure)
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return marked(svg.getvalue().decode()).encode()


def lay_out(figure: "Figure") -> None:
    """Once, to a ten-thousandth of a pixel: the solver's last digits depend on where in memory it keeps what."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
    for axes in figure.axes:
        left, bottom, width, height = (round(side, 7) for side in axes.get_position().bounds)
        axes.set_position((left, bottom, width, height))


def _with_narrow(picture: Picture, result: Result) -> Picture:
    import matplotlib.pyplot as plt

    figure = _FIGURES[picture.name][0](result) if picture.name not in BROAD else None
    if figure is None:
        return picture
    narrow = _svg(figure)
    plt.close(figure)
    return dataclasses.replace(picture, narrow=narrow)


BROAD = ("timelines", "memory")
"""Figures of so much detail that they have no narrow form."""


_FIGURES = {
    "differences": (
        forest,
        "Paired differences with simultaneous 95 % intervals; the small points below each are its seeds. Shaded: where "
        "the claim would hold. Hollow diamond: the paper's own difference. Grey: the control (a known harm) and the "
        "A/A arm (no change).",
    ),
    "capacity": (
        capacity,
        "What is answered against what there is to hold it in; lower is better. Hollow: mean of an arm; small points: "
        "its seeds. Arms of about one size stand side by side.",
    ),
    "loss": (
        loss_curves,
        "Mean over seeds, band: lowest to highest seed. Lower panel: each seed minus the baseline of the same seed, "
        "smoothed; markers are the validation set. A cross ends a diverged trial.",
    ),
    "rewards": (
        reward_curves,
        "What becomes of the answers that a model is rewarded for. Mean over seeds, band: lowest to highest seed, "
        "smoothed.",
    ),
    "lengths": (
        length_curves,
        "Effect against the length of the training, with simultaneous 95 % intervals: whether it fades, grows or turns "
        "round.",
    ),
    "positions": (
        position_curves,
        "Loss by how many tokens stand before the one that is predicted; each point is a bin that ends there. Lower "
        "panel: each seed minus the baseline of the same seed, band: lowest to highest.",
    ),
    "needles": (
        needle_map,
        "How surely a passkey is found that stands at a depth of a context of test text (0 %: at its beginning): by "
        "how much its tokens are likelier than others drawn in the same way, mean over seeds. Pale: not found.",
    ),
    "max_vio": (
        max_vio_curves,
        "How uneven the experts' load is in training. Mean over seeds, band: lowest to highest.",
    ),
    "frontier": (
        frontier,
        "Loss against balance: every searched point, and the confirmed arms, as paired differences with simultaneous "
        "intervals.",
    ),
    "timelines": (
        timelines,
        "What each rank does when, in chunks of measured lengths; a number is a microbatch. Hatched: bubbles. Pale: a "
        "rank's second stage, or the second direction.",
    ),
    "memory": (
        memory,
        "Activations that each rank holds over the step, in those of one microbatch in a rank's share of the layers.",
    ),
    "load": (load_map, "Load of each expert on the test split relative to the mean (1.0), mean over seeds."),
}
