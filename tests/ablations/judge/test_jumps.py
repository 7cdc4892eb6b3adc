"""Nats of a skill that comes as a jump: a t of six seeds covers the truth half of the time, and with their counts it
covers it as often as it says; Newcombe's interval is statsmodels'."""

import warnings

import numpy as np
import pytest

from ablations.config.schema import ExpectedConfig
from ablations.home import ROOT
from ablations.judge.counts import Counts
from ablations.judge.gather import load_published
from ablations.judge.jumps import JUMPS_RULE, Values, beyond_counts, reach_of, seeds_within, worth_of_halfway
from ablations.judge.stats import Difference, between, differences
from ablations.judge.verdicts import DECISION_RULE, Beside, decision_rule, verdict
from ablations.metrics import METRICS
from benchmarks.calibrated_jumps import NOISE, SHARES, coverage

CLAIM = ExpectedConfig(
    arm="block", metric="answer_nats", kind="better", margin=0.25, says="a block makes it plan", paper="none"
)


@pytest.mark.parametrize("of", [3, 6])
@pytest.mark.parametrize("level", [0.05, 0.05 / 3])
def test_what_counts_leave_open_is_newcombes_interval(of: int, level: float) -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep

    for mine in range(of + 1):
        for theirs in range(of + 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ratios, which nobody asks for
                low, high = confint_proportions_2indep(mine, of, theirs, of, "newcomb", "diff", alpha=level)
            share = (mine - theirs) / of
            below, above = reach_of(Counts(mine, theirs, of), 2.0, level)
            assert (below, above) == pytest.approx((2 * (high - share), 2 * (share - low)), abs=1e-9)


def test_a_t_of_jumps_covers_too_seldom_and_with_counts_often_enough() -> None:
    """Of 300 sweeps, judged as real ones are: 0.91 is three standard errors below 0.95."""
    rng = np.random.default_rng(0)
    found = {shares: coverage(shares, 6, 300, rng) for shares in SHARES}
    assert {shares: both for shares, both in found.items() if both[1] < 0.91} == {}
    assert found[0.1, 0.0][0] < 0.55 and found[1.0, 0.9][0] < 0.55


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
    wider = beyond_counts(found, nats, halfway)
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
    assert counted.mirrored.counts == Counts(0, 0, 6) and counted.resolvable is None
    more = seeds_within(0.25, Counts(0, 0, 6), counted.fall, 0.05 / 2, 64)
    assert more is not None and 6 < more < 10


def test_where_all_came_halfway_or_none_a_t_is_all_there_is() -> None:
    for n in (0, 6):
        by_t, counted = compared(block=n, none=n, matrix=n)
        assert counted == by_t
    nats, halfway = values(block=3, none=0, matrix=0)
    upside_down = {arm: {seed: 1 - value for seed, value in own.items()} for arm, own in nats.items()}
    assert worth_of_halfway(nats, halfway) == pytest.approx(0.6, abs=0.02)
    assert worth_of_halfway(upside_down, halfway) is None


def test_a_jump_is_measured_within_arms_which_differ_in_more_than_that() -> None:
    nats, halfway = values(block=0, matrix=3)
    far = {**nats, "block": {seed: value + 5 for seed, value in nats["block"].items()}}
    assert worth_of_halfway(far, halfway) == worth_of_halfway(nats, halfway) == pytest.approx(0.6, abs=0.02)
    nats, halfway = values(block=0, matrix=6)  # where no arm has both, it is all that can be said
    assert worth_of_halfway(nats, halfway) == pytest.approx(0.6, abs=0.02)


def test_what_shows_whether_a_sweep_sees_anything_is_judged_by_the_t() -> None:
    result = load_published(ROOT / "results/planning_depth/cpu")
    found = {d.arm: d for d in result.differences["answer_nats"].values()}
    assert found["parallel_2"].counts == Counts(0, 0, 3) and found["parallel_2"].p_holm is None
    assert found["control"].counts is None is found["aa"].counts and found["aa"].p_holm is not None


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
