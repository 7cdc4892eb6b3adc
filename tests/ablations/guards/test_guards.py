"""Every guard stops what it is there for: a deliberately leaking, unequal, dead or unsteady arm."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ablations.guards.arm as guards
import ablations.guards.subject as subjects
from ablations.config.schema import MatchedConfig
from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.guards.arm import arm_guards
from ablations.guards.causality import causality, logits_of
from ablations.guards.losses import derivative, finer
from ablations.guards.meaning import MEANINGS
from ablations.guards.probes import largest_change
from ablations.guards.sizes import initialisation
from ablations.guards.start import first_steps, same_bits, start
from ablations.guards.subject import Subject
from ablations.guards.text import separation
from ablations.record.guardresult import GuardResult
from ablations.sweep.matching import budget, isolation
from ablations.sweep.plan import config_guards
from ablations.sweep.yardstick import twins_at_start, yardstick
from ablations.trial.fitting import build_model, open_data
from models.attention import Places
from models.base.typed import ConfigError
from models.config import MTPConfig
from models.layers import KEPT, Linear
from models.precision.config import FormatConfig, GranularityConfig, KeepHighConfig, PrecisionConfig
from models.precision.quantise import Rounding
from models.transformer import Output, Transformer, initialise
from tasks.text.batches import PackedData

torch.set_num_threads(1)


class Leaking(Transformer):
    """No causal mask: every token sees its own answer."""

    def places(self, tokens_BT: Tensor, document_end: int | None = None) -> Places:
        length = tokens_BT.shape[1]
        return replace(super().places(tokens_BT, document_end), mask_BTL=torch.zeros(len(tokens_BT), length, length))


class LeakingScale(Transformer):
    """Causal, but for a scale taken over all tokens, as a careless FP8 recipe does."""

    def forward(self, tokens_BT: Tensor, mtp: bool = False, document_end: int | None = None) -> Output:
        output = super().forward(tokens_BT, mtp, document_end)
        return replace(output, logits=output.logits / output.logits.abs().amax())


@pytest.fixture
def keys(plan) -> Any:
    """`keys(arm)`: the typed keys of an arm at `scale=smoke`."""
    made = plan("arms=all")
    return lambda arm="bias": made.arms[arm].keys


@pytest.fixture
def data(data_cache, keys) -> Any:
    return open_data(keys(), str(data_cache))


def built(kind: type[Transformer], keys: TrialKeys, **changes: Any) -> Transformer:
    model = kind(replace(keys.model, **changes))
    initialise(model, 0, keys.model.std)
    return model


def by_name(results: list[GuardResult]) -> dict[str, GuardResult]:
    return {result.name: result for result in results}


def change(model: Transformer, tokens: Tensor) -> float:
    """The largest of an earlier logit by later tokens, as the guard measures it."""
    return largest_change(logits_of(model.eval(), None), tokens, model.config.vocab_size)


@pytest.mark.parametrize("attention", ["mla", "mha", "gqa", "mqa"])
@pytest.mark.parametrize("backend", ["grouped_mm", "loop"])
def test_a_causal_model_changes_by_its_last_bits_and_a_leaking_one_by_more(keys, data, attention, backend):
    model = keys().model
    kind = replace(model.attention, kind=attention, n_kv_heads=1)
    changes = {"attention": kind, "moe": replace(model.moe, backend=backend)}
    tokens = data.train_batch(0, 0)[:2, :-1]
    assert change(built(Transformer, keys(), **changes), tokens) < 1e-5
    assert change(built(Leaking, keys(), **changes), tokens) > 1e-3


def with_precision(keys: TrialKeys, precision: PrecisionConfig) -> TrialKeys:
    return replace(keys, model=replace(keys.model, precision=precision))


FP8: dict[str, dict[str, Any]] = {
    "tiles": {"recipe": "fp8_block"},
    "rows": {"recipe": "fp8_row"},
    "everything": {"recipe": "fp8_block", "keep_high": KeepHighConfig(False, False, False, False, False)},
    "V3": {"recipe": "fp8_block", "dispatch": "fp8", "recompute_swiglu": True, "e5m6_after_attention": True},
}
SHARED: dict[str, dict[str, Any]] = {
    "tensors": {"recipe": "fp8_tensor"},
    "blocks": {"recipe": "fp8_block", "granularity": GranularityConfig(activation="block")},
}


@pytest.mark.parametrize("parts", FP8.values(), ids=FP8)
def test_fp8_with_scales_within_a_token_is_causal_in_training(keys, data, parts):
    arm = with_precision(keys(), PrecisionConfig(block=4, **parts))
    found = causality(Subject(arm, 0, data))
    assert found.passed, found.said
    assert found.facts["shared_scales"] is False and found.facts["largest_change"] <= found.facts["limit"]


@pytest.mark.parametrize("parts", SHARED.values(), ids=SHARED)
def test_fp8_with_scales_across_tokens_is_reported_and_by_how_much(keys, data, parts):
    arm = with_precision(keys(), PrecisionConfig(block=4, **parts))
    found = causality(Subject(arm, 0, data))
    assert found.passed and "through scales that tokens share" in found.detail
    assert found.facts["largest_change"] > found.facts["limit"] and found.facts["shared_scales"] is True


def test_an_fp8_recipe_that_leaks_where_it_claims_not_to_is_stopped(keys, data, monkeypatch):
    """Tiles that span two tokens."""
    monkeypatch.setattr(Rounding, "size", lambda self, shape: (2, 4) if len(shape) == 2 else (4, 4))
    arm = with_precision(keys(), PrecisionConfig(recipe="fp8_block", block=4))
    assert not causality(Subject(arm, 0, data)).passed


def test_a_coarser_format_than_e4m3_is_judged_as_e4m3(keys, data):
    """Its rounding is what is asked about, and goes farther than a mistake may."""
    fine = derivative(Subject(with_precision(keys(), PrecisionConfig(recipe="fp8_block", block=4)), 0, data))
    coarse = FormatConfig(activation="e4m1", weight="e4m2", gradient="e5m2")
    arm = with_precision(keys(), PrecisionConfig(recipe="fp8_block", block=4, format=coarse))
    assert finer(Subject(arm, 0, data)).keys.model.precision.format == FormatConfig("e4m3", "e4m3", "e5m2")
    arm = with_precision(arm, replace(arm.model.precision, format=replace(coarse, gradient="e4m1")))
    found = derivative(Subject(arm, 0, data))
    assert found.passed and found.facts["as_trained"] == fine.facts["as_trained"] > 0.01


def test_an_fp8_arm_passes_all_of_its_guards(keys, data):
    arm = with_precision(keys(), PrecisionConfig(recipe="fp8_block", block=4))
    results = by_name(arm_guards(arm, 0, data))
    assert all(result.passed for result in results.values()), results
    facts = results["evaluation"].facts
    assert facts["loss"] == facts["loss_in_bf16"]


def twins(plan: Any, data: Any, **arms: dict[str, Any]) -> dict[str, GuardResult]:
    """What is said before the training of arms with these precisions."""
    made, found = plan(), {}
    for name, parts in arms.items():
        keys = with_precision(made.baseline.keys, PrecisionConfig(**{"block": 4, **parts}))
        made.arms[name] = replace(made.baseline, name=name, keys=keys)
        found[name] = [guards.determinism(Subject(keys, 0, data))]
    return twins_at_start(replace(made, arms={name: made.arms[name] for name in arms}), found)


def test_arms_whose_numbers_are_equal_are_refused_and_by_name(plan, data):
    """No matrix of this model is wider than 128: a block is a tensor."""
    block = {"recipe": "fp8_block", "block": 128}
    found = twins(plan, data, blocks=block, tensors=block | {"granularity": GranularityConfig(weight="tensor")})
    assert list(found) == ["tensors"] and not found["tensors"].passed
    assert found["tensors"].detail == "the same numbers as blocks after the first steps"
    assert found["tensors"].facts["twin"] == "blocks"


def test_a_control_that_nothing_reads_is_no_harm(plan, data):
    """MLA has no heads of keys to count."""
    made = plan()
    base, control = made.baseline, made.arms["control"]

    def said(**changes: Any) -> dict[str, GuardResult]:
        attention = replace(base.keys.model.attention, **changes)
        harmed = replace(control, keys=replace(base.keys, model=replace(base.keys.model, attention=attention)))
        arms = {base.name: base, "control": harmed}
        return twins_at_start(
            replace(made, arms=arms),
            {name: [guards.determinism(Subject(arm.keys, 0, data))] for name, arm in arms.items()},
        )

    assert base.keys.model.attention.kind == "mla"
    found = said(n_kv_heads=base.keys.model.attention.n_kv_heads * 2)
    assert list(found) == ["control"] and not found["control"].passed
    assert found["control"].detail.startswith(f"the same numbers as {base.name} after the first steps; a control")
    assert not said(kv_lora_rank=base.keys.model.attention.kv_lora_rank // 2)


def test_arms_that_round_differently_are_distinct_and_so_are_moments(plan, data):
    block = {"recipe": "fp8_block"}
    assert not twins(plan, data, tiles=block, tensor={"recipe": "fp8_tensor"}, moments=block | {"moments": "bf16"})
    assert not twins(plan, data, one=block, two=block), "the same precision may be the same"


def test_causality_sees_a_scale_that_crosses_tokens_and_a_single_late_leak(keys, data):
    tokens = data.train_batch(0, 0)[:2, :-1]
    assert change(built(LeakingScale, keys()), tokens) > 1e-3

    class NextToken(Transformer):
        """Sees one token ahead, and only at the last place where there is one."""

        def forward(self, tokens_BT: Tensor, mtp: bool = False, document_end: int | None = None) -> Output:
            output = super().forward(tokens_BT, mtp, document_end)
            output.logits[:, -2, tokens_BT[:, -1]] += 1
            return output

    assert change(built(NextToken, keys()), tokens) > 0.5


class FarSighted(Transformer):
    """Its MTP modules embed token i + k + 1 where they may embed token i + k: the very answer."""

    def _predict_further(self, hidden: Tensor, tokens_BT: Tensor, places: Places, output: Output) -> None:
        later = torch.cat((tokens_BT[:, 1:], tokens_BT[:, -1:]), dim=1)
        super()._predict_further(hidden, later, places, output)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_causality_lets_an_mtp_module_see_its_own_depth_and_no_further(keys, data, style, depth):
    tokens = data.train_batch(0, 0)[:2, :-1]
    mtp = MTPConfig(depth=depth, style=style)
    assert change(built(Transformer, keys(), mtp=mtp), tokens) < 1e-5
    far_sighted = change(built(FarSighted, keys(), mtp=mtp), tokens)
    assert (far_sighted < 1e-5) == (style != "chained"), "a parallel head looks at no later token at all"
    assert change(built(FarSighted, keys(), mtp=MTPConfig()), tokens) < 1e-5, "its main model is causal"
    assert change(built(Leaking, keys(), mtp=mtp), tokens) > 1e-3


def test_causality_sees_the_deepest_module_alone(keys, data):
    class OnlyTheDeepest(Transformer):
        """Only depth 2 leaks, by one token, and only at its last position."""

        def _predict_further(self, hidden: Tensor, tokens_BT: Tensor, places: Places, output: Output) -> None:
            super()._predict_further(hidden, tokens_BT, places, output)
            output.mtp_logits[1][:, -2, tokens_BT[:, -1]] += 1

    tokens = data.train_batch(0, 0)[:2, :-1]
    assert change(built(OnlyTheDeepest, keys(), mtp=MTPConfig(depth=2)), tokens) > 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"model.mtp.depth": 2, "data.mask_documents": True, "model.moe.n_group": 4, "model.moe.topk_group": 2},
        {"model.mtp.depth": 1, "model.mtp.style": "parallel", "train.microbatches": 2},
        {"model.mtp.depth": 1, "model.mtp.style": "linear", "train.microbatches": 2},
        {"model.mtp.depth": 1, "model.mtp.weight": 0.0},
        {
            "model.feed_forward": "dense",
            "model.mtp.depth": 2,
            "model.rope.scaling": "yarn",
            "model.rope.factor": 4,
            "model.rope.original_length": 32,
        },
        {
            "model.moe.balance.kind": "bias_aux_loss",
            "model.moe.balance.alpha": 0.0,
            "data.ramp_from": 0.25,
            "data.ramp_over": 1.0,
        },
        {"model.moe.balance.kind": "bias_aux_loss", "model.moe.top_k": 8},
        {"model.moe.balance.bias_form": "multiplicative", "model.moe.balance.frozen_fraction": 1.0},
        {"model.attention.kind": "gqa", "model.attention.n_kv_heads": 1, "model.moe.scoring": "softmax"},
    ],
    ids=str,
)
def test_every_toggle_passes_on_real_batches(plan, data, changes):
    """Several at once where one has no part in the other."""
    keys = with_overrides(plan().arms["bias"].keys, changes, "test")
    results = arm_guards(keys, 0, data)
    assert all(r.passed for r in results), results


@pytest.mark.parametrize("arm", ["aux_loss", "none", "batch_aux_loss", "bias", "bias_aux_loss", "aa"])
def test_all_arms_pass_on_real_batches(keys, data, arm):
    results = arm_guards(keys(arm), 0, data)
    names = [guard.name for guard in guards.GUARDS if guard.name not in ("schedule", "ranks")]
    assert [r.name for r in results] == names and set(names) < set(MEANINGS)
    assert all(r.passed for r in results), results
    assert "2 steps run twice: the same bits" in results[-1].detail


def test_a_leaking_arm_does_not_pass(keys, data, monkeypatch):
    monkeypatch.setattr(subjects, "Transformer", Leaking)
    results = by_name(arm_guards(keys(), 0, data))
    assert not results["causality"].passed


def test_a_leaking_model_ends_the_command_before_anything_is_trained(pool, runs, monkeypatch, capsys):
    from ablations import run
    from ablations.sweep import jobs

    pool.kinds.update({"guards": jobs.guards, "data_guard": jobs.data_guard})
    monkeypatch.setattr(subjects, "Transformer", Leaking)
    words = [
        "sweep=toy",
        f"sweeps_dir={Path(__file__).parents[1] / 'sweeps'}",
        "scale=smoke",
        "arms=bias",
        "eval.tasks=[]",
        "launch.progress=none",
    ]
    assert run.main([*words, f"runs_dir={runs}", f"results_dir={runs / 'none'}", "track.mode=disabled"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "error: guards: aux_loss, bias, control, aa: causality: later tokens or other rows change logits: "
    )
    assert error.endswith("nothing was trained\n")
    assert error.count("\n") == 1
    assert "trial" not in pool.ran
    assert not (runs / "trials").exists()
    assert not (runs / "toy/smoke/table.csv").exists()


def test_start_stops_a_dead_parameter(keys, data):
    module = build_model(keys(), 0)
    module.transformer.forgotten = nn.Parameter(torch.ones(3))
    result = first_steps(module, data.train_batch(0, 0), keys())
    assert not result.passed
    assert "no gradient reaches forgotten" in result.detail and result.facts["dead"] == 1
    assert all(p.grad is None for p in module.transformer.parameters()), "the guard leaves no gradient behind"


def test_start_stops_a_detached_layer(keys, data, monkeypatch):
    module = build_model(keys(), 0)
    mlp = module.transformer.model.layers[0].mlp
    forward = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda x: forward(x).detach())
    result = first_steps(module, data.train_batch(0, 0), keys())
    assert not result.passed
    assert "no gradient reaches model.layers.0." in result.detail


@pytest.mark.parametrize("scale", [30.0, float("nan")])
def test_start_stops_a_wrong_initial_loss(keys, data, scale):
    module = build_model(keys(), 0)
    with torch.no_grad():
        module.transformer.lm_head.weight.mul_(scale)
    assert not first_steps(module, data.train_batch(0, 0), keys()).passed


class ReZero(nn.Module):
    """Off at first (2003.04887): what is behind its gain learns from the second step on."""

    starts: ClassVar[dict[str, float]] = {"gain": 0.0}

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.gain = inner, nn.Parameter(torch.zeros(1))

    def forward(self, *given: Any) -> Tensor:
        return self.gain * self.inner(*given)


def test_a_gain_of_zero_that_says_so_may_begin_there(keys, data, monkeypatch):
    class Rezeroed(Transformer):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model.layers[0].self_attn = ReZero(self.model.layers[0].self_attn)

    for place in ("ablations.guards.sizes", "models.module"):
        monkeypatch.setattr(f"{place}.Transformer", Rezeroed)
    subject = Subject(keys(), 0, data)
    declared = initialisation(subject)
    assert declared.passed and start(subject).passed, (declared.said, start(subject).said)
    assert subject.module().transformer.model.layers[0].self_attn.gain.item() == 0
    monkeypatch.setattr(ReZero, "starts", {})
    assert not initialisation(subject).passed
    with pytest.raises(ConfigError, match="layers.0.self_attn.gain: is no matrix, and nothing says how it starts"):
        subject.module()


def test_a_matrix_may_begin_as_it_was_made(keys, data, monkeypatch):
    class Orthogonal(Transformer):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            nn.init.orthogonal_(self.lm_head.weight, generator=torch.Generator().manual_seed(0))

    for place in ("ablations.guards.sizes", "models.module"):
        monkeypatch.setattr(f"{place}.Transformer", Orthogonal)
    subject = Subject(keys(), 0, data)
    assert "lm_head.weight, set by its module, would be overwritten" in initialisation(subject).detail
    monkeypatch.setattr(Linear, "starts", {"weight": KEPT}, raising=False)
    assert not initialisation(subject).passed, "the others are left empty, and nobody draws them"


def test_start_counts_experts_that_no_token_reached(keys, data):
    module = build_model(keys("bias"), 0)
    module.transformer.routers()[0].e_score_correction_bias[0] = -10
    result = first_steps(module, data.train_batch(0, 0), keys())
    assert result.passed, "their gradient is none of its business"
    assert "1 experts unreached" in result.detail and result.facts["unreached"] == 1


def test_determinism_stops_a_model_that_rolls_dice(keys, data, monkeypatch):
    def dicey(keys: TrialKeys, seed: int) -> Any:
        module = build_model(keys, seed)
        with torch.no_grad():
            module.transformer.lm_head.weight.add_(1e-7 * torch.randn_like(module.transformer.lm_head.weight))
        return module

    monkeypatch.setattr(subjects, "build_model", dicey)
    results = by_name(arm_guards(keys(), 0, data))
    assert not results["determinism"].passed
    assert results["causality"].passed and results["start"].passed
    one = [torch.tensor([1.0])]
    assert not same_bits(one, [torch.tensor([1.0 + 1e-7])], 1).passed


def test_weights_that_are_not_finite_are_not_called_indeterminate(keys, data):
    wild = replace(keys(), optim=replace(keys().optim, lr=1e20))
    found = by_name(arm_guards(wild, 0, data))["determinism"]
    assert not found.passed
    assert found.detail == "the weights are not finite after 2 steps; lower what is too large, as optim.lr may be"
    assert found.facts["finite"] is False


def test_isolation_stops_an_undeclared_key(plan):
    made = plan()
    arm, base = made.arms["bias"], made.baseline
    guilty = with_overrides(arm.keys, {"optim.weight_decay": 0.0}, "test")
    declared = {"optim.lr", *arm.set, *arm.search, *base.set, *base.search}
    assert isolation(arm.keys, base.keys, declared).passed
    result = isolation(guilty, base.keys, declared)
    assert (result.passed, result.detail) == (
        False,
        "differs from the baseline in undeclared keys: optim.weight_decay",
    )
    assert result.facts["undeclared"] == "optim.weight_decay" and "model.moe.balance.kind" in result.facts["differs"]
    assert [g.passed for g in config_guards(made, replace(arm, keys=guilty))] == [False, True]


def test_config_guards_of_every_arm_of_the_sweep(plan):
    made = plan("arms=all")
    for arm in made.arms.values():
        assert [(g.name, g.passed) for g in config_guards(made, arm)] == [("isolation", True), ("budget", True)], arm
    control = config_guards(made, made.arms["control"])[1]
    assert "steps 10 (baseline 12)" in control.detail, "known to differ, so it is said"
    assert (control.facts["steps"], control.facts["baseline_steps"]) == (10, 12)


def test_an_aa_arm_may_only_be_perturbed(plan):
    made = plan()
    aa = made.arms["aa"]
    guilty = with_overrides(aa.keys, {"train.token_fraction": 0.9}, "test")
    assert not config_guards(made, replace(aa, keys=guilty))[0].passed


def test_budget_stops_unequal_parameters(plan):
    made = plan()
    arm, base = made.arms["bias"].keys, made.baseline.keys
    exact = MatchedConfig(["total_params", "active_params", "flops_per_token"], 0.0)
    assert budget(arm, base, exact).passed
    deeper = with_overrides(arm, {"model.n_layers": 3}, "test")
    result = budget(deeper, base, exact)
    assert not result.passed
    assert result.detail.startswith("total_params, active_params, flops_per_token not within 0: total_params 1.")
    assert not config_guards(made, replace(made.arms["bias"], keys=deeper))[1].passed
    wider = with_overrides(arm, {"model.intermediate_size": 65}, "test")  # 96 parameters more
    ratio = made.baseline.cost.total_params
    ratio = (ratio + 96) / ratio
    assert not budget(wider, base, replace(exact, tolerance=(ratio - 1) * 0.99)).passed
    just = replace(exact, equal=["total_params"], tolerance=(ratio - 1) * 1.01)
    assert budget(wider, base, just).passed
    assert f"total_params {ratio:.4f}x (matched)" in budget(wider, base, just).detail
    fewer = with_overrides(arm, {"train.token_fraction": 0.9}, "test")
    assert budget(fewer, base, exact).detail.endswith("steps 10 (baseline 12)")
    assert budget(fewer, base, exact).passed, "not asked for"


def split_data(share: float, which: str = "test") -> SimpleNamespace:
    """Held-out text of which this share is copied from the training part."""
    rng = np.random.default_rng(0)
    train, own = rng.integers(0, 512, 20_000).astype(np.uint16), rng.integers(0, 512, 4_000).astype(np.uint16)
    copied = int(4_000 * share)
    leaked = np.concatenate([train[500 : 500 + copied], own[copied:]])
    splits = {"train": train, "validation": own, "test": own, "by_file": own[:0], which: leaked}
    text: Any = SimpleNamespace(skill=None, tokens=splits.get, windows=lambda split: len(splits[split]))
    text.shared = lambda split: PackedData.shared(text, split)
    return text


def test_separation_stops_a_leaked_test_split(data):
    assert separation(split_data(0.0)).passed
    assert separation(split_data(0.04)).passed
    leaked = separation(split_data(0.2))
    assert not leaked.passed
    assert "0.00% of validation windows" in leaked.detail
    assert "% of test windows" in leaked.detail
    assert leaked.facts["test"] > leaked.facts["limit"] > leaked.facts["validation"] == 0
    assert not separation(split_data(0.2, "by_file")).passed, "the second test set too, where there is one"
    assert separation(data).passed


def test_a_guard_that_cannot_look_says_so_and_has_not_passed(keys, data, monkeypatch):
    def broken(subject: Subject) -> GuardResult:
        raise NotImplementedError("no cache for this kind\nyet")

    monkeypatch.setattr(guards, "GUARDS", (guards.GUARDS[0], guards.Guard("decoding", broken), guards.GUARDS[-1]))
    _, cannot, determined = arm_guards(keys(), 0, data)
    assert (cannot.passed, cannot.ran, determined.passed) == (False, False, True)
    assert cannot.said == "did not run: NotImplementedError: no cache for this kind yet"


def test_what_cannot_be_built_is_looked_at_no_further(keys, data, monkeypatch):
    class Shifted(Transformer):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.shift = nn.Parameter(torch.zeros(3))

    monkeypatch.setattr("ablations.guards.sizes.Transformer", Shifted)
    (only,) = arm_guards(keys(), 0, data)
    assert only.name == "initialisation" and not only.passed
    assert only.detail == "shift is no matrix; say so in its module's `starts` (models.layers), or leave it empty"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"eval.split": "validation"}, "eval.split=validation, the baseline's test"),
        ({"eval.tokens": 4096}, "eval.tokens=4096, the baseline's 2048"),
        ({"data.seq_len": 16}, "data.seq_len=16, the baseline's 32: windows of other lengths"),
    ],
)
def test_arms_are_scored_alike(keys, data, changes, reason):
    base, text = keys(), data.fingerprint
    assert yardstick(base, base, text, text).passed
    found = yardstick(with_overrides(base, changes, "test"), base, text, text)
    assert not found.passed and reason in found.detail


def test_arms_are_scored_on_the_same_text_and_tokens(keys, data):
    base, text = keys(), data.fingerprint
    other = {**text, "text_sha256": {**text["text_sha256"], "test": "0" * 64}}
    assert "another test text" in yardstick(base, base, other, text).detail
    assert "another tokenizer" in yardstick(base, base, {**text, "tokenizer_sha256": "0"}, text).detail
    rearranged = {**text, "tokens_sha256": {**text["tokens_sha256"], "train": "0" * 64}}
    assert yardstick(base, base, rearranged, text).passed, "what is learned from may lie in another order"
