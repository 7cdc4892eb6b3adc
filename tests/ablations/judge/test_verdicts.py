import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from ablations.config.schema import ExpectedConfig
from ablations.judge.stats import Difference, differences
from ablations.judge.verdicts import DECISION_RULE, Beside, Verdict, Void, region_of, shows_harm
from ablations.judge.verdicts import verdict as judged
from models.base.typed import ConfigError


def interval(low: float | None, high: float | None, arm: str = "bias", n: int = 6) -> Difference:
    mean = (low + high) / 2 if low is not None and high is not None else 0.0
    return Difference(arm, "none", "loss", n, mean, 0.005, 0.02, low, high, 0.01, 0.05, 0.99, 0.0105, comparisons=5)


HARM = interval(0.004, 0.010, "control")
UNSEEN = interval(-0.001, 0.010, "control")
QUIET = interval(-0.002, 0.002, "aa")


def verdict(expected: ExpectedConfig, difference: Difference, **beside: Any) -> Verdict:
    return judged(expected, difference, Beside(**beside))


def judge(kind: str, low: float | None, high: float | None, **given: object) -> Verdict:
    claim = {"region": [0.02, 0.04]} if kind == "value" else {} if kind == "better" else {"margin": 0.01}
    expected = ExpectedConfig(arm="bias", kind=kind, paper_value=-0.005, **claim)  # type: ignore[arg-type]
    arguments = {"control": HARM, "aa": QUIET} | given
    return verdict(expected, interval(low, high), **arguments)


@pytest.mark.parametrize(
    ("kind", "low", "high", "outcome"),
    [
        ("better", -0.02, -0.001, "agrees"),
        ("better", -0.02, 0.001, "not resolved"),
        ("better", 0.001, 0.02, "disagrees"),
        ("better", 0.0, 0.0, "disagrees"),
        ("not_worse", -0.5, 0.009, "agrees"),
        ("not_worse", -0.5, 0.011, "not resolved"),
        ("not_worse", 0.011, 0.02, "disagrees"),
        ("equal", -0.009, 0.009, "agrees"),
        ("equal", 0.001, 0.009, "agrees"),
        ("equal", -0.011, 0.009, "not resolved"),
        ("equal", -0.02, -0.011, "disagrees"),
        ("value", 0.021, 0.039, "agrees"),
        ("value", 0.0, 0.039, "not resolved"),
        ("value", 0.0, 0.019, "disagrees"),
        ("better", None, None, "not resolved"),
        ("equal", None, None, "not resolved"),
    ],
)
def test_interval_against_region(kind: str, low: float | None, high: float | None, outcome: str) -> None:
    assert judge(kind, low, high).outcome == outcome


@pytest.mark.parametrize("kind", ["better", "not_worse", "equal", "value"])
def test_accuracies_at_chance_earn_no_verdict(kind: str) -> None:
    found = judge(kind, -0.02, -0.015, no_signal="a is not above chance and b is not above chance")
    assert found.outcome == "no signal here" and found.why.endswith(
        "but a is not above chance and b is not above chance."
    )


def test_a_resolved_repeat_voids_everything() -> None:
    for loud in (interval(0.001, 0.002, "aa"), interval(-0.002, -0.001, "aa")):
        for kind in ("better", "not_worse", "equal", "value"):
            found = judge(kind, -0.02, -0.01, aa=loud, diverged=1, trials=6)
            assert found.outcome == "void" and "aa repeats" in found.why


def test_equality_needs_a_control_that_was_seen() -> None:
    for control in (UNSEEN, None, interval(-0.010, -0.004, "control"), interval(None, None, "control")):
        assert judge("equal", -0.001, 0.001, control=control).outcome == "no signal here"
        assert judge("not_worse", -0.001, 0.001, control=control).outcome == "no signal here"
        assert judge("equal", -0.05, 0.05, control=control).outcome == "no signal here"
        assert judge("equal", 0.02, 0.03, control=control).outcome == "disagrees", (
            "this interval shows the signal itself"
        )
        assert judge("better", -0.02, -0.01, control=control).outcome == "agrees"
        assert judge("value", 0.021, 0.039, control=control).outcome == "agrees"
    around_zero = ExpectedConfig(arm="bias", kind="value", region=[-0.01, 0.02])
    assert verdict(around_zero, interval(-0.001, 0.001), control=UNSEEN, aa=QUIET).outcome == "no signal here"


@pytest.mark.parametrize("kind", ["equal", "not_worse"])
def test_a_margin_that_holds_the_controls_harm_is_said(kind: str) -> None:
    small, large = interval(0.003, 0.009, "control"), interval(0.005, 0.011, "control")
    said = "and so is the control's known harm, +0.0060 [+0.0030, +0.0090] over 6 seeds."
    assert judge(kind, -0.001, 0.001, control=small).why.endswith(said)
    assert "known harm" not in judge(kind, -0.001, 0.001, control=large).why
    others = judge("value", 0.021, 0.039, control=small).why + judge("better", -0.02, -0.01, control=small).why
    assert "known harm" not in others


def test_mistuning_widens() -> None:
    assert judge("equal", -0.001, 0.001, mistuning=0.0089).outcome == "agrees"
    assert judge("equal", -0.001, 0.001, mistuning=0.0091).outcome == "not resolved"
    assert judge("equal", 0.03, 0.04, mistuning=0.019).outcome == "disagrees", "no tuning could bring it back"
    assert judge("not_worse", 0.02, 0.03, mistuning=0.0099).outcome == "disagrees"
    assert judge("not_worse", 0.02, 0.03, mistuning=0.0101).outcome == "not resolved"
    assert judge("better", -0.02, -0.01, mistuning=0.0099).outcome == "agrees"
    assert judge("better", -0.02, -0.01, mistuning=0.0101).outcome == "not resolved"
    assert judge("better", 0.01, 0.02, mistuning=0.0099).outcome == "disagrees"
    assert judge("better", 0.01, 0.02, mistuning=0.0101).outcome == "not resolved"
    assert judge("value", 0.021, 0.039, mistuning=0.011).outcome == "not resolved"
    edge = judge("better", -0.02, -0.01, mistuning=math.inf)
    assert edge.outcome == "not resolved" and "what its learning rate costs cannot be bounded" in edge.why
    assert edge.mistuned and edge.caveat == "what a learning rate costs is not known"
    open_by_rate = judge("not_worse", -0.01, 0.006, mistuning=0.0121)
    assert open_by_rate.mistuned and open_by_rate.caveat == "a learning rate may cost 0.0121"
    for others in (
        judge("not_worse", -0.01, 0.02, mistuning=0.0121),
        judge("not_worse", -0.01, 0.006, mistuning=0.001),
        judge("better", -0.02, -0.01, mistuning=math.inf, diverged={"bias": 1}, trials=6),
    ):
        assert not others.mistuned and others.caveat is None


def test_better_by_at_least_something_can_be_refuted_by_no_effect() -> None:
    def by(low: float, high: float) -> Verdict:
        claim = ExpectedConfig("bias", kind="better", margin=0.0025, paper_value=-0.005)
        return verdict(claim, interval(low, high), control=HARM)

    assert by(-0.001, 0.001).outcome == "disagrees" and "wholly outside the claim (below -0.0025)" in by(0, 0.001).why
    assert by(-0.004, -0.003).outcome == "agrees"
    assert by(-0.003, 0.001).outcome == "not resolved" and by(-0.003, 0.001).open
    plain = verdict(ExpectedConfig("bias", paper_value=-0.005), interval(-0.003, 0.001), control=HARM)
    assert by(-0.003, 0.001).seeds_needed > plain.seeds_needed, (
        "from the margin to the paper's effect it is half as far"
    )
    higher = ExpectedConfig("bias", metric="python_cloze/acc", kind="better", margin=0.02)
    assert region_of(higher) == (0.02, math.inf) and region_of(ExpectedConfig("bias")) == (-math.inf, 0.0)


def test_only_what_more_seeds_may_change_is_open() -> None:
    assert judge("better", -0.02, 0.01).open and judge("equal", -0.02, 0.01).open
    assert not judge("better", -0.02, -0.01).open, "it is settled"
    assert not judge("better", -0.02, 0.01, mistuning=math.inf).open
    assert not judge("better", -0.02, 0.01, diverged={"none": 1}, trials=6).open


def test_a_diverged_seed() -> None:
    for kind in ("better", "equal", "not_worse"):
        found = judge(kind, -0.005, -0.001, diverged={"bias": 2}, trials=6)
        assert found.outcome == "disagrees" and found.why.startswith("2/6 of bias diverged")
    assert judge("value", 0.021, 0.039, diverged={"bias": 2}, trials=6).outcome == "not resolved"


def test_divergence_counts_on_both_sides() -> None:
    """Survivors of the other arm are no fair comparison, whatever they say."""
    for kind in ("better", "not_worse", "value"):
        found = judge(kind, -0.005, -0.001, diverged={"none": 1}, trials=6)
        assert found.outcome == "not resolved" and found.why.startswith("1/6 of none diverged: bias minus none is")
        assert "[-0.0050, -0.0010] over 6 seeds speaks only for the seeds that survived; the smallest" in found.why
    assert judge("equal", -0.005, 0.005, diverged={"none": 1}, trials=6).outcome == "disagrees"
    both = judge("equal", -0.005, 0.005, diverged={"bias": 2, "none": 1}, trials=6)
    assert both.outcome == "disagrees" and both.why.startswith("2/6 of bias diverged and 1/6 of none diverged")
    assert judge("identical", 0.0, 0.0, diverged={"none": 1}).outcome == "disagrees"


def test_what_is_small_is_no_zero_and_what_is_not_there_no_number() -> None:
    tiny = dataclasses.replace(interval(-8e-7, 9e-7), resolvable=3e-7)
    why = verdict(ExpectedConfig(arm="bias", kind="better", paper_value=-2e-7), tiny, control=HARM, aa=QUIET).why
    assert "is +5e-8 [-8e-7, +9e-7]" in why and "80 % power is 3e-7" in why and "the paper's -2e-7 needs cannot" in why
    nothing = dataclasses.replace(interval(None, None), n=0)
    assert (
        "is not measured in any seed that both have finished"
        in judged(ExpectedConfig(arm="bias"), nothing, Beside(control=HARM, aa=QUIET)).why
    )


def test_what_was_not_measured_is_void() -> None:
    for kind in ("better", "equal", "identical"):
        found = judge(kind, -0.02, -0.01, void=Void("in short", "and at length"))
        assert (found.outcome, found.caveat, found.why) == ("void", "in short", "and at length.")


def test_not_resolved_says_what_could_be() -> None:
    found = judge("better", -0.01, 0.005)
    assert found.seeds_needed == 16 and "0.0105" in found.why and "would need 16 seeds" in found.why
    assert "bias minus none is -0.0025 [-0.0100, +0.0050] over 6 seeds" in found.why and found.why.endswith(".")
    tight = judge("better", -0.002, 0.001)
    assert tight.outcome == "not resolved" and "the paper's -0.0050 lies outside this interval" in tight.why
    assert tight.without_paper and not judge("better", -0.002, 0.001, mistuning=0.02).without_paper
    assert "would need" not in tight.why
    silent = verdict(ExpectedConfig(arm="bias"), interval(-0.01, 0.005), control=HARM, aa=QUIET)
    assert silent.seeds_needed is None and "gives no size" in silent.why
    single = dataclasses.replace(interval(None, None, n=1), sd=0.0, resolvable=None)
    assert "two seeds" in verdict(ExpectedConfig(arm="bias", paper_value=1.0), single, control=None, aa=None).why


@pytest.mark.parametrize(
    ("expected", "key"),
    [
        (ExpectedConfig(arm="x", kind="equal"), "margin=None"),
        (ExpectedConfig(arm="x", kind="not_worse", margin=-0.1), "margin=-0.1"),
        (ExpectedConfig(arm="x", kind="value"), "region=None"),
        (ExpectedConfig(arm="x", kind="value", region=[2.0, 1.0]), "region="),
    ],
)
def test_a_claim_without_its_region_is_refused(expected: ExpectedConfig, key: str) -> None:
    with pytest.raises(ConfigError, match=key) as error:
        verdict(expected, interval(0.0, 1.0), control=None, aa=None)
    assert "\n" not in str(error.value)


def test_the_whole_way_from_losses_to_verdicts_keeps_the_error_rate() -> None:
    """Public functions only: sweeps in which no arm differs say `better` or its opposite about once in twenty."""
    rng = np.random.default_rng(5)
    arms = ["a", "b", "c", "d", "e"]
    wrong, sweeps = 0, 400
    for _ in range(sweeps):
        base = 3.9 + rng.normal(0, 0.04, 6)
        values = {"base": dict(enumerate(base + rng.normal(0, 0.0035, 6)))}
        values |= {arm: dict(enumerate(base + rng.normal(0, 0.0035, 6))) for arm in arms}
        family = differences(values, [(arm, "base") for arm in arms], "loss")
        said = [verdict(ExpectedConfig(arm=d.arm), d, control=None, aa=None).outcome for d in family]
        wrong += any(outcome != "not resolved" for outcome in said)
    assert 0.02 < wrong / sweeps < 0.08


def test_the_decision_rule_is_one_paragraph() -> None:
    assert "\n" not in DECISION_RULE and "Bonferroni" in DECISION_RULE and len(DECISION_RULE) > 400


def of(values: list[float], arm: str = "arm") -> Difference:
    """The difference of an arm whose seeds differ from the baseline's by these values."""
    values_of = {arm: {s: 0.0 + v for s, v in enumerate(values)}, "none": dict.fromkeys(range(len(values)), 0.0)}
    return differences(values_of, [(arm, "none")], "loss")[0]


def identity(values: list[float], aa: list[float] | None, **more: int) -> Verdict:
    """The verdict on `identical`, to 1e-9, of an arm whose seeds differ by these values."""
    claim = ExpectedConfig(arm="arm", kind="identical", margin=1e-9)
    return verdict(claim, of(values), control=None, aa=None if aa is None else of(aa, "aa"), **more)


def test_identity_is_judged_seed_by_seed_and_only_where_a_change_would_be_seen() -> None:
    changed = [1e-4, -2e-4, 3e-5]
    assert identity([0.0, 0.0, 0.0], changed).outcome == "agrees"
    assert identity([1e-15, -2e-15, 4e-15], changed).outcome == "agrees"
    assert identity([0.0, 0.0, 2e-9], changed).outcome == "disagrees", "one seed is enough"
    assert identity([5e-9, 5e-9, 5e-9], changed).outcome == "disagrees"
    assert identity([0.0, 0.0, 0.0], [1e-10, -1e-10, 1e-10]).outcome == "no signal here"
    assert identity([0.0, 0.0, 0.0], None).outcome == "no signal here"
    assert identity([0.0, 0.0, 0.0], changed, diverged={"bias": 1}, trials=3).outcome == "disagrees"
    assert identity([], changed).outcome == "not resolved"
    assert "no seed of 3 differs by more than 0.0e+00" in identity([0.0] * 3, changed).why
    assert identity([0.0, 0.0, 0.0], [1.0, 1.1, 1.05]).outcome == "agrees", "here an A/A arm that differs is no fault"


def test_the_largest_difference_itself_decides_about_identity() -> None:
    """A bound from mean and sd would say 1.4e-9 of +-8e-10, and 2.2e-16 of what differs by 8.9e-16."""
    found = identity([8e-10, -8e-10, 8e-10, -8e-10], [1e-3, 2e-3])
    assert found.outcome == "agrees" and "no seed of 4 differs by more than 8.0e-10" in found.why
    rounding = identity([8.9e-16, 0.0, 0.0, 0.0], [1e-3, 2e-3])
    assert "no seed of 4 differs by more than 8.9e-16" in rounding.why
    exceeded = identity([0.0] * 5 + [1.1e-9], [1e-3, 2e-3])
    assert exceeded.outcome == "disagrees" and "up to 1.1e-09 in a seed of 6" in exceeded.why
    assert identity([1e-9], [1e-3]).outcome == "agrees", "one seed is a seed"
    assert identity([0.0, 0.0], [0.0, 2e-9]).outcome == "agrees", "one seed of the A/A arm sees a change"


HIGHER = "mtp_acceptance_1"


@pytest.mark.parametrize(
    ("kind", "low", "high", "outcome"),
    [
        ("better", 0.001, 0.02, "agrees"),
        ("better", -0.001, 0.02, "not resolved"),
        ("better", -0.02, -0.001, "disagrees"),
        ("not_worse", -0.009, 0.5, "agrees"),
        ("not_worse", -0.011, 0.5, "not resolved"),
        ("not_worse", -0.02, -0.011, "disagrees"),
        ("equal", -0.009, 0.009, "agrees"),
        ("value", 0.021, 0.039, "agrees"),
    ],
)
def test_where_higher_is_better_the_region_is_mirrored(kind: str, low: float, high: float, outcome: str) -> None:
    claim = {"region": [0.02, 0.04]} if kind == "value" else {} if kind == "better" else {"margin": 0.01}
    expected = ExpectedConfig(arm="bias", metric=HIGHER, kind=kind, **claim)  # type: ignore[arg-type]
    harm = dataclasses.replace(interval(-0.02, -0.01, "control"), metric=HIGHER)
    quiet = dataclasses.replace(QUIET, metric=HIGHER)
    measured = dataclasses.replace(interval(low, high), metric=HIGHER)
    assert verdict(expected, measured, control=harm, aa=quiet).outcome == outcome


@pytest.mark.parametrize(
    ("metric", "low", "high", "seen"),
    [
        ("loss", 0.001, 0.01, True),
        ("loss", -0.01, -0.001, False),
        (HIGHER, -0.01, -0.001, True),
        (HIGHER, 0.001, 0.01, False),
        ("gradient_cosine", -0.01, -0.001, True),
        ("python_cloze/acc", -0.01, -0.001, True),
        ("routing_entropy", -0.01, -0.001, True),
        ("routing_entropy", 0.001, 0.01, True),
        ("routing_entropy", -0.01, 0.01, False),
    ],
)
def test_a_controls_harm_lies_on_the_worse_side(metric: str, low: float, high: float, seen: bool) -> None:
    control = dataclasses.replace(interval(low, high, "control"), metric=metric)
    assert shows_harm(control) is seen
    claim = ExpectedConfig(arm="bias", metric=metric, kind="equal", margin=0.01)
    measured = dataclasses.replace(interval(-0.001, 0.001), metric=metric)
    said = verdict(claim, measured, control=control, aa=None).outcome
    assert said == ("agrees" if seen else "no signal here")


def test_no_direction_no_better() -> None:
    for kind in ("better", "not_worse"):
        claim = ExpectedConfig(arm="x", metric="routing_entropy", kind=kind, margin=0.1)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="lower or higher is better"):
            verdict(claim, dataclasses.replace(interval(0.0, 1.0), metric="routing_entropy"), control=None, aa=None)


def test_a_papers_difference_of_zero_is_a_size() -> None:
    found = verdict(ExpectedConfig(arm="bias", paper_value=0.0), interval(-0.01, 0.005), control=HARM, aa=QUIET)
    assert found.outcome == "not resolved" and "the paper's own difference is 0" in found.why
    assert "gives no size" not in found.why and found.seeds_needed is None
