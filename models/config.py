"""Every toggle of the model, typed and validated: the table of contents of `models/`.

Field names are the papers' (DeepSeek-V2 2405.04434, DeepSeek-V3 2412.19437, Loss-Free Balancing 2408.15664). The
dataclasses are plain, so that this floor needs neither Hydra nor OmegaConf; `build` turns nested dictionaries into
them and refuses what does not fit with one line.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: the key, its value, the rule, and the fix."""


@dataclass(frozen=True)
class AttentionConfig:
    """Self-attention (V2 2.1, V3 2.1.1).

    `mla` caches one latent of `kv_lora_rank` plus one shared RoPE key of `qk_rope_head_dim` per token and head-expands
    them; `mha` keeps full keys and values per head (`head_dim` each).
    """

    kind: Literal["mla", "mha"] = "mla"
    n_heads: int = 4
    q_lora_rank: int | None = None
    """Rank of the query compression; None projects queries directly (as V2-Lite does)."""
    kv_lora_rank: int = 64
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 16
    v_head_dim: int = 32
    head_dim: int = 32
    """Head width of `mha` (queries, keys and values; RoPE over all of it). MLA ignores it."""
    rope_theta: float = 10000.0


@dataclass(frozen=True)
class BalanceConfig:
    """How expert load is kept even. `none` removes every mechanism.

    `aux_loss`: alpha * sum_i f_i P_i (V3 eq. 17-20), counted per `scope`. `bias`: auxiliary-loss-free (2408.15664,
    V3 2.1.2), b_i += u * sign(mean load - load_i) once per optimizer step. `bias_aux_loss`: both, as V3 was trained
    (u = 0.001, alpha = 0.0001, sequence scope).
    """

    kind: Literal["none", "aux_loss", "bias", "bias_aux_loss"] = "bias"
    scope: Literal["sequence", "microbatch", "batch"] = "sequence"
    """Over which tokens f and P are taken: each sequence, each microbatch, or the whole optimizer batch."""
    alpha: float = 0.0001
    """Strength of the auxiliary loss. Unused without one."""
    update_speed: float = 0.001
    """u (V3: gamma), the bias update speed. Unused without a bias."""


@dataclass(frozen=True)
class MoEConfig:
    """DeepSeekMoE (2401.06066, V3 2.1.2): shared experts beside fine-grained routed ones."""

    n_routed_experts: int = 16
    n_shared_experts: int = 1
    top_k: int = 4
    moe_intermediate_size: int = 64
    """Hidden width of one expert."""
    routed_scaling_factor: float = 1.0
    """Multiplies the normalised gates (V3: 2.5)."""
    backend: Literal["grouped_mm", "loop"] = "grouped_mm"
    """`grouped_mm`: one grouped GEMM for all experts. `loop`: one GEMM per expert, the reference; also for FP64."""
    balance: BalanceConfig = field(default_factory=BalanceConfig)


@dataclass(frozen=True)
class ModelConfig:
    """A DeepSeek-V3-shaped decoder. Defaults are the size that `scale=cpu` trains."""

    vocab_size: int = 1024
    d_model: int = 128
    n_layers: int = 3
    first_k_dense: int = 1
    """The first k layers carry a dense SwiGLU feed-forward instead of experts (V3: 3)."""
    intermediate_size: int = 320
    """Hidden width of the dense feed-forward."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    moe: MoEConfig = field(default_factory=MoEConfig)
    norm_eps: float = 1e-6
    init_std: float | None = None
    """Standard deviation of every weight matrix; None follows V3's width rule 0.508 / sqrt(d_model)."""
    dtype: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Compute type of the matrix products; master weights are at least FP32. `auto` is resolved before a trial."""

    @property
    def std(self) -> float:
        """0.006 at V3's width 7168, hence 0.508 / sqrt(d)."""
        return self.init_std if self.init_std is not None else 0.508 / self.d_model**0.5


@dataclass(frozen=True)
class OptimConfig:
    """AdamW as V3 4.2 sets it, warmup, then a schedule. Schedules end at the last token, whatever their length."""

    lr: float = 5e-3
    """Peak learning rate."""
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    """After the warmup: `cosine` to final_lr_ratio; `wsd` stays and decays linearly over the last decay_fraction."""
    warmup_fraction: float = 0.1
    final_lr_ratio: float = 0.1
    decay_fraction: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


def validate(config: ModelConfig) -> None:
    """Raise ConfigError for a model that cannot be built."""
    a, m = config.attention, config.moe
    positive = {
        "model.vocab_size": config.vocab_size,
        "model.d_model": config.d_model,
        "model.n_layers": config.n_layers,
        "model.intermediate_size": config.intermediate_size,
        "model.attention.n_heads": a.n_heads,
        "model.moe.n_routed_experts": m.n_routed_experts,
        "model.moe.top_k": m.top_k,
        "model.moe.moe_intermediate_size": m.moe_intermediate_size,
    }
    if a.kind == "mla":
        positive |= {
            "model.attention.kv_lora_rank": a.kv_lora_rank,
            "model.attention.v_head_dim": a.v_head_dim,
            "model.attention.qk_nope_head_dim": a.qk_nope_head_dim,
            "model.attention.q_lora_rank": 1 if a.q_lora_rank is None else a.q_lora_rank,
        }
    for key, value in positive.items():
        if value < 1:
            raise ConfigError(f"{key}={value}: must be at least 1")
    if not 0 <= config.first_k_dense <= config.n_layers:
        raise ConfigError(
            f"model.first_k_dense={config.first_k_dense}: must lie between 0 and model.n_layers={config.n_layers}"
        )
    if m.top_k > m.n_routed_experts:
        raise ConfigError(
            f"model.moe.top_k={m.top_k}: a token cannot choose more experts than there are "
            f"(model.moe.n_routed_experts={m.n_routed_experts}); lower top_k or raise n_routed_experts"
        )
    rope_key = "qk_rope_head_dim" if a.kind == "mla" else "head_dim"
    rope_dim = getattr(a, rope_key)
    if rope_dim < 2 or rope_dim % 2:
        raise ConfigError(f"model.attention.{rope_key}={rope_dim}: RoPE rotates pairs, so it must be even")
    if m.n_shared_experts < 0:
        raise ConfigError(f"model.moe.n_shared_experts={m.n_shared_experts}: must not be negative")
    if not m.balance.alpha >= 0:
        raise ConfigError(f"model.moe.balance.alpha={m.balance.alpha}: must not be negative")
    if not m.balance.update_speed >= 0:
        raise ConfigError(f"model.moe.balance.update_speed={m.balance.update_speed}: must not be negative")
    if m.backend == "grouped_mm" and config.dtype == "float64":
        raise ConfigError("model.moe.backend=grouped_mm: has no FP64 kernel; use model.moe.backend=loop")


def closest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """The dataclass `cls` from nested dictionaries; missing keys keep their defaults.

    Raises ConfigError on an unknown key, a wrong type, or a value outside a Literal. `at` is the key of the whole.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or cls.__name__}={values}: expected a group of keys")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{at}.{key}" if at else key
        if key not in known:
            raise ConfigError(f"{path}: no such key{closest(key, known)} (known: {', '.join(known)})")
        arguments[key] = _checked(hints[key], value, path)
    return cls(**arguments)


def _checked(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` wants it, or ConfigError."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            choices = [str(choice) for choice in args]
            raise ConfigError(f"{path}={value}: expected one of {', '.join(choices)}{closest(str(value), choices)}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        errors = []
        for option in options:
            try:
                return _checked(option, value, path)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is list:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}={value}: expected a list")
        return [_checked(args[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value}: expected a mapping")
        return {str(k): _checked(args[1], item, f"{path}.{k}") for k, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}={value}: expected {hint.__name__}, got {type(value).__name__}")
    return value
