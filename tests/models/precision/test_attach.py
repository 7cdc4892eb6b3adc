"""Every key of `model.precision` changes what it says and nothing else, on whole models."""

import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor

import models.moe
from models.attention import Core
from models.config import ModelConfig, MTPConfig
from models.layers import Embedding, Linear, RMSNorm
from models.moe import Experts, Router
from models.precision.config import FormatConfig, GranularityConfig, KeepHighConfig, PrecisionConfig
from models.training.executor import Microbatching
from models.transformer import Transformer, initialise

FP8 = PrecisionConfig(recipe="fp8_block", block=4, promote_every=4)
TOKENS = torch.randint(0, 61, (4, 13), generator=torch.Generator().manual_seed(0))


def step(config: ModelConfig, microbatches: int = 1) -> dict[str, Tensor]:
    """The loss and all gradients of one step."""
    model = Transformer(config)
    initialise(model, 0, config.std)
    losses = Microbatching(model, microbatches).step(TOKENS).losses
    return {"loss": losses["loss"], **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}


def differs(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


CHANGES = {
    "fp8_row": {"recipe": "fp8_row"},
    "fp8_tensor": {"recipe": "fp8_tensor"},
    "fp8_hybrid": {"recipe": "fp8_hybrid"},
    "activation format": {"format": FormatConfig(activation="e5m2")},
    "weight format": {"format": FormatConfig(weight="e5m2")},
    "activation granularity": {"granularity": GranularityConfig(activation="tensor")},
    "weight granularity": {"granularity": GranularityConfig(weight="tile")},
    "block": {"block": 6},
    "accumulation": {"accumulation": "limited"},
    "scale rounding": {"scale_rounding": "power_of_two"},
    "outliers": {"outliers": 2.0**16},
    "dispatch": {"dispatch": "fp8"},
    "combine": {"combine": "fp8"},
    **{f"{part.name} low": {"keep_high": KeepHighConfig(**{part.name: False})} for part in fields(KeepHighConfig)},
}
BACKWARD_ONLY = {
    "gradient format": {"format": FormatConfig(gradient="e5m2")},
    "gradient granularity": {"granularity": GranularityConfig(gradient="block")},
    "e5m6": {"e5m6_after_attention": True},
    "cache": {"cache_activations": "bf16"},
    "recompute": {"recompute_swiglu": True},
}


@pytest.fixture(scope="module")
def base(tiny) -> tuple[ModelConfig, dict[str, Tensor]]:
    config = replace(tiny(), precision=FP8)
    return config, step(config)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_part_of_the_forward_pass_moves_the_loss(change, base):
    config, reference = base
    changed = step(replace(config, precision=replace(FP8, **change)))
    assert changed["loss"].isfinite() and "loss" in differs(changed, reference)


@pytest.mark.parametrize("change", BACKWARD_ONLY.values(), ids=BACKWARD_ONLY)
def test_a_part_of_the_backward_pass_moves_gradients_and_not_the_loss(change, base):
    config, reference = base
    moved = differs(step(replace(config, precision=replace(FP8, **change))), reference)
    assert moved and "loss" not in moved
    if "e5m6_after_attention" in change:
        assert all("o_proj" in name for name in moved), "nothing but the projection after attention"


@pytest.mark.parametrize("recipe", ["fp8_block", "fp8_tensor"])
def test_rows_that_the_host_does_not_count_change_nothing(recipe, base, monkeypatch):
    """As on a GPU: as many rows as there might be, the last expert's among them zeros."""
    config = replace(base[0], precision=replace(FP8, recipe=recipe))
    counted, rows, laid_out = step(config), list[int](), models.moe.lay_out

    def seen(*arguments):
        layout = laid_out(*arguments)
        assert int(layout.rows_E.sum()) == len(layout.token_R) and not len(layout.token_R) % 4
        rows.append(len(layout.token_R))
        return layout

    monkeypatch.setattr("models.moe.lay_out", seen)
    assert not differs(counted, step(config))
    monkeypatch.setattr("models.moe.host_counts", lambda device: False)
    free = step(config)
    assert all(torch.allclose(counted[name], free[name], rtol=1e-10, atol=1e-12) for name in counted)
    half = len(rows) // 2
    assert sum(rows[:half]) < sum(rows[half:]) and len(set(rows[half:])) == 1


def test_without_a_recipe_the_numbers_and_the_path_are_those_of_the_plain_model(tiny):
    plain = step(tiny())
    assert not differs(step(replace(tiny(), precision=PrecisionConfig(block=16))), plain)
    model = Transformer(tiny())
    assert all(module.low is None for module in model.modules() if isinstance(module, Linear | Experts | Router))
    code = (
        "import sys, torch; from models.config import ModelConfig; from models.transformer import Transformer;"
        "Transformer(ModelConfig(dtype='float32'))(torch.zeros(1, 4, dtype=torch.long));"
        "print([name for name in sys.modules if name.startswith('models.precision')])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['models.precision', 'models.precision.config']", "nothing but its keys is imported"


def test_fp8_is_near_the_plain_model_and_not_it(tiny):
    config = tiny({"init_std": 0.1})
    plain, fp8 = step(config), step(replace(config, precision=FP8))
    assert plain.keys() == fp8.keys(), "the same parameters receive gradients"
    assert differs(fp8, plain) == set(plain)
    flat = [torch.cat([g.flatten() for n, g in found.items() if n != "loss"]) for found in (plain, fp8)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.97
    assert abs(float(fp8["loss"] - plain["loss"])) < 0.1


def test_what_is_kept_high_has_no_fp8_in_it(tiny):
    def low(keep: KeepHighConfig) -> dict[str, bool]:
        model = Transformer(replace(tiny(), precision=replace(FP8, keep_high=keep)))
        kinds = {"embedding": Embedding, "router": Router, "norms": RMSNorm, "attention_core": Core}
        found = {"head": model.lm_head.low is not None}
        for name, kind in kinds.items():
            place = "low" if kind is Router else "rounding"
            marks = {getattr(m, place) is not None for m in model.modules() if isinstance(m, kind)}
            assert len(marks) == 1
            found[name] = marks.pop()
        others = [m for n, m in model.named_modules() if isinstance(m, Linear | Experts) and n != "lm_head"]
        assert others and all(m.low is not None for m in others), "every other matrix multiplies in FP8"
        return found

    assert not any(low(KeepHighConfig()).values())
    for part in fields(KeepHighConfig):
        found = low(KeepHighConfig(**{part.name: False}))
        assert [name for name, is_low in found.items() if is_low] == [part.name]


@pytest.mark.parametrize("kind", ["mha", "gqa", "mqa"])
def test_the_other_attentions_and_mtp_modules_multiply_in_fp8_too(kind, tiny):
    config = replace(tiny({"attention.kind": kind, "attention.n_kv_heads": 1}), mtp=MTPConfig(depth=1))
    plain, fp8 = step(config), step(replace(config, precision=FP8))
    assert plain.keys() == fp8.keys() and differs(fp8, plain) == set(plain)


def test_evaluation_is_in_bf16_under_every_named_recipe(tiny):
    logits = {}
    for recipe in ("bf16", "fp32", "fp8_block", "fp8_tensor"):
        dtype = {"fp32": "float32"}.get(recipe, "bfloat16")
        config = replace(tiny({"dtype": dtype}), precision=PrecisionConfig(recipe=recipe, block=4))
        model = Transformer(config)
        initialise(model, 0, config.std)
        logits[recipe] = model.eval()(TOKENS).logits
        assert model.dtype == torch.bfloat16 and logits[recipe].dtype == torch.bfloat16
        assert model.train()(TOKENS).logits.dtype == getattr(torch, dtype)
    assert all(torch.equal(found, logits["bf16"]) for found in logits.values())


def test_microbatches_change_fp8_gradients_by_their_own_tiles_only(base):
    """Tiles of the weight gradient span tokens, so that two microbatches are other tiles; the forward pass is equal."""
    config, reference = base
    halves = step(config, microbatches=2)
    torch.testing.assert_close(halves["loss"], reference["loss"], rtol=1e-12, atol=1e-12)
    for name, gradient in halves.items():
        assert (gradient - reference[name]).norm() <= 0.1 * reference[name].norm() + 1e-9, name


def test_two_runs_give_the_same_bits(base):
    config, reference = base
    assert not differs(step(config), reference)
