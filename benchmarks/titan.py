"""torchtitan's DeepSeek-V3 of the size that benchmarks/train_step.py measures, where torchtitan is installed.

Tried with torchtitan 0.3.0, which builds models from configs of its own. Attention is torch's fused one, causal over a
whole sequence as ours; its default, FlexAttention, is compiled or slow.
"""

import warnings
from collections.abc import Callable
from typing import Any

from models.config import ModelConfig


def build(config: ModelConfig) -> Any:
    """With as many parameters as ours has, in FP32, drawn as ours are; an nn.Module from tokens (B, T) to logits.

    ImportError where there is no torchtitan, or one without what is used here; ConfigError for what it knows not."""
    import torch
    from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
    from torchtitan.models.common.attention import ScaledDotProductAttention
    from torchtitan.models.deepseek_v3 import DeepSeekV3Model, build_mla_moe_layers

    from models.base.typed import ConfigError

    a, m = config.attention, config.moe
    known = a.kind == "mla" and m.scoring == "sigmoid" and m.normalise and m.n_group == 1
    if not known or config.mtp.depth or config.rope.scaling != "none":
        raise ConfigError("torchtitan: only MLA, normalised sigmoids, no groups, no MTP and plain RoPE are built there")
    width, vocabulary = config.d_model, config.vocab_size
    layers = build_mla_moe_layers(
        n_layers=config.n_layers, n_dense_layers=config.first_k_dense, dim=width,
        dense_hidden_dim=config.intermediate_size, n_heads=a.n_heads,
        q_lora_rank=a.q_lora_rank or 0, kv_lora_rank=a.kv_lora_rank, v_head_dim=a.v_head_dim,
        qk_nope_head_dim=a.qk_nope_head_dim, qk_rope_head_dim=a.qk_rope_head_dim, mscale=1.0,
        rope=ComplexRoPE.Config(dim=a.qk_rope_head_dim, max_seq_len=4096, theta=config.rope.theta),
        num_experts=m.n_routed_experts, num_shared_experts=m.n_shared_experts, moe_hidden_dim=m.moe_intermediate_size,
        router_top_k=m.top_k, router_score_func="sigmoid", router_route_norm=True,
        router_route_scale=m.routed_scaling_factor, attn_backend="flex", moe_comm_backend="standard",
        non_blocking_capacity_factor=None, linear_init={}, norm_init={}, depth_init=_drawn, depth_experts_init=_drawn,
    )  # fmt: skip
    last = RMSNorm.Config(normalized_shape=width)
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
        for norm in (layer.attention_norm, layer.ffn_norm, layer.attention.q_norm, layer.attention.kv_norm, last):
            norm.eps = config.norm_eps
    peer: Any = DeepSeekV3Model.Config(
        vocab_size=vocabulary, dim=width, layers=layers, mtp_layers=[], norm=last,
        tok_embeddings=Embedding.Config(num_embeddings=vocabulary, embedding_dim=width),
        lm_head=Linear.Config(in_features=width, out_features=vocabulary),
    ).build()  # fmt: skip
    with torch.no_grad():
        for weight in peer.parameters():
            weight.normal_(0.0, config.std) if weight.dim() > 1 else weight.fill_(1.0)
    return peer


def _drawn(layer: int) -> dict[str, Callable[..., Any]]:
    """Weights are drawn here afterwards."""
    return {}


def titans(config: ModelConfig, dtype: str, device: str, compiled: bool = False) -> Callable[[Any], float]:
    """A step of it on tokens (B, T + 1), as those of benchmarks/train_step.py; returns the loss."""
    import torch

    from benchmarks.train_step import stepping

    warnings.filterwarnings("ignore", "In CPU autocast", UserWarning)  # it asks for FP32 there, which is what it gets
    peer = build(config).to(device=device)
    for weight in peer.parameters():  # and not what it rotates by, which is complex
        weight.data = weight.data.to(getattr(torch, dtype))
    return stepping(peer, torch.compile(peer) if compiled else peer)
