"""MLA against transformers' DeepSeek-V3, MHA against NumPy, and the two ways of computing the softmax."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import MultiHeadAttention, MultiHeadLatentAttention, attend, build_attention
from models.config import ModelConfig
from models.rope import rope_angles

Tiny = Callable[..., ModelConfig]


def filled(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0 if parameter.ndim > 1 else 1, 0.3, generator)
    return module


def hidden(length: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("q_lora_rank", [None, 10])
def test_mla_is_transformers_deepseek_v3_attention(tiny: Tiny, q_lora_rank: int | None) -> None:
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3Attention,
        DeepseekV3RotaryEmbedding,
    )

    config = tiny({"attention.q_lora_rank": q_lora_rank})
    a = config.attention
    theirs_config = DeepseekV3Config(
        hidden_size=config.d_model,
        num_attention_heads=a.n_heads,
        num_key_value_heads=a.n_heads,
        q_lora_rank=q_lora_rank,
        kv_lora_rank=a.kv_lora_rank,
        qk_nope_head_dim=a.qk_nope_head_dim,
        qk_rope_head_dim=a.qk_rope_head_dim,
        v_head_dim=a.v_head_dim,
        attn_implementation="eager",  # type: ignore[call-arg]
    )
    ours = filled(MultiHeadLatentAttention(config)).double()
    theirs = DeepseekV3Attention(theirs_config, 0).double()
    theirs.load_state_dict(ours.state_dict())
    x = hidden(11, config.d_model)
    mask = torch.full((11, 11), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    positions = torch.arange(11)[None]
    expected, _ = theirs(x, DeepseekV3RotaryEmbedding(theirs_config)(x, positions), mask)
    out = ours(x, *rope_angles(11, a.qk_rope_head_dim, a.rope_theta))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # their softmax is FP32
    assert float(expected.detach().abs().mean()) > 0.1


def test_mha_is_softmax_attention_with_rope_over_the_whole_head(tiny: Tiny) -> None:
    config = tiny({"attention.kind": "mha", "attention.rope_theta": 300.0})
    attention = filled(build_attention(config)).double()
    assert isinstance(attention, MultiHeadAttention)
    length, heads, width = 9, config.attention.n_heads, config.attention.head_dim
    x = hidden(length, config.d_model)
    w = {name: parameter.detach().numpy() for name, parameter in attention.named_parameters()}
    q, k, v = ((x.numpy() @ w[f"{n}_proj.weight"].T).reshape(2, length, heads, width).swapaxes(1, 2) for n in "qkv")
    turn = np.exp(1j * np.arange(length)[:, None] * 300.0 ** (-2 * np.arange(width // 2) / width))
    q, k = ((y[..., 0::2] + 1j * y[..., 1::2]) * turn for y in (q, k))
    scores = (q @ k.conj().swapaxes(2, 3)).real / np.sqrt(width)
    scores[..., np.triu_indices(length, 1)[0], np.triu_indices(length, 1)[1]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = (weights / weights.sum(-1, keepdims=True)) @ v
    expected = mixed.swapaxes(1, 2).reshape(2, length, -1) @ w["o_proj.weight"].T
    out = attention(x, *rope_angles(length, width, 300.0))
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-6)  # the angles are FP32


@pytest.mark.parametrize("kind", ["mla", "mha"])
def test_attention_reads_the_past_unless_told_to_leak(tiny: Tiny, kind: str) -> None:
    config = tiny({"attention.kind": kind})
    attention = filled(build_attention(config)).double()
    dim = config.attention.qk_rope_head_dim if kind == "mla" else config.attention.head_dim
    x, angles = hidden(8, config.d_model), rope_angles(8, dim, 1e4)
    changed = x.clone()
    changed[:, 5:] += 1
    difference = (attention(x, *angles) - attention(changed, *angles)).detach().abs().amax(dim=(0, 2))
    assert float(difference[:5].max()) < 1e-14 < 1e-3 < float(difference[5:].min())
    leak = (attention(x, *angles, causal=False) - attention(changed, *angles, causal=False)).detach().abs()
    assert float(leak[:, :5].amax(dim=(0, 2)).min()) > 1e-3


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [24, 640])
def test_attend_is_scaled_dot_product_attention_at_every_length(length: int, causal: bool) -> None:
    """Forward and gradients; short and long sequences take different ways on a CPU. Values narrower than keys."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = tensors = [
        torch.randn(1, length, 2, width, generator=generator, dtype=torch.float64).requires_grad_()
        for width in (10, 10, 6)
    ]
    out = attend(q, k, v, 0.37, causal)
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1) if causal else None
    q, k, v = (x.transpose(1, 2) for x in tensors)
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.37).transpose(1, 2)
    cotangent = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    for ours, theirs in zip(
        torch.autograd.grad(out, tensors, cotangent), torch.autograd.grad(expected, tensors, cotangent), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_both_ways_agree_in_bf16_as_far_as_bf16_goes() -> None:
    """A prefix of a long causal sequence is a short one: the first 64 rows must not depend on the way taken."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 640, 2, 16, generator=generator).bfloat16() for _ in range(3))
    long = attend(q, k, v, 0.25)[:, :64].double()
    short = attend(q[:, :64], k[:, :64], v[:, :64], 0.25).double()
    exact = attend(q[:, :64].double(), k[:, :64].double(), v[:, :64].double(), 0.25)
    for out in (long, short):
        assert float((out - exact).norm() / exact.norm()) < 2**-7
