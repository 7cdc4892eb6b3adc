"""Dictionaries into the typed config, and what its defaults say. What no model can be: test_rules.py."""

from typing import Any

import pytest

from models.base.typed import ConfigError, build
from models.config import ModelConfig


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_layer": 3}, "model.n_layer: no such key; did you mean n_layers"),
        ({"moe": {"balance": {"knd": "none"}}}, "model.moe.balance.knd: .*did you mean kind"),
        ({"moe": {"balance": {"kind": "biass"}}}, "model.moe.balance.kind=biass: .*none, aux_loss.*mean bias"),
        ({"n_layers": 3.5}, "model.n_layers=3.5: expected a whole number"),
        ({"n_layers": True}, "model.n_layers=true: expected a whole number"),
        ({"norm_eps": "small"}, "model.norm_eps=small: expected a number, got text"),
        ({"norm_eps": True}, "model.norm_eps=true: expected a number"),
        ({"moe": 3}, "model.moe=3: expected a group"),
        ({"attention": {"rope_theta": 1e4}}, "model.attention.rope_theta: no such key"),
        ({"rope": {"scaling": "yarm"}}, "model.rope.scaling=yarm: .*none, linear, ntk, yarn; did you mean yarn"),
        ({"mtp": {"style": "serial"}}, "model.mtp.style=serial: .*chained, parallel"),
        ({"mtp": {"depth": 1.0}}, "model.mtp.depth=1.0: expected a whole number"),
        ({"moe": {"scoring": "sigmoidal"}}, "model.moe.scoring=sigmoidal: .*did you mean sigmoid"),
        ({"moe": {"normalise": 1}}, "model.moe.normalise=1: expected true or false"),
        ({"attention": {"kind": "gka"}}, "model.attention.kind=gka: .*mla, mha, gqa, mqa"),
        ({"feed_forward": "sparse"}, "model.feed_forward=sparse: .*moe, dense"),
        ({"attention": {"q_lora_rank": "eight"}}, "model.attention.q_lora_rank=eight: expected a whole number"),
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


def test_dense_is_all_layers() -> None:
    assert ModelConfig(n_layers=5, first_k_dense=2).dense_layers == 2
    assert ModelConfig(n_layers=5, first_k_dense=2, feed_forward="dense").dense_layers == 5
