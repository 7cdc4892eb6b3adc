"""Nats of a skill that comes as a jump: a t of six seeds covers the truth half of the time, and with their counts it
covers it as often as it says (of few seeds every way in which they can come out is tried); limits are statsmodels'."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from ablations.config.schema import ContrastConfig, ExpectedConfig
from ablations.home import ROOT
from ablations.judge.counts import Share
from ablations.judge.families import families_of
from ablations.judge.gather import load_published
from ablations.judge.jumps import JUMPS_RULE, Values, beyond_counts, reach_of, seeds_within, worth_of_halfway
from ablations.judge.sidebyside import outcomes
from ablations.judge.stats import Difference, between, differences
from ablations.judge.verdicts import DECISION_RULE, Beside, decision_rule, verdict
from ablations.metrics import COUNTED, METRICS
from ablations.show.sections.costs import equal_cost_table
from benchmarks.calibrated_jumps import NOISE, SHARES, Case, coverage

CLAIM = ExpectedConfig(
    arm="block", metric="answer_nats", kind="better", margin=0.25, says="a block makes it plan", paper="none"
)


def pair(mine: int, theirs: int, of: int, worth: float) -> tuple[Share, Share]:
    return Share("block", 1.0, mine, of, worth), Share("none", -1.0, theirs, of, worth)


@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_what_counts_leave_open_is_newcombes_interval_of_exact_limits(level: float) -> None:
    from statsmodels.stats.proportion import proportion_confint

    for mine, theirs in itertools.product(range(7), repeat=2):
        (low, high), (least, most) = (proportion_confint(n, 6, level, method="beta") for n in (mine, theirs))
        p, q = mine / 6, theirs / 6
        lower, upper = math.hypot(p - low, most - q), math.hypot(high - p, q - least)
        assert reach_of(pair(mine, theirs, 6, 2.0), level) == pytest.approx((2 * upper, 2 * lower), abs=1e-9)


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
        d = beyond_counts(differences(nats, pairs, "answer_nats"), nats, came, {}, True)[0]
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
    cases = [
        *(Case(*shares) for shares in SHARES),
        Case(0.1, 0.0, other=0.0),
        Case(0.1, 0.0, of_other=0.3),
        Case(0.3, 0.0, begun=0.5),
    ]
    found = {case: coverage(case, 300, rng) for case in cases}
    assert {case: both for case, both in found.items() if both[1] < 0.91} == {}
    assert found[Case(0.1, 0.0)][0] < 0.55 and found[Case(1.0, 0.9)][0] < 0.55


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
    wider = beyond_counts(found, nats, halfway, {}, True)
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
    block, none = counted.shares
    assert (block.came, none.came, block.of) == (0, 0, 6) and (block.weight, none.weight) == (1.0, -1.0)
    assert counted.mirrored.shares == (replace(none, weight=1.0), replace(block, weight=-1.0))
    assert counted.resolvable is counted.p is counted.p_holm is None
    assert counted.mirrored.mirrored == counted
    more = seeds_within((0.25, math.inf), counted.shares, 0.05 / 2, 64)
    assert more is not None and 6 < more < 16


def test_where_all_came_halfway_a_t_is_all_there_is() -> None:
    by_t, counted = compared(block=6, none=6, matrix=6)
    assert counted == by_t
    nats, halfway = values(block=3, none=6, matrix=6)
    upside_down = {arm: {seed: 1 - value for seed, value in own.items()} for arm, own in nats.items()}
    alike = dict.fromkeys(nats, pytest.approx(0.7, abs=0.04))
    assert worth_of_halfway(nats, halfway, True) == alike
    assert worth_of_halfway(upside_down, halfway, False) == {}


def test_where_none_came_halfway_all_nats_of_an_answer_may_fall() -> None:
    nats, halfway = values(block=0, none=0, matrix=0)
    assert worth_of_halfway(nats, halfway, True) == {arm: max(own.values()) for arm, own in nats.items()}
    assert worth_of_halfway(nats, halfway, False) == {}  # a loss may be of more than answers
    by_t, counted = compared(block=0, none=0, matrix=0)
    assert counted.low is not None and by_t.low is not None and counted.low < -0.3 < by_t.low


def test_a_jump_is_worth_what_an_arms_own_seeds_have_left() -> None:
    """A seed that has only begun says nothing of what others would lose."""
    nats, halfway = values(block=0, none=1, matrix=5, all=6)
    nats["none"][0], nats["matrix"][4] = 0.6, 0.38  # type: ignore[index]
    far = {**nats, "block": {seed: value + 5 for seed, value in nats["block"].items()}}
    found = worth_of_halfway(far, halfway, True)
    near = {"block": 5.7, "none": 0.7, "matrix": 0.7, "all": 5.7}
    assert found == {arm: pytest.approx(value, abs=0.04) for arm, value in near.items()}
    of_more = worth_of_halfway(far, halfway, False)
    assert of_more == {arm: pytest.approx(0.1 if arm == "none" else 0.6, abs=0.04) for arm in far}


def test_where_each_arm_has_one_kind_their_difference_is_all_that_can_be_said() -> None:
    nats, halfway = values(block=0, matrix=6)
    assert worth_of_halfway(nats, halfway, False) == dict.fromkeys(nats, pytest.approx(0.6, abs=0.04))


def test_a_contrast_of_two_arms_is_as_sure_as_their_difference() -> None:
    nats, halfway = values(block=0, none=0, matrix=3)
    seeds = range(6)
    nats |= {"effect": {s: nats["block"][s] - nats["none"][s] for s in seeds}, "": dict.fromkeys(seeds, 0.0)}
    nats |= {"half": {s: (nats["block"][s] + nats["matrix"][s]) / 2 - nats["none"][s] for s in seeds}}
    weights = {"effect": {"block": 1.0, "none": -1.0}, "half": {"block": 0.5, "matrix": 0.5, "none": -1.0}}
    (own,) = beyond_counts(differences(nats, [("block", "none")], "answer_nats"), nats, halfway, weights, True)
    (same,) = beyond_counts(differences(nats, [("effect", "")], "answer_nats"), nats, halfway, weights, True)
    assert (same.low, same.high) == pytest.approx((own.low, own.high)) and same.shares == own.shares
    (three,) = beyond_counts(differences(nats, [("half", "")], "answer_nats"), nats, halfway, weights, True)
    assert [(share.arm, share.weight) for share in three.shares] == [("block", 0.5), ("matrix", 0.5), ("none", -1.0)]
    below, above = reach_of(three.shares, 0.05)
    assert three.low is not None and three.low <= three.mean - below
    assert three.high is not None and three.high >= three.mean + above


def test_what_shows_whether_a_sweep_sees_anything_is_judged_by_the_t() -> None:
    result = load_published(ROOT / "results/planning_depth/cpu")
    found = {d.arm: d for d in result.differences["answer_nats"].values()}
    assert [share.came for share in found["parallel_2"].shares] == [0, 0] and found["parallel_2"].p_holm is None
    assert not found["control"].shares and not found["aa"].shares and found["aa"].p_holm is not None


def test_neither_trials_side_by_side_nor_those_at_equal_cost_are_surer() -> None:
    result = load_published(ROOT / "results/planning/cpu")
    none, block, matrix = (list(result.arms[name].records.values()) for name in ("none", "parallel_1", "linear_1"))
    for metric in ("answer_nats", "loss"):  # the same, where answers alone are learned
        (paired,) = outcomes(none, block, metric)
        (apart,) = outcomes(none, [replace(record, data={}) for record in block], metric)
        for found, pairs in ((paired, 8), (apart, 0)):
            assert found.pairs == pairs and found.low is not None and found.high is not None
            least = 0.35 * found.one  # none of eight seeds in either, and a t leaves a fiftieth of it
            assert found.low < -least and found.high > least
    (there,), (back,) = outcomes(none, matrix, "answer_nats"), outcomes(matrix, none, "answer_nats")
    assert there.low is not None and there.high is not None and back.low is not None and back.high is not None
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
    assert there.high - there.difference > there.difference - there.low + 0.01, "it may rise to 0 of 8, and fall less"
    (same,) = outcomes(none, none, "answer_nats")
    assert (same.low, same.high) == (0.0, 0.0)
    assert equal_cost_table(result).rows == [] and result.jumps
    assert {result.tokens_equivalent(d) for d in result.differences["loss"].values()} == {None}


def test_a_contrast_and_a_shorter_training_are_judged_by_their_own_counts() -> None:
    """At half of the tokens none of the matrix's seeds had come halfway, of which all have at the end."""
    result = load_published(ROOT / "results/planning/cpu")
    contrasts = {"effect": ContrastConfig("", {"linear_1": 1.0, "none": -1.0})}
    plan = replace(result.plan, contrasts=contrasts, horizons=[0.5])
    noise = np.random.default_rng(0)
    alike = {name: {seed: 0.7 + noise.normal(0, NOISE) for seed in result.seeds} for name in result.arms}
    arms = {
        name: replace(arm, values=arm.values | {"loss_at_50": alike[name]}, shorter={0.5: earlier})
        for name, arm in result.arms.items()
        for earlier in [{"loss": alike[name], COUNTED: dict.fromkeys(result.seeds, 0.0)}]
    }
    found = families_of(arms, plan)
    came = {
        (metric, arm): [share.came for share in found[metric][arm, against].shares]
        for metric, arm, against in (("loss", "effect", ""), ("loss_at_50", "effect", ""), ("loss", "linear_1", "none"))
    }
    assert came == {("loss", "effect"): [8, 0], ("loss_at_50", "effect"): [0, 0], ("loss", "linear_1"): [8, 0]}


def test_seeds_are_asked_for_on_the_side_where_there_is_no_room() -> None:
    shares = pair(0, 5, 6, 0.6)
    below, above = (seeds_within(rooms, shares, 0.05, 64) for rooms in ((0.25, math.inf), (math.inf, 0.25)))
    assert below is not None and above is not None and below > above
    assert seeds_within((0.25, 0.25), shares, 0.05, 64) == below
    assert (
        seeds_within((0.25, 0.25), pair(5, 0, 6, 0.6), 0.05, 64)
        == below
        == seeds_within((math.inf, 0.25), pair(5, 0, 6, 0.6), 0.05, 64)
    )


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
