"""Nats of a skill that comes as a jump: a t of six seeds covers the truth half of the time, and with their counts it
covers it as often as it says, which for few seeds is counted out; limits are statsmodels'."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ablations.config.schema import ExpectedConfig
from ablations.home import ROOT
from ablations.judge.counts import Share
from ablations.judge.gather import load_published
from ablations.judge.jumps import JUMPS_RULE, Values, beyond_counts, reach_of, seeds_within, worth_of_halfway
from ablations.judge.sidebyside import outcomes
from ablations.judge.stats import Difference, between, differences
from ablations.judge.verdicts import DECISION_RULE, Beside, decision_rule, verdict
from ablations.metrics import METRICS
from ablations.show.sections.costs import equal_cost_table
from benchmarks.calibrated_jumps import NOISE, SHARES, Case, coverage

CLAIM = ExpectedConfig(
    arm="block", metric="answer_nats", kind="better", margin=0.25, says="a block makes it plan", paper="none"
)


def pair(mine: int, theirs: int, of: int) -> tuple[Share, Share]:
    return Share("block", 1.0, mine, of), Share("none", -1.0, theirs, of)


@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_what_counts_leave_open_is_newcombes_interval_of_exact_limits(level: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    for mine, theirs in itertools.product(range(7), repeat=2):
        (low, high), (least, most) = (proportion_confint(n, 6, level, method="beta") for n in (mine, theirs))
        p, q = mine / 6, theirs / 6
        lower, upper = math.hypot(p - low, most - q), math.hypot(high - p, q - least)
        assert reach_of(pair(mine, theirs, 6), 2.0, level) == pytest.approx((2 * upper, 2 * lower), abs=1e-9)


@pytest.mark.parametrize(("of", "comparisons"), [(3, 1), (3, 4), (4, 3), (6, 1), (6, 4)])
def test_an_interval_of_jumps_misses_no_more_often_than_it_says(of: int, comparisons: int) -> None:
    """Of a share of seeds that jump in either arm, by every way in which so few can come out."""
    level = 0.05 / comparisons
    falls = np.linspace(0, 1, 11)
    missed = np.zeros((len(falls), len(falls)))
    for both, mine, theirs in itertools.product(range(of + 1), repeat=3):
        if (neither := of - both - mine - theirs) < 0:
            continue
        ways = math.factorial(of) // math.prod(map(math.factorial, (both, mine, theirs, neither)))
        block = [1.0] * (both + mine) + [0.0] * (theirs + neither)
        none = [1.0] * both + [0.0] * mine + [1.0] * theirs + [0.0] * neither
        came = {"block": dict(enumerate(block)), "none": dict(enumerate(none)), "matrix": {0: 0.0, 1: 1.0}}
        nats = {arm: {seed: 1 - value for seed, value in own.items()} for arm, own in came.items()}
        # A spread of nothing at all is no error bar, and a training's is not quite that.
        nats["block"] = {seed: value + 1e-9 * seed for seed, value in nats["block"].items()}
        pairs = [("block", "none"), *((f"left_out_{i}", "none") for i in range(1, comparisons))]
        d = beyond_counts(differences(nats, pairs, "answer_nats"), nats, came, {})[0]
        assert d.low is not None and d.high is not None
        for i, p in enumerate(falls):
            for j, q in enumerate(falls):
                if not d.low - 1e-6 <= q - p <= d.high + 1e-6:
                    chance = (p * q) ** both * (p * (1 - q)) ** mine * ((1 - p) * q) ** theirs
                    missed[i, j] += ways * chance * ((1 - p) * (1 - q)) ** neither
    assert missed.max() <= level


def test_a_t_of_jumps_covers_too_seldom_and_with_counts_often_enough() -> None:
    """Of 300 sweeps, judged as real ones are: 0.91 is three standard errors below 0.95."""
    rng = np.random.default_rng(0)
    cases = [*(Case(*shares) for shares in SHARES), Case(0.1, 0.0, other=0.0)]
    found = {(case.arm, case.none, case.other): coverage(case, 300, rng) for case in cases}
    assert {case: both for case, both in found.items() if both[1] < 0.91} == {}
    assert found[0.1, 0.0, 0.5][0] < 0.55 and found[1.0, 0.9, 0.5][0] < 0.55


def values(**came: int) -> tuple[Values, Values]:
    """Six seeds of each arm, the first of which came halfway and fell from 0.7 to 0.1."""
    halfway = {arm: {seed: float(seed < n) for seed in range(6)} for arm, n in came.items()}
    noise = np.random.default_rng(1)
    nats = {arm: {s: 0.7 - 0.6 * c + noise.normal(0, NOISE) for s, c in own.items()} for arm, own in halfway.items()}
    return nats, halfway


def compared(**came: int) -> tuple[Difference, Difference]:
    """`block` minus `none`, by a t and with the counts."""
    nats, halfway = values(**came)
    found = differences(nats, [("block", "none"), ("matrix", "none")], "answer_nats")
    wider = beyond_counts(found, nats, halfway, {})
    by_t, counted = (between({(d.arm, d.against): d for d in ds}, "block", "none") for ds in (found, wider))
    assert by_t is not None and counted is not None
    return by_t, counted


def test_none_of_six_does_not_say_that_none_would() -> None:
    by_t, counted = compared(block=0, none=0, matrix=5)
    assert by_t.high is not None and by_t.high < 0.05 and counted.low is not None and counted.low < -0.25
    assert verdict(CLAIM, by_t, Beside()).outcome == "disagrees"
    found = verdict(CLAIM, counted, Beside())
    assert found.outcome == "not resolved" and found.seeds_needed is None
    assert "0 of 6 seeds of block came halfway, 0 of none, which leaves it as wide" in found.why
    assert counted.mirrored.shares == (Share("none", 1.0, 0, 6), Share("block", -1.0, 0, 6))
    assert counted.resolvable is counted.p is counted.p_holm is None
    assert counted.mirrored.mirrored == counted
    more = seeds_within((0.25, math.inf), pair(0, 0, 6), counted.fall, 0.05 / 2, 64)
    assert more is not None and 6 < more < 10


def test_where_all_came_halfway_a_t_is_all_there_is() -> None:
    by_t, counted = compared(block=6, none=6, matrix=6)
    assert counted == by_t
    nats, halfway = values(block=3, none=0, matrix=0)
    upside_down = {arm: {seed: 1 - value for seed, value in own.items()} for arm, own in nats.items()}
    assert worth_of_halfway(nats, halfway, True) == pytest.approx(0.6, abs=0.04)
    assert worth_of_halfway(upside_down, halfway, True) is None


def test_where_none_came_halfway_all_nats_of_an_answer_may_fall() -> None:
    nats, halfway = values(block=0, none=0, matrix=0)
    assert worth_of_halfway(nats, halfway, True) == max(value for own in nats.values() for value in own.values())
    assert worth_of_halfway(nats, halfway, False) is None  # a loss may be of more than answers
    by_t, counted = compared(block=0, none=0, matrix=0)
    assert counted.low is not None and by_t.low is not None and counted.low < -0.3 < by_t.low


def test_a_jump_is_measured_within_arms_which_differ_in_more_than_that() -> None:
    nats, halfway = values(block=0, matrix=3)
    far = {**nats, "block": {seed: value + 5 for seed, value in nats["block"].items()}}
    within = worth_of_halfway(far, halfway, True)
    assert within == worth_of_halfway(nats, halfway, True) == pytest.approx(0.6, abs=0.04)
    nats, halfway = values(block=0, matrix=6)  # where no arm has both, it is all that can be said
    assert worth_of_halfway(nats, halfway, True) == pytest.approx(0.6, abs=0.04)


def test_it_is_the_most_that_any_arm_shows() -> None:
    """A seed that has only begun to fall takes nothing off what those before it show."""
    nats, halfway = values(block=0, matrix=5)
    nats["matrix"][4] = 0.38  # type: ignore[index]
    assert worth_of_halfway(nats, halfway, True) == pytest.approx(0.6, abs=0.04)


def test_a_contrast_of_two_arms_is_as_sure_as_their_difference() -> None:
    nats, halfway = values(block=0, none=0, matrix=3)
    seeds = range(6)
    nats |= {"effect": {s: nats["block"][s] - nats["none"][s] for s in seeds}, "": dict.fromkeys(seeds, 0.0)}
    nats |= {"half": {s: (nats["block"][s] + nats["matrix"][s]) / 2 - nats["none"][s] for s in seeds}}
    weights = {"effect": {"block": 1.0, "none": -1.0}, "half": {"block": 0.5, "matrix": 0.5, "none": -1.0}}
    (own,) = beyond_counts(differences(nats, [("block", "none")], "answer_nats"), nats, halfway, weights)
    (same,) = beyond_counts(differences(nats, [("effect", "")], "answer_nats"), nats, halfway, weights)
    assert (same.low, same.high) == pytest.approx((own.low, own.high)) and same.shares == own.shares
    (three,) = beyond_counts(differences(nats, [("half", "")], "answer_nats"), nats, halfway, weights)
    below, above = reach_of([Share("a", 0.5, 0, 6), Share("b", 0.5, 3, 6), Share("c", -1.0, 0, 6)], three.fall, 0.05)
    assert three.low is not None and three.low <= three.mean - below
    assert three.high is not None and three.high >= three.mean + above


def test_what_shows_whether_a_sweep_sees_anything_is_judged_by_the_t() -> None:
    result = load_published(ROOT / "results/planning_depth/cpu")
    found = {d.arm: d for d in result.differences["answer_nats"].values()}
    assert [share.came for share in found["parallel_2"].shares] == [0, 0] and found["parallel_2"].p_holm is None
    assert not found["control"].shares and not found["aa"].shares and found["aa"].p_holm is not None


def test_neither_trials_side_by_side_nor_those_at_equal_cost_are_surer() -> None:
    result = load_published(ROOT / "results/planning/cpu")
    one, other = (list(result.arms[name].records.values()) for name in ("none", "parallel_1"))
    (paired,) = outcomes(one, other, "answer_nats")
    (apart,) = outcomes(one, [replace(record, data={}) for record in other], "answer_nats")
    for found, pairs in ((paired, 6), (apart, 0)):
        assert found.pairs == pairs and found.low is not None and found.high is not None
        assert found.low < -0.3 and found.high > 0.3, "none of six seeds in either, and a t leaves 0.02"
    assert equal_cost_table(result).rows == []


def test_a_t_that_leaves_more_stays() -> None:
    by_t, counted = compared(block=5, none=0, matrix=0)
    assert counted.low == by_t.low and counted.high is not None and by_t.high is not None
    assert counted.high >= by_t.high


def test_the_rule_is_said_where_a_claim_needs_it() -> None:
    assert decision_rule([], [CLAIM], answers=True) == DECISION_RULE + JUMPS_RULE
    assert decision_rule([], [CLAIM]) == DECISION_RULE
    counted = ExpectedConfig(arm="block", metric="reached_half", kind="better", says="more", paper="none")
    assert "Newcombe" not in decision_rule([], [counted], answers=True)


def test_it_is_of_losses_and_nats_alone() -> None:
    falling = {metric.name for metric in METRICS if metric.falls_at_jumps}
    assert {"loss", "bits_per_byte", "answer_nats", "answer_nats_level<level>"} <= falling
    assert not falling & {"answer_accuracy", "kl_from_base", "pass_1", "reached_half", "max_vio_global"}
