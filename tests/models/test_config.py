"""Refusals of the model's config: one line with the key, the value and the rule."""

from collections.abc import Callable
from typing import Any

import pytest

from models.config import ModelConfig
from models.rules import validate
from models.typed import ConfigError, build

Tiny = Callable[..., ModelConfig]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": 0}, "model.d_model=0: must be at least 1"),
        ({"n_layers": 0}, "model.n_layers=0"),
        ({"vocab_size": -1}, "model.vocab_size=-1"),
        ({"first_k_dense": 4}, "model.first_k_dense=4: .*n_layers=3"),
        ({"first_k_dense": -1}, "model.first_k_dense=-1"),
        ({"moe.top_k": 7}, "model.moe.top_k=7: .*n_routed_experts=6"),
        ({"moe.top_k": 0}, "model.moe.top_k=0"),
        ({"moe.moe_intermediate_size": 0}, "model.moe.moe_intermediate_size=0"),
        ({"attention.n_heads": 0}, "model.attention.n_heads=0"),
        ({"attention.qk_rope_head_dim": 5}, "model.attention.qk_rope_head_dim=5: .*even"),
        ({"attention.kind": "mha", "attention.head_dim": 7}, "model.attention.head_dim=7: .*even"),
        ({"moe.balance.alpha": -1.0}, "model.moe.balance.alpha=-1"),
        ({"moe.balance.update_speed": -0.1}, "model.moe.balance.update_speed=-0.1"),
        ({"moe.balance.alpha": float("nan")}, "model.moe.balance.alpha=nan"),
        ({"moe.backend": "grouped_mm"}, "model.moe.backend=grouped_mm: .*loop"),
        ({"moe.n_shared_experts": -1}, "model.moe.n_shared_experts=-1"),
        ({"attention.kv_lora_rank": 0}, "model.attention.kv_lora_rank=0"),
        ({"attention.v_head_dim": 0}, "model.attention.v_head_dim=0"),
        ({"attention.q_lora_rank": 0}, "model.attention.q_lora_rank=0"),
        ({"attention.qk_nope_head_dim": -1}, "model.attention.qk_nope_head_dim=-1"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate(tiny(changes))
    assert "\n" not in str(caught.value)


def test_what_an_attention_does_not_use_is_not_checked(tiny: Tiny) -> None:
    validate(tiny({"attention.head_dim": 7}))
    validate(tiny({"attention.kind": "mha", "attention.qk_rope_head_dim": 5}))
    validate(tiny({"moe.top_k": 6, "first_k_dense": 3, "moe.n_shared_experts": 0}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_layer": 3}, "model.n_layer: no such key; did you mean n_layers"),
        ({"moe": {"balance": {"knd": "none"}}}, "model.moe.balance.knd: .*did you mean kind"),
        ({"moe": {"balance": {"kind": "biass"}}}, "model.moe.balance.kind=biass: .*none, aux_loss.*mean bias"),
        ({"n_layers": 3.5}, "model.n_layers=3.5: expected int, got float"),
        ({"n_layers": True}, "model.n_layers=True: expected int, got bool"),
        ({"norm_eps": "small"}, "model.norm_eps=small: expected float, got str"),
        ({"norm_eps": True}, "model.norm_eps=True: expected float"),
        ({"moe": 3}, "model.moe=3: expected a group"),
        ({"attention": {"q_lora_rank": "eight"}}, "model.attention.q_lora_rank=eight: expected int"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        build(ModelConfig, values, "model")
    assert "\n" not in str(caught.value)


def test_missing_keys_keep_their_defaults_and_whole_numbers_become_floats() -> None:
    config = build(ModelConfig, {"init_std": 1, "attention": {"q_lora_rank": None}}, "model")
    assert config.init_std == 1.0 and isinstance(config.init_std, float)
    assert config == build(ModelConfig, {"init_std": 1.0}) and config.moe == ModelConfig().moe
    assert build(ModelConfig, {}) == ModelConfig()


def test_default_width_rule_is_v3s() -> None:
    assert ModelConfig(d_model=7168).std == pytest.approx(0.006, rel=1e-3)
    assert ModelConfig(d_model=128).std == pytest.approx(0.045, rel=3e-3)
    assert ModelConfig(init_std=0.02).std == 0.02
