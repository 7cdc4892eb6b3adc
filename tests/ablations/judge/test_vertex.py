"""The vertex of the learning rates: where it is put, what is left out, and whether its bound holds."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablations.judge.gather import load_result
from ablations.judge.judging import with_search
from ablations.judge.vertex import Losses, vertex
from ablations.record.documents import SearchTrial
from ablations.show.sections.searched import chosen_table
from benchmarks.calibrated_intervals import normal
from benchmarks.calibrated_search import CELLS, Curve, calibrate

RATES = (0.00125, 0.00177, 0.0025, 0.00354, 0.005)
THREE = RATES[::2]


def losses(
    best: float, curvature: float, scatter: float, seeds: int, rates: tuple[float, ...] = RATES, draw: int = 0
) -> Losses:
    noise = np.random.default_rng(draw)
    level = noise.normal(0, 0.04, seeds)
    return {
        rate: {
            s: 3.8 + level[s] + curvature * math.log(rate / best) ** 2 + noise.normal(0, scatter) for s in range(seeds)
        }
        for rate in rates
    }


def test_levels_of_seeds_do_not_move_it() -> None:
    found = vertex(losses(0.002, 0.05, 1e-9, 3))
    assert found is not None and (found.rate, found.beyond, found.dropped) == (0.002, None, ())
    assert found.excess == pytest.approx(0, abs=1e-7)


def test_it_agrees_with_numpys_parabola_where_there_is_one_seed() -> None:
    of_one = losses(0.0027, 0.05, 0.003, 1, THREE)
    a, b, _ = np.polyfit([math.log(r) for r in of_one], [of_one[r][0] for r in of_one], 2)
    found = vertex(of_one)
    assert found is not None and found.rate == pytest.approx(math.exp(-b / (2 * a)), rel=2e-3)
    assert found.excess is None, "three points leave no error"


@pytest.mark.parametrize(("best", "side", "rate"), [(0.0009, "low", 0.00125), (0.008, "high", 0.005)])
def test_beyond_the_range_there_is_no_bound(best: float, side: str, rate: float) -> None:
    found = vertex(losses(best, 0.05, 1e-6, 3))
    assert found is not None and (found.rate, found.beyond, found.excess) == (rate, side, None)


def test_a_curve_that_bends_down_has_no_vertex() -> None:
    found = vertex({r: {s: 4 - 0.05 * math.log(r / 0.0025) ** 2 for s in range(3)} for r in RATES})
    assert found is not None and found.beyond is not None and found.excess is None


def test_a_cliff_is_left_out_and_said() -> None:
    rates = (0.00125, 0.0025, 0.005, 0.01)
    smooth = losses(0.0027, 0.05, 0.001, 3, rates)
    cliff = {**smooth, 0.01: {seed: loss + 0.8 for seed, loss in smooth[0.01].items()}}
    whole, found = vertex(smooth), vertex(cliff)
    assert whole is not None and whole.dropped == ()
    assert found is not None and found.dropped == (0.01,) and found.rate == pytest.approx(0.0027, rel=0.05)


def test_the_best_rates_neighbours_are_never_left_out() -> None:
    """Means of a published search, whose two seeds lie so near each other that no parabola fits all six rates: the
    least loss lies between those that were searched beside the best. Three of more bound nothing."""
    means = {0.0013: 3.6004, 0.0018: 3.5408, 0.0025: 3.5431, 0.0035: 3.5255, 0.0049: 3.5681, 0.00686: 3.6137}
    found = vertex({rate: {0: mean - 0.0005 * k, 1: mean + 0.0005 * k} for k, (rate, mean) in enumerate(means.items())})
    assert found is not None and found.beyond is None and found.excess is None
    assert 0.0025 < found.rate < 0.0049 and not {0.0025, 0.0035, 0.0049} & set(found.dropped)


def test_what_was_taken_costs_what_it_costs_there() -> None:
    searched = losses(0.0025, 0.05, 1e-6, 3)
    found = vertex(searched, taken=0.005)
    assert found is not None and found.rate == 0.0025
    assert found.excess == pytest.approx(0.05 * math.log(2) ** 2, rel=1e-3)
    outside = vertex(searched, taken=0.01)
    assert outside is not None and outside.excess is None, "nothing is known of what lies outside"


def test_a_published_rate_is_bounded_where_its_own_search_could_not(sweep_run: Any, tmp_path: Path) -> None:
    """And said to stand elsewhere than today's rule would put it; what was bounded then stays."""
    sweep_run(tmp_path, seeds=2)
    result = load_result(tmp_path, "moe_balance", "cpu")
    searched = [
        SearchTrial("bias", {"optim.lr": rate}, 1000 + seed, f"{rate}-{seed}", loss)
        for rate, of_seed in losses(0.0025, 0.05, 1e-6, 3).items()
        for seed, loss in of_seed.items()
    ]
    arm = replace(result.arms["bias"], chosen={"optim.lr": 0.005}, mistuning=None)
    unsaid, said = with_search(arm, searched, None), with_search(replace(arm, mistuning=0.25), searched, None)
    assert unsaid.mistuning == pytest.approx(0.05 * math.log(2) ** 2, rel=1e-3) and said.mistuning == 0.25
    for rates in (THREE, THREE[:2], THREE[:1]):
        few = [trial for trial in searched if trial.point["optim.lr"] in rates]
        back = with_search(replace(arm, mistuning=0.25), few, None)
        assert back.mistuning is None, "what an earlier rule bounded by so few rates is taken back"
    table = chosen_table(replace(result, arms={"bias": unsaid}))
    assert table.note.endswith("than this rule would take: bias (0.005, where the vertex is 0.0025).")


def test_what_diverged_is_left_out() -> None:
    of_four = losses(0.0027, 0.05, 0.001, 3, (0.00125, 0.0025, 0.005, 0.01))
    found = vertex({**of_four, 0.01: {0: math.inf, 1: 4.0, 2: 4.0}})
    assert found is not None and found.dropped == (0.01,) and found.beyond is None
    short = vertex({**losses(0.0027, 0.05, 0.001, 3, THREE), 0.005: {0: math.inf, 1: 4.0, 2: 4.0}})
    assert short is not None and short.beyond == "low" and short.excess is None, "two rates have no vertex: ask lower"


def test_three_rates_and_one_seed_have_a_vertex_and_no_bound() -> None:
    """A parabola goes through three wherever a cliff begins."""
    for rates, seeds, known in ((THREE, 3, False), (RATES[:4], 3, True), (RATES, 1, False)):
        found = vertex(losses(0.002, 0.05, 0.001, seeds, rates))
        assert found is not None and found.beyond is None and (found.excess is not None) == known


def test_two_rates_have_none() -> None:
    assert vertex({0.001: {0: 4.0}, 0.002: {0: 3.9}}) is None


@pytest.mark.parametrize(("curvature", "scatter"), [(0.05, 0.003), (0.01, 0.003), (0.002, 0.003)])
def test_the_bound_holds_in_95_of_100(curvature: float, scatter: float) -> None:
    """By how much the rate taken is really worse than the best within the range; curves from sharp to nearly flat."""
    held, inner = 0, 0
    for draw in range(150):
        found = vertex(losses(0.0022, curvature, scatter, 3, draw=draw))
        assert found is not None
        if found.excess is not None:
            inner += 1
            held += curvature * math.log(found.rate / 0.0022) ** 2 <= found.excess
    assert inner >= 30 and held / inner >= 0.93


@pytest.mark.parametrize("cliff", [0.0034, 0.0033, 0.003, 0.0027, 0.0024])
def test_beside_a_cliff_little_is_bounded_and_less_falsely(cliff: float) -> None:
    """One of the best rate's own neighbours stands behind it, or the best one does."""
    found = calibrate(Curve(math.log(0.0026), 0.03, cliff=math.log(cliff)), normal, 0.002, 60)
    assert found["bounded"] < 0.4 and found["bounded"] * found["false_verdicts"] <= 0.05


@pytest.mark.parametrize(
    ("cell", "scatter", "bounded", "seen"),
    [
        ("sharp", 0.003, 0.8, 0.5),
        ("skewed", 0.003, 0.8, 0.5),
        ("cliff at the top", 0.003, 0.8, 0.5),
        ("noisier when fast", 0.008, 0.7, 0.01),
    ],
)
def test_search_choice_and_confirmation_together_keep_their_level(
    cell: str, scatter: float, bounded: float, seen: float
) -> None:
    """The true difference of the tuned arms lies at the region's edge: at most 5 % may be resolved, plus three standard
    errors of 200 sweeps."""
    found = calibrate(CELLS[cell], normal, scatter, 200)
    assert found["bounded"] > bounded and found["false_verdicts"] <= 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert found["sees_0.01"] > seen
