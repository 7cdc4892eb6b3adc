"""Causal self-attention behind one call: x (B, T, D) and where its tokens stand in, (B, T, D) out.

Letters beside those of layers.py: L cached positions, G key and value heads, h width of a head.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import ModelConfig
from models.kinds import EXPLICIT_MAX_SCORES, attention_of
from models.layers import Linear, RMSNorm, Rounded, together
from models.rope import rotate, softmax_temperature

BLOCKS_FROM = 256
"""On CPU and without a backward, causal attention goes block by block from this length on."""
BLOCK = 64
"""Queries of a block: at 512 positions 2.4 times as fast as the whole product, 1.7 times as SDPA's flash kernel."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of one forward pass stand, shared by all its layers."""

    turns: Tensor
    """RoPE's, complex (T, rope_dim / 2), or (B, T, rope_dim / 2) where rows stand at different positions."""
    mask_BTL: Tensor | None = None
    """Added to the scores, 0 or -inf; None is plain causal attention of T tokens over themselves."""
    positions_BT: Tensor | None = None
    """With a cache: the slot that each token's keys and values are written to."""


class LayerCache:
    """What one attention layer keeps per token: (B, max_length, ...) tensors in the compute type; what has no attention
    keeps none."""

    def __init__(self, *buffers: Tensor) -> None:
        self.buffers = buffers

    def write(self, places: Places, *rows: Tensor) -> tuple[Tensor, ...]:
        """Put rows (B, T, ...) at `places.positions_BT`; returns all buffers up to the mask's length L."""
        assert places.positions_BT is not None and places.mask_BTL is not None
        batch = torch.arange(len(places.positions_BT), device=places.positions_BT.device).unsqueeze(1)
        for buffer, row in zip(self.buffers, rows, strict=True):
            buffer[batch, places.positions_BT] = row
        return tuple(buffer[:, : places.mask_BTL.shape[-1]] for buffer in self.buffers)

    def keep(self, rows: Sequence[int]) -> None:
        """These rows alone, in this order, laid out as before."""
        for buffer in self.buffers:
            buffer[: len(rows)] = buffer[list(rows)]
        self.buffers = tuple(buffer[: len(rows)] for buffer in self.buffers)

    def repeated(self, count: int) -> "LayerCache":
        """Every row `count` times, one behind the other, laid out as before."""
        if not self.buffers:
            return self
        rows = torch.arange(len(self.buffers[0]), device=self.buffers[0].device).repeat_interleave(count)
        return LayerCache(*(b[rows] if b.ndim == 3 else b.transpose(1, 2)[rows].transpose(1, 2) for b in self.buffers))

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self.buffers)


class Core(Rounded):
    """The attention core of both kinds, whose operands an FP8 recipe may round as well."""

    scale: float

    def attend(self, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        """See `attend`."""
        return attend(self.low(q), self.low(k), self.low(v), self.scale, places)


class GroupedQueryAttention(Core):
    """GQA (2305.13245) with RoPE over the whole head: `n_kv_heads` keys and values, each shared by H / G queries.

    G = H is MHA, G = 1 is MQA. Caches 2 G h elements per token.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a = config.attention
        self.n_heads, self.n_kv_heads, self.head_dim = a.n_heads, attention_of(config).key_heads, a.head_dim
        self.q_proj = Linear(config.d_model, a.n_heads * a.head_dim)
        self.k_proj = Linear(config.d_model, self.n_kv_heads * a.head_dim)
        self.v_proj = Linear(config.d_model, self.n_kv_heads * a.head_dim)
        self.o_proj = Linear(a.n_heads * a.head_dim, config.d_model)
        self.kv_norm = attention_of(config).kv_norm
        if self.kv_norm:
            width = self.n_kv_heads * a.head_dim
            self.key_norm, self.value_norm = (RMSNorm(width, config.norm_eps) for _ in range(2))
        self.qk_norm = a.qk_norm
        if a.qk_norm:
            self.q_norm, self.k_norm = (RMSNorm(a.head_dim, config.norm_eps) for _ in range(2))
        self.scale = softmax_scale(config)

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q_proj(x).view(batch, length, self.n_heads, -1)
        k, v = self.k_proj(x), self.v_proj(x)
        if self.kv_norm:
            k, v = self.key_norm(k), self.value_norm(v)
        k, v = (part.view(batch, length, self.n_kv_heads, -1) for part in (k, v))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, places.turns), rotate(k, places.turns)
        if cache is not None:
            k, v = cache.write(places, k, v)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return self.o_proj(self.attend(q, k, v, places).flatten(2))

    def new_cache(self, batch: int, length: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        shape = (batch, self.n_kv_heads, length, self.head_dim)  # heads first, as `attend` reads them: no copy per step
        return LayerCache(*(torch.zeros(shape, dtype=dtype, device=device).transpose(1, 2) for _ in range(2)))


class MultiHeadLatentAttention(Core):
    """MLA (V2 2.1, V3 2.1.1): keys and values are expanded from one normed latent c (B, T, kv_lora_rank); a RoPE key of
    `qk_rope_head_dim`, shared by all heads, is kept beside it. Only those two are cached, in one row per token. Names
    follow the published checkpoints."""

    absorb = False
    """With a cache: multiply queries by the key expansion and outputs by the value expansion (V2 2.1.2), so that the
    cached latents are never expanded. The same function, in another order."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, d = config.attention, config.d_model
        self.n_heads, self.nope, self.v_dim = a.n_heads, a.qk_nope_head_dim, a.v_head_dim
        self.rope_dim, self.kv_lora_rank = a.qk_rope_head_dim, a.kv_lora_rank
        query_width = a.n_heads * (self.nope + self.rope_dim)
        if a.q_lora_rank is None:
            self.q_proj = Linear(d, query_width)
        else:
            self.q_a_proj = Linear(d, a.q_lora_rank)
            self.q_a_layernorm = RMSNorm(a.q_lora_rank, config.norm_eps)
            self.q_b_proj = Linear(a.q_lora_rank, query_width)
        self.compress_query = a.q_lora_rank is not None
        self.kv_a_proj_with_mqa = Linear(d, a.kv_lora_rank + self.rope_dim)
        self.kv_norm = attention_of(config).kv_norm
        if self.kv_norm:
            self.kv_a_layernorm = RMSNorm(a.kv_lora_rank, config.norm_eps)
        self.kv_b_proj = Linear(a.kv_lora_rank, a.n_heads * (self.nope + self.v_dim))
        self.o_proj = Linear(a.n_heads * self.v_dim, d)
        self.qk_norm = a.qk_norm
        if a.qk_norm:
            self.q_nope_norm, self.k_nope_norm = (RMSNorm(self.nope, config.norm_eps) for _ in range(2))
            self.q_rope_norm, self.k_rope_norm = (RMSNorm(self.rope_dim, config.norm_eps) for _ in range(2))
        self.scale = softmax_scale(config)

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        first = self.q_a_proj if self.compress_query else self.q_proj
        projected = together(x, first, self.kv_a_proj_with_mqa)
        query, latent, k_rope = projected.split([first.weight.shape[0], self.kv_lora_rank, self.rope_dim], dim=-1)
        if self.compress_query:
            query = self.q_b_proj(self.q_a_layernorm(query))
        q_nope, q_rope = query.unflatten(-1, (self.n_heads, -1)).split([self.nope, self.rope_dim], dim=-1)
        if self.qk_norm:
            q_nope, q_rope, k_rope = self.q_nope_norm(q_nope), self.q_rope_norm(q_rope), self.k_rope_norm(k_rope)
        q_rope = rotate(q_rope, places.turns)
        if self.kv_norm:
            latent = self.kv_a_layernorm(latent)
        k_rope = rotate(k_rope.unsqueeze(2), places.turns)
        if cache is not None:
            (kept,) = cache.write(places, torch.cat((latent, k_rope.squeeze(2)), dim=-1))
            if self.absorb:
                return self._absorbed(q_nope, q_rope, kept, places)
            latent, k_rope = kept.split([self.kv_lora_rank, self.rope_dim], dim=-1)
            k_rope = k_rope.unsqueeze(2)
        key_value = self.kv_b_proj(latent).view(*latent.shape[:2], self.n_heads, -1)
        k_nope, v = key_value.split([self.nope, self.v_dim], dim=-1)
        if self.qk_norm:
            k_nope = self.k_nope_norm(k_nope)
        # Joined with the heads first, as the products want them: one copy instead of two.
        q = torch.cat((q_nope.transpose(1, 2), q_rope.transpose(1, 2)), dim=-1)
        k_rope = k_rope.transpose(1, 2).expand(-1, self.n_heads, -1, -1)
        k = torch.cat((k_nope.transpose(1, 2), k_rope), dim=-1)
        return self.o_proj(self.attend(q, k, v.transpose(1, 2), places).flatten(2))

    def _absorbed(self, q_nope: Tensor, q_rope: Tensor, kept_BLr: Tensor, places: Places) -> Tensor:
        """q_nope . (W_UK c) = (W_UK^T q_nope) . c: MQA over the cached rows, with the latents as values."""
        expand = self.kv_b_proj.matrix("weight", q_nope.dtype).view(self.n_heads, -1, self.kv_lora_rank)
        w_uk_Hnr, w_uv_Hvr = expand.split([self.nope, self.v_dim], dim=1)
        q = torch.cat((torch.einsum("bthn,hnr->bhtr", q_nope, w_uk_Hnr), q_rope.transpose(1, 2)), dim=-1)
        rows = kept_BLr.unsqueeze(1)
        latents = self.attend(q, rows, rows[..., : self.kv_lora_rank], places)
        return self.o_proj(torch.einsum("bthr,hvr->bthv", latents, w_uv_Hvr).flatten(2))

    def new_cache(self, batch: int, length: int, dtype: torch.dtype, device: torch.device) -> LayerCache:
        return LayerCache(torch.zeros(batch, length, self.kv_lora_rank + self.rope_dim, dtype=dtype, device=device))


def softmax_scale(config: ModelConfig) -> float:
    """1 / sqrt(width of a key), times YaRN's temperature."""
    return attention_of(config).key_dim ** -0.5 * softmax_temperature(config.rope)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, places: Places) -> Tensor:
    """softmax(scale q k^T + mask) v of q (B, H, T, h), k (B, G, L, h) and v (B, G, L, v); returns (B, T, H, v). H / G
    queries share each key head."""
    batch, heads, length, _ = q.shape
    groups, kept = k.shape[1:3]
    shared = heads // groups  # the queries of one key head follow each other, as further rows of its product
    if q.device.type == "cpu" and places.mask_BTL is None and length >= BLOCKS_FROM and not torch.is_grad_enabled():
        q = q.reshape(batch * groups, shared, length, -1)
        k, v = (x.reshape(batch * groups, kept, -1) for x in (k, v))
        out = _in_blocks(q, k, v, scale).view(batch, heads, length, -1)
    elif q.device.type == "cpu" and length * kept <= EXPLICIT_MAX_SCORES:
        q = q.reshape(batch * groups, shared * length, -1)
        k, v = (x.reshape(batch * groups, kept, -1) for x in (k, v))
        scores = torch.baddbmm(_rows(places, length, shared, groups, q.dtype), q, k.mT, alpha=scale)
        out = torch.bmm(scores.softmax(dim=-1), v).view(batch, heads, length, -1)
    else:
        mask = None if places.mask_BTL is None else places.mask_BTL.to(q.dtype).unsqueeze(1)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=heads != groups
        )
    return out.transpose(1, 2)


def _in_blocks(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention of q (N, shared, T, h), k (N, T, h) and v (N, T, v), a block of queries at a time: what lies
    behind a block is never computed, and its scores stay in the cache."""
    rows, shared, length, _ = q.shape
    out = q.new_empty(rows, shared, length, v.shape[-1])
    for first in range(0, length, BLOCK):
        end = min(first + BLOCK, length)
        asked = q[:, :, first:end].reshape(rows, -1, q.shape[-1])
        mask = F.pad(_causal(end - first, shared, q.dtype), (first, 0))
        scores = torch.baddbmm(mask, asked, k[:, :end].mT, alpha=scale)
        out[:, :, first:end] = torch.bmm(scores.softmax(dim=-1), v[:, :end]).view(rows, shared, end - first, -1)
    return out


def _rows(places: Places, length: int, shared: int, groups: int, dtype: torch.dtype) -> Tensor:
    """The mask as `attend` lays its rows out: (shared T, T) for all, or (B G, shared T, L)."""
    if places.mask_BTL is None:
        return _causal(length, shared, dtype)
    mask = places.mask_BTL.to(dtype).repeat(1, shared, 1)
    return mask.repeat_interleave(groups, dim=0) if groups > 1 else mask


@functools.lru_cache(maxsize=8)
def _causal(length: int, shared: int, dtype: torch.dtype) -> Tensor:
    """(shared T, T): -inf above the diagonal, so that a position sees itself and what came before."""
    return torch.full((length, length), -math.inf, dtype=dtype).triu_(1).repeat(shared, 1)


def within_documents(documents_BT: Tensor) -> Tensor:
    """(B, T, T) mask: causal, and only within a document. `documents_BT` numbers the document of each token."""
    length = documents_BT.shape[1]
    order = torch.arange(length, device=documents_BT.device)
    visible = (documents_BT.unsqueeze(2) == documents_BT.unsqueeze(1)) & (order.unsqueeze(1) >= order)
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -math.inf)


MODULES: dict[str, type[GroupedQueryAttention | MultiHeadLatentAttention]] = {
    "mla": MultiHeadLatentAttention,
    "mha": GroupedQueryAttention,
    "gqa": GroupedQueryAttention,
    "mqa": GroupedQueryAttention,
}


def build_attention(config: ModelConfig) -> GroupedQueryAttention | MultiHeadLatentAttention:
    return MODULES[config.attention.kind](config)
