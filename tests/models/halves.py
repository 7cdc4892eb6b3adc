"""What each of two ranks counts of one batch (`test_executor.py`): importable, because a rank's process finds it by
name."""

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from models.config import ModelConfig
from models.training.executor import Microbatching
from models.transformer import Transformer, initialise

RANKS = 2


def count(rank: int, config: ModelConfig, batch: Tensor, mask: Tensor | None, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    model = Transformer(config)
    initialise(model, 0, config.std)
    own = None if mask is None else mask.chunk(RANKS)[rank]
    result = Microbatching(model, 2).step(batch.chunk(RANKS)[rank], 0.0, own)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    dist.all_reduce(gradient)
    loads = result.load_LE.tolist(), float(result.losses["aux_loss"]), gradient / RANKS, result.last_load_LE.tolist()
    torch.save(loads, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
