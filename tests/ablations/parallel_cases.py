"""Trainings that one process and several must agree on: some steps each of a tiny model."""

from dataclasses import dataclass, field
from typing import Any

import torch

from models.base.typed import build
from models.config import ModelConfig
from models.pipeline.chosen import executor_of
from models.training.config import OptimConfig
from models.training.executor import update_routers
from models.training.optim import adamw
from models.training.parallel import Parallel, shard, whole
from models.transformer import Transformer, initialise

STEPS, ROWS, LENGTH, VOCAB = 6, 8, 16, 40
BASE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "n_layers": 2,
    "first_k_dense": 1,
    "intermediate_size": 24,
    "dtype": "float32",
    "attention": {
        "n_heads": 2,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "head_dim": 8,
    },
    "moe": {"n_routed_experts": 8, "n_shared_experts": 1, "top_k": 2, "moe_intermediate_size": 8},
}


@dataclass(frozen=True)
class ParallelCase:
    name: str
    parallel: Parallel = "ddp"
    model: dict[str, Any] = field(default_factory=dict)
    balance: dict[str, Any] = field(default_factory=dict)
    microbatches: int = 4
    masked: bool = False
    document_end: int | None = None
    clip: float = 0.5


BALANCES: dict[str, dict[str, Any]] = {
    "bias": {"kind": "bias", "update_speed": 0.05},
    "bias by a microbatch": {"kind": "bias", "update_speed": 0.05, "load_scope": "microbatch"},
    **{
        f"{scope} loss": {"kind": "aux_loss", "alpha": 0.1, "scope": scope}
        for scope in ("sequence", "microbatch", "batch")
    },
}
CASES = [
    ParallelCase("dense", model={"feed_forward": "dense"}),
    *(ParallelCase(name, balance=balance) for name, balance in BALANCES.items()),
    ParallelCase("one microbatch", balance=BALANCES["bias"], microbatches=1),
    ParallelCase("MTP", model={"mtp": {"depth": 1}}, balance=BALANCES["bias"]),
    ParallelCase("mask", model={"mtp": {"depth": 1}}, masked=True),
    ParallelCase("documents", document_end=0),
    ParallelCase("clipped hard", clip=0.01),
    ParallelCase("shards", "fsdp", balance=BALANCES["bias"]),
    ParallelCase("shards, MTP, batch loss", "fsdp", {"mtp": {"depth": 2}}, BALANCES["batch loss"], masked=True),
    ParallelCase("shards, dense, clipped hard", "fsdp", {"feed_forward": "dense"}, clip=0.01),
]


def trained(case: ParallelCase, parallel: Parallel) -> dict[str, torch.Tensor]:
    """What each step finds: its losses (S, K), its load (S, L, E), its gradient's norm (S); and the weights at the
    end. A mask counts more targets in the first rows than in the last."""
    torch.set_num_threads(1)
    moe = {**BASE["moe"], "balance": case.balance}
    config = build(ModelConfig, {**BASE, "moe": moe, **case.model})
    model = Transformer(config).train()
    initialise(model, 0, config.std)
    if parallel == "fsdp":
        shard(model)
    executor = executor_of(model, case.microbatches, None, case.document_end, parallel)
    optimizer = adamw(model, OptimConfig(lr=0.01))
    drawn = torch.Generator().manual_seed(1)
    losses, loads, norms = [], [], []
    for step in range(STEPS):
        tokens = torch.randint(0, VOCAB, (ROWS, LENGTH + 1), generator=drawn)
        share = torch.linspace(0.9, 0.1, ROWS)[:, None]
        mask = torch.rand(ROWS, LENGTH, generator=drawn) < share
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens, step / STEPS, mask if case.masked else None)
        norms.append(executor.clip(model.parameters(), case.clip).detach())
        optimizer.step()
        update_routers(model, result, step / STEPS)
        losses.append(torch.stack([value.double() for value in result.losses.values()]))
        loads.append(result.load_LE.clone())
    weights = {f"weights/{name}": whole(value.detach()).clone() for name, value in model.state_dict().items()}
    return {"losses": torch.stack(losses), "loads": torch.stack(loads), "norms": torch.stack(norms), **weights}
