"""What no model can be: the rules between the keys of `ModelConfig`, each with a line that names key, value and fix."""

import dataclasses

from models.config import (
    ROLES,
    AttentionConfig,
    ModelConfig,
    MoEConfig,
    MTPConfig,
    PipelineConfig,
    PrecisionConfig,
    RopeConfig,
)
from models.pipeline.schedules import make_schedule, ranks_of
from models.pipeline.split import split
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
    _check_precision(config)
    _check_pipeline(config)


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


def _check_pipeline(config: ModelConfig) -> None:
    """As far as it can be judged without the number of microbatches, which `check_microbatches` judges."""
    p = config.pipeline
    if p.schedule == "none":
        default = PipelineConfig()
        for name in ("stages", "microbatches"):
            if getattr(p, name) != getattr(default, name):
                raise ConfigError(
                    f"model.pipeline.{name}={getattr(p, name)}: has no effect with model.pipeline.schedule=none; "
                    f"add model.pipeline.schedule=1f1b"
                )
        return
    if p.microbatches is not None:
        _at_least_one({"model.pipeline.microbatches": p.microbatches})
    ranks_of(p.schedule, p.stages)
    split(config, p.stages)
    b = config.moe.balance
    if config.feed_forward == "moe" and "aux_loss" in b.kind and b.scope == "batch":
        raise ConfigError(
            f"model.moe.balance.scope=batch: needs the whole batch's load before the first backward chunk, which "
            f"model.pipeline.schedule={p.schedule} does not wait for; use scope=sequence or schedule=none"
        )


def check_microbatches(config: ModelConfig, microbatches: int) -> None:
    """Raise ConfigError where the pipeline's schedule cannot be made for this number."""
    if config.pipeline.schedule != "none":
        make_schedule(config.pipeline.schedule, config.pipeline.stages, microbatches)


TYPE_OF_RECIPE = {"fp32": "float32", "bf16": "bfloat16"}
"""The compute type that a recipe without FP8 names."""
FOR_EVERY_RECIPE = ("recipe", "block", "promote_every", "moments", "kernels")
"""Parts of `model.precision` for any recipe: those that scale and machine set, and the optimizer's."""


def _check_precision(config: ModelConfig) -> None:
    p = config.precision
    _at_least_one({"model.precision.block": p.block, "model.precision.promote_every": p.promote_every})
    wanted = TYPE_OF_RECIPE.get(p.recipe)
    if wanted is not None and config.dtype not in ("auto", wanted):
        raise ConfigError(
            f"model.precision.recipe={p.recipe}: computes in {wanted}, and model.dtype={config.dtype}; leave one out"
        )
    if not p.fp8:
        default = PrecisionConfig()
        for part in dataclasses.fields(p):
            value = getattr(p, part.name)
            if part.name not in FOR_EVERY_RECIPE and value != getattr(default, part.name):
                name, value = _first_difference(f"model.precision.{part.name}", value, getattr(default, part.name))
                raise ConfigError(
                    f"{name}={value}: has no effect with model.precision.recipe={p.recipe}; "
                    f"add model.precision.recipe=fp8_block"
                )
    if p.fp8 and p.kernels in ("torch", "triton"):
        _check_kernels(config)


def _check_kernels(config: ModelConfig) -> None:
    """Those of a GPU know V3's recipe alone."""
    p = config.precision
    parts = {
        **{f"format.{role}": (getattr(p.format, role), ("e4m3",)) for role in ROLES},
        **{f"granularity.{role}": (getattr(p.granularity, role), ("tile",)) for role in ("activation", "gradient")},
        "granularity.weight": (p.granularity.weight, ("block",)),
        "recipe": (p.recipe, ("fp8_block",)),
        "block": (p.block, (128,)),
        "accumulation": (p.accumulation, ("promoted",)),
        "promote_every": (p.promote_every, (128,)),
    }
    for name, (value, known) in parts.items():
        if value is not None and value not in known:
            raise ConfigError(
                f"model.precision.{name}={value}: model.precision.kernels={p.kernels} has only {known[0]}; "
                f"use model.precision.kernels=emulated"
            )
    if config.dtype not in ("auto", "bfloat16", "float32"):
        raise ConfigError(f"model.dtype={config.dtype}: model.precision.kernels={p.kernels} gives BF16 or FP32")


def _first_difference(name: str, value: object, default: object) -> tuple[str, object]:
    """The key itself, or the first in its group that is not its default."""
    if dataclasses.is_dataclass(value):
        for member in dataclasses.fields(value):
            mine, theirs = getattr(value, member.name), getattr(default, member.name)
            if mine != theirs:
                return f"{name}.{member.name}", mine
    return name, value


def _at_least_one(values: dict[str, int]) -> None:
    for key, value in values.items():
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
