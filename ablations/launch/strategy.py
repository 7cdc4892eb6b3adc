"""Lightning's view of one of several ranks, whose checkpoints hold the whole of what each has a part of."""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from models.module import LanguageModel
from models.pipeline.ranks import Ranked, whole_state
from models.training.parallel import like, shard, whole


class RankStrategy(SingleDeviceStrategy):
    """One device per rank. The executor exchanges everything that a step needs (several backward passes, of which
    Lightning's own strategies would take the first for all); Lightning only has to know who writes."""

    def __init__(self, rank: int, ranks: int, device: torch.device) -> None:
        super().__init__(device=device)
        self.global_rank, self.world_size = rank, ranks

    @property
    def is_global_zero(self) -> bool:
        return self.global_rank == 0

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Nobody waits for what the first rank does beside the steps."""


class PipelineStrategy(RankStrategy):
    """A rank's own weights are not the model's: Lightning's strategies would save rank 0's part as if it were all."""

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        dist.barrier()

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """The whole model's, under the names that it has in one process, on rank 0; all ranks must call it."""
        module = cast(LanguageModel, self.lightning_module)
        whole = whole_state(cast(Ranked, module.executor)) or {}
        return {f"transformer.{name}": tensor for name, tensor in whole.items()}


class ShardedStrategy(RankStrategy):
    """FSDP2: each rank holds a shard of every parameter and of its moments. Checkpoints are those of one process."""

    def setup(self, trainer: Trainer) -> None:
        shard(cast(LanguageModel, self.lightning_module).transformer)  # before the optimizer takes the parameters
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Tensor]:
        """On every rank; all must call it."""
        return {name: whole(tensor) for name, tensor in super().lightning_module_state_dict().items()}

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        held = super().lightning_module_state_dict()
        own = {name: like(value, held[name]) for name, value in checkpoint["state_dict"].items()}
        super().load_model_state_dict({"state_dict": own}, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """On every rank; all must call it."""
        found = optimizer.state_dict()
        moments = found["state"].items()
        return {**found, "state": {n: {name: whole(value) for name, value in own.items()} for n, own in moments}}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            held = [p for group in optimizer.param_groups for p in group["params"]]
            moments = saved["state"].items()
            state = {n: {name: like(value, held[n]) for name, value in own.items()} for n, own in moments}
            optimizer.load_state_dict({**saved, "state": state})
