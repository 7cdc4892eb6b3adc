"""What no model can be: the rules between the keys of `ModelConfig`, each with a line that names key, value and fix.

A key's own range stands at its field (models/config.py), the rules of a pipeline in models/pipeline/rules.py.
"""

import dataclasses
import math

from models.base.bounds import DType
from models.base.typed import ConfigError, check_fields
from models.config import ModelConfig, MoEConfig, RopeConfig
from models.kinds import attention_of
from models.precision.config import ROLES, PrecisionConfig


def validate(config: ModelConfig) -> None:
    """Raise ConfigError for a model that cannot be built."""
    check_fields(config, "model")
    if config.first_k_dense > config.n_layers:
        raise ConfigError(
            f"model.first_k_dense={config.first_k_dense}: must lie between 0 and model.n_layers={config.n_layers}"
        )
    attention_of(config).check()
    _check_rope(config)
    if config.feed_forward == "moe":
        _check_moe(config.moe)
        _check_backend(config)
    _check_precision(config)


def check_length(config: ModelConfig, seq_len: int, key: str = "data.seq_len") -> None:
    """Raise ConfigError where a sequence has no token that the deepest MTP module could predict, or is longer than the
    positions were stretched for."""
    r = config.rope
    if r.scaling != "none" and seq_len > r.original_length * r.factor:
        raise ConfigError(
            f"{key}={seq_len}: beyond the model, whose model.rope.scaling={r.scaling} stretches "
            f"model.rope.original_length={r.original_length} to {math.floor(r.original_length * r.factor)} tokens; "
            f"take a model.rope.factor of {math.ceil(seq_len / r.original_length)}, or no more tokens"
        )
    if config.mtp.depth >= seq_len:
        raise ConfigError(
            f"model.mtp.depth={config.mtp.depth}: deeper than the sequence ({key}={seq_len}); "
            f"depth k predicts k tokens beyond the next, so it must be below the sequence length"
        )


def _check_rope(config: ModelConfig) -> None:
    r: RopeConfig = config.rope
    if r.scaling == "none" and r.factor != 1:
        raise ConfigError(
            f"model.rope.factor={r.factor}: has no effect with model.rope.scaling=none; add model.rope.scaling=yarn"
        )
    dim = attention_of(config).rope_dim
    if r.scaling == "ntk" and dim < 4:
        raise ConfigError(
            f"model.rope.scaling=ntk: keeps the fastest pair and divides the slowest, and {dim} is one pair; "
            f"raise model.attention.{attention_of(config).rope_key}"
        )
    if r.scaling == "yarn" and not r.beta_slow < r.beta_fast:
        raise ConfigError(f"model.rope.beta_slow={r.beta_slow}: must be below model.rope.beta_fast={r.beta_fast}")


def _check_moe(m: MoEConfig) -> None:
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


ROW_BYTES = 16
"""`F.grouped_mm` takes matrices whose rows are a multiple of this, on a CPU as on a GPU."""


def _check_backend(config: ModelConfig) -> None:
    """What the experts' products can take, as far as the compute type is settled."""
    dtype = TYPE_OF_RECIPE.get(config.precision.recipe, "auto") if config.dtype == "auto" else config.dtype
    if config.moe.backend != "grouped_mm" or dtype == "auto":
        return
    if dtype == "float64":
        raise ConfigError("model.moe.backend=grouped_mm: has no FP64 kernel; use model.moe.backend=loop")
    multiple = grouped_multiple(dtype)
    for name, width in _widths_of_experts(config).items():
        if width % multiple:
            below, above = width // multiple * multiple, -(-width // multiple) * multiple
            nearest = f"{below} or {above}" if below else f"{above}"
            raise ConfigError(
                f"model.{name}={width}: model.moe.backend=grouped_mm needs a multiple of {multiple} in {dtype}, the "
                f"nearest {nearest}; or use model.moe.backend=loop"
            )


def grouped_multiple(dtype: str) -> int:
    """What widths are a multiple of that `grouped_mm` takes in this compute type."""
    return ROW_BYTES // {"float32": 4, "bfloat16": 2}[dtype]


def fits_grouped(config: ModelConfig) -> bool:
    """Whether `grouped_mm` takes the experts' widths; of a config whose compute type is settled."""
    return not any(width % grouped_multiple(config.dtype) for width in _widths_of_experts(config).values())


def _widths_of_experts(config: ModelConfig) -> dict[str, int]:
    return {"d_model": config.d_model, "moe.moe_intermediate_size": config.moe.moe_intermediate_size}


TYPE_OF_RECIPE: dict[str, DType] = {"fp32": "float32", "bf16": "bfloat16"}
"""The compute type that a recipe without FP8 names."""
FOR_EVERY_RECIPE = ("recipe", "block", "promote_every", "moments", "kernels")
"""Parts of `model.precision` for any recipe: those that scale and machine set, and the optimizer's."""


def _check_precision(config: ModelConfig) -> None:
    p = config.precision
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
    mantissa, exponent = math.frexp(p.outliers)
    if mantissa != 0.5:
        raise ConfigError(
            f"model.precision.outliers={p.outliers:g}: must be a power of two, so that nothing but rounding sees it; "
            f"the nearest {2.0 ** (exponent - 1):g} or {2.0**exponent:g}"
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
