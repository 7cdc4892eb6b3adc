"""Differences at equal cost, on losses whose dependence on tokens is known."""

import math
import random
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json, write_json
from ablations.judge.equal_cost import Ratio, at_equal_cost, stretch, time_ratio
from ablations.judge.gather import load_result
from ablations.judge.stats import Difference, differences
from ablations.record.documents import Speed, SweepState
from ablations.show.page import page_html
from ablations.show.sections import costs
from ablations.show.sections.costs import equal_cost_table
from ablations.show.sections.every import all_tables

SLOPE, EFFECT = -0.4, -0.05
"""Nats per ln(tokens); what the arm gains at equal tokens."""
PAIRS = [("arm", "base"), ("control", "base")]


def losses(noise: float) -> dict[str, dict[int, float]]:
    draw = random.Random(0)
    own = {"base": 0.0, "arm": EFFECT, "control": SLOPE * math.log(0.9)}
    seeds = {seed: draw.gauss(0, 0.1) for seed in range(6)}
    return {arm: {s: 3 + mean + at + draw.gauss(0, noise) for s, at in seeds.items()} for arm, mean in own.items()}


@pytest.mark.parametrize("cost", [0.5, 1.5, 3.0])
def test_a_known_slope_moves_the_difference(cost: float) -> None:
    """Had the arm had 1 / cost of the tokens, its loss would be higher by SLOPE ln(1 / cost)."""
    moved = at_equal_cost(losses(1e-6), {"arm": cost}, [PAIRS], "base", "control", 0.9)["arm"]
    assert moved.mean == pytest.approx(EFFECT + SLOPE * math.log(1 / cost), abs=1e-4)


def test_at_the_same_cost_it_is_the_difference_itself() -> None:
    found = losses(0.01)
    assert (
        at_equal_cost(found, {"arm": 1.0}, [PAIRS], "base", "control", 0.9)["arm"]
        == differences(found, PAIRS, "loss")[0]
    )


def test_the_slopes_noise_widens_the_interval() -> None:
    at = {c: at_equal_cost(losses(0.01), {"arm": c}, [PAIRS], "base", "control", 0.9)["arm"].sd for c in (1.0, 2.0)}
    assert at[2.0] > 3 * at[1.0]


def test_what_slows_a_whole_round_down_cancels() -> None:
    draw = random.Random(1)
    slow = [math.exp(draw.gauss(0, 0.5)) for _ in range(15)]
    assert time_ratio([1.2 * s for s in slow], slow).ends == pytest.approx((1.2, 1.2, 1.2))
    low, middle, high = time_ratio([draw.gauss(1.2, 0.1) for _ in slow], [draw.gauss(1.0, 0.1) for _ in slow]).ends
    assert low < middle < high and low < 1.2 < high and high - low < 0.4


@pytest.mark.parametrize(
    ("cost", "times"),
    [(1.0, 0.0), (1 / 0.9, 1.0), (0.9, 1.0), (1.31, 2.56), (1 / 1.31, 2.56), (1.5, 3.85), (1.51, None), (0.66, None)],
)
def test_a_slope_is_stretched_by_so_much_and_no_farther(cost: float, times: float | None) -> None:
    assert stretch(cost, 0.9) == (times if times is None else pytest.approx(times, abs=0.01))


@pytest.mark.parametrize(
    ("ends", "cell"),
    [
        ((1.05,) * 3, "-0.0100"),
        ((1.31,) * 3, "-0.0100 (extrapolated 2.6x)"),
        ((1.2, 1.3, 1.4), "-0.0100 (extrapolated 3.2x)"),
        ((1.45, 1.49, 1.52), "-"),
        ((0.5,) * 3, "-"),
    ],
)
def test_the_cell_itself_says_that_it_is_extrapolated(ends: tuple[float, float, float], cell: str) -> None:
    d = Difference("arm", "base", "loss", 6, -0.01, 0.01, 0.02, -0.02, 0.0, 0.1, 0.1, 0.9, 0.01)
    said = costs._moved(Ratio(ends), [d] * 3, 0.9)
    assert said[1] == cell and (said[2] == "-") == (cell == "-")
    assert said[0].startswith(f"{ends[1]:.2f}"), "the cost itself is known"


def test_the_table_says_what_is_known(sweep_run: Any, tmp_path: Path) -> None:
    """Of equal FLOPs: times alone, an interval that holds those at both ends; nothing where the control is not seen."""
    folder = sweep_run(tmp_path)
    assert equal_cost_table(load_result(tmp_path, "moe_balance", "cpu")).rows == []
    state = SweepState.read(folder)
    for name in state.speed:
        slower = 1.3 if name == "bias" else 1.0
        rounds = [1e-4 * slower * (1 + 0.02 * (k % 3) * (name != "aux_loss")) for k in range(15)]
        state.speed[name] = Speed(1 / min(rounds), rounds)
    state.write(folder)
    result = load_result(tmp_path, "moe_balance", "cpu")
    table = equal_cost_table(result)
    row = dict(zip(table.columns, next(row for row in table.rows if row[0] == "bias"), strict=True))
    assert row["training time of aux_loss"].startswith("1.33 [1.30, 1.35]") and "training FLOPs of aux_loss" not in row
    assert table in all_tables(result).values() and table.title in page_html(result, [], [])
    trained, harm = result.difference("bias"), result.difference("control")
    assert trained is not None and harm is not None
    slope = harm.mean / math.log(0.9)
    moved, _, stretched = row["difference at equal time"].partition(" ")
    assert float(moved) == pytest.approx(trained.mean - slope * math.log(1.326), abs=2e-4)
    assert stretched == f"(extrapolated {math.log(1.352) / -math.log(0.9):.1f}x)"
    low, high = (float(end) for end in row["95 % interval"].strip("[]").split(", "))
    assert low < trained.mean - slope * math.log(1.30) and high > trained.mean - slope * math.log(1.352)
    for record in (tmp_path / "trials").glob("*/record.json"):
        content = read_json(record)
        if content["id"] in {trial.id for trial in state.confirm if trial.arm == "control"}:
            content["metrics"]["loss"] -= 1
            write_json(record, content)
    assert equal_cost_table(load_result(tmp_path, "moe_balance", "cpu")).rows == []
