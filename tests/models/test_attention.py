"""MLA against transformers' DeepSeek-V3, GQA, MHA and MQA against NumPy, and the two ways of computing the softmax."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import models.attention
from models.attention import (
    GroupedQueryAttention,
    MultiHeadLatentAttention,
    Places,
    attend,
    build_attention,
    within_documents,
)
from models.config import ModelConfig
from models.kinds import attention_of
from models.rope import rope_turns

Tiny = Callable[..., ModelConfig]
KINDS: dict[str, dict[str, Any]] = {
    "mla": {"attention.kind": "mla"},
    "mla, compressed queries": {"attention.q_lora_rank": 10},
    "mha": {"attention.kind": "mha"},
    "gqa, 6 / 2": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
    "gqa, 6 / 3": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 3},
    "mqa": {"attention.kind": "mqa"},
}
HEADS = {name: changes for name, changes in KINDS.items() if "mla" not in name}


@pytest.fixture(params=["explicit products", "SDPA"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both sides of the length at which `attend` changes its way; SDPA is used, or not."""
    limit = 10**9 if request.param == "explicit products" else 0
    monkeypatch.setattr(models.attention, "EXPLICIT_MAX_SCORES", limit)
    if limit:
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **__: pytest.fail("SDPA was called"))
    return str(request.param)


def filled(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0 if parameter.ndim > 1 else 1, 0.3, generator)
    return module


def hidden(length: int, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(1), dtype=dtype)


def places(config: ModelConfig, length: int, mask_BTL: Tensor | None = None) -> Places:
    rope_dim = attention_of(config).rope_dim
    return Places(rope_turns(torch.arange(length), rope_dim, config.rope, torch.float64), mask_BTL)


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
    out = ours(x, places(config, 11))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # their softmax is FP32
    assert float(expected.detach().abs().mean()) > 0.1


@pytest.mark.parametrize("changes", HEADS.values(), ids=HEADS.keys())
def test_grouped_queries_are_softmax_attention_with_repeated_heads(
    tiny: Tiny, changes: dict[str, Any], way: str
) -> None:
    """RoPE over the whole head, as complex numbers; each key head stands for H / G queries that follow each other.
    Forward, and the gradient of every weight and of the input, by central differences along a direction."""
    config = tiny(changes | {"rope.theta": 300.0})
    attention = filled(build_attention(config)).double()
    assert isinstance(attention, GroupedQueryAttention)
    length, heads, width = 9, config.attention.n_heads, config.attention.head_dim
    kept = {"mha": heads, "mqa": 1}.get(config.attention.kind, config.attention.n_kv_heads)
    x = hidden(length, config.d_model)
    turn = np.exp(1j * np.arange(length)[:, None] * 300.0 ** (-2 * np.arange(width // 2) / width))

    def plain(w: dict[str, np.ndarray]) -> np.ndarray:
        q, k, v = (
            (w["x"] @ w[f"{n}_proj.weight"].T).reshape(2, length, count, width).swapaxes(1, 2)
            for n, count in (("q", heads), ("k", kept), ("v", kept))
        )
        q, k = ((y[..., 0::2] + 1j * y[..., 1::2]) * turn for y in (q, k))
        k, v = (np.repeat(y, heads // kept, axis=1) for y in (k, v))
        scores = (q @ k.conj().swapaxes(2, 3)).real / np.sqrt(width)
        scores[..., np.triu_indices(length, 1)[0], np.triu_indices(length, 1)[1]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        out: np.ndarray = mixed.swapaxes(1, 2).reshape(2, length, -1) @ w["o_proj.weight"].T
        return out

    values = {name: parameter.detach().numpy() for name, parameter in attention.named_parameters()} | {"x": x.numpy()}
    x.requires_grad_()
    out = attention(x, places(config, length))
    np.testing.assert_allclose(out.detach().numpy(), plain(values), atol=1e-12)
    rng = np.random.default_rng(0)
    cotangent = rng.standard_normal(out.shape)
    names = [*(name for name, _ in attention.named_parameters()), "x"]
    gradients = torch.autograd.grad(out, [*attention.parameters(), x], torch.from_numpy(cotangent))
    for name, gradient in zip(names, gradients, strict=True):
        direction = rng.standard_normal(gradient.shape)
        up, down = (plain(values | {name: values[name] + step * direction}) for step in (1e-6, -1e-6))
        expected = float((cotangent * (up - down)).sum() / 2e-6)
        assert float((gradient.numpy() * direction).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-6), name


def test_gqa_of_all_heads_is_mha_and_of_one_is_mqa_bit_for_bit(tiny: Tiny, way: str) -> None:
    x = hidden(11, 24)
    for kind, kept in (("mha", 6), ("mqa", 1)):
        outs = []
        for changes in ({"attention.kind": kind}, {"attention.kind": "gqa", "attention.n_kv_heads": kept}):
            config = tiny(changes | {"attention.n_heads": 6})
            outs.append(filled(build_attention(config)).double()(x, places(config, 11)))
        assert torch.equal(*outs), kind


def test_the_kinds_differ(tiny: Tiny) -> None:
    """Habit of every toggle: no two arms are the same thing under two names."""
    x, outs = hidden(11, 24), {}
    for name, changes in KINDS.items():
        config = tiny(changes)
        outs[name] = filled(build_attention(config)).double()(x, places(config, 11))
    names = list(outs)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.allclose(outs[a], outs[b])]


@pytest.mark.parametrize(
    ("name", "matrices", "cached"),
    [
        # d_model 24, heads of 8; MLA: 3 heads of 8 + 6 and 10, latent 12, RoPE key 6.
        ("mla", 24 * 3 * 14 + 24 * 18 + 12 * 3 * 18 + 30 * 24, 12 + 6),
        ("mla, compressed queries", 24 * 10 + 10 * 3 * 14 + 24 * 18 + 12 * 3 * 18 + 30 * 24, 12 + 6),
        ("mha", 4 * 24 * 24, 2 * 3 * 8),
        ("gqa, 6 / 2", 2 * 24 * 48 + 2 * 24 * 16, 2 * 2 * 8),
        ("gqa, 6 / 3", 2 * 24 * 48 + 2 * 24 * 24, 2 * 3 * 8),
        ("mqa", 2 * 24 * 24 + 2 * 24 * 8, 2 * 1 * 8),
    ],
)
def test_each_kind_has_the_parameters_and_the_cache_of_its_formula(
    tiny: Tiny, name: str, matrices: int, cached: int
) -> None:
    """Per layer by hand; the cache as allocated, in bytes (V2 table 1)."""
    config = tiny(KINDS[name])
    attention = build_attention(config)
    assert sum(p.numel() for p in attention.parameters() if p.ndim > 1) == matrices
    assert attention_of(config).cached == cached
    cache = attention.new_cache(5, 7, torch.bfloat16, torch.device("cpu"))
    assert cache.nbytes == 5 * 7 * cached * 2


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_attention_reads_the_past_unless_told_to_leak(tiny: Tiny, changes: dict[str, Any], way: str) -> None:
    config = tiny(changes)
    attention = filled(build_attention(config)).double()
    x, causal, leaking = hidden(8, config.d_model), places(config, 8), places(config, 8, torch.zeros(2, 8, 8))
    changed = x.clone()
    changed[:, 5:] += 1
    difference = (attention(x, causal) - attention(changed, causal)).detach().abs().amax(dim=(0, 2))
    assert float(difference[:5].max()) < 1e-14 < 1e-3 < float(difference[5:].min())
    leak = (attention(x, leaking) - attention(changed, leaking)).detach().abs()
    assert float(leak[:, :5].amax(dim=(0, 2)).min()) > 1e-3


def expected_attention(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    """Of (B, H, T, h), (B, G, L, h) and (B, G, L, v): (B, T, H, v)."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = q @ k.mT * scale
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


def assert_same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    """Forward and gradients."""
    cotangent = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    pairs = (torch.autograd.grad(out, leaves, cotangent) for out in (ours, theirs))
    for found, expected in zip(*pairs, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def random_heads(batch: int, length: int, heads: int, groups: int) -> list[Tensor]:
    """Queries, keys and values; values narrower than keys."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, count, length, width, generator=generator, dtype=torch.float64).requires_grad_()
        for count, width in ((heads, 10), (groups, 10), (groups, 6))
    ]


NOWHERE = torch.zeros(0)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [24, 640])
def test_attend_is_the_formula_at_every_length(length: int, causal: bool, groups: int) -> None:
    """Short and long sequences take different ways on a CPU: 640 x 640 is beyond the limit as it stands."""
    assert 24**2 < models.attention.EXPLICIT_MAX_SCORES < 640**2
    q, k, v = leaves = random_heads(1, length, 4, groups)
    out = attend(q, k, v, 0.37, Places(NOWHERE, None if causal else torch.zeros(1, length, length)))
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1) if causal else None
    assert_same(out, expected_attention(q, k, v, 0.37, mask), leaves)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("length", [256, 300])
def test_attend_without_a_backward_is_the_formula(length: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes block by block then, of whose length that of the text need be no multiple; nothing else is called."""
    q, k, v = (leaf.detach() for leaf in random_heads(2, length, 4, groups))
    mask = torch.full((length, length), float("-inf"), dtype=torch.float64).triu(1)
    expected = expected_attention(q, k, v, 0.37, mask)
    whole = attend(q, k, v, 0.37, Places(NOWHERE))
    monkeypatch.setattr(models.attention, "EXPLICIT_MAX_SCORES", 0)
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *_, **__: pytest.fail("SDPA was called"))
    with torch.no_grad():
        out = attend(q, k, v, 0.37, Places(NOWHERE))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(out, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_attend_with_a_mask_for_each_row(way: str, groups: int) -> None:
    """A mask (B, T, L) replaces the causal one; rows of a batch differ, and so do T and L."""
    q, k, v = leaves = random_heads(3, 12, 4, groups)
    queries = q[:, :, :5]
    hide = torch.rand(3, 5, 12, generator=torch.Generator().manual_seed(3)) < 0.5
    hide[..., 0] = False
    mask = torch.zeros(3, 5, 12).masked_fill(hide, float("-inf"))
    out = attend(queries, k, v, 0.37, Places(NOWHERE, mask))
    assert_same(out, expected_attention(queries, k, v, 0.37, mask.double().unsqueeze(1)), leaves)


def test_within_documents_by_hand() -> None:
    """Two rows: documents of 2, 3 and 1 tokens, and one of 6."""
    mask = within_documents(torch.tensor([[0, 0, 1, 1, 1, 2], [0] * 6]))
    expected = torch.zeros(2, 6, 6, dtype=torch.bool)
    for start, end in ((0, 2), (2, 5), (5, 6)):
        expected[0, start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    expected[1] = torch.ones(6, 6).tril()
    assert torch.equal(mask == 0, expected) and torch.equal(mask == float("-inf"), ~expected)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_one_document_masked_is_plain_causal_attention(tiny: Tiny, changes: dict[str, Any], way: str) -> None:
    config = tiny(changes)
    attention, x = filled(build_attention(config)).double(), hidden(9, config.d_model)
    masked = attention(x, places(config, 9, within_documents(torch.zeros(2, 9, dtype=torch.long))))
    torch.testing.assert_close(masked, attention(x, places(config, 9)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2])
def test_both_ways_agree_in_bf16_as_far_as_bf16_goes(groups: int) -> None:
    """A prefix of a long causal sequence is a short one: the first 64 rows must not depend on the way taken."""
    generator = torch.Generator().manual_seed(0)
    causal = Places(NOWHERE)
    q, k, v = (torch.randn(1, count, 640, 16, generator=generator).bfloat16() for count in (2, groups, groups))
    long = attend(q, k, v, 0.25, causal)[:, :64].double()
    q, k, v = (x[:, :, :64] for x in (q, k, v))
    short = attend(q, k, v, 0.25, causal).double()
    exact = attend(q.double(), k.double(), v.double(), 0.25, causal)
    for out in (long, short):
        assert float((out - exact).norm() / exact.norm()) < 2**-7


def test_unknown_kinds_are_not_guessed(tiny: Tiny) -> None:
    config = tiny()
    unknown = dataclasses.replace(config, attention=dataclasses.replace(config.attention, n_heads=1, kind="linear"))  # type: ignore[arg-type]
    with pytest.raises((ValueError, KeyError), match="linear"):
        build_attention(unknown)
