"""Success that comes as a jump: counts of seeds by Fisher's exact test, written out here by its sum."""

import math
from typing import Any

import pytest

from ablations.config.schema import ArmConfig, ExpectedConfig, SweepConfig
from ablations.config.sweeprules import check_sweep
from ablations.judge.counts import Counts, counts_of, seeds_telling
from ablations.judge.stats import differences
from ablations.judge.verdicts import DECISION_RULE, Beside, Verdict, decision_rule, verdict
from ablations.metrics import COUNTED, METRICS
from models.base.typed import ConfigError

CLAIM = ExpectedConfig(arm="mtp", metric=COUNTED, kind="better", says="more seeds come halfway", paper="none")


def by_sum(more: int, fewer: int, of: int) -> float:
    """Of all ways to lay the successes over both arms, the share that gives the first as many or more."""
    successes = more + fewer
    ways = [math.comb(of, k) * math.comb(of, successes - k) for k in range(more, min(of, successes) + 1)]
    return sum(ways) / math.comb(2 * of, successes)


@pytest.mark.parametrize("of", [1, 4, 8])
def test_p_is_fishers(of: int) -> None:
    for mine in range(of + 1):
        for theirs in range(of + 1):
            found = Counts(mine, theirs, of)
            assert found.p_more == pytest.approx(by_sum(mine, theirs, of), rel=1e-9)
            assert found.p_fewer == pytest.approx(by_sum(theirs, mine, of), rel=1e-9)
    assert Counts(0, 0, 0).p_more == 1.0


def test_seeds_that_one_arm_lacks_are_left_out() -> None:
    assert counts_of({0: 1.0, 1: 0.0, 2: 1.0}, {1: 1.0, 2: 0.0, 3: 1.0}) == Counts(1, 1, 2)


def judged(mine: int, theirs: int, of: int = 6, comparisons: int = 1, **beside: Any) -> Verdict:
    values = {
        "mtp": {seed: float(seed < mine) for seed in range(of)},
        "none": {seed: float(seed < theirs) for seed in range(of)},
    }
    pairs = [("mtp", "none"), *((f"other{i}", "none") for i in range(comparisons - 1))]
    difference = differences(values, pairs, COUNTED)[0]
    return verdict(CLAIM, difference, Beside(counts=counts_of(values["mtp"], values["none"]), **beside))


def test_a_verdict_follows_the_counts() -> None:
    many = judged(6, 1)
    assert many.outcome == "agrees"
    assert (
        many.why
        == "6 of 6 seeds of mtp came halfway, 1 of none: Fisher's exact p, one-sided, is 0.0076, not above 0.025."
    )
    assert judged(1, 6).outcome == "disagrees"
    few = judged(4, 1)
    assert few.outcome == "not resolved" and few.why.startswith("4 of 6 seeds") and few.open
    assert judged(3, 3).outcome == judged(0, 0).outcome == "not resolved"
    assert judged(6, 1, comparisons=4).outcome == "not resolved", "0.0076 is above 0.025 / 4"
    assert judged(6, 0, comparisons=4).outcome == "agrees"


def test_an_aa_arm_that_counts_differently_voids_it() -> None:
    found = judged(6, 1, aa_counts=Counts(6, 0, 6))
    assert found.outcome == "void" and "tells identical arms apart in reached_half" in found.why
    assert judged(6, 1, aa_counts=Counts(3, 1, 6)).outcome == "agrees"


def test_diverged_trials_decide_before_counts_do() -> None:
    assert judged(6, 1, diverged={"mtp": 1}, trials=6).outcome == "disagrees"


def test_seeds_that_would_tell_two_shares_apart() -> None:
    assert seeds_telling(1.0, 0.75, 0.05 / 2) == seeds_telling(0.75, 1.0, 0.05 / 2) == 19
    assert Counts(19, 14, 19).p_more < 0.025 < Counts(17, 13, 17).p_more
    assert seeds_telling(0.5, 0.5, 0.025) is None and seeds_telling(0.5, 0.51, 0.025) is None


def test_no_t_is_made_of_what_comes_as_a_jump() -> None:
    values = {"a": {0: 0.1, 1: 0.2, 2: 0.9}, "b": {0: 0.1, 1: 0.1, 2: 0.1}}
    indexed = {"<level>": "2", "<skill>": "chain", "<k>": "1"}
    for metric in (m.name for m in METRICS if m.jump):
        for place, index in indexed.items():
            metric = metric.replace(place, index)
        (found,) = differences(values, [("a", "b")], metric)
        assert (found.low, found.high, found.p, found.resolvable) == (None, None, 1.0, None), metric
    (nats,) = differences(values, [("a", "b")], "answer_nats")
    assert nats.low is not None


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ({"metric": "item_accuracy"}, "expected[0].metric=item_accuracy: comes as a jump"),
        ({"metric": "answer_accuracy_level3"}, "expected[0].metric=answer_accuracy_level3: comes as a jump"),
        ({"metric": "tokens_to_half"}, "claim answer_nats, or reached_half, which is counted"),
        ({"metric": COUNTED, "kind": "equal", "margin": 0.1}, "expected[0]: kind=equal: seeds are counted"),
        ({"metric": COUNTED, "margin": 0.1}, "expected[0]: margin=0.1: seeds are counted"),
    ],
)
def test_a_claim_that_would_need_a_t_is_one_line(claim: dict[str, Any], said: str) -> None:
    arms = {"none": ArmConfig(about="without"), "mtp": ArmConfig(about="with", set={"model.mtp.depth": 1})}
    given = ExpectedConfig(**{"arm": "mtp", "kind": "better", "says": "more", "paper": "none", **claim})
    sweep = SweepConfig(name="s", question="Is it?", baseline="none", arms=arms, expected=[given])
    with pytest.raises(ConfigError) as error:
        check_sweep(sweep)
    assert said in str(error.value) and "\n" not in str(error.value)
    check_sweep(SweepConfig(name="s", question="Is it?", baseline="none", arms=arms, expected=[CLAIM]))


def test_the_rule_is_said_where_a_claim_needs_it() -> None:
    assert decision_rule([], []) == DECISION_RULE
    assert "Fisher" in decision_rule([], [CLAIM]) and "Fisher" not in DECISION_RULE
