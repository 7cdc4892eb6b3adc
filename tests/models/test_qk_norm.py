"""`model.attention.qk_norm` three ways, against its formula, and where its keys cannot be read from latents."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import GroupedQueryAttention, MultiHeadLatentAttention, Places, build_attention
from models.base.typed import ConfigError
from models.config import ModelConfig
from models.decoding.generate import Cache, absorbing, decode, greedy
from models.kinds import attention_of
from models.layers import RMSNorm
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
    "mla": {},
    "mla, compressed queries": {"attention.q_lora_rank": 14},
    "mha": {"attention.kind": "mha"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2},
    "mqa": {"attention.kind": "mqa"},
}
ON = {"attention.qk_norm": True}


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def changes(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def test_arms_differ_and_share_all_other_initial_values(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    off, on = built(changes), built(changes | ON)
    own = on.state_dict().keys() - off.state_dict().keys()
    assert own and all("_norm" in name and "self_attn" in name for name in own)
    assert all(torch.equal(value, on.state_dict()[name]) for name, value in off.state_dict().items())
    with torch.no_grad():
        assert float((on(tokens(2, 9)).logits - off(tokens(2, 9)).logits).abs().max()) > 1e-3


def test_off_it_is_not_on_the_path(
    built: Built, tokens: Tokens, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No module, no parameter and no norm of any head; on, two norms a layer (MLA: four), over the heads."""
    shapes: list[int] = []
    forward = RMSNorm.forward

    def counting(self: RMSNorm, x: Tensor) -> Tensor:
        shapes.append(x.ndim)
        return forward(self, x)

    monkeypatch.setattr(RMSNorm, "forward", counting)
    counts = []
    for switch in (False, True):
        shapes.clear()
        model = built(changes | {"attention.qk_norm": switch})
        model(tokens(2, 9))
        counts.append((shapes.count(3), shapes.count(4)))
        inside = [module for module in model.modules() if isinstance(module, RMSNorm)]
        assert len(inside) == len(shapes)
    latents = isinstance(model.model.layers[0].self_attn, MultiHeadLatentAttention)
    assert counts[0][1] == 0 and counts[1][0] >= counts[0][0]
    assert sum(counts[1]) - sum(counts[0]) == 3 * (4 if latents else 2)


def test_on_its_gains_move_after_one_step(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    model = built(changes | ON | {"mtp.depth": 1})
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    Microbatching(model, 2).step(tokens(4, 9))
    optimizer.step()
    gains = {name: p for name, p in model.named_parameters() if "self_attn" in name and "_norm." in name}
    assert len(gains) == 4 * (2 if "attention.kind" in changes else 4), "the MTP module's block has them too"
    assert all(float((gain - 1).detach().abs().min()) > 0 for gain in gains.values())


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Neighbouring numbers of (B, T, H, h) as complex ones, turned."""
    return torch.view_as_real(
        torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turns.unsqueeze(1)
    ).flatten(-2)


def by_hand(attention: Any, x: Tensor, turns: Tensor, eps: float) -> Tensor:
    """With torch's own norm and softmax, head by head."""

    def norm(x: Tensor, module: RMSNorm) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], module.weight, eps)

    if isinstance(attention, GroupedQueryAttention):
        q, k, v = (
            F.linear(x, proj.weight).unflatten(-1, (-1, attention.head_dim))
            for proj in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = turned(norm(q, attention.q_norm), turns), turned(norm(k, attention.k_norm), turns)
        k, v = (part.repeat_interleave(q.shape[2] // part.shape[2], dim=2) for part in (k, v))
    else:
        nope, rank = attention.nope, attention.kv_lora_rank
        if attention.compress_query:
            low = norm(F.linear(x, attention.q_a_proj.weight), attention.q_a_layernorm)
            q = F.linear(low, attention.q_b_proj.weight)
        else:
            q = F.linear(x, attention.q_proj.weight)
        q = q.unflatten(-1, (attention.n_heads, -1))
        q_rope = turned(norm(q[..., nope:], attention.q_rope_norm), turns)
        q = torch.cat((norm(q[..., :nope], attention.q_nope_norm), q_rope), dim=-1)
        latent = F.linear(x, attention.kv_a_proj_with_mqa.weight)
        k_rope = turned(norm(latent[..., rank:].unsqueeze(2), attention.k_rope_norm), turns)
        expanded = F.linear(norm(latent[..., :rank], attention.kv_a_layernorm), attention.kv_b_proj.weight)
        expanded = expanded.unflatten(-1, (attention.n_heads, -1))
        k_nope, v = norm(expanded[..., :nope], attention.k_nope_norm), expanded[..., nope:]
        k = torch.cat((k_nope, k_rope.expand(-1, -1, attention.n_heads, -1)), dim=-1)
    scores = torch.einsum("bthd,blhd->bhtl", q, k) / q.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    out = torch.einsum("bhtl,blhd->bthd", scores.masked_fill(hidden, -torch.inf).softmax(dim=-1), v)
    return F.linear(out.flatten(2), attention.o_proj.weight)


def test_it_is_its_formula(tiny: Tiny, changes: dict[str, Any]) -> None:
    """Forward and every gradient, in FP64, with gains that are not 1."""
    config = tiny(changes | ON)
    attention = build_attention(config).double()
    generator = torch.Generator().manual_seed(0)
    for p in attention.parameters():
        torch.nn.init.normal_(p, 0 if p.ndim > 1 else 1, 0.3, generator)
    turns = rope_turns(torch.arange(9), attention_of(config).rope_dim, config.rope, torch.float64)
    x = torch.randn(2, 9, config.d_model, generator=generator, dtype=torch.float64)
    ours, theirs = attention(x, Places(turns)), by_hand(attention, x, turns, config.norm_eps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    cotangent = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    leaves = list(attention.parameters())
    for found, expected in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_decoding_with_a_cache_is_the_whole_forward(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    model, batch = built(changes | ON), tokens(2, 11)
    cache = Cache(model, 2, 11)
    with torch.no_grad():
        whole = model(batch).logits
        steps = [decode(model, batch[:, t : t + 1], [t, t], cache)[0] for t in range(11)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, rtol=0, atol=1e-11)
    assert greedy(model, batch[:, :4], 5).shape == (2, 5)


def test_what_it_rules_out_is_refused_by_name(built: Built) -> None:
    """The absorbed form, whose keys are products of latents alone, and the published format."""
    model = built(ON)
    assert attention_of(built().config).absorbs and not attention_of(model.config).absorbs
    with (
        pytest.raises(ConfigError, match="^absorb=True: model.attention.qk_norm=True: keys are normed after"),
        absorbing(model),
    ):
        pass
    with pytest.raises(ConfigError, match="model.attention.qk_norm=True: the deepseek_v3 format cannot hold it"):
        check_held(model.config)
