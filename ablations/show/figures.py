"""The figures of a result, drawn from a `Result` alone, as SVG and PNG.

Text stays text in the SVG, so that `page.py` can recolour it for a dark page. Equal results give equal SVG bytes.
"""

import dataclasses
import io

from ablations.judge.result import Result
from ablations.show.curves import length_curves, loss_curves, max_vio_curves
from ablations.show.loads import load_map
from ablations.show.marks import marked
from ablations.show.palette import STYLE
from ablations.show.pipeline import memory, timelines
from ablations.show.points import forest, frontier


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure with what a page says beside it."""

    name: str
    caption: str
    svg: bytes
    png: bytes


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
            svg, png = io.BytesIO(), io.BytesIO()
            figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
            figure.set_layout_engine("none")  # It is laid out; a second time would double the cost.
            figure.savefig(png, format="png", dpi=160, facecolor="white", metadata={"Software": None})
            plt.close(figure)
            pictures.append(Picture(name, caption, marked(svg.getvalue().decode()).encode(), png.getvalue()))
    return pictures


_FIGURES = {
    "differences": (
        forest,
        "Paired differences with simultaneous 95 % intervals; the small points below each are its seeds. Shaded: where "
        "the claim would hold. Hollow diamond: the paper's own difference. Grey: the control (a known harm) and the "
        "A/A arm (no change).",
    ),
    "loss": (
        loss_curves,
        "Mean over seeds, band: lowest to highest seed. Lower panel: each seed minus the baseline of the same seed, "
        "smoothed; markers are the validation set. A cross ends a diverged trial.",
    ),
    "lengths": (
        length_curves,
        "Effect against the length of the training, with simultaneous 95 % intervals: whether it fades, grows or turns "
        "round.",
    ),
    "max_vio": (
        max_vio_curves,
        "How uneven the experts' load is in training. Mean over seeds, band: lowest to highest.",
    ),
    "frontier": (
        frontier,
        "Loss against balance. Left: every searched point. Right: the confirmed arms, as paired differences with "
        "simultaneous intervals.",
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
