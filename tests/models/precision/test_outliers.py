"""Channel outliers against a model whose gains and columns were really scaled, and against exact arithmetic."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.base.typed import ConfigError
from models.config import ModelConfig, MTPConfig
from models.layers import Linear
from models.moe import Experts, Router
from models.precision import attach
from models.precision.config import PrecisionConfig
from models.precision.outliers import OutlierSite
from models.precision.products import Emulated, EmulatedLoop
from models.training.config import OptimConfig
from models.training.executor import Microbatching
from models.training.optim import adamw
from models.transformer import Transformer, initialise

TOKENS = torch.randint(0, 61, (4, 13), generator=torch.Generator().manual_seed(0))
FP8 = PrecisionConfig(recipe="fp8_tensor", block=4)
LARGE = 2.0**18
BEHIND_A_NORM = ("input_layernorm", "post_attention_layernorm", "kv_a_layernorm", "q_a_layernorm", "enorm")
WITHOUT_ONE = ("o_proj", "down_proj", "lm_head", "embed_tokens")


def built(config: ModelConfig, **parts: object) -> Transformer:
    model = Transformer(replace(config, precision=replace(FP8, **parts)))
    initialise(model, 0, config.std)
    return model


def is_column(name: str) -> bool:
    """Whether a parameter is a matrix whose first column meets the outlier."""
    return not name.endswith("norm.weight") and not any(part in name for part in WITHOUT_ONE)


def factor(name: str, s: float) -> float:
    """What the first channel of a parameter is multiplied by in a model that really has outliers."""
    if any(name.endswith(f"{norm}.weight") for norm in BEHIND_A_NORM):
        return s
    return 1 / s if is_column(name) else 1.0


@pytest.mark.parametrize("recipe", ["fp8_tensor", "fp8_row", "fp8_block"])
def test_it_is_the_model_whose_gains_and_columns_were_scaled(recipe, tiny):
    config = replace(tiny({"attention.q_lora_rank": 8, "init_std": 0.1}), mtp=MTPConfig(depth=1))
    ours = built(config, recipe=recipe, outliers=LARGE)
    theirs = built(config, recipe=recipe)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            parameter[..., 0] *= factor(name, LARGE)
    losses = [Microbatching(model, 2).step(TOKENS).losses for model in (ours, theirs)]
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in ("loss", "mtp_loss"))
    found = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        scaled = found[name].grad.clone()
        scaled[..., 0] *= factor(name, LARGE)
        assert torch.equal(parameter.grad, scaled), name


class Exact(Emulated):
    """Products of operands that nobody has rounded."""

    def operand(self, x: Tensor, rounding, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)


class ExactLoop(Exact, EmulatedLoop):
    pass


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_rounding_a_training_is_the_same_to_the_bit_at_every_size(dtype, tiny, monkeypatch):
    monkeypatch.setattr(attach, "products_of", lambda *_: ExactLoop())
    ends = []
    for s in (1.0, 2.0, 2.0**9, LARGE):
        model = built(tiny({"dtype": dtype}), outliers=s, cache_activations="bf16")
        sites = {type(m.low) for m in model.modules() if isinstance(m, Linear)}
        assert (OutlierSite in sites) == (s > 1), "off is not on the path"
        optimizer = adamw(model, OptimConfig(lr=0.01))
        for _ in range(3):
            Microbatching(model, 2).step(TOKENS)
            optimizer.step()
            optimizer.zero_grad()
        ends.append(model.state_dict())
    for end in ends[1:]:
        assert all(torch.equal(value, ends[0][name]) for name, value in end.items())


def error(recipe: str, s: float) -> float:
    """Of a layer's output, in the norm, against the exact one."""
    generator = torch.Generator().manual_seed(0)
    config = ModelConfig(dtype="float32", d_model=64, precision=replace(FP8, recipe=recipe, block=16, outliers=s))
    layer = Transformer(config).model.layers[0].self_attn.q_proj
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    x = torch.randn(128, 64, generator=generator)
    with torch.no_grad():
        return float((layer.train()(x) - x @ layer.weight.mT).norm() / (x @ layer.weight.mT).norm())


def test_one_scale_for_all_loses_everything_to_an_outlier_and_tiles_lose_one_tile():
    """Up to 2^12 E4M3 has room; at 2^20 everything else becomes 0, and so does the outlier's own column."""
    for recipe in ("fp8_tensor", "fp8_row", "fp8_block"):
        assert error(recipe, 1.0) < 0.05
        assert error(recipe, 2.0**9) < 1.3 * error(recipe, 1.0), recipe
    assert error("fp8_tensor", 2.0**20) == pytest.approx(1)
    assert 0.7 < error("fp8_row", 2.0**20) < 0.9, "tokens whose outlier is a small one keep something"
    one_tile_of_four = error("fp8_block", 2.0**20)
    assert 0.4 < one_tile_of_four < 0.6, "a quarter of the channels, half of the norm"


def test_what_no_norm_is_in_front_of_has_none(tiny):
    model = built(tiny(), outliers=LARGE)
    for name, module in model.named_modules():
        if isinstance(module, Linear | Router) and module.low is not None:
            assert isinstance(module.low, OutlierSite) == (name.rpartition(".")[2] not in WITHOUT_ONE), name
        elif isinstance(module, Experts):
            assert isinstance(module.low.gate_up, OutlierSite) and not isinstance(module.low.down, OutlierSite)


def test_a_size_that_would_move_other_bits_is_refused(tiny):
    with pytest.raises(ConfigError, match=r"model\.precision\.outliers=3: must be a power of two.*nearest 2 or 4"):
        Transformer(replace(tiny(), precision=replace(FP8, outliers=3.0)))
    with pytest.raises(ConfigError, match=r"outliers=4.0: has no effect with model\.precision\.recipe=bf16"):
        Transformer(replace(tiny({"dtype": "auto"}), precision=PrecisionConfig(recipe="bf16", outliers=4.0)))
