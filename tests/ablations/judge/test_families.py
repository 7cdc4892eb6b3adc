"""Which comparisons share their level, and estimates that are sums over many arms."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from ablations.config.designs import slope
from ablations.config.schema import ContrastConfig, DoseConfig, ExpectedConfig
from ablations.config.trialkeys import TrialKeys
from ablations.judge.families import families_of, pairs_of, weighed
from ablations.judge.gather import load_result
from ablations.judge.judging import verdicts_of
from ablations.judge.result import Result
from ablations.judge.stats import differences


@pytest.fixture
def result(sweep_run: Any, tmp_path: Path) -> Result:
    sweep_run(tmp_path)
    return load_result(tmp_path, "moe_balance", "cpu")


def asked(result: Result, *claims: ExpectedConfig, **plan: Any) -> Result:
    return dataclasses.replace(result, plan=dataclasses.replace(result.plan, expected=list(claims), **plan))


def test_claims_the_rest_and_diagnostics_are_apart(result: Result) -> None:
    with_claims = asked(
        result,
        ExpectedConfig("bias"),
        ExpectedConfig("aux_loss", against="none"),
        ExpectedConfig("bias", "max_vio_global"),
    )
    pairs = pairs_of(with_claims.arms, with_claims.plan, "loss")
    assert pairs["claim"] == [("bias", "aux_loss"), ("none", "aux_loss")]
    assert pairs["exploratory"] == [("batch_aux_loss", "aux_loss")]
    assert sorted(pairs["diagnostic"]) == [("aa", "aux_loss"), ("control", "aux_loss")]
    found = families_of(with_claims.arms, with_claims.plan)
    assert {(d.kind, d.comparisons) for d in found["loss"].values()} == {
        ("claim", 2),
        ("exploratory", 1),
        ("diagnostic", 2),
    }
    assert found["max_vio_global"]["bias", "aux_loss"].comparisons == 1
    values = {name: arm.values["loss"] for name, arm in result.arms.items()}
    (alone,) = differences(values, [("batch_aux_loss", "aux_loss")], "loss")
    assert found["loss"]["batch_aux_loss", "aux_loss"].low == alone.low, "claims cost the others nothing"


def test_a_claim_is_judged_with_its_own_family(result: Result) -> None:
    """Arms that nobody claims anything of, however many, leave a claim's interval as it is."""
    one = asked(result, ExpectedConfig("bias"))
    fewer = {name: arm for name, arm in one.arms.items() if name != "batch_aux_loss"}
    wide, narrow = (families_of(arms, one.plan)["loss"]["bias", "aux_loss"] for arms in (one.arms, fewer))
    assert (wide.low, wide.high) == (narrow.low, narrow.high)


def test_a_slope_is_that_of_statsmodels_with_a_level_per_seed(result: Result) -> None:
    doses = {"none": 0.0, "aux_loss": 1.0, "bias": 2.0, "batch_aux_loss": 4.0}
    contrasts = slope("slope", DoseConfig(values=doses), dict.fromkeys(doses, TrialKeys()))
    sloped = asked(result, ExpectedConfig("slope"), contrasts=contrasts)
    found = families_of(sloped.arms, sloped.plan)["loss"]["slope", ""]
    rows = [(x, s, result.arms[arm].values["loss"][s]) for arm, x in doses.items() for s in result.seeds]
    x, seeds, y = (np.array(column) for column in zip(*rows, strict=True))
    levels = (seeds[:, None] == np.unique(seeds)).astype(float)
    fit = sm.OLS(y, np.column_stack([x, levels])).fit()
    assert found.mean == pytest.approx(fit.params[0], rel=1e-9) and (found.kind, found.n) == (
        "claim",
        len(result.seeds),
    )
    (verdict,) = verdicts_of(sloped.arms, sloped.plan, families_of(sloped.arms, sloped.plan), set())
    assert verdict.why.startswith("slope is ") and verdict.against == ""


def test_a_contrast_needs_a_seed_of_all_its_arms(result: Result) -> None:
    bias = result.arms["bias"]
    fewer = {**bias.values, "loss": {s: v for s, v in bias.values["loss"].items() if s != result.seeds[0]}}
    arms = {**result.arms, "bias": dataclasses.replace(bias, values=fewer)}
    plan = dataclasses.replace(result.plan, contrasts={"x": ContrastConfig("", {"bias": 1.0, "none": -1.0})})
    losses = {name: arm.values["loss"] for name, arm in arms.items()}
    values = weighed(losses, plan)
    assert sorted(values["x"]) == sorted(result.seeds)[1:] and set(values[""].values()) == {0.0}
    seed = result.seeds[1]
    theirs = result.arms["none"].values["loss"][seed]
    assert math.isclose(values["x"][seed], bias.values["loss"][seed] - theirs)
    gone = weighed({name: own for name, own in losses.items() if name != "none"}, plan)
    assert gone["x"] == {}


def test_mistuning_reaches_an_estimate_as_far_as_its_weights(result: Result) -> None:
    """Two arms move their difference by the larger bound; a slope by that times the sum of its positive weights."""
    weights = {"bias": 3.0, "aux_loss": -2.0, "none": -1.0}
    claims = (
        ExpectedConfig("bias", kind="value", region=[-1, 1]),
        ExpectedConfig("steep", kind="value", region=[-9, 9]),
    )
    plan = asked(result, *claims, contrasts={"steep": ContrastConfig("", weights)}).plan
    assert [plan.reach(claim) for claim in claims] == [1.0, 3.0]
    arms = {
        name: dataclasses.replace(arm, mistuning=1.0 if name == "bias" else 0.1) for name, arm in result.arms.items()
    }
    outcomes = [v.outcome for v in verdicts_of(arms, plan, families_of(arms, plan), {"bias", "none"})]
    assert outcomes == ["not resolved", "agrees"]
    wide = {name: dataclasses.replace(arm, mistuning=3.0) for name, arm in arms.items()}
    assert verdicts_of(wide, plan, families_of(wide, plan), {"bias"})[1].outcome == "not resolved"


def test_what_a_rate_may_cost_counts_for_a_loss_in_any_unit(result: Result) -> None:
    """The same loss in bits gets the same verdict; how well a load is balanced is another thing."""
    score = "python_bits_per_byte/bits_per_byte"
    claims = [ExpectedConfig("none", metric) for metric in ("loss", "bits_per_byte", score, "max_vio_global")]
    plan = asked(result, *claims).plan
    for bound, wanted in ((0.0, "disagrees"), (0.02, "not resolved"), (None, "not resolved")):
        arms = {name: dataclasses.replace(arm, mistuning=bound) for name, arm in result.arms.items()}
        outcomes = [v.outcome for v in verdicts_of(arms, plan, families_of(arms, plan), {"none"})]
        assert outcomes == [wanted] * 3 + ["disagrees"], bound
