"""Refusals of the model's config: one line with the key, its value, the rule, and what else is part of it."""

from collections.abc import Callable
from typing import Any

import pytest

from models.config import ModelConfig
from models.rules import check_length, validate
from models.transformer import Transformer
from models.typed import ConfigError

Tiny = Callable[..., ModelConfig]
GQA: dict[str, Any] = {"attention.kind": "gqa", "attention.n_heads": 6}
YARN: dict[str, Any] = {"rope.scaling": "yarn", "rope.factor": 4.0}

TRITON: dict[str, Any] = {"precision.recipe": "fp8_block", "precision.kernels": "triton"}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"d_model": 0}, "model.d_model=0: must be at least 1"),
    ({"n_layers": 0}, "model.n_layers=0"),
    ({"vocab_size": -1}, "model.vocab_size=-1"),
    ({"intermediate_size": 0}, "model.intermediate_size=0"),
    ({"first_k_dense": 4}, "model.first_k_dense=4: .*model.n_layers=3"),
    ({"first_k_dense": -1}, "model.first_k_dense=-1"),
    # attention
    ({"attention.n_heads": 0}, "model.attention.n_heads=0"),
    ({"attention.qk_rope_head_dim": 5}, "model.attention.qk_rope_head_dim=5: .*even"),
    ({"attention.qk_rope_head_dim": 0}, "model.attention.qk_rope_head_dim=0"),
    ({"attention.kind": "mha", "attention.head_dim": 7}, "model.attention.head_dim=7: .*even"),
    ({"attention.kind": "mqa", "attention.head_dim": 7}, "model.attention.head_dim=7: .*even"),
    ({"attention.kind": "mqa", "attention.head_dim": 0}, "model.attention.head_dim=0"),
    ({"attention.kv_lora_rank": 0}, "model.attention.kv_lora_rank=0"),
    ({"attention.v_head_dim": 0}, "model.attention.v_head_dim=0"),
    ({"attention.q_lora_rank": 0}, "model.attention.q_lora_rank=0"),
    ({"attention.qk_nope_head_dim": -1}, "model.attention.qk_nope_head_dim=-1"),
    (GQA | {"attention.n_kv_heads": 4}, "model.attention.n_kv_heads=4: .*divide model.attention.n_heads=6"),
    (GQA | {"attention.n_kv_heads": 12}, "model.attention.n_kv_heads=12: .*divide model.attention.n_heads=6"),
    (GQA | {"attention.n_kv_heads": 0}, "model.attention.n_kv_heads=0: must be at least 1"),
    (GQA | {"attention.n_kv_heads": 2, "attention.head_dim": 9}, "model.attention.head_dim=9: .*even"),
    # precision
    ({"precision.block": 0}, "model.precision.block=0: must be at least 1"),
    ({"precision.recipe": "bf16"}, "model.precision.recipe=bf16: computes in bfloat16, and model.dtype=float64"),
    ({"precision.recipe": "fp32"}, "model.precision.recipe=fp32: .*model.dtype=float64; leave one out"),
    ({"precision.dispatch": "fp8"}, "model.precision.dispatch=fp8: has no effect with model.precision.recipe=auto"),
    ({"precision.format.gradient": "e5m2"}, "model.precision.format.gradient=e5m2: has no effect .*fp8_block"),
    ({"precision.keep_high.router": False}, "model.precision.keep_high.router=False: has no effect"),
    (
        TRITON | {"precision.recipe": "fp8_row"},
        "model.precision.recipe=fp8_row: model.precision.kernels=triton has only",
    ),
    (TRITON | {"precision.block": 16}, "model.precision.block=16: .*triton has only 128; use .*kernels=emulated"),
    (TRITON | {"precision.format.gradient": "e5m2"}, "model.precision.format.gradient=e5m2: .*has only e4m3"),
    (TRITON | {"precision.granularity.gradient": "block"}, "granularity.gradient=block: .*has only tile"),
    (TRITON | {"precision.accumulation": "limited"}, "model.precision.accumulation=limited: .*has only promoted"),
    (TRITON, "model.dtype=float64: model.precision.kernels=triton gives BF16 or FP32"),
    # positions
    ({"rope.theta": 1.0}, "model.rope.theta=1"),
    ({"rope.theta": float("nan")}, "model.rope.theta=nan"),
    ({"rope.factor": 40.0}, "model.rope.factor=40.0: .*model.rope.scaling=none; add model.rope.scaling=yarn"),
    ({"rope.scaling": "linear", "rope.factor": 0.5}, "model.rope.factor=0.5: must be at least 1"),
    ({"rope.scaling": "yarn", "rope.factor": float("nan")}, "model.rope.factor=nan"),
    (YARN | {"rope.original_length": 0}, "model.rope.original_length=0"),
    (YARN | {"rope.beta_slow": 40.0}, "model.rope.beta_slow=40.0: .*model.rope.beta_fast=32.0"),
    (YARN | {"rope.beta_slow": 0.0}, "model.rope.beta_slow=0.0"),
    # experts
    ({"moe.top_k": 7}, "model.moe.top_k=7: .*model.moe.n_routed_experts=6"),
    ({"moe.top_k": 0}, "model.moe.top_k=0"),
    ({"moe.n_routed_experts": 0}, "model.moe.n_routed_experts=0"),
    ({"moe.moe_intermediate_size": 0}, "model.moe.moe_intermediate_size=0"),
    ({"moe.n_shared_experts": -1}, "model.moe.n_shared_experts=-1"),
    ({"moe.n_group": 4}, "model.moe.n_group=4: must divide model.moe.n_routed_experts=6"),
    ({"moe.n_group": 0}, "model.moe.n_group=0"),
    ({"moe.topk_group": 0}, "model.moe.topk_group=0"),
    ({"moe.topk_group": 2}, "model.moe.topk_group=2: .*model.moe.n_group=1"),
    ({"moe.n_group": 3, "moe.topk_group": 4}, "model.moe.topk_group=4: .*model.moe.n_group=3"),
    ({"moe.n_group": 3, "moe.top_k": 3}, "model.moe.top_k=3: only 2 candidates .*model.moe.topk_group=1 groups of 2"),
    ({"moe.backend": "grouped_mm"}, "model.moe.backend=grouped_mm: .*loop"),
    ({"moe.balance.alpha": -1.0}, "model.moe.balance.alpha=-1"),
    ({"moe.balance.alpha": float("nan")}, "model.moe.balance.alpha=nan"),
    ({"moe.balance.update_speed": -0.1}, "model.moe.balance.update_speed=-0.1"),
    # multi-token prediction
    ({"mtp.depth": 4}, "model.mtp.depth=4: must lie between 0 .* 3"),
    ({"mtp.depth": -1}, "model.mtp.depth=-1"),
]


@pytest.mark.parametrize(("changes", "words"), REFUSED, ids=[words.split(":")[0] for _, words in REFUSED])
def test_a_model_that_cannot_be_built_is_refused(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate(tiny(changes))
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=words):
        Transformer(tiny(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention.head_dim": 7},
        {"attention.n_kv_heads": 5},
        {"attention.kind": "mha", "attention.qk_rope_head_dim": 5, "attention.n_kv_heads": 5},
        {"attention.kind": "mqa", "attention.kv_lora_rank": 0},
        {"moe.top_k": 6, "first_k_dense": 3, "moe.n_shared_experts": 0},
        {"moe.n_group": 3, "moe.topk_group": 3, "moe.top_k": 6},
        {"moe.n_group": 6, "moe.topk_group": 2},
        {"feed_forward": "dense", "moe.top_k": 99, "moe.n_group": 4, "moe.backend": "grouped_mm"},
        {"rope.original_length": 0},
        {"rope.scaling": "linear", "rope.factor": 1.0, "rope.beta_slow": 99.0},
        {"mtp.depth": 3},
    ],
    ids=str,
)
def test_what_a_model_does_not_use_is_not_checked_and_limits_may_be_reached(
    tiny: Tiny, changes: dict[str, Any]
) -> None:
    validate(tiny(changes))
    Transformer(tiny(changes))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_mtp_must_be_shallower_than_the_sequence(tiny: Tiny, depth: int) -> None:
    """At the last position, depth k has T - k predictions: at T = k it would have none."""
    config = tiny({"mtp.depth": depth})
    check_length(config, depth + 1)
    for length in (1, depth):
        with pytest.raises(ConfigError, match=rf"model.mtp.depth={depth}: .*data.seq_len={length}") as caught:
            check_length(config, length)
        assert "\n" not in str(caught.value)
    check_length(tiny(), 1)
