"""The figure of a skill against what arms have to hold it in: each arm at its own size, at its records' numbers."""

import dataclasses
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import pytest

from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.show.figures.capacity import capacity


@pytest.fixture
def bare(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


def asked(bare: Result, levels: int, **sizes: int) -> Result:
    """Every arm's nats grow by its number in the list and by the level; `sizes` of the arms by their number."""
    arms = {}
    for number, (name, arm) in enumerate(bare.arms.items()):
        values = {"answer_nats": dict.fromkeys(arm.seeds, 1 + number / 10)}
        values |= {f"answer_nats_level{i}": dict.fromkeys(arm.seeds, i + number / 10) for i in range(1, levels + 1)}
        plan = dataclasses.replace(arm.plan, **{key: size * (number + 1) for key, size in sizes.items()})
        arms[name] = dataclasses.replace(arm, values=arm.values | values, plan=plan)
    return dataclasses.replace(bare, arms=arms)


def test_nothing_is_drawn_where_nothing_was_asked_or_all_are_of_one_size(bare: Result) -> None:
    assert capacity(bare) is None
    assert capacity(asked(bare, 3)) is None


@pytest.mark.parametrize(
    ("sizes", "label"),
    [
        ({"kv_bytes": 64}, "KV bytes per token"),
        ({"total_params": 1000}, "parameters"),
        ({"kv_bytes": 64, "total_params": 1000}, "KV bytes per token"),
    ],
)
def test_each_arm_stands_at_its_own_size(bare: Result, sizes: dict[str, int], label: str) -> None:
    result = asked(bare, 3, **sizes)
    figure = capacity(result)
    assert figure is not None and figure.get_supxlabel() == label
    assert [axes.get_title() for axes in figure.axes] == ["level 1", "level 2", "level 3"]
    arms = [name for name, arm in result.arms.items() if arm.kind == "arm"]
    size = next(iter(sizes.values()))
    for level, axes in enumerate(figure.axes, start=1):
        means = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
        assert list(means) == arms
        for name, line in means.items():
            number = list(result.arms).index(name)
            assert list(line.get_xdata()) == [size * (number + 1)]  # none beside another
            assert list(line.get_ydata()) == pytest.approx([level + number / 10])
            assert f"{level + number / 10:.4f} with " in unquote(line.get_gid() or "")
    plt.close(figure)


def test_one_level_is_one_panel(bare: Result) -> None:
    figure = capacity(asked(bare, 1, kv_bytes=64))
    assert figure is not None and len(figure.axes) == 1
    plt.close(figure)
