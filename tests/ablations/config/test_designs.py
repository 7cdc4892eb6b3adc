"""Sweeps laid out by rule: which arms and weights they become, and what cannot be laid out."""

import itertools
import math

import numpy as np
import pytest

from ablations.config.designs import aliased, contrasts_of, crossed, laid_out
from ablations.config.schema import ArmConfig, ContrastConfig, DoseConfig, FactorialConfig, SweepConfig
from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.config.unread import check_read
from models.base.typed import ConfigError

SEVEN = "a b c d abc bcd acd"
FACTORS = {f"f{i}": {key: 1} for i, key in enumerate("stuvwxy")}


def sweep(**changes: object) -> SweepConfig:
    arms = {"base": ArmConfig(set={"p": 0}), "a": ArmConfig(set={"p": 1})}
    return SweepConfig(**{"baseline": "base", "arms": arms, **changes})  # type: ignore[arg-type]


def test_a_factorial_holds_the_baseline_and_estimates_every_factor() -> None:
    runs, effects = crossed(FactorialConfig(FACTORS, SEVEN), "base", {"p": 0})
    assert len(runs) == 15 and all(arm.set["p"] == 0 for arm in runs.values())
    table = {name: {key: key in arm.set for key in "stuvwxy"} for name, arm in runs.items()}
    table["base"] = dict.fromkeys("stuvwxy", False)
    assert len({tuple(row.values()) for row in table.values()}) == 16
    rng = np.random.default_rng(0)
    true = dict(zip("stuvwxy", rng.normal(size=7), strict=True))
    values = {name: 3 + sum(true[k] for k, on in row.items() if on) for name, row in table.items()}
    for (factor, changes), (name, effect) in zip(FACTORS.items(), effects.items(), strict=True):
        (key,) = changes
        assert name == factor and set(effect.weights) == set(table)
        assert sum(w * values[arm] for arm, w in effect.weights.items()) == pytest.approx(true[key])
        assert sorted({abs(w) for w in effect.weights.values()}) == [1 / 8]


def test_no_main_effect_is_told_by_an_interaction_of_two() -> None:
    """Resolution IV, checked on the runs themselves and not on the words."""
    runs, effects = crossed(FactorialConfig(FACTORS, SEVEN), "base", {})
    signs = {k: {n: 1 if n != "base" and k in runs[n].set else -1 for n in [*runs, "base"]} for k in "stuvwxy"}
    for effect, pair in itertools.product(effects.values(), itertools.combinations("stuvwxy", 2)):
        assert sum(w * signs[pair[0]][n] * signs[pair[1]][n] for n, w in effect.weights.items()) == pytest.approx(0)
    aliases = aliased(list(FACTORS), SEVEN.split())
    for name, others in aliases.items():
        assert others and all(len(other) == 3 for other in others)
        for other in others:
            column = list(FACTORS).index(name)
            product = {
                n: math.prod(signs["stuvwxy"[list(FACTORS).index(o)]][n] for o in other) for n in effects[name].weights
            }
            assert all(product[n] == signs["stuvwxy"[column]][n] for n in product)
    assert "(or of " in effects["f0"].about


@pytest.mark.parametrize(
    ("factors", "generators", "reason"),
    [
        ({"x": {"p": 1}, "y": {"p": 2}}, "a b", "x sets it too, so that the two exclude each other"),
        ({"x": {"q": 1}, "y": {}}, "a b", "factorial.factors.y: sets nothing"),
        ({"x": {"p": 0}, "y": {"q": 1}}, "a b", "the baseline has it already"),
        ({"x": {"q": 1}}, "a", "1 words for 1 factors"),
        ({"x": {"q": 1}, "y": {"r": 1}, "z": {"s": 1}}, "a b", "2 words for 3 factors"),
        ({"x": {"q": 1}, "y": {"r": 1}, "z": {"s": 1}}, "a b ab", "no run has every factor off"),
        ({"x": {"q": 1}, "y": {"r": 1}, "z": {"s": 1}}, "a b -ab", "cannot be told apart (resolution below IV)"),
        ({"x": {"q": 1}, "y": {"r": 1}}, "a a", "Main factors are confounded"),
    ],
)
def test_a_factorial_that_cannot_be_is_one_line(
    factors: dict[str, dict[str, int]], generators: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        crossed(FactorialConfig(factors, generators), "base", {"p": 0})
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("common", "own", "needed"),
    [
        (
            {"model.n_layers": 3, "model.first_k_dense": 3},
            {"model.moe.balance.update_speed": 0.01},
            "a layer of experts",
        ),
        (
            {"model.n_layers": 3, "model.first_k_dense": 3, "model.mtp.depth": 1, "model.mtp.style": "linear"},
            {"model.moe.balance.update_speed": 0.01},
            "a layer of experts",
        ),
        ({"model.feed_forward": "dense"}, {"model.moe.balance.kind": "none"}, "model.feed_forward=moe"),
        ({"model.feed_forward": "dense"}, {"model.moe.top_k": 1}, "model.feed_forward=moe"),
        ({"model.n_layers": 3, "model.first_k_dense": 3, "model.mtp.depth": 1}, {"model.moe.top_k": 1}, None),
        ({"model.feed_forward": "dense"}, {"model.moe.top_k": 1, "optim.lr": 0.1}, None),
    ],
)
def test_keys_of_experts_that_are_not_there_make_no_arm(
    common: dict[str, object], own: dict[str, object], needed: str | None
) -> None:
    keys = with_overrides(TrialKeys(), common, "common")
    found = sweep(arms={"base": ArmConfig(), "a": ArmConfig(set=own)})
    arms = {"base": keys, "a": with_overrides(keys, own, "a")}
    if needed is None:
        check_read(found, keys, arms, "x.yaml")
        return
    with pytest.raises(ConfigError) as error:
        check_read(found, keys, arms, "x.yaml")
    key, value = next(iter(own.items()))
    assert str(error.value).startswith(f"x.yaml arm a: {key}={value}: is read only with {needed}")


def test_a_factor_that_another_one_makes_unread_is_one_line() -> None:
    """The bias is formed in one way or the other, and no run is without it but those that have both factors."""
    factors = {"form": {"model.moe.balance.bias_form": "multiplicative"}, "off": {"model.moe.balance.kind": "none"}}
    crossing = laid_out(sweep(factorial=FactorialConfig(factors, "a b"), baseline="plain", arms={"plain": ArmConfig()}))
    keys = {name: with_overrides(TrialKeys(), arm.set, name) for name, arm in crossing.arms.items()}
    with pytest.raises(
        ConfigError, match=r"x.yaml: factorial.factors.form.* nothing reads it in run_04 \(on: form, off\)"
    ):
        check_read(crossing, TrialKeys(), keys, "x.yaml")
    with_it = [name for name, arm in keys.items() if arm.model.moe.balance.has_bias]
    assert len(with_it) == 2, "the baseline, and the run that has the form alone"


@pytest.mark.parametrize(
    ("one", "other", "needed"),
    [
        ({"optim.schedule": "constant"}, {"optim.final_lr_ratio": 0.5}, "optim.schedule=cosine or wsd or v3"),
        ({"optim.schedule": "wsd"}, {"optim.tail_from": 0.5}, "optim.schedule=v3"),
        ({"model.attention.kind": "mha"}, {"model.attention.kv_lora_rank": 32}, "model.attention.kind=mla"),
        ({"model.attention.kind": "mha"}, {"model.attention.n_kv_heads": 1}, "model.attention.kind=gqa"),
        ({"optim.eps": 0.1}, {"model.attention.head_dim": 16}, "model.attention.kind=mha or gqa or mqa"),
        ({"optim.eps": 0.1}, {"model.mtp.weight": 0.5}, "model.mtp.depth above 0"),
        ({"optim.eps": 0.1}, {"model.precision.format.weight": "e5m2"}, "a recipe of FP8, such as model.precision"),
        ({"optim.schedule": "v3"}, {"optim.final_lr_ratio": 0.5}, None),
        ({"model.attention.kind": "mha"}, {"model.attention.qk_norm": True}, None),
        ({"model.mtp.depth": 1}, {"model.attention.kv_lora_rank": 32}, None),
        ({"optim.eps": 0.1}, {"model.precision.recipe": "fp8_block", "model.precision.block": 16}, None),
    ],
)
def test_factors_that_exclude_each_other(one: dict[str, object], other: dict[str, object], needed: str | None) -> None:
    factorial = FactorialConfig({"one": one, "other": other}, "a b")
    crossing = laid_out(sweep(factorial=factorial, baseline="plain", arms={"plain": ArmConfig()}))
    keys = {name: with_overrides(TrialKeys(), arm.set, name) for name, arm in crossing.arms.items()}
    if needed is None:
        check_read(crossing, TrialKeys(), keys, "x.yaml")
        return
    with pytest.raises(ConfigError) as refused:
        check_read(crossing, TrialKeys(), keys, "x.yaml")
    said = str(refused.value)
    assert said.startswith("x.yaml: factorial.factors.other.") and f"it needs {needed}" in said


def test_a_ladder_adds_rung_by_rung() -> None:
    arms = {
        "base": ArmConfig(set={"p": 0}),
        "first": ArmConfig(onto="base", set={"q": 1}),
        "second": ArmConfig(onto="first", set={"r": 2, "q": 3}),
    }
    found = laid_out(sweep(arms=arms)).arms
    assert found["first"].set == {"p": 0, "q": 1} and found["second"].set == {"p": 0, "q": 3, "r": 2}
    for onto, reason in (("gone", "no such arm"), ("second", "in a ring")):
        with pytest.raises(ConfigError, match=reason):
            laid_out(sweep(arms={**arms, "first": ArmConfig(onto=onto, set={})}))


DOSE = "model.moe.balance.alpha"


def doses(**changes: object) -> dict[str, ContrastConfig]:
    arms = {f"a{i}": ArmConfig(set={DOSE: value}) for i, value in enumerate((0.001, 0.01, 0.1))}
    dose = DoseConfig(**{"key": DOSE, "arms": list(arms), "log": True, **changes})  # type: ignore[arg-type]
    whole = laid_out(sweep(arms={"base": ArmConfig(), **arms}, doses={"slope": dose}))
    keys = {name: with_overrides(TrialKeys(), arm.set, name) for name, arm in whole.arms.items()}
    return contrasts_of(whole, keys)


def test_a_slope_over_the_dose() -> None:
    found = doses(at=0.0001, over=0.001)
    value = {"a0": 1.0, "a1": 1.5, "a2": 2.0}  # 0.5 per decade
    slope, at = (sum(w * value[a] for a, w in found[name].weights.items()) for name in ("slope", "slope_at"))
    assert slope == pytest.approx(0.5 / math.log(10)) and at == pytest.approx(-0.5)
    assert doses(key="", arms=[], values={"a0": 0.001, "a1": 0.01, "a2": 0.1})["slope"].weights == (
        pytest.approx(found["slope"].weights)
    ), "the doses may be given, too"
    far = doses(at=1e-12, over=1e12)["slope_at"].weights
    assert far == pytest.approx({arm: 24 * weight for arm, weight in found["slope_at"].weights.items()}), "24 decades"
    straight = doses(log=False)
    assert list(straight) == ["slope"] and sum(straight["slope"].weights.values()) == pytest.approx(0)


@pytest.mark.parametrize(
    ("around", "log"), [(0.0, False), (1.0, False), (1e6, False), (1e9, False), (1.0, True), (1e6, True), (1e9, True)]
)
def test_a_slope_over_doses_that_lie_close(around: float, log: bool) -> None:
    """Its weights add up to nothing, whatever the doses have in common: a level must not leak into the slope."""
    values = {"a0": around, "a1": around + 2.0**-10, "a2": around + 2.0**-8}
    weights = doses(key="", arms=[], values=values, log=log)["slope"].weights
    rising = sum(weight * (3 * i) for weight, i in zip(weights.values(), (0, 1, 4), strict=True))
    per_one = 3 * 2**10 * (around if log else 1)  # a small step in the logarithm is a share of where it is taken
    assert rising == pytest.approx(per_one, rel=3e-3 if log else 1e-9)
    assert abs(math.fsum(weights.values())) < 1e-9 * max(map(abs, weights.values()))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"arms": ["a1"]}, "one point has no slope"),
        ({"arms": ["a1", "gone"]}, "doses.slope: gone: no such arm"),
        ({"key": "", "arms": [], "values": {"a1": 1.0, "gone": 2.0}}, "doses.slope: gone: no such arm"),
        ({"key": "", "arms": [], "values": {"a1": 1.0}}, "one point has no slope"),
        ({"key": "", "arms": [], "values": {"a0": 1.0, "a1": 1.0}, "log": False}, "all have the dose=1"),
        ({"values": {"a0": 1.0, "a1": 2.0}}, "stands in place of `key` and `arms`"),
        (
            {"key": "", "arms": [], "values": {"a0": 1e308, "a1": -1e308}},
            "values.a0=1e+308: out of 1e-12 to 1e+12; take another unit",
        ),
        ({"key": "", "arms": [], "values": {"a0": 1e-200, "a1": 1.0}}, "values.a0=1e-200: out of 1e-12 to 1e+12"),
        ({"key": "", "arms": [], "values": {"a0": 1.0, "a1": 1.0 + 1e-13}, "log": False}, "e-14 apart, out of"),
        ({"key": "", "arms": [], "values": {"a0": -1e12, "a1": 1e12}, "log": False}, "lie 2e+12 apart, out of"),
        ({"at": 1e300}, "doses.slope.at=1e+300: out of 1e-12 to 1e+12; take another unit"),
        ({"at": 1e-320}, "doses.slope.at=9.99989e-321: out of 1e-12"),
        ({"at": 0.1, "over": 1e13}, "doses.slope.over=1e+13: out of 1e-12 to 1e+12"),
        ({"over": 0.01}, "doses.slope.over=0.01: what at=null is compared with; give another `at`"),
        ({"at": 0.01, "over": 0.01}, "what at=0.01 is compared with"),
        ({"at": 1.0}, "doses.slope.over=1: what at=1 is compared with"),
        ({"at": 0.0, "log": False}, "doses.slope.over=0: what at=0 is compared with"),
        ({"key": ""}, "doses.slope.key: names nothing; give the key of a number, or each arm's dose in `values`"),
        ({"key": "model.moe.balance.kind"}, "not a key of a number"),
        ({"key": "model.moe.balance.alfa"}, "not a key of a number; did you mean"),
        ({"key": "optim.lr"}, "is searched for a0, so that nobody knows its dose before"),
        ({"key": "optim.eps"}, "all have optim.eps"),
        ({"at": 0.0}, "slope.log=true: doses.slope.at has model.moe.balance.alpha=0, and 0 or less has no logarithm"),
        (
            {"key": "", "arms": [], "values": {"a0": 0.0, "a1": 1.0}},
            "slope.log=true: a0 has the dose=0, and 0 or less has no logarithm; give it one above 0",
        ),
    ],
)
def test_a_dose_that_cannot_be_is_one_line(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        doses(**changes)
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_key_of_no_number_is_not_suggested() -> None:
    with pytest.raises(ConfigError) as refused:
        doses(key="data.mask_documents")
    assert "did you mean data.mask_documents" not in str(refused.value)


def test_a_slope_counts_whatever_a_run_leaves_out() -> None:
    """So that who runs some of the arms has no narrower intervals than who runs all."""
    dose = DoseConfig(key=DOSE, arms=["a", "b"], at=0.01)
    arms = {"base": ArmConfig(), "a": ArmConfig(set={DOSE: 0.1}), "b": ArmConfig(set={DOSE: 0.2})}
    whole = laid_out(sweep(arms=arms, doses={"d": dose}))
    left = contrasts_of(whole, {name: with_overrides(TrialKeys(), {DOSE: 0.1}, name) for name in ("base", "a")})
    assert list(left) == ["d", "d_at"] and all(contrast.weights == {"a": 0, "b": 0} for contrast in left.values())
    arms["b"] = ArmConfig(set={DOSE: 0.2}, optional=True)
    assert not contrasts_of(laid_out(sweep(arms=arms, doses={"d": dose})), {"base": TrialKeys(), "a": TrialKeys()})


def test_a_contrast_adds_up_to_nothing() -> None:
    laid_out(sweep(contrasts={"c": ContrastConfig("", {"base": -1.0, "a": 1.0})}))
    whole = laid_out(sweep(contrasts={"c": ContrastConfig("", {"base": -1.0, "a": 1.0})}))
    assert list(contrasts_of(whole, {"base": TrialKeys()})) == ["c"], "counted, whatever a run leaves out"
    for name, weights, reason in (
        ("c", {"base": 1.0, "a": 1.0}, "add up to 2"),
        ("c", {"base": 1.0, "gone": -1.0}, "no such arm"),
        ("c", {"base": 0.0, "a": 0.0}, "are all 0, which weighs nothing"),
        ("c", {"base": 1e308, "a": -1e308}, r"weights.base=1e\+308: larger than 1e\+12"),
    ):
        with pytest.raises(ConfigError, match=reason):
            laid_out(sweep(contrasts={name: ContrastConfig("", weights)}))
