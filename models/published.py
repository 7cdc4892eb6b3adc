"""The published `deepseek_v3` config.json and ours: which field is which, and what the format cannot hold."""

import dataclasses
import math
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

from models.base.typed import ConfigError, build
from models.config import ModelConfig, RopeConfig
from models.rules import fits_grouped, validate
from models.sizes import size

FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_hidden_layers": "n_layers",
    "first_k_dense_replace": "first_k_dense",
    "intermediate_size": "intermediate_size",
    "initializer_range": "std",
    "num_attention_heads": "attention.n_heads",
    "q_lora_rank": "attention.q_lora_rank",
    "kv_lora_rank": "attention.kv_lora_rank",
    "qk_nope_head_dim": "attention.qk_nope_head_dim",
    "qk_rope_head_dim": "attention.qk_rope_head_dim",
    "v_head_dim": "attention.v_head_dim",
    "n_routed_experts": "moe.n_routed_experts",
    "n_shared_experts": "moe.n_shared_experts",
    "num_experts_per_tok": "moe.top_k",
    "moe_intermediate_size": "moe.moe_intermediate_size",
    "norm_topk_prob": "moe.normalise",
    "routed_scaling_factor": "moe.routed_scaling_factor",
    "n_group": "moe.n_group",
    "topk_group": "moe.topk_group",
    "num_nextn_predict_layers": "mtp.depth",
}
"""Their field -> ours. A field that a folder leaves out has V3's own value, as in transformers."""

FIXED: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "moe_layer_freq": 1,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "rope_interleave": True,
    "rms_norm_eps": 1e-6,
    "quantization_config": None,
}
"""Fields that this model has no choice in. (The norms of MLA's latents have eps 1e-6 in the format, whatever
`rms_norm_eps` says, so the others must have it too.)"""


def check_held(config: ModelConfig) -> None:
    """Raise ConfigError for a model that `deepseek_v3`, as transformers computes it, cannot hold."""
    a, m, r, mtp = config.attention, config.moe, config.rope, config.mtp
    turns = r.original_length > 2 * math.pi * r.beta_slow
    rules: list[tuple[str, Any, bool, str]] = [
        ("attention.kind", a.kind, a.kind == "mla", "it knows no attention but mla"),
        ("attention.kv_norm", a.kv_norm, a.kv_norm is not False, "it norms the latents"),
        ("attention.qk_norm", a.qk_norm, not a.qk_norm, "it norms latents alone"),
        ("dtype", config.dtype, config.dtype != "float64", "its norms and router compute in FP32"),
        ("norm_eps", config.norm_eps, config.norm_eps == FIXED["rms_norm_eps"], "its latent norms have 1e-06"),
        ("mtp.style", mtp.style, not mtp.depth or mtp.chained, "its MTP modules are chained"),
        ("rope.scaling", r.scaling, r.scaling != "ntk", "set model.rope.theta, which does the same"),
        ("rope.original_length", r.original_length, r.scaling != "yarn" or turns, "its YaRN ramp would run backwards"),
    ]
    if config.dense_layers < config.n_layers or (mtp.depth and config.feed_forward == "moe"):
        additive = m.balance.bias_form == "additive" or not m.balance.has_bias
        judged, limited = m.top_k // m.topk_group, m.topk_group < m.n_group
        best = f"it judges a group by its best 2 experts, and this is {judged} of {m.n_routed_experts // m.n_group}"
        rules += [
            ("moe.scoring", m.scoring, m.scoring == "sigmoid", "its router is sigmoid"),
            ("moe.balance.bias_form", m.balance.bias_form, additive, "it adds its bias"),
            ("moe.n_group", m.n_group, m.n_routed_experts >= 2 * m.n_group, best),
            ("moe.topk_group", m.topk_group, not limited or judged == 2, best),
        ]
    for key, value, held, rule in rules:
        if not held:
            raise ConfigError(f"model.{key}={value}: the deepseek_v3 format cannot hold it: {rule}")


def hf_config(config: ModelConfig, trained_length: int | None = None) -> dict[str, Any]:
    """Their config.json, from fields that the format holds. `trained_length`: of its training's sequences."""
    r = config.rope
    values = {name: value for name, value in FIXED.items() if value is not None}
    values |= {theirs: attrgetter(ours)(config) for theirs, ours in FIELDS.items()}
    if config.feed_forward == "dense":
        values["first_k_dense_replace"] = config.n_layers + config.mtp.depth
    scaling: dict[str, Any] = {"type": r.scaling, "factor": r.factor}
    if r.scaling == "yarn":
        scaling |= {"original_max_position_embeddings": r.original_length, "mscale": r.mscale}
        scaling |= {"mscale_all_dim": r.mscale, "beta_fast": r.beta_fast, "beta_slow": r.beta_slow}
        # transformers takes a 0 for "not given", and would scale the rotated part
        scaling |= {} if r.mscale else {"attention_factor": 1.0}
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        **values,
        "num_key_value_heads": config.attention.n_heads,
        "rope_theta": r.theta,
        "rope_scaling": scaling if r.scaling != "none" else None,
        "max_position_embeddings": _longest(r, trained_length),
        "torch_dtype": "float32",
        "bos_token_id": None,  # unnamed, transformers takes V3's own
        "eos_token_id": None,
    }


def _longest(rope: RopeConfig, trained_length: int | None) -> int:
    """Tokens that the model was made for: those it was trained on, and what YaRN stretches its first length to."""
    stretched = round(rope.original_length * rope.factor)
    if trained_length is None:
        return stretched
    return max(trained_length, stretched) if rope.scaling == "yarn" else trained_length


def positions(values: Mapping[str, Any]) -> int:
    """`max_position_embeddings` of their config.json. Raises ConfigError where it is no length."""
    length = values.get("max_position_embeddings", RopeConfig.original_length)
    if type(length) is not int or length < 1:
        raise ConfigError(f"max_position_embeddings={length}: expected a whole number of at least 1")
    return length


def model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Ours from their config.json, the rest by our defaults. Raises ConfigError for what we cannot hold."""
    for name, fixed in FIXED.items():
        value = values.get(name, None if name == "model_type" else fixed)
        if value != fixed:
            raise ConfigError(f"{name}={value}: this model has {name}={fixed} and no other")
    published, _ = size("deepseek_v3")
    read: dict[str, Any] = {"attention": {}, "moe": {}, "mtp": {}}
    for theirs, ours in FIELDS.items():
        group, _, leaf = ours.rpartition(".")
        value = values.get(theirs, attrgetter(ours)(published))
        (read[group] if group else read)[leaf] = value
    heads = read["attention"]["n_heads"]
    if values.get("num_key_value_heads") not in (None, heads):
        raise ConfigError(f"num_key_value_heads={values['num_key_value_heads']}: must be num_attention_heads={heads}")
    read["init_std"] = read.pop("std")
    dtype = values.get("dtype") or values.get("torch_dtype") or "float32"
    if dtype not in ("float32", "bfloat16"):
        raise ConfigError(f"torch_dtype={dtype}: expected float32 or bfloat16")
    read["dtype"] = dtype
    read["rope"] = _read_rope(values)
    config = build(ModelConfig, read, "model")
    dense, layers = config.first_k_dense, config.n_layers
    if layers < dense < layers + config.mtp.depth:
        raise ConfigError(f"first_k_dense_replace={dense}: some MTP modules dense, some not; ours are alike")
    if dense >= layers + config.mtp.depth:
        config = dataclasses.replace(config, feed_forward="dense", first_k_dense=layers)
    if not fits_grouped(config):  # theirs to choose, and ours to multiply
        config = dataclasses.replace(config, moe=dataclasses.replace(config.moe, backend="loop"))
    validate(config)
    return config


def _read_rope(values: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_scaling` and `rope_theta` as published, or `rope_parameters` as transformers writes them now."""
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"rope_scaling={given}: expected a group of keys")
    given = {"rope_theta": values.get("rope_theta", RopeConfig.theta), **given}
    kind = given.pop("rope_type", given.get("type", "default"))
    given.pop("type", None)
    read = {"theta": given.pop("rope_theta"), "scaling": "none" if kind == "default" else kind}
    length = positions(values)
    if kind == "default":
        read["original_length"] = length
    elif kind == "linear":
        read["factor"] = given.pop("factor", None)
    elif kind == "yarn":
        read["factor"] = given.pop("factor", None)
        read["original_length"] = given.pop("original_max_position_embeddings", length)
        read |= {name: given.pop(name, None) or getattr(RopeConfig, name) for name in ("beta_fast", "beta_slow")}
        part, whole, factor = (given.pop(name, None) for name in ("mscale", "mscale_all_dim", "attention_factor"))
        if factor != 1 and not (factor is None and part and part == whole):
            raise ConfigError(f"rope_scaling.mscale={part}: must equal mscale_all_dim={whole}, and no attention_factor")
        read["mscale"] = whole or 0.0
    else:
        raise ConfigError(f"rope_scaling.type={kind}: expected one of default, linear, yarn")
    for name, value in given.items():
        if value != {"truncate": True, "partial_rotary_factor": 1.0}.get(name):
            raise ConfigError(f"rope_scaling.{name}={value}: not known here with type={kind}")
    return read
