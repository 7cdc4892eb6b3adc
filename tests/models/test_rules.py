"""Refusals of the model's config: one line with the key, its value, the rule, and what else is part of it."""

import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base.typed import ConfigError, build, check_fields
from models.config import BalanceConfig, ModelConfig, MoEConfig, MTPConfig, RopeConfig
from models.module import Course, LanguageModel
from models.moe import Experts, Router
from models.published import hf_config, model_config
from models.rules import check_length, validate
from models.sizes import size
from models.training.config import OptimConfig
from models.transformer import Transformer

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
    (
        {"rope.scaling": "ntk", "rope.factor": 2.0, "attention.qk_rope_head_dim": 2},
        "model.rope.scaling=ntk: keeps the fastest .* 2 is one pair; raise model.attention.qk_rope_head_dim",
    ),
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
    ({"mtp.depth": 5}, "model.mtp.depth=5: must be at most 4"),
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
        {"attention.kind": "mqa", "attention.qk_rope_head_dim": 7},
        {"moe.top_k": 6, "first_k_dense": 3, "moe.n_shared_experts": 0},
        {"moe.n_group": 3, "moe.topk_group": 3, "moe.top_k": 6},
        {"moe.n_group": 6, "moe.topk_group": 2},
        {"feed_forward": "dense", "moe.top_k": 99, "moe.n_group": 4, "moe.backend": "grouped_mm"},
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


RANGES: list[tuple[Any, dict[str, Any], str]] = [
    (ModelConfig(), {"norm_eps": -1.0}, "norm_eps=-1.0: must be at least 1e-30"),
    (ModelConfig(), {"norm_eps": 1e9}, "norm_eps=1000000000.0: must be at most 1"),
    (ModelConfig(), {"norm_eps": math.nan}, "norm_eps=nan: must be a finite number"),
    (ModelConfig(), {"init_std": math.inf}, "init_std=inf: must be a finite number"),
    (ModelConfig(), {"d_model": 99999999999}, "d_model=99999999999: must be at most 10,000,000"),
    (ModelConfig(), {"n_layers": True}, "n_layers=true: expected a whole number"),
    (ModelConfig(), {"dtype": "float8"}, "dtype=float8: expected one of"),
    (
        ModelConfig(),
        {"moe": MoEConfig(routed_scaling_factor=0.0)},
        "moe.routed_scaling_factor=0.0: must be at least 1e-09",
    ),
    (ModelConfig(), {"moe": MoEConfig(n_shared_experts=-1)}, "moe.n_shared_experts=-1: must not be negative"),
    (ModelConfig(), {"mtp": MTPConfig(tail_from=1.5)}, "mtp.tail_from=1.5: must be at most 1"),
    (ModelConfig(), {"rope": RopeConfig(mscale=-1.0)}, "rope.mscale=-1.0: must not be negative"),
    (OptimConfig(), {"lr": 1e300}, "lr=1e+300: must be at most 1e+38"),
    (OptimConfig(), {"beta2": 1.0}, "beta2=1.0: must be below 1"),
    (OptimConfig(), {"eps": 0.0}, "eps=0.0: must be at least 1e-30"),
]


@pytest.mark.parametrize(("base", "changes", "words"), RANGES, ids=[words.split(":")[0] for _, _, words in RANGES])
def test_a_range_holds_for_what_is_made_in_python_and_for_what_is_read(
    base: Any, changes: dict[str, Any], words: str
) -> None:
    config = dataclasses.replace(base, **changes)
    at = "model" if isinstance(base, ModelConfig) else "optim"
    values = dataclasses.asdict(config)
    makers: list[Callable[[], Any]] = [lambda: check_fields(config, at), lambda: build(type(base), values, at)]
    if isinstance(config, ModelConfig):
        makers += [lambda: validate(config), lambda: Transformer(dataclasses.replace(config, **changes))]
    else:
        makers += [lambda: LanguageModel(ModelConfig(dtype="float32"), config, Course(1), seed=0)]
    for make in makers:
        with pytest.raises(ConfigError, match=f"^{at}.{re.escape(words)}"):
            make()


GROUPED: dict[str, Any] = {"moe.backend": "grouped_mm", "dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            GROUPED | {"moe.moe_intermediate_size": 13},
            "moe_intermediate_size=13: .*of 8 in bfloat16, .*8 or 16",
        ),
        (GROUPED | {"moe.moe_intermediate_size": 44}, "model.moe.moe_intermediate_size=44: .*40 or 48; or use .*loop"),
        (GROUPED | {"moe.moe_intermediate_size": 3}, "model.moe.moe_intermediate_size=3: .*the nearest 8; or use"),
        (GROUPED | {"d_model": 33}, "model.d_model=33: .*backend=grouped_mm .*32 or 40; or use model.moe.backend=loop"),
        (GROUPED | {"d_model": 34, "dtype": "float32"}, "model.d_model=34: .*a multiple of 4 in float32, .*32 or 36"),
        (
            GROUPED | {"d_model": 36, "dtype": "auto", "precision.recipe": "bf16"},
            "d_model=36: .*of 8 in bfloat16",
        ),
    ],
    ids=str,
)
def test_widths_that_the_experts_products_cannot_take(tiny: Tiny, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        validate(tiny(changes))
    assert "\n" not in str(caught.value)
    validate(tiny(changes | {"moe.backend": "loop"}))
    validate(tiny(changes | {"feed_forward": "dense"}))
    if "precision.recipe" not in changes:
        validate(tiny(changes | {"dtype": "auto"}))  # what it will be is not known here


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rule_is_what_grouped_mm_takes(tiny: Tiny, dtype: str) -> None:
    """Forward and backward of one layer's experts at every width up to 24, on either side."""
    for name in ("d_model", "moe.moe_intermediate_size"):
        for width in range(1, 25):
            config = tiny(GROUPED | {"dtype": dtype, name: width})
            experts = Experts(config.d_model, config.moe)
            for p in experts.parameters():
                torch.nn.init.normal_(p)
            x_ND = torch.randn(10, config.d_model, dtype=getattr(torch, dtype), requires_grad=True)
            routing = Router(config.d_model, replace(config.moe, balance=BalanceConfig(kind="none")))
            torch.nn.init.normal_(routing.weight)

            def works(experts: Experts = experts, x: Tensor = x_ND, router: Router = routing) -> bool:
                try:
                    experts(x, router(x.unsqueeze(0))).float().sum().backward()
                except RuntimeError as error:
                    assert "multiple of 16 bytes" in str(error)
                    return False
                return True

            def allowed(config: ModelConfig = config) -> bool:
                try:
                    validate(config)
                except ConfigError:
                    return False
                return True

            assert works() == allowed(), (name, width)


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


@pytest.mark.parametrize("scaling", ["linear", "ntk", "yarn"])
def test_a_length_beyond_what_positions_were_stretched_for_is_refused(tiny: Tiny, scaling: str) -> None:
    config = tiny({"rope.scaling": scaling, "rope.factor": 2.5, "rope.original_length": 100})
    check_length(config, 250)
    with pytest.raises(ConfigError, match=r"data.seq_len=251: beyond .*length=100 to 250 tokens; .*factor of 3,"):
        check_length(config, 251)
    check_length(tiny(), 10**6)  # plain positions have no end, however badly they are read


def test_a_published_model_of_widths_that_grouped_mm_refuses_is_multiplied_in_a_loop() -> None:
    values = hf_config(replace(size("tiny")[0], dtype="float32", moe=MoEConfig(moe_intermediate_size=64)))
    assert model_config(values).moe.backend == "grouped_mm"
    assert model_config(values | {"moe_intermediate_size": 62}).moe.backend == "loop"
