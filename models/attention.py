"""Causal self-attention behind one call: x (B, T, D) and RoPE angles in, (B, T, D) out."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.config import ModelConfig
from models.layers import Linear, RMSNorm
from models.rope import rotate

EXPLICIT_MAX_LENGTH = 512
"""On CPU, BF16 products with an explicit mask beat SDPA below about this length; their memory grows with T^2."""


class MultiHeadAttention(nn.Module):
    """MHA with RoPE over the whole head; caches 2 * n_heads * head_dim elements per token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a = config.attention
        self.n_heads, self.head_dim = a.n_heads, a.head_dim
        self.rope_dim = a.head_dim
        width = a.n_heads * a.head_dim
        self.q_proj = Linear(config.d_model, width)
        self.k_proj = Linear(config.d_model, width)
        self.v_proj = Linear(config.d_model, width)
        self.o_proj = Linear(width, config.d_model)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool = True) -> Tensor:
        heads = (*x.shape[:2], self.n_heads, self.head_dim)
        q = rotate(self.q_proj(x).view(heads), cos, sin)
        k = rotate(self.k_proj(x).view(heads), cos, sin)
        v = self.v_proj(x).view(heads)
        return self.o_proj(attend(q, k, v, self.head_dim**-0.5, causal).flatten(2))


class MultiHeadLatentAttention(nn.Module):
    """MLA (V2 2.1, V3 2.1.1): keys and values are expanded from one normed latent c (B, T, kv_lora_rank); a RoPE key of
    `qk_rope_head_dim`, shared by all heads, is kept beside it. Names follow the published checkpoints."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        a, d = config.attention, config.d_model
        self.n_heads, self.nope, self.rope_dim, self.v_dim = (
            a.n_heads,
            a.qk_nope_head_dim,
            a.qk_rope_head_dim,
            a.v_head_dim,
        )
        self.kv_lora_rank = a.kv_lora_rank
        query_width = a.n_heads * (self.nope + self.rope_dim)
        if a.q_lora_rank is None:
            self.q_proj = Linear(d, query_width)
        else:
            self.q_a_proj = Linear(d, a.q_lora_rank)
            self.q_a_layernorm = RMSNorm(a.q_lora_rank, config.norm_eps)
            self.q_b_proj = Linear(a.q_lora_rank, query_width)
        self.compress_query = a.q_lora_rank is not None
        self.kv_a_proj_with_mqa = Linear(d, a.kv_lora_rank + self.rope_dim)
        self.kv_a_layernorm = RMSNorm(a.kv_lora_rank, config.norm_eps)
        self.kv_b_proj = Linear(a.kv_lora_rank, a.n_heads * (self.nope + self.v_dim))
        self.o_proj = Linear(a.n_heads * self.v_dim, d)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, causal: bool = True) -> Tensor:
        batch, length, _ = x.shape
        query = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x))) if self.compress_query else self.q_proj(x)
        q_nope, q_rope = query.view(batch, length, self.n_heads, -1).split([self.nope, self.rope_dim], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_lora_rank, self.rope_dim], dim=-1)
        key_value = self.kv_b_proj(self.kv_a_layernorm(latent)).view(batch, length, self.n_heads, -1)
        k_nope, v = key_value.split([self.nope, self.v_dim], dim=-1)
        k_rope = rotate(k_rope.unsqueeze(2), cos, sin).expand(-1, -1, self.n_heads, -1)
        q = torch.cat((q_nope, rotate(q_rope, cos, sin)), dim=-1)
        k = torch.cat((k_nope, k_rope), dim=-1)
        return self.o_proj(attend(q, k, v, (self.nope + self.rope_dim) ** -0.5, causal).flatten(2))


def attend(q_BTHd: Tensor, k_BTHd: Tensor, v_BTHv: Tensor, scale: float, causal: bool = True) -> Tensor:
    """softmax(scale q k^T + mask) v, (B, T, H, v). `causal=False` exists for the guards' deliberately leaking model."""
    q, k, v = (x.transpose(1, 2) for x in (q_BTHd, k_BTHd, v_BTHv))
    length = q.shape[2]
    if q.device.type == "cpu" and length <= EXPLICIT_MAX_LENGTH:
        q, k, v = (x.reshape(-1, length, x.shape[-1]) for x in (q, k, v))
        scores = torch.baddbmm(_mask(length, q.dtype, causal), q, k.mT, alpha=scale)
        out = torch.bmm(scores.softmax(dim=-1), v).view(q_BTHd.shape[0], -1, length, v.shape[-1])
    else:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    return out.transpose(1, 2)


@functools.lru_cache(maxsize=8)
def _mask(length: int, dtype: torch.dtype, causal: bool) -> Tensor:
    """(T, T): -inf above the diagonal, so that a position sees itself and what came before."""
    mask = torch.zeros(length, length, dtype=dtype)
    return mask.fill_(-math.inf).triu_(1) if causal else mask


def build_attention(config: ModelConfig) -> MultiHeadAttention | MultiHeadLatentAttention:
    if config.attention.kind == "mla":
        return MultiHeadLatentAttention(config)
    if config.attention.kind == "mha":
        return MultiHeadAttention(config)
    raise ValueError(f"unknown attention {config.attention.kind}")
