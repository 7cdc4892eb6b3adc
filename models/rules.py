"""What no model can be: the rules between the keys of `ModelConfig`, each with a line that names key, value and fix."""

from models.config import AttentionConfig, ModelConfig, MoEConfig, MTPConfig, RopeConfig
from models.typed import ConfigError

MAX_MTP_DEPTH = 3


def validate(config: ModelConfig) -> None:
    """Raise ConfigError for a model that cannot be built."""
    _at_least_one(
        {
            "model.vocab_size": config.vocab_size,
            "model.d_model": config.d_model,
            "model.n_layers": config.n_layers,
            "model.intermediate_size": config.intermediate_size,
        }
    )
    if not 0 <= config.first_k_dense <= config.n_layers:
        raise ConfigError(
            f"model.first_k_dense={config.first_k_dense}: must lie between 0 and model.n_layers={config.n_layers}"
        )
    _check_attention(config.attention)
    _check_rope(config)
    if config.feed_forward == "moe":
        _check_moe(config.moe)
        if config.moe.backend == "grouped_mm" and config.dtype == "float64":
            raise ConfigError("model.moe.backend=grouped_mm: has no FP64 kernel; use model.moe.backend=loop")
    _check_mtp(config.mtp)


def check_length(config: ModelConfig, seq_len: int) -> None:
    """Raise ConfigError where a sequence has no token that the deepest MTP module could predict."""
    if config.mtp.depth >= seq_len:
        raise ConfigError(
            f"model.mtp.depth={config.mtp.depth}: deeper than the sequence (data.seq_len={seq_len}); "
            f"depth k predicts k tokens beyond the next, so it must be below the sequence length"
        )


def _check_attention(a: AttentionConfig) -> None:
    names = ["n_heads"]
    if a.kind == "mla":
        names += ["kv_lora_rank", "qk_nope_head_dim", "v_head_dim"]
        names += ["q_lora_rank"] if a.q_lora_rank is not None else []
    elif a.kind == "gqa":
        names += ["n_kv_heads"]
    _at_least_one({f"model.attention.{name}": getattr(a, name) for name in names})
    if a.kind == "gqa" and a.n_heads % a.n_kv_heads:
        raise ConfigError(
            f"model.attention.n_kv_heads={a.n_kv_heads}: must divide model.attention.n_heads={a.n_heads}, so that "
            f"every key head serves equally many queries"
        )
    key = "qk_rope_head_dim" if a.kind == "mla" else "head_dim"
    width = getattr(a, key)
    if width < 2 or width % 2:
        raise ConfigError(f"model.attention.{key}={width}: RoPE rotates pairs, so it must be even")


def _check_rope(config: ModelConfig) -> None:
    r: RopeConfig = config.rope
    if not r.theta > 1:
        raise ConfigError(
            f"model.rope.theta={r.theta}: must be above 1, or later pairs turn no slower than earlier ones"
        )
    if r.scaling == "none" and r.factor != 1:
        raise ConfigError(
            f"model.rope.factor={r.factor}: has no effect with model.rope.scaling=none; add model.rope.scaling=yarn"
        )
    if not r.factor >= 1:
        raise ConfigError(f"model.rope.factor={r.factor}: must be at least 1; it is how much longer the context gets")
    if r.scaling == "yarn":
        _at_least_one({"model.rope.original_length": r.original_length})
        if not 0 < r.beta_slow < r.beta_fast:
            raise ConfigError(
                f"model.rope.beta_slow={r.beta_slow}: must lie above 0 and below model.rope.beta_fast={r.beta_fast}"
            )


def _check_moe(m: MoEConfig) -> None:
    names = ("n_routed_experts", "top_k", "moe_intermediate_size", "n_group", "topk_group")
    _at_least_one({f"model.moe.{name}": getattr(m, name) for name in names})
    if m.top_k > m.n_routed_experts:
        raise ConfigError(
            f"model.moe.top_k={m.top_k}: a token cannot choose more experts than there are "
            f"(model.moe.n_routed_experts={m.n_routed_experts}); lower top_k or raise n_routed_experts"
        )
    if m.n_routed_experts % m.n_group:
        raise ConfigError(
            f"model.moe.n_group={m.n_group}: must divide model.moe.n_routed_experts={m.n_routed_experts} evenly"
        )
    if m.topk_group > m.n_group:
        raise ConfigError(
            f"model.moe.topk_group={m.topk_group}: a token cannot use more groups than there are "
            f"(model.moe.n_group={m.n_group}); lower topk_group"
        )
    candidates = m.topk_group * (m.n_routed_experts // m.n_group)
    if candidates < m.top_k:
        raise ConfigError(
            f"model.moe.top_k={m.top_k}: only {candidates} candidates are left in model.moe.topk_group={m.topk_group} "
            f"groups of {m.n_routed_experts // m.n_group}; raise topk_group or lower top_k"
        )
    if m.n_shared_experts < 0:
        raise ConfigError(f"model.moe.n_shared_experts={m.n_shared_experts}: must not be negative")
    if not m.balance.alpha >= 0:
        raise ConfigError(f"model.moe.balance.alpha={m.balance.alpha}: must not be negative")
    if not m.balance.update_speed >= 0:
        raise ConfigError(f"model.moe.balance.update_speed={m.balance.update_speed}: must not be negative")


def _check_mtp(mtp: MTPConfig) -> None:
    if not 0 <= mtp.depth <= MAX_MTP_DEPTH:
        raise ConfigError(f"model.mtp.depth={mtp.depth}: must lie between 0 (none) and {MAX_MTP_DEPTH}")


def _at_least_one(values: dict[str, int]) -> None:
    for key, value in values.items():
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
