"""Lightning's view of one rank of a pipeline: its own part of the model, and checkpoints that hold the whole."""

from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor

from models.module import LanguageModel
from models.pipeline.ranks import Ranked, whole_state


class PipelineStrategy(SingleDeviceStrategy):
    """One device per rank. The executor exchanges everything that a step needs; Lightning only has to know who writes,
    and that a rank's own weights are not the model's: its strategies would save rank 0's part as if it were all."""

    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        super().__init__(device=device)
        self.global_rank, self.world_size = rank, ranks

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        dist.barrier()

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The whole model's, under the names that it has in one process, on rank 0; all ranks must call it."""
        module = cast(LanguageModel, self.lightning_module)
        whole = whole_state(cast(Ranked, module.executor)) or {}
        return {f"transformer.{name}": tensor for name, tensor in whole.items()}
