"""The curves of rewards: of arms that learn from them, over the steps that do, at their records' numbers."""

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.show.figures.rewards import PANELS, reward_curves
from models.post_training.config import OF_ANSWERS


@pytest.fixture
def bare(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


def rewarded(bare: Result, names: list[str], kl: float = 0.25) -> Result:
    """Arms whose reward is their number in the list in each of the steps 41 to 45."""
    arms = dict(bare.arms)
    for number, name in enumerate(names, start=1):
        columns = {column: [float(number)] * 5 for column in OF_ANSWERS} | {"kl": [kl] * 5}
        answering = {"step": [41.0, 42.0, 43.0, 44.0, 45.0], **columns}
        records = {s: dataclasses.replace(r, answering=answering) for s, r in arms[name].records.items()}
        arms[name] = dataclasses.replace(arms[name], records=records)
    return dataclasses.replace(bare, arms=arms)


def test_nothing_is_drawn_where_nothing_is_rewarded(bare: Result) -> None:
    assert reward_curves(bare) is None


def test_each_arm_that_is_rewarded_has_its_curve(bare: Result) -> None:
    names = [name for name, arm in bare.arms.items() if arm.kind != "aa"][:2]
    figure = reward_curves(rewarded(bare, names))
    assert figure is not None and [axes.get_title() for axes in figure.axes] == list(PANELS.values())
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == names
    for number, line in enumerate(lines, start=1):
        assert list(line.get_xdata()) == [1, 2, 3, 4, 5] and list(line.get_ydata()) == pytest.approx([number] * 5)
    plt.close(figure)


def test_a_kl_that_was_not_reckoned_is_no_kl_of_nothing(bare: Result) -> None:
    figure = reward_curves(rewarded(bare, [bare.baseline], kl=0.0))
    assert figure is not None
    assert [len(axes.lines) for axes in figure.axes] == [1, 1, 0, 1]
    plt.close(figure)
