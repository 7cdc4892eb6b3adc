"""Rotation against complex numbers, the stretchings against their definitions, and switching a trained model."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models.rope
from models.base.typed import ConfigError
from models.config import RopeConfig
from models.rope import frequencies, rope_turns, rotate, softmax_temperature
from models.training.config import OptimConfig
from models.training.executor import Microbatching
from models.training.optim import adamw
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
V3_EXTENSION = RopeConfig(scaling="yarn", factor=40.0)
"""V3 4.3: s = 40, beta_fast 32, beta_slow 1, sqrt(t) = 0.1 ln s + 1; trained on 4096 tokens."""
STRETCHED = {
    "linear": RopeConfig(theta=300.0, scaling="linear", factor=4.0),
    "ntk": RopeConfig(theta=300.0, scaling="ntk", factor=4.0),
    "yarn": RopeConfig(theta=300.0, scaling="yarn", factor=40.0, original_length=64, beta_fast=4.0, mscale=0.7),
}
KINDS: dict[str, dict[str, Any]] = {
    "mla": {"attention.kind": "mla"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
}


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def exact_turns(positions: Tensor, dim: int, rope: RopeConfig) -> Tensor:
    return rope_turns(positions, dim, rope, torch.float64)


def test_rope_turns_pair_i_by_position_times_frequency(generator: torch.Generator) -> None:
    """As complex numbers: x_2i + i x_2i+1 times e^(i t theta^(-2i/d)); the pairs stay where they were."""
    length, dim, theta = 7, 10, 500.0
    x = torch.randn(2, length, 3, dim, generator=generator, dtype=torch.float64)
    out = rotate(x, exact_turns(torch.arange(length), dim, RopeConfig(theta=theta))).numpy()
    z = x.numpy()[..., 0::2] + 1j * x.numpy()[..., 1::2]
    turn = np.exp(1j * np.arange(length)[:, None] * theta ** (-2 * np.arange(dim // 2) / dim))
    expected = z * turn[:, None, :]
    np.testing.assert_allclose(out[..., 0::2], expected.real, atol=1e-14)
    np.testing.assert_allclose(out[..., 1::2], expected.imag, atol=1e-14)


@pytest.mark.parametrize("scaling", [RopeConfig(), *STRETCHED.values(), V3_EXTENSION], ids=["plain", *STRETCHED, "V3"])
def test_turns_have_modulus_one(scaling: RopeConfig) -> None:
    """RoPE turns and does not stretch, wherever a token stands; YaRN's temperature is the softmax's."""
    turns = models.rope.rope_turns(torch.arange(0, 5000, 7), 16, scaling, torch.float64)
    torch.testing.assert_close(turns.abs(), torch.ones_like(turns.real), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_is_worked_out_in_fp32(generator: torch.Generator, dtype: torch.dtype) -> None:
    """One rounding of the result to its own type, beside a few of FP32 that are relative to the pair, as a part of the
    result may cancel; also of a slice that begins at an odd place."""
    x = torch.randn(2, 7, 3, 13, generator=generator).to(dtype)[..., 1:11]
    positions, rope = torch.arange(7) + 1000, RopeConfig(theta=500.0)
    out = rotate(x, rope_turns(positions, 10, rope, dtype))
    exact = rotate(x.double(), exact_turns(positions, 10, rope))
    assert out.dtype == dtype
    pair = x.double().unflatten(-1, (-1, 2)).norm(dim=-1).repeat_interleave(2, dim=-1)
    rounding = 2**-8 if dtype == torch.bfloat16 else 2**-24
    assert float(((out.double() - exact).abs() - rounding * exact.abs() - 2**-22 * pair).max()) <= 0


def test_rope_products_depend_on_the_distance_alone(generator: torch.Generator) -> None:
    length, dim = 64, 16
    q, k = (torch.randn(dim, generator=generator, dtype=torch.float64).expand(1, length, 1, dim) for _ in range(2))
    turns = exact_turns(torch.arange(length), dim, RopeConfig())
    scores = rotate(q, turns)[0, :, 0] @ rotate(k, turns)[0, :, 0].T
    for distance in (-30, -1, 0, 1, 30):
        diagonal = scores.diagonal(distance)
        assert float((diagonal - diagonal[0]).abs().max()) < 1e-12
    assert float(scores[:, 0].std()) > 0.1, "and it does depend on the distance"


def test_rows_may_stand_at_different_positions(generator: torch.Generator) -> None:
    """Positions (B, T), as a cache needs them: each row as if it were alone."""
    x = torch.randn(3, 5, 2, 8, generator=generator, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11], [3, 1, 4, 1, 5]])
    together = rotate(x, exact_turns(positions, 8, RopeConfig(theta=50.0)))
    for row in range(3):
        alone = rotate(x[row : row + 1], exact_turns(positions[row], 8, RopeConfig(theta=50.0)))
        assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_turns_are_exact_far_out_and_then_rounded_once(dtype: torch.dtype) -> None:
    """At position 160,000, angles taken in FP32 would be off by 0.01 radians. Kept in at least FP32."""
    position, dim = 159_999, 64
    turns = rope_turns(torch.tensor([position]), dim, RopeConfig(), dtype)
    angles = position * 10000.0 ** (-2 * np.arange(dim // 2) / dim)
    wide = dtype == torch.float64
    assert turns.dtype == (torch.complex128 if wide else torch.complex64)
    np.testing.assert_allclose(turns[0].numpy().real, np.cos(angles), atol=1e-10 if wide else 2**-24, rtol=0)
    np.testing.assert_allclose(turns[0].numpy().imag, np.sin(angles), atol=1e-10 if wide else 2**-24, rtol=0)


def test_linear_divides_positions() -> None:
    positions = torch.arange(0, 4 * 50, 4)
    stretched = exact_turns(positions, 12, RopeConfig(scaling="linear", factor=4.0))
    torch.testing.assert_close(stretched, exact_turns(torch.arange(50), 12, RopeConfig()), rtol=0, atol=1e-13)
    assert softmax_temperature(RopeConfig(scaling="linear", factor=4.0)) == 1.0


def test_ntk_keeps_the_fastest_pair_and_divides_the_slowest() -> None:
    """And what is between by a power of s that grows evenly (2309.00071, eq. 14-16)."""
    share = frequencies(16, STRETCHED["ntk"]) / frequencies(16, RopeConfig(theta=300.0))
    np.testing.assert_allclose(share.numpy(), 4.0 ** (-np.arange(8) / 7), rtol=1e-12)


@pytest.mark.parametrize("rope", [V3_EXTENSION, dataclasses.replace(STRETCHED["yarn"], original_length=512)])
def test_yarn_keeps_fast_pairs_and_divides_slow_ones(rope: RopeConfig) -> None:
    """By its definition: turns within the trained length = original_length * f / (2 pi). The ramp between is rounded
    outwards to whole pairs, so a pair next to a border is already or still blended."""
    dim = 64
    plain, stretched = (frequencies(dim, r).numpy() for r in (RopeConfig(theta=rope.theta), rope))
    turns = rope.original_length * plain / (2 * np.pi)
    share = stretched / plain
    fast, slow = turns > rope.beta_fast, turns < rope.beta_slow
    assert fast.sum() > 3 and slow.sum() > 3 and (~fast & ~slow).sum() > 3, "the example has all three"
    np.testing.assert_allclose(share[fast][:-1], 1, rtol=1e-15)
    np.testing.assert_allclose(share[slow][1:], 1 / rope.factor, rtol=1e-12)
    between = share[~fast & ~slow]
    assert (between < 1).all() and (between > 1 / rope.factor).all() and (np.diff(share) <= 1e-15).all()
    ramp = np.diff(share[(share < 1 - 1e-9) & (share > 1 / rope.factor + 1e-9)])
    np.testing.assert_allclose(ramp, ramp[0], rtol=1e-6)  # straight over the pairs


def test_yarn_frequencies_are_those_of_deepseeks_code() -> None:
    """`find_correction_range` and `linear_ramp_factor` of the published model, written again in NumPy, for V3."""
    dim, base, length = 64, 10000.0, 4096

    def correction(rotations: float) -> float:
        return dim * math.log(length / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = max(math.floor(correction(32)), 0), min(math.ceil(correction(1)), dim - 1)
    assert (low, high) == (10, 23)
    plain = 1.0 / (base ** (np.arange(0, dim, 2) / dim))
    smooth = 1 - np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    expected = plain / 40 * (1 - smooth) + plain * smooth
    np.testing.assert_allclose(frequencies(dim, V3_EXTENSION).numpy(), expected, rtol=1e-14)


def test_yarn_of_factor_one_is_plain_and_its_temperature_is_v3s() -> None:
    torch.testing.assert_close(
        frequencies(64, RopeConfig(scaling="yarn")), frequencies(64, RopeConfig()), rtol=1e-14, atol=0
    )
    assert softmax_temperature(RopeConfig(scaling="yarn")) == 1.0
    assert softmax_temperature(V3_EXTENSION) == pytest.approx(1.3688879**2, rel=1e-6)  # 0.1 ln 40 + 1
    assert softmax_temperature(dataclasses.replace(V3_EXTENSION, mscale=0.0)) == 1.0
    assert softmax_temperature(RopeConfig()) == 1.0


def trained(model: Transformer, tokens: Tokens, steps: int = 2) -> Transformer:
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        Microbatching(model, 1).step(tokens(2, 13, seed=step))
        optimizer.step()
    return model


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", STRETCHED)
def test_a_switched_model_is_one_built_that_way(built: Built, tokens: Tokens, name: str, kind: str, dtype: str) -> None:
    """The trained weights in a model of the other rope give the same logits and gradients bit for bit; back again, the
    trained model gives its own. MTP modules are switched too, and the turns kept for a length are forgotten."""
    changes = KINDS[kind] | {"rope.theta": 300.0, "mtp.depth": 1, "dtype": dtype, "d_model": 32}
    model = trained(built(changes), tokens)
    rope, plain = STRETCHED[name], model.config.rope

    def answer(of: Transformer) -> list[Tensor]:
        of.zero_grad(set_to_none=True)
        output = of(tokens(2, 12), mtp=True)
        torch.stack([logits.float().square().mean() for logits in (output.logits, *output.mtp_logits)]).sum().backward()
        return [output.logits, *output.mtp_logits, *(p.grad for p in of.parameters() if p.grad is not None)]

    before = answer(model)
    model.set_rope(rope)
    keys = {f"rope.{field.name}": getattr(rope, field.name) for field in dataclasses.fields(rope)}
    other = built(changes | keys)
    other.load_state_dict(model.state_dict())
    assert model.config == other.config
    after, expected = answer(model), answer(other)
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))
    assert float((after[0] - before[0]).detach().abs().max()) > 1e-3, "the stretching does something"
    model.set_rope(plain)
    assert all(torch.equal(a, b) for a, b in zip(answer(model), before, strict=True))


@pytest.mark.parametrize("width", [8, 10, 12])
def test_switching_many_times_does_not_drift(built: Built, tokens: Tokens, width: int) -> None:
    """Multiplying the softmax scale by a ratio of temperatures each time would leave a last bit behind."""
    model = built({"attention.kind": "mha", "attention.head_dim": width})
    plain, before = model.config.rope, model(tokens(1, 9)).logits
    for factor in range(2, 60):
        model.set_rope(RopeConfig(scaling="yarn", factor=float(factor), original_length=64))
    model.set_rope(plain)
    assert torch.equal(model(tokens(1, 9)).logits, before)


def test_a_refused_switch_leaves_the_model(built: Built, tokens: Tokens) -> None:
    model = built()
    before, config = model(tokens(1, 9)).logits, model.config
    with pytest.raises(ConfigError, match="model.rope.factor=0.5"):
        model.set_rope(RopeConfig(scaling="linear", factor=0.5))
    assert model.config == config and torch.equal(model(tokens(1, 9)).logits, before)
