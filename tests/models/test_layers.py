"""Norm, feed-forward and RoPE against their definitions, and the casting of weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import Embedding, Linear, RMSNorm, SwiGLU, cast_once
from models.rope import rope_angles, rotate


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_rms_norm_is_torchs_and_the_definition(generator: torch.Generator) -> None:
    ours, theirs = RMSNorm(24, 1e-3).double(), torch.nn.RMSNorm(24, 1e-3).double()
    x = torch.randn(2, 5, 24, generator=generator, dtype=torch.float64)
    gain = torch.randn(24, generator=generator, dtype=torch.float64)
    ours.weight.data, theirs.weight.data = gain.clone(), gain.clone()
    by_hand = x.numpy() / np.sqrt((x.numpy() ** 2).mean(-1, keepdims=True) + 1e-3) * gain.numpy()
    np.testing.assert_allclose(ours(x).detach().numpy(), by_hand, rtol=1e-12)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=0)


def test_rms_norm_takes_its_statistics_in_fp32(generator: torch.Generator) -> None:
    """BF16 in, BF16 out, one rounding: within half a unit of the last place (2^-8 relative) of the FP64 value."""
    norm, exact = RMSNorm(512, 1e-6), RMSNorm(512, 1e-6).double()
    x = (30 * torch.randn(8, 512, generator=generator)).bfloat16()
    out = norm(x)
    assert out.dtype == torch.bfloat16
    assert float((out.double() / exact(x.double()) - 1).detach().abs().max()) < 2**-8 + 1e-5


def test_swiglu_is_the_formula(generator: torch.Generator) -> None:
    module = SwiGLU(12, 20).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0, 0.5, generator)
    x = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    gate, up, down = (getattr(module, name).weight.detach().numpy() for name in ("gate_proj", "up_proj", "down_proj"))
    g = x.numpy() @ gate.T
    expected = (g / (1 + np.exp(-g)) * (x.numpy() @ up.T)) @ down.T
    np.testing.assert_allclose(module(x).detach().numpy(), expected, rtol=1e-10)


def test_rope_turns_pair_i_by_position_times_frequency(generator: torch.Generator) -> None:
    """As complex numbers: x_2i + i x_2i+1 times e^(i t theta^(-2i/d)); the halves of the result hold the parts."""
    length, dim, theta = 7, 10, 500.0
    x = torch.randn(2, length, 3, dim, generator=generator, dtype=torch.float64)
    out = rotate(x, *rope_angles(length, dim, theta)).numpy()
    z = x.numpy()[..., 0::2] + 1j * x.numpy()[..., 1::2]
    turn = np.exp(1j * np.arange(length)[:, None] * theta ** (-2 * np.arange(dim // 2) / dim))
    expected = z * turn[:, None, :]
    np.testing.assert_allclose(out[..., : dim // 2], expected.real, atol=1e-6)
    np.testing.assert_allclose(out[..., dim // 2 :], expected.imag, atol=1e-6)


def test_rope_products_depend_on_the_distance_alone(generator: torch.Generator) -> None:
    length, dim = 64, 16
    q, k = (torch.randn(dim, generator=generator).expand(1, length, 1, dim) for _ in range(2))
    angles = rope_angles(length, dim, 10000.0)
    scores = rotate(q, *angles)[0, :, 0] @ rotate(k, *angles)[0, :, 0].T
    for distance in (-30, -1, 0, 1, 30):
        diagonal = scores.diagonal(distance)
        assert float((diagonal - diagonal[0]).abs().max()) < 1e-4
    assert float((scores[0, 0] - scores[5, 0]).abs()) > 0.1, "and it does depend on the distance"


def three_microbatches(model: torch.nn.ModuleList, parts: Tensor) -> list[Tensor]:
    """Forward and backward of an embedding and a linear layer in BF16; gradients accumulate."""
    embedding, linear = model
    outs = []
    for part in parts:
        out = linear(embedding(part, torch.bfloat16))
        out.float().pow(2).mean().backward()
        outs.append(out.detach())
    return outs


def test_casting_once_changes_no_bit(generator: torch.Generator) -> None:
    model = torch.nn.ModuleList([Embedding(50, 16), Linear(16, 16)])
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0, 1, generator)
    parts = torch.randint(50, (3, 200), generator=generator)
    plain = three_microbatches(model, parts)
    plain_grads = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    with cast_once(model):
        outs = three_microbatches(model, parts)
    for parameter, expected in zip(model.parameters(), plain_grads, strict=True):
        assert expected is not None and expected.dtype == torch.float32
        assert parameter.grad is not None and torch.equal(parameter.grad, expected)
    assert all(torch.equal(a, b) for a, b in zip(outs, plain, strict=True))


def test_inside_cast_once_a_matrix_is_cast_only_once(generator: torch.Generator) -> None:
    """Seen from outside: a master that changes meanwhile is not read again."""
    linear = Linear(8, 8)
    torch.nn.init.normal_(linear.weight, 0, 1, generator)
    x = torch.randn(4, 8, generator=generator).bfloat16()
    with torch.no_grad():
        with cast_once(linear):
            first = linear(x)
            linear.weight.data.mul_(2)
            assert torch.equal(linear(x), first)
        assert torch.equal(linear(x), 2 * first)


def test_a_look_without_gradient_takes_no_gradient_away(generator: torch.Generator) -> None:
    """A counting pass reads the weights first; the cast that it leaves must still lead to the master."""
    linear = Linear(8, 8)
    torch.nn.init.normal_(linear.weight, 0, 1, generator)
    x = torch.randn(4, 8, generator=generator).bfloat16()
    with cast_once(linear):
        with torch.no_grad():
            linear(x)
        linear(x).sum().backward()
    assert linear.weight.grad is not None and linear.weight.grad.any()


def test_gradients_add_up_in_fp32(generator: torch.Generator) -> None:
    """300 equal gradients add up to 300 times one of them; summed in BF16 they would stall near the 2^8th."""
    linear = Linear(8, 8)
    torch.nn.init.normal_(linear.weight, 0, 1, generator)
    x = torch.randn(4, 8, generator=generator).bfloat16()
    linear(x).sum().backward()
    assert linear.weight.grad is not None and linear.weight.grad.dtype == torch.float32
    one = linear.weight.grad.clone()
    linear.weight.grad = None
    with cast_once(linear):
        for _ in range(300):
            linear(x).sum().backward()
    torch.testing.assert_close(linear.weight.grad, 300 * one, rtol=1e-4, atol=0)


def test_a_new_step_sees_the_new_weights(generator: torch.Generator) -> None:
    linear = Linear(8, 8)
    torch.nn.init.normal_(linear.weight, 0, 1, generator)
    x = torch.randn(4, 8, generator=generator).bfloat16()
    with cast_once(linear):
        before = linear(x).detach()
    linear.weight.data.mul_(2)
    with cast_once(linear):
        after = linear(x).detach()
    assert torch.equal(after, 2 * before)
    with pytest.raises(RuntimeError, match="interrupted"), cast_once(linear):
        raise RuntimeError("interrupted")
    assert torch.equal(linear(x).float(), F.linear(x, linear.weight.bfloat16()).float())
