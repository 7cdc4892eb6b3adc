"""What a config costs, from the config alone: parameters and training FLOPs per token, counted structurally."""

from dataclasses import dataclass

from models.config import ModelConfig


@dataclass(frozen=True)
class Cost:
    total_params: int
    active_params: int
    """Parameters that one token passes: all but the experts it does not choose. Embedding and head are counted."""
    flops_per_token: float
    """Forward and backward of one token at the given sequence length: 6 per weight of each product it passes, plus the
    attention's scores and values at half the length (causal), times 3 for forward and backward."""


def attention_params(config: ModelConfig) -> int:
    """Matrices of one attention layer (norm gains apart)."""
    a, d = config.attention, config.d_model
    if a.kind == "mha":
        return 4 * d * a.n_heads * a.head_dim
    qk = a.n_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    query = d * qk if a.q_lora_rank is None else a.q_lora_rank * (d + qk)
    latent = d * (a.kv_lora_rank + a.qk_rope_head_dim)
    expand = a.kv_lora_rank * a.n_heads * (a.qk_nope_head_dim + a.v_head_dim)
    return query + latent + expand + a.n_heads * a.v_head_dim * d


def latent_norm_params(config: ModelConfig) -> int:
    a = config.attention
    return 0 if a.kind == "mha" else a.kv_lora_rank + (a.q_lora_rank or 0)


def cost(config: ModelConfig, seq_len: int) -> Cost:
    """Total, active and FLOPs per trained token."""
    a, m, d = config.attention, config.moe, config.d_model
    dense_layers = min(config.first_k_dense, config.n_layers)
    moe_layers = config.n_layers - dense_layers
    embedding = config.vocab_size * d
    norms = config.n_layers * (2 * d + latent_norm_params(config)) + d
    expert = 3 * d * m.moe_intermediate_size
    per_layer_matrices = config.n_layers * attention_params(config)
    dense = dense_layers * 3 * d * config.intermediate_size
    router = moe_layers * d * m.n_routed_experts
    shared = moe_layers * m.n_shared_experts * expert
    routed = moe_layers * m.n_routed_experts * expert
    chosen = moe_layers * m.top_k * expert
    passed = per_layer_matrices + dense + router + shared + chosen + embedding  # the head; the embedding is a lookup
    qk, v = (a.qk_nope_head_dim + a.qk_rope_head_dim, a.v_head_dim) if a.kind == "mla" else (a.head_dim, a.head_dim)
    scores = config.n_layers * a.n_heads * (qk + v) * (seq_len + 1) / 2
    return Cost(
        total_params=2 * embedding + norms + per_layer_matrices + dense + router + shared + routed,
        active_params=2 * embedding + norms + per_layer_matrices + dense + router + shared + chosen,
        flops_per_token=6.0 * passed + 6.0 * scores,
    )
