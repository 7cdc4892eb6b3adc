"""What a model's own answers become while it learns from their rewards."""

import typing

from ablations.judge.result import Result
from ablations.show.figures.curves import band, curves_of, smoothed
from ablations.show.figures.palette import is_narrow, legend, look_of, width

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "reward": "Mean reward",
    "answer_length": "Tokens of an answer",
    "kl": "KL from the reference model",
    "without_signal": "Share of groups without signal",
}
"""Of OF_ANSWERS (models/post_training/config.py), which says what each is."""


def reward_curves(result: Result) -> "Figure | None":
    """Over the steps of the stage that learns from rewards; None where none does."""
    import matplotlib.pyplot as plt

    curves = {
        name: {column: curves_of(arm, column, "answering") for column in PANELS}
        for name, arm in result.arms.items()
        if arm.kind != "aa"
    }
    shown = {name: columns for name, columns in curves.items() if columns["reward"] is not None}
    if not shown:
        return None
    looks = look_of(result)
    rows, wide = (len(PANELS), 1) if is_narrow() else (2, 2)
    figure, axes = plt.subplots(rows, wide, figsize=(width(), 2.3 * rows + 0.6), sharex=True, layout="constrained")
    for panel, (column, title) in zip(axes.flat, PANELS.items(), strict=True):
        for name, columns in shown.items():
            found = columns[column]
            if found is not None and (column != "kl" or found[1].any()):  # without a weight it is not reckoned
                steps, values = found
                smooth = smoothed(values, max(1, len(steps) // 10))
                band(panel, steps - steps[0] + 1, smooth, looks[name], name, crowd=len(shown))
        panel.set_title(title)
    for panel in axes.flat[-wide:]:
        panel.set_xlabel("step with rewards")
    legend(figure, axes.flat[0])
    return figure
