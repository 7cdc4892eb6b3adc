"""Both expert backends against a mixture written token by token, in FP64, and against each other."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig
from models.moe import MoE

Tiny = Callable[..., ModelConfig]
D, E, K = 32, 6, 2
SHAPE: dict[str, Any] = {"d_model": D, "moe.n_routed_experts": E, "moe.top_k": K, "moe.balance.kind": "bias"}
ROUTINGS = {
    "as it comes": [0.0] * E,
    "two experts empty": [0, -5, 0, -5, 0, 0],
    "all on the same two": [0, 5, 0, 0, 5, 0],
    "one expert takes every token": [0, 0, 5, 0, 0, 0],
}
"""A bias of 5 outweighs every affinity, so these routings are certain."""


def layer(tiny: Tiny, backend: str, dtype: torch.dtype, bias: list[float], **changes: Any) -> MoE:
    """The layer with the same weights for every backend and type."""
    name = {torch.float64: "float64"}.get(dtype, "float32")
    keys = SHAPE | {"moe.backend": backend, "dtype": name} | changes
    moe = MoE(tiny(keys))
    generator = torch.Generator().manual_seed(0)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, 0, 0.25, generator)
    if dtype == torch.float64:
        moe.double()
    moe.gate.e_score_correction_bias += torch.tensor(bias)
    return moe


def tokens_and_cotangent(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x, cotangent = (torch.randn(3, 7, D, generator=generator) for _ in range(2))
    return x.bfloat16().to(dtype).requires_grad_(), cotangent.bfloat16().to(dtype)  # exact in every type


def naive(moe: MoE, x_BTD: Tensor) -> Tensor:
    """V3 eq. 12-16, one token and one expert at a time; without the layer's own code but for its parameters."""
    bias, experts = moe.gate.e_score_correction_bias, moe.experts
    outs = []
    for x in x_BTD.flatten(0, 1):
        scores = 1 / (1 + torch.exp(-(moe.gate.weight @ x)))
        chosen = sorted(range(E), key=lambda i: -float((scores + bias)[i].detach()))[:K]
        total = torch.stack([scores[i] for i in chosen]).sum()
        out = torch.zeros_like(x)
        for i in chosen:
            gate, up = (experts.gate_up_proj[i] @ x).chunk(2)
            out = out + moe.gate.config.routed_scaling_factor * scores[i] / total * (
                experts.down_proj[i] @ (F.silu(gate) * up)
            )
        if moe.shared_experts is not None:
            s = moe.shared_experts
            out = out + s.down_proj.weight @ (F.silu(s.gate_proj.weight @ x) * (s.up_proj.weight @ x))
        outs.append(out)
    return torch.stack(outs).view_as(x_BTD)


def run(moe: MoE, forward: Callable[[Tensor], Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of every parameter; in FP64 for comparison."""
    x, cotangent = tokens_and_cotangent(dtype)
    out = forward(x)
    gradients = torch.autograd.grad(out, [x, *moe.parameters()], cotangent, allow_unused=True, materialize_grads=True)
    names = ["input", *(name for name, _ in moe.named_parameters())]
    return {"output": out.detach().double()} | {n: g.double() for n, g in zip(names, gradients, strict=True)}


def errors(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Relative to each tensor's own norm."""
    return {name: float((ours[name] - exact[name]).norm() / exact[name].norm().clamp_min(1e-300)) for name in exact}


@pytest.mark.parametrize("bias", ROUTINGS.values(), ids=ROUTINGS.keys())
@pytest.mark.parametrize("shared", [0, 2])
def test_loop_is_the_naive_mixture_in_fp64(tiny: Tiny, bias: list[float], shared: int) -> None:
    changes = {"moe.n_shared_experts": shared, "moe.routed_scaling_factor": 2.5}
    moe = layer(tiny, "loop", torch.float64, bias, **changes)
    exact = run(moe, lambda x: naive(moe, x), torch.float64)
    ours = run(moe, lambda x: moe(x)[0], torch.float64)
    assert max(errors(ours, exact).values()) < 1e-13
    load = moe(tokens_and_cotangent(torch.float64)[0])[1].load_E
    if bias[1] == -5:
        assert load[1] == load[3] == 0 and not ours["experts.down_proj"][1].any(), "empty experts, zero gradients"
    if sum(bias) == 10:
        assert load.tolist() == [0, 21, 0, 0, 21, 0]


@pytest.mark.parametrize("bias", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_grouped_mm_is_the_loop_in_fp32(tiny: Tiny, bias: list[float]) -> None:
    """The same sums of at most 32 products of FP32 values: a few units of 2^-24, in whatever order."""
    exact_moe = layer(tiny, "loop", torch.float64, bias)
    exact = run(exact_moe, lambda x: naive(exact_moe, x), torch.float64)
    ours = {}
    for backend in ("loop", "grouped_mm"):
        moe = layer(tiny, backend, torch.float32, bias)
        ours[backend] = run(moe, lambda x, moe=moe: moe(x)[0], torch.float32)  # type: ignore[misc]
        assert max(errors(ours[backend], exact).values()) < 1e-6, backend
    assert max(errors(ours["grouped_mm"], ours["loop"]).values()) < 1e-6


@pytest.mark.parametrize("bias", ROUTINGS.values(), ids=ROUTINGS.keys())
def test_both_backends_round_alike_in_bf16(tiny: Tiny, bias: list[float]) -> None:
    """BF16 rounds each product's result and gate by up to 2^-9; some five of them in a row, partly cancelling in the
    norm, stay below 2^-6. The grouped product may not round more than the loop does."""
    exact_moe = layer(tiny, "loop", torch.float64, bias)
    exact = run(exact_moe, lambda x: naive(exact_moe, x), torch.float64)
    found = {}
    for backend in ("loop", "grouped_mm"):
        moe = layer(tiny, backend, torch.bfloat16, bias)
        out = run(moe, lambda x, moe=moe: moe(x)[0], torch.bfloat16)  # type: ignore[misc]
        assert moe(tokens_and_cotangent(torch.bfloat16)[0])[0].dtype == torch.bfloat16
        found[backend] = errors(out, exact)
        assert max(found[backend].values()) < 2**-6, backend
    for name, error in found["grouped_mm"].items():
        assert error < 1.5 * found["loop"][name] + 2**-12, name


def test_without_shared_experts_their_code_is_not_on_the_path(tiny: Tiny) -> None:
    moe = layer(tiny, "loop", torch.float64, [0.0] * E, **{"moe.n_shared_experts": 0})
    assert not [name for name, _ in moe.named_parameters() if "shared" in name]


def test_a_token_does_not_depend_on_its_companions(tiny: Tiny) -> None:
    """Sorting by expert and back: any permutation of the tokens permutes the output."""
    for backend in ("loop", "grouped_mm"):
        moe = layer(tiny, backend, torch.float32, [0.0] * E)
        x = tokens_and_cotangent(torch.float32)[0].detach().flatten(0, 1)[None]
        order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            torch.testing.assert_close(moe(x[:, order])[0], moe(x)[0][:, order], rtol=1e-5, atol=1e-6)
