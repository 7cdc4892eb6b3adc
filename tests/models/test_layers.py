"""Norm and feed-forward against their definitions, and the casting of weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import Embedding, Linear, RMSNorm, SwiGLU, cast_once, stacked, swiglu


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


@pytest.mark.parametrize("gated", [False, True])
def test_fused_swiglu_is_the_formula_with_its_gradient(generator: torch.Generator, gated: bool) -> None:
    hidden = torch.randn(5, 14, generator=generator, dtype=torch.float64).requires_grad_()
    gates = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_() if gated else None
    gate, up = hidden.detach().numpy()[:, :7], hidden.detach().numpy()[:, 7:]
    weights = 1.0 if gates is None else gates.detach().numpy()[:, None]
    np.testing.assert_allclose(
        swiglu(hidden, gates).detach().numpy(), gate / (1 + np.exp(-gate)) * up * weights, rtol=1e-12
    )
    assert torch.autograd.gradcheck(swiglu, (hidden, gates) if gates is not None else (hidden,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stacked_matrices_are_read_once_and_their_gradients_arrive(
    generator: torch.Generator, dtype: torch.dtype
) -> None:
    """Rows in order; inside `cast_once` one stack for all microbatches, also when a counting pass came first."""
    first, second = Linear(8, 4), Linear(8, 6)
    for linear in (first, second):
        torch.nn.init.normal_(linear.weight, 0, 1, generator)
    x = torch.randn(3, 8, generator=generator).to(dtype)
    expected = torch.cat((first(x), second(x)), dim=-1).detach()
    torch.testing.assert_close(F.linear(x, stacked(dtype, first, second)).detach(), expected)
    with cast_once(torch.nn.ModuleList([first, second])):
        with torch.no_grad():
            kept = stacked(dtype, first, second)
        assert stacked(dtype, first, second) is kept
        for _ in range(2):
            F.linear(x, stacked(dtype, first, second)).float().sum().backward()
    for linear in (first, second):
        by_hand = 2 * x.float().sum(dim=0).expand_as(linear.weight)
        assert linear.weight.grad is not None and linear.weight.grad.dtype == torch.float32
        torch.testing.assert_close(linear.weight.grad, by_hand, rtol=2e-2, atol=2e-2)
    assert first._cast is None and stacked(dtype, first, second) is not kept
