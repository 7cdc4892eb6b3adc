"""The solver turns a knob until the budgets are equal, says by how much it missed, and refuses what cannot be."""

from dataclasses import replace
from typing import Any

import pytest

from ablations.config.compose import compose
from ablations.config.schema import MatchedConfig
from ablations.config.trialkeys import TrialKeys, value_of, with_overrides
from ablations.config.trialrules import check
from ablations.sweep.announce import describe
from ablations.sweep.matching import amounts, budget, isolation, mismatch, solve
from ablations.sweep.planning import make_plan
from models.base.typed import ConfigError
from models.config import ModelConfig
from models.transformer import Transformer


def keys(**changes: Any) -> TrialKeys:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return with_overrides(TrialKeys(model=ModelConfig(dtype="float32")), dotted, "test")


MHA = keys(model__attention__kind="mha")
KNOBS = {
    "model.intermediate_size": keys(model__attention__kind="mqa"),
    "model.moe.moe_intermediate_size": keys(model__moe__n_routed_experts=32, model__moe__top_k=8),
    "model.n_layers": keys(model__d_model=64, model__moe__moe_intermediate_size=32),
    "model.attention.n_heads": keys(model__attention__kind="mha", model__attention__head_dim=8),
}


STEPS = dict.fromkeys(KNOBS, (-1, 0, 1)) | {"model.moe.moe_intermediate_size": (-4, 0, 4)}
"""To the values beside a solution: FP32 rows of 16 bytes are what the experts' products take."""


@pytest.mark.parametrize("knob", KNOBS)
def test_the_solution_is_the_nearest_that_there_is(knob: str) -> None:
    matched = MatchedConfig(equal=["total_params"], tolerance=0.05, knob=knob)  # type: ignore[arg-type]
    arm = KNOBS[knob]
    assert mismatch(arm, MHA, replace(matched, tolerance=0.001)), "the case needs no knob"
    solved = solve(arm, MHA, replace(matched, tolerance=0.001) if knob == "model.intermediate_size" else matched, "x")
    found = solved or {knob: value_of(arm, knob)}
    target = amounts(MHA)["total_params"]
    distances = {}
    for step in STEPS[knob]:
        turned = with_overrides(arm, {knob: found[knob] + step}, "test")
        distances[step] = abs(amounts(turned)["total_params"] - target)
    assert min(distances, key=distances.__getitem__) == 0, distances
    model = Transformer(check(with_overrides(arm, found, "test")).model)
    assert abs(sum(p.numel() for p in model.parameters()) / target - 1) <= matched.tolerance


@pytest.mark.parametrize(
    ("changes", "knob", "multiple"),
    [
        ({"model__dtype": "bfloat16"}, "model.moe.moe_intermediate_size", 8),
        ({"model__dtype": "float32"}, "model.moe.moe_intermediate_size", 4),
        ({"model__dtype": "bfloat16", "model__moe__backend": "loop"}, "model.moe.moe_intermediate_size", 1),
        ({"model__attention__kind": "gqa", "model__attention__n_kv_heads": 4}, "model.attention.n_heads", 4),
        ({"model__pipeline__schedule": "1f1b", "model__pipeline__stages": 3}, "model.n_layers", 1),
    ],
    ids=str,
)
def test_a_solution_is_a_value_that_a_trial_may_have(changes: dict[str, Any], knob: str, multiple: int) -> None:
    """Nearest among those, on both sides, and never one that validation would refuse afterwards."""
    arm = keys(**changes)
    seen = set()
    for percent in range(60, 300, 12):
        base = keys(model__intermediate_size=320 * percent // 100, model__vocab_size=1024 * percent // 100)
        matched = MatchedConfig(equal=["total_params"], tolerance=1.0, knob=knob)  # type: ignore[arg-type]
        tight = replace(matched, tolerance=0.0)
        try:
            value = solve(arm, base, tight, "x")[knob]
        except ConfigError as error:  # nothing is exact: the message names what was nearest
            value = int(str(error).split(f"{knob}=")[1].split()[0])
        check(with_overrides(arm, {knob: value}, "test"))
        assert value % multiple == 0
        target = amounts(base)["total_params"]
        for beside in (value - multiple, value + multiple):
            if beside >= (3 if knob == "model.n_layers" else multiple):
                off = abs(amounts(with_overrides(arm, {knob: beside}, "test"))["total_params"] - target)
                assert off >= abs(amounts(with_overrides(arm, {knob: value}, "test"))["total_params"] - target)
        seen.add(value)
    assert len(seen) > 1


def test_the_shipped_experts_sweep_solves_to_widths_that_its_backend_takes() -> None:
    for scale, multiple in (("cpu", 8), ("gpu", 8)):
        made = make_plan(compose(["sweep=experts", f"scale={scale}", "arms=all", "model.dtype=bfloat16"]))
        solved = {name: arm.solved for name, arm in made.arms.items() if arm.solved}
        assert {"fine", "finer", "dense"} <= set(solved)
        for name, values in solved.items():
            assert all(v % multiple == 0 for k, v in values.items() if "moe" in k)
            for key, value in values.items():
                line = next(line for line in describe(made).splitlines() if line.startswith(f"{name} "))
                assert line.endswith(f"({key}={value}, solved)")


def test_equal_flops_are_whole_batches_nearest_to_the_baselines() -> None:
    base, arm = keys(), keys(model__mtp__depth=1)
    matched = MatchedConfig(equal=["train_flops"], tolerance=0.0, knob="train.token_fraction")
    solved = with_overrides(arm, solve(arm, base, matched, "x"), "test")
    ratio = amounts(solved)["train_flops"] / amounts(base)["train_flops"]
    batch = 1 / base.steps
    assert solved.steps < base.steps and abs(ratio - 1) <= batch
    assert budget(solved, base, matched).passed
    assert not budget(arm, base, matched).passed, "as many tokens cost more"


def test_what_matches_is_left_alone_and_what_names_no_knob_too() -> None:
    arm = keys(model__attention__kind="mqa")
    assert solve(MHA, MHA, MatchedConfig(knob="model.intermediate_size"), "x") == {}
    assert solve(arm, MHA, MatchedConfig(equal=["total_params"], tolerance=0.0), "x") == {}
    assert not budget(arm, MHA, MatchedConfig(equal=["total_params"], tolerance=0.0)).passed


def test_a_refusal_has_the_numbers_and_the_way_out() -> None:
    arm = keys(model__feed_forward="dense")
    matched = MatchedConfig(equal=["active_params", "total_params"], tolerance=0.01, knob="model.intermediate_size")
    with pytest.raises(ConfigError) as error:
        solve(arm, keys(), matched, "sweeps/x.yaml arm dense")
    message = str(error.value)
    assert message.startswith("sweeps/x.yaml arm dense: cannot be matched: with model.intermediate_size=")
    assert "total_params is 0.58" in message and "tolerance 0.01" in message and "\n" not in message


def test_a_knob_that_changes_nothing_is_refused() -> None:
    matched = MatchedConfig(equal=["kv_bytes"], knob="model.intermediate_size")
    with pytest.raises(ConfigError, match="^x: cannot be matched: model.intermediate_size does not change kv_bytes"):
        solve(keys(model__attention__kind="mqa"), MHA, matched, "x")


def test_the_guard_names_what_is_matched_and_by_how_much_the_rest_is_not() -> None:
    arm = keys(model__attention__kind="mqa")
    detail = budget(arm, MHA, MatchedConfig(equal=["active_params"], tolerance=0.5)).detail
    assert "active_params 0.9" in detail and "(matched)" in detail and "kv_bytes 0.2500x" in detail
    assert "(matched)" not in detail.split("kv_bytes")[1]


def test_the_knob_is_declared_and_nothing_else_slips_through(plan: Any) -> None:
    made = plan("sweep=attention", "sweeps_dir=null", "arms=[mqa]")
    arm = made.arms["mqa"]
    assert set(arm.solved) == {"model.intermediate_size"}
    assert isolation(arm.keys, made.baseline.keys, {*arm.set, *made.baseline.set, *arm.solved}).passed
    assert not isolation(arm.keys, made.baseline.keys, {*arm.set, *made.baseline.set}).passed
