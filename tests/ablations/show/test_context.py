"""Tables and figures of contexts: there where records have them, with the records' numbers."""

import dataclasses
from pathlib import Path

import pytest

from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.record.record import Needles
from ablations.show.figures.context import needle_map, position_curves
from ablations.show.figures.marks import marked
from ablations.show.sections.context import context_costs_table, contexts_table, positions_table
from models.config import ModelConfig
from models.cost import cost

LENGTHS, DEPTHS = [64, 128], [0.0, 1.0]


@pytest.fixture
def bare(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


@pytest.fixture
def result(bare: Result) -> Result:
    """Every arm's loss grows by its number in the list and by position; its passkeys' margin falls with length."""
    arms = {}
    for number, (name, arm) in enumerate(bare.arms.items()):
        values = {f"loss_to_{end}": dict.fromkeys(arm.seeds, 3 + number / 10 + end / 1000) for end in (16, 32, 64, 128)}
        values |= {f"passkey_margin_{n}": dict.fromkeys(arm.seeds, number + n / 1000) for n in LENGTHS}
        values |= {f"recall_nats_{n}": dict.fromkeys(arm.seeds, 2.0) for n in LENGTHS}
        needles = Needles(LENGTHS, DEPTHS, [[9.0, 9.0]] * 2, [[number + 0.5, 0.25], [0.125, -0.5]])
        config = {"model": dataclasses.asdict(ModelConfig())}
        records = {s: dataclasses.replace(r, needles=needles, config=config) for s, r in arm.records.items()}
        arms[name] = dataclasses.replace(arm, values=arm.values | values, records=records)
    return dataclasses.replace(bare, arms=arms)


def test_what_was_not_measured_is_not_shown(bare: Result) -> None:
    assert not any(table(bare).rows for table in (positions_table, contexts_table, context_costs_table))
    assert position_curves(bare) is None and needle_map(bare) is None


def test_tables_hold_each_arms_means(result: Result) -> None:
    positions, contexts = positions_table(result), contexts_table(result)
    assert positions.columns[1:5] == ["1 to 16", "17 to 32", "33 to 64", "65 to 128"]
    for number, (name, row, other) in enumerate(zip(result.arms, positions.rows, contexts.rows, strict=True)):
        assert row[:5] == [name, *(f"{3 + number / 10 + end / 1000:.4f}" for end in (16, 32, 64, 128))]
        assert other == [name, f"{number + 0.064:.3f}", f"{number + 0.128:.3f}", "2.000", "2.000"]


def test_costs_of_arms_that_cost_alike_are_one_row(result: Result) -> None:
    (row,) = context_costs_table(result).rows
    assert row[0] == "all" and row[1:] != row[2:] + row[1:2]
    cache = cost(ModelConfig(), 64).kv_bytes * 128
    assert row[-1] == f"{cache / 1000:.3g}k", "twice the tokens, twice the cache"


def test_a_panel_for_each_arm_and_a_row_of_cells_for_each_depth(result: Result) -> None:
    import io

    import matplotlib

    matplotlib.use("Agg")
    figure = needle_map(result)
    assert figure is not None
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [name for name, arm in result.arms.items() if arm.kind != "aa"]
    first = figure.axes[1].collections
    assert [cells.get_array().tolist() for cells in first] == [[1.5, 0.125], [0.25, -0.5]], "depths x lengths"
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    assert f"{titles[1]}, depth 0%: 1.50 in 64, 0.12 in 128" in marked(svg.getvalue())


def test_curves_show_each_arm_and_its_difference(result: Result) -> None:
    figure = position_curves(result)
    assert figure is not None
    top, below = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in top.lines}
    for number, (name, arm) in enumerate(result.arms.items()):
        if arm.kind != "aa":
            assert drawn[name] == pytest.approx([3 + number / 10 + end / 1000 for end in (16, 32, 64, 128)])
    apart = {line.get_label(): list(line.get_ydata()) for line in below.lines}
    second = list(result.arms)[1]
    assert apart[second] == pytest.approx([0.1] * 4)
