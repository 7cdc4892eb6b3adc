"""What the probe reports, against what was put in."""

from dataclasses import replace

import pytest
import torch

from models.precision.config import FormatConfig, GranularityConfig, PrecisionConfig
from models.precision.formats import E4M3
from models.precision.probe import RoleErrors, _Watching, probe, saved_bytes
from models.precision.products import EmulatedLoop
from models.precision.quantise import Rounding
from models.transformer import Transformer, initialise

TOKENS = torch.randint(0, 61, (4, 33), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def probed(tiny):
    def run(**precision):
        config = tiny(
            {"dtype": "bfloat16", "init_std": 0.1, "moe.backend": "grouped_mm", "moe.moe_intermediate_size": 16}
        )
        model = Transformer(replace(config, precision=PrecisionConfig(block=8, **precision)))
        initialise(model, 0, config.std)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        found = probe(model, TOKENS)
        assert all(p.grad is None for p in model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        return found

    return run


def test_counts_by_role_are_those_of_the_numbers_put_in():
    roles: dict[str, RoleErrors] = {"gradient": RoleErrors()}
    watching = _Watching(EmulatedLoop(), roles)
    x = torch.tensor([[448.0, 100.0, 2.0**-12, 0.0]])  # scale 1: 100 becomes 96 or 104, 2^-12 becomes 0
    watching.operand(x, Rounding(E4M3, "tile", 4, role="gradient"), torch.float32)
    seen = roles["gradient"]
    assert (seen.elements, seen.underflowed, seen.saturated) == (3, 1, 0)
    assert seen.underflow == pytest.approx(1 / 3) and seen.saturation == 0
    expected = (16 + 2.0**-24) / float(x.square().sum())
    assert seen.relative_error == pytest.approx(expected**0.5, rel=1e-6)


def test_fp8_is_further_from_fp32_than_bf16_and_coarser_scales_further_still(probed):
    bf16 = probed(recipe="bf16")
    tiles = probed(recipe="fp8_block")
    coarse = probed(recipe="fp8_tensor", format=FormatConfig(gradient="e5m2"))
    assert bf16.roles == {} and tiles.roles.keys() == {"activation", "weight", "gradient"}
    assert 1 > bf16.gradient_cosine > tiles.gradient_cosine > coarse.gradient_cosine > 0.8
    for role in tiles.roles:
        assert 0.005 < tiles.roles[role].relative_error < 0.04
        assert tiles.roles[role].saturation == 0
    assert coarse.roles["gradient"].relative_error > 1.5 * tiles.roles["gradient"].relative_error
    assert coarse.roles["activation"].underflow > tiles.roles["activation"].underflow


def test_the_short_accumulator_adds_an_error_smaller_than_the_rounding(probed):
    found = probed(recipe="fp8_block")
    assert found.unpromoted_error is not None and 1e-5 < found.unpromoted_error < 0.2
    assert probed(recipe="bf16").unpromoted_error is None


def test_activations_kept_in_fp8_are_fewer_bytes(probed):
    bf16 = probed(recipe="bf16").saved_bytes_per_token
    in_bf16 = probed(recipe="fp8_block", cache_activations="bf16").saved_bytes_per_token
    in_fp8 = probed(recipe="fp8_block").saved_bytes_per_token
    recomputed = probed(recipe="fp8_block", recompute_swiglu=True).saved_bytes_per_token
    assert recomputed < in_fp8 < in_bf16 < bf16


def test_what_every_loss_keeps_is_counted(tiny):
    def saved(changes):
        config = tiny(changes)
        model = Transformer(config)
        initialise(model, 0, config.std)
        return saved_bytes(model, TOKENS)

    deep = {"mtp.depth": 1}
    logits = saved({**deep, "vocab_size": 161}) - saved(deep)
    assert logits == 100 * 8 * 4 * (32 + 31), "in FP64, of the next tokens and of those after them"
    batch_scope = {"moe.balance.kind": "aux_loss", "moe.balance.scope": "batch"}
    assert saved(batch_scope) > saved({})


def test_blocks_on_gradients_are_seen_by_role(probed):
    tiles = probed(recipe="fp8_block")
    blocks = probed(recipe="fp8_block", granularity=GranularityConfig(gradient="block"))
    assert blocks.roles["gradient"].relative_error > tiles.roles["gradient"].relative_error
    assert blocks.roles["activation"].relative_error == pytest.approx(
        tiles.roles["activation"].relative_error, rel=1e-3
    )
