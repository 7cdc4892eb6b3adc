"""The whole decoder against transformers' DeepSeek-V3, its causality, initial values, and one step frozen."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.attention import Places
from models.config import ModelConfig
from models.training.config import OptimConfig
from models.training.executor import Microbatching
from models.training.optim import adamw
from models.transformer import Transformer, initialise, resolve_dtype

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
KINDS: dict[str, dict[str, Any]] = {
    "mla": {},
    "mha": {"attention.kind": "mha"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
    "mqa": {"attention.kind": "mqa"},
}


def in_transformers(model: Transformer) -> torch.nn.Module:
    """Their model with our weights: every name is theirs too."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    c, a, m = model.config, model.config.attention, model.config.moe
    theirs = DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=c.vocab_size,
            hidden_size=c.d_model,
            intermediate_size=c.intermediate_size,
            moe_intermediate_size=m.moe_intermediate_size,
            num_hidden_layers=c.n_layers,
            num_attention_heads=a.n_heads,
            num_key_value_heads=a.n_heads,
            n_shared_experts=m.n_shared_experts,
            n_routed_experts=m.n_routed_experts,
            num_experts_per_tok=m.top_k,
            routed_scaling_factor=m.routed_scaling_factor,
            n_group=1,
            topk_group=1,
            first_k_dense_replace=c.first_k_dense,
            kv_lora_rank=a.kv_lora_rank,
            q_lora_rank=a.q_lora_rank,
            qk_nope_head_dim=a.qk_nope_head_dim,
            qk_rope_head_dim=a.qk_rope_head_dim,
            v_head_dim=a.v_head_dim,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope.theta},
            rms_norm_eps=c.norm_eps,
            num_mtp_layers=0,
            attn_implementation="eager",  # type: ignore[call-arg]
        )
    )
    theirs.load_state_dict(model.state_dict())
    return theirs.eval()


@pytest.mark.parametrize("backend", ["loop", "grouped_mm"])
@pytest.mark.parametrize(("q_lora_rank", "shared"), [(None, 1), (10, 2)])
def test_logits_are_those_of_transformers_deepseek_v3(
    built: Built, tokens: Tokens, q_lora_rank: int | None, shared: int, backend: str
) -> None:
    model = built(
        {
            "attention.q_lora_rank": q_lora_rank,
            "rope.theta": 2000.0,
            "moe.n_shared_experts": shared,
            "moe.routed_scaling_factor": 2.5,
            "moe.top_k": 3,
            "moe.backend": backend,
            "moe.balance.kind": "bias",
            "norm_eps": 1e-6,
            "dtype": "float32",
        }
    )
    for i, router in enumerate(model.routers()):
        router.e_score_correction_bias += 0.3 * torch.randn(6, generator=torch.Generator().manual_seed(i))
    batch = tokens(2, 17)
    with torch.no_grad():
        ours, theirs = model(batch).logits, in_transformers(model)(batch).logits
    assert float(theirs.std()) > 1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)  # found: 4e-6 to 7e-6, by instruction set
    assert float((ours - theirs).norm() / theirs.norm()) < 3e-6


def unmasked(model: Transformer) -> Callable[..., Places]:
    """Its `places`, with every token in sight of every other."""
    causal = model.places
    return lambda x, end: replace(causal(x, end), mask_BTL=torch.zeros(*x.shape, x.shape[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_later_tokens_change_no_earlier_logit(
    built: Built, tokens: Tokens, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = built(KINDS[kind])
    batch = tokens(2, 12)
    with torch.no_grad():
        before = model(batch).logits
        for t in (0, 4, 10):
            changed = batch.clone()
            changed[:, t + 1 :] = (changed[:, t + 1 :] + 1) % 61
            difference = (model(changed).logits - before).abs().amax(dim=(0, 2))
            assert float(difference[: t + 1].max()) < 1e-12 < 1e-3 < float(difference[t + 1 :].min())
        monkeypatch.setattr(model, "places", unmasked(model))
        leak = (model(changed).logits - model(batch).logits).abs().amax(dim=(0, 2))
    assert float(leak.min()) > 1e-6, "without the mask every position sees the change"


def test_dense_is_a_model_without_any_expert(built: Built, tokens: Tokens) -> None:
    """The same as all layers being dense, bit for bit, with MTP too; what the experts would be is not looked at."""
    dense = built({"feed_forward": "dense", "moe.n_routed_experts": 8})
    same, sparse = built({"first_k_dense": 3}), built()
    assert dense.state_dict().keys() == same.state_dict().keys() != sparse.state_dict().keys()
    with torch.no_grad():
        outputs = [model(tokens(2, 9)) for model in (dense, same, sparse)]
    assert torch.equal(outputs[0].logits, outputs[1].logits) and not torch.equal(outputs[0].logits, outputs[2].logits)
    assert outputs[0].routings == [] == dense.routers() == dense.main_routers()
    deep = built({"feed_forward": "dense", "mtp.depth": 2})
    assert deep.routers() == [] and not [name for name in deep.state_dict() if "experts" in name or "gate." in name]


def test_routers_lists_the_mtp_modules_last(built: Built, tokens: Tokens) -> None:
    """In the order of the forward's routings: that is how loads find their routers."""
    model = built({"mtp.depth": 2, "moe.balance.kind": "bias"})
    assert len(model.routers()) == 4 and model.routers()[:2] == model.main_routers()
    for i, router in enumerate(model.routers()):
        router.e_score_correction_bias += torch.where(torch.arange(6) == i, 9.0, 0.0)
    routings = model(tokens(2, 9), mtp=True).routings
    assert [int(routing.load_E.argmax()) for routing in routings] == [0, 1, 2, 3]
    assert [int(routing.load_E.max()) for routing in routings] == [2 * 9, 2 * 9, 2 * 8, 2 * 7]


def initial(built: Built, changes: dict[str, Any] | None = None, seed: int = 0) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in built(changes, seed).named_parameters()}


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.kind": "mha"},
        {"attention.kind": "mqa"},
        {"mtp.depth": 2},
        {"mtp.depth": 1, "mtp.style": "parallel"},
        {"mtp.depth": 1, "mtp.style": "linear"},
        {"moe.scoring": "softmax"},
        {"rope.scaling": "linear", "rope.factor": 2.0},
        {"attention.q_lora_rank": 10},
        {"moe.n_shared_experts": 0},
        {"n_layers": 4},
        {"moe.balance.kind": "bias_aux_loss"},
        {"first_k_dense": 2},
        {"vocab_size": 70},
    ],
    ids=str,
)
def test_a_changed_module_leaves_every_other_initial_value(built: Built, changes: dict[str, Any]) -> None:
    plain, changed = initial(built), initial(built, changes)
    shared = [n for n in plain.keys() & changed.keys() if plain[n].shape == changed[n].shape]
    assert len(shared) > len(plain) / 2
    assert [n for n in shared if not torch.equal(plain[n], changed[n])] == []


def test_no_two_parameters_start_alike_and_all_have_the_width_rules_scale(built: Built) -> None:
    values = initial(built, {"init_std": None, "d_model": 96})
    matrices = {n: v for n, v in values.items() if v.ndim >= 2}
    assert len({float(v.flatten()[0]) for v in matrices.values()}) == len(matrices)
    for name, value in matrices.items():
        bound = 4.5 / value.numel() ** 0.5  # 4.5 standard errors
        assert float(value.std()) == pytest.approx(0.508 / 96**0.5, rel=bound), name
        assert abs(float(value.mean())) < bound * 0.508 / 96**0.5, name
    assert all(torch.equal(v, torch.ones_like(v)) for n, v in values.items() if v.ndim < 2)
    other = initial(built, {"init_std": None, "d_model": 96}, seed=1)
    assert not any(torch.equal(other[n], v) for n, v in matrices.items())


def test_perturbation_moves_each_value_by_about_that_much(built: Built) -> None:
    plain, model = initial(built), built()
    initialise(model, 0, model.config.std, perturb=1e-6)
    for name, parameter in model.named_parameters():
        relative = parameter.detach() / plain[name] - 1
        assert 0.7e-6 < float(relative.pow(2).mean().sqrt()) < 1.4e-6, name
        assert float(relative.min()) < 0 < float(relative.max()), f"{name}: each value on its own, not a new scale"


def test_dtype_auto_is_resolved_before_building(built: Built) -> None:
    assert resolve_dtype("float32", "cuda") == "float32" and resolve_dtype("auto", "cuda") == "bfloat16"
    assert resolve_dtype("auto", "cpu") in ("bfloat16", "float32")
    with pytest.raises(ValueError, match="resolve"):
        built({"dtype": "auto"})


def test_compute_type_reaches_the_logits_and_leaves_the_masters(built: Built, tokens: Tokens) -> None:
    for name in ("bfloat16", "float32", "float64"):
        changes = {"dtype": name, "d_model": 32}
        model = built(changes)
        output = model(tokens(1, 5))
        assert output.logits.dtype == getattr(torch, name)
        wide = torch.float64 if name == "float64" else torch.float32
        assert {p.dtype for p in model.parameters()} == {wide}
        assert {r.scores_BTE.dtype for r in output.routings} == {wide} == {r.gates_NK.dtype for r in output.routings}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_used_for_inference_first_still_trains(built: Built, tokens: Tokens, kind: str) -> None:
    """What it keeps between calls (angles, masks) must not be made of inference tensors."""
    model = built(KINDS[kind] | {"attention.qk_rope_head_dim": 4, "attention.head_dim": 4})
    with torch.inference_mode():
        model(tokens(1, 23))
    model(tokens(1, 23)).logits.sum().backward()


GOLDEN = {
    "loss": 5.142511,
    "aux_loss": 0.02271274,
    "gradient norm of model.embed_tokens": 5.381407,
    "gradient norm of model.layers.1.mlp.gate": 0.09482929,
    "gradient norm of model.layers.0.self_attn.kv_b_proj": 3.243102,
    "loss after the step": 4.722795,
    "sum of |model.layers.2.mlp.experts.down_proj|": 542.9469,
    "sum of |model.layers.2.mlp.shared_experts.up_proj.weight|": 90.11189,
    "sum of |bias|": 0.012,
}
"""FP32 and FP64 differ by 6e-7 of these, instruction sets by 3e-7; no token's K-th choice is nearer than 0.004."""


def golden_step(built: Built, tokens: Tokens, dtype: str = "float32") -> dict[str, float]:
    """One optimizer step of the strategy that V3 was trained with, and what it leaves."""
    model = built({"dtype": dtype, "moe.balance.kind": "bias_aux_loss", "moe.balance.alpha": 0.01})
    optimizer = adamw(model, OptimConfig(lr=1e-3))
    batch = tokens(4, 9, seed=11)
    executor = Microbatching(model, 2)
    result = executor.step(batch)
    found = {name: float(value) for name, value in result.losses.items()}
    parameters = dict(model.named_parameters())
    for name in ("model.embed_tokens", "model.layers.1.mlp.gate", "model.layers.0.self_attn.kv_b_proj"):
        gradient = parameters[f"{name}.weight"].grad
        assert gradient is not None
        found[f"gradient norm of {name}"] = float(gradient.norm())
    optimizer.step()
    for router, load_E, last_E in zip(model.routers(), result.load_LE, result.last_load_LE, strict=True):
        router.update(load_E, last_E, 0.0)
    optimizer.zero_grad(set_to_none=True)
    found["loss after the step"] = float(executor.step(batch).losses["loss"])
    for name in ("model.layers.2.mlp.experts.down_proj", "model.layers.2.mlp.shared_experts.up_proj.weight"):
        found[f"sum of |{name}|"] = float(parameters[name].detach().abs().sum())
    found["sum of |bias|"] = sum(float(router.e_score_correction_bias.abs().sum()) for router in model.routers())
    return found


def test_golden_step(built: Built, tokens: Tokens) -> None:
    found = golden_step(built, tokens)
    assert found == pytest.approx(GOLDEN, rel=1e-5), (
        "one training step no longer gives the stored numbers. If you meant to change the model, its initial values, "
        "its losses or its optimizer, then every published result was made with the old ones: say so in the commit, "
        f"and set GOLDEN in this file to\n{found}\nIf you did not mean to, you have found a bug."
    )


def test_validate_runs_before_anything_is_built(tiny: Callable[..., ModelConfig]) -> None:
    from models.base.typed import ConfigError

    config = tiny()
    with pytest.raises(ConfigError, match="top_k=9"):
        Transformer(dataclasses.replace(config, moe=dataclasses.replace(config.moe, top_k=9)))
