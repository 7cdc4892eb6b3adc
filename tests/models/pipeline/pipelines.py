"""The models that pipelines are tested with: as V3 is made, one layer per stage of the longest pipeline on four ranks,
or on two (`SHORT`): a step costs what its layers cost."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from models.config import AttentionConfig, BalanceConfig, ModelConfig, MoEConfig, MTPConfig, PipelineConfig
from models.precision.config import PrecisionConfig
from models.training.config import OptimConfig
from models.training.executor import Executor, StepResult, update_routers
from models.training.optim import adamw
from models.transformer import Transformer

MICROBATCHES = 8
V3_LIKE = ModelConfig(
    vocab_size=61,
    d_model=24,
    n_layers=8,
    first_k_dense=1,
    intermediate_size=40,
    attention=AttentionConfig(
        n_heads=3, q_lora_rank=14, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=6, v_head_dim=10
    ),
    moe=MoEConfig(
        n_routed_experts=6,
        top_k=2,
        moe_intermediate_size=16,
        backend="loop",
        balance=BalanceConfig(kind="bias_aux_loss", alpha=0.5, update_speed=0.02),
    ),
    mtp=MTPConfig(depth=1),
    init_std=0.3,
    dtype="float64",
)
SHORT = dataclasses.replace(V3_LIKE, n_layers=4)
TWO_CHUNKS = ("interleaved_1f1b", "zbv", "dualpipev")


def piped(schedule: str, ranks: int, config: ModelConfig = V3_LIKE) -> ModelConfig:
    stages = ranks * (2 if schedule in TWO_CHUNKS else 1)
    named: Any = schedule
    return dataclasses.replace(config, pipeline=PipelineConfig(schedule=named, stages=stages))


def variant(name: str, ranks: int = 4) -> ModelConfig:
    """`fp64` (`ours`, `masked`), `fp32`, or `fp8`: tiles of 4, emulated, in FP32."""
    config = V3_LIKE if ranks > 2 else SHORT
    if name in ("fp64", "ours", "masked"):
        return config
    config = dataclasses.replace(config, dtype="float32")
    if name == "fp32":
        return config
    return dataclasses.replace(config, precision=PrecisionConfig(recipe="fp8_block", block=4))


def batch(step: int, config: ModelConfig = V3_LIKE, length: int = 10) -> Tensor:
    """(16, T + 1): two sequences for each microbatch."""
    generator = torch.Generator().manual_seed(step)
    return torch.randint(config.vocab_size, (2 * MICROBATCHES, length), generator=generator)


def uneven(tokens_BT1: Tensor) -> Tensor:
    """Targets that count: none in the first microbatch, all in the last, some in the others."""
    mask = tokens_BT1[:, 1:] % 3 != 0
    mask[:2], mask[-2:] = False, True
    return mask


def train(
    model: Transformer, executor: Executor, steps: int, masked: bool = False
) -> tuple[dict[str, Tensor], list[StepResult]]:
    """The first step's gradients by name, and all steps' results. Every step is clipped."""
    optimizer, gradients, results = adamw(model, OptimConfig(lr=1e-2)), {}, []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(batch(step), step / steps, uneven(batch(step)) if masked else None)
        if step == 0:
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        executor.clip(list(model.parameters()), 0.5)
        optimizer.step()
        update_routers(model, result, step / steps)
        results.append(result)
    return gradients, results


def largest_difference(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """Relative to the largest number of each tensor, over the names of `left`."""
    return max(
        float((tensor - right[name]).abs().max() / right[name].abs().max().clamp_min(1e-300))
        for name, tensor in left.items()
    )
