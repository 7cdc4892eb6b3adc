"""`model.attention.kv_norm`: the norm that MLA has on what keys and values are made of, taken from it or lent to
others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import Places, build_attention
from models.base.typed import ConfigError
from models.config import ModelConfig
from models.decoding.generate import Cache, absorbing, decode
from models.kinds import attention_of
from models.published import check_held
from models.rope import rope_turns
from models.training.config import OptimConfig
from models.training.executor import Microbatching
from models.training.optim import adamw
from models.transformer import Transformer

Tiny = Callable[..., ModelConfig]
Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]

KINDS: dict[str, dict[str, Any]] = {
    "mha": {"attention.kind": "mha"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
    "mqa": {"attention.kind": "mqa"},
}
NORMS = ("key_norm", "value_norm", "kv_a_layernorm")


def norms_of(model: Transformer) -> set[str]:
    return {name for name, _ in model.named_parameters() if any(f".{norm}." in name for norm in NORMS)}


@pytest.mark.parametrize("changes", [{}, *KINDS.values()], ids=["mla", *KINDS])
def test_each_kind_has_it_by_itself_or_not_and_can_be_told(
    built: Built, tokens: Tokens, changes: dict[str, Any]
) -> None:
    """MLA has it and can do without; the others have not and can have it. Nothing else of the model changes."""
    own, on, off = (built(changes | {"attention.kv_norm": value}) for value in (None, True, False))
    assert norms_of(own) == norms_of(off if changes else on) and norms_of(off) == set() and norms_of(on)
    shared = off.state_dict()
    assert all(torch.equal(value, on.state_dict()[name]) for name, value in shared.items())
    with torch.no_grad():
        assert float((on(tokens(2, 9)).logits - off(tokens(2, 9)).logits).abs().max()) > 1e-3


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_its_gains_move_after_one_step(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    model = built(changes | {"attention.kv_norm": True})
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    Microbatching(model, 2).step(tokens(4, 9))
    optimizer.step()
    gains = [p for name, p in model.named_parameters() if name in norms_of(model)]
    assert len(gains) == 6 and all(float((gain - 1).detach().abs().min()) > 0 for gain in gains)


@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS)
def test_it_is_its_formula(tiny: Tiny, changes: dict[str, Any]) -> None:
    """Against torch's own norm, softmax and autograd, in FP64, with gains that are not 1."""
    config = tiny(changes | {"attention.kv_norm": True})
    attention: Any = build_attention(config).double()
    generator = torch.Generator().manual_seed(0)
    for p in attention.parameters():
        torch.nn.init.normal_(p, 0 if p.ndim > 1 else 1, 0.3, generator)
    turns = rope_turns(torch.arange(9), attention_of(config).rope_dim, config.rope, torch.float64)
    x = torch.randn(2, 9, config.d_model, generator=generator, dtype=torch.float64)

    def turned(part: Tensor) -> Tensor:
        pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns.unsqueeze(1)).flatten(-2)

    def by_hand() -> Tensor:
        q = F.linear(x, attention.q_proj.weight).unflatten(-1, (-1, attention.head_dim))
        k, v = F.linear(x, attention.k_proj.weight), F.linear(x, attention.v_proj.weight)
        k = F.rms_norm(k, k.shape[-1:], attention.key_norm.weight, config.norm_eps)
        v = F.rms_norm(v, v.shape[-1:], attention.value_norm.weight, config.norm_eps)
        k, v = (part.unflatten(-1, (-1, attention.head_dim)) for part in (k, v))
        q, k = turned(q), turned(k)
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], dim=2) for part in (k, v))
        out = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in (q, k, v)), is_causal=True)
        return F.linear(out.transpose(1, 2).flatten(2), attention.o_proj.weight)

    ours, theirs = attention(x, Places(turns)), by_hand()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    cotangent = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    leaves = list(attention.parameters())
    for found, expected in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(
    "changes", [{"attention.kv_norm": False}, *({**k, "attention.kv_norm": True} for k in KINDS.values())]
)
def test_decoding_with_a_cache_is_the_whole_forward(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    model, batch = built(changes), tokens(2, 11)

    def steps() -> Tensor:
        cache = Cache(model, 2, 11)
        return torch.cat([decode(model, batch[:, t : t + 1], [t, t], cache)[0] for t in range(11)], dim=1)

    with torch.no_grad():
        whole = model(batch).logits
        torch.testing.assert_close(steps(), whole, rtol=0, atol=1e-11)
        if attention_of(model.config).absorbs:
            with absorbing(model):
                torch.testing.assert_close(steps(), whole, rtol=0, atol=1e-11)


def test_the_published_format_norms_its_latents(built: Built) -> None:
    check_held(built({"attention.kv_norm": True, "norm_eps": 1e-6, "dtype": "float32"}).config)
    with pytest.raises(ConfigError, match="model.attention.kv_norm=False: the deepseek_v3 format cannot hold it"):
        check_held(built({"attention.kv_norm": False}).config)
