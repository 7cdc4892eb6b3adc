"""Data parallelism: every rank holds the model, or a shard of it, and learns from its share of the same batch.

Each rank is given the whole batch and takes its part of it, in order, so that the ranks' microbatches are those of one
process. Gradients, losses and loads are those of the whole batch, on all ranks: a mask's mean is over the targets of
all, a bias moves by the load of all, once a step. Needs torch.distributed to be initialised; alone it is one process.
"""

import contextlib
from collections.abc import Iterable
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from models.training.executor import Microbatching, StepResult, all_ranks, world_size
from models.transformer import Transformer

Parallel = Literal["none", "ddp", "fsdp"]
"""`ddp`: whole copies, whose gradients are averaged once a step. `fsdp`: parameters, gradients and the optimizer's
state in shards (FSDP2), gathered block by block."""


class DataParallel(Microbatching):
    """The executor of one rank's share. torch's own DistributedDataParallel averages gradients in the first backward
    pass after a forward of its own; a step here is several, so they are averaged behind the last, in one piece."""

    def __init__(self, model: Transformer, microbatches: int, document_end: int | None = None) -> None:
        """`microbatches` are those of the whole batch. Where they are fewer than the ranks, each has a part of one."""
        self.ranks, self.rank = world_size(), dist.get_rank() if world_size() > 1 else 0
        super().__init__(model, max(1, microbatches // self.ranks), document_end)

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        if tokens_BT1.shape[0] % self.ranks:
            raise ValueError(f"{tokens_BT1.shape[0]} sequences do not divide among {self.ranks} ranks")
        mask = None if mask_BT is None else mask_BT.chunk(self.ranks)[self.rank]
        own = super().step(tokens_BT1.chunk(self.ranks)[self.rank], progress, mask)
        self.average_gradients()
        means = all_ranks(torch.stack([value.double() for value in own.losses.values()])) / self.ranks
        losses = dict(zip(own.losses, means, strict=True))
        return StepResult(losses, own.load_LE, self._of_the_last(own.last_load_LE), own.measures)

    @torch.no_grad()
    def average_gradients(self) -> None:
        """Over ranks. A parameter that no rank has one of keeps none."""
        if self.ranks == 1:
            return
        parameters = list(self.model.parameters())
        device = parameters[0].device
        there = all_ranks(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device))
        learned = [p for p, count in zip(parameters, there.tolist(), strict=True) if count]
        for parameter in learned:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in learned if p.grad is not None]
        whole = all_ranks(torch.cat([gradient.flatten() for gradient in gradients])) / self.ranks
        parts = whole.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def _of_the_last(self, load_LE: Tensor) -> Tensor:
        """The last microbatch of the whole batch is the last rank's."""
        if self.ranks > 1:
            dist.broadcast(load_LE, src=self.ranks - 1)
        return load_LE


class Sharded(DataParallel):
    """With parameters in shards, whose gradients FSDP2 has averaged by the end of each backward pass. What it gathers
    is freed behind each block, so that no cast of it is kept from one microbatch to the next."""

    def casting(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def average_gradients(self) -> None: ...

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm


def shard(model: Transformer) -> None:
    """Over all ranks, block by block; embedding, norm and head, which MTP modules share, stay together as the rest."""
    from torch.distributed.fsdp import fully_shard

    for block in model.model.layers:
        fully_shard(block)
    for module in getattr(model, "mtp", []):
        fully_shard(module.block)
    fully_shard(model, reshard_after_forward=False)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each rank holds a shard; all ranks must ask. Others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def like(value: Tensor, held: Tensor) -> Tensor:
    """`value`, which all ranks have, as `held` is laid out."""
    if not isinstance(held, DTensor) or value.shape != held.shape:
        return value
    return distribute_tensor(value.to(held.device), held.device_mesh, held.placements, src_data_rank=None)


@torch.no_grad()
def as_the_first(model: nn.Module) -> None:
    """Every rank takes the first one's parameters and buffers."""
    if world_size() > 1:
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, src=0)


@torch.no_grad()
def check_together(model: nn.Module) -> None:
    """Raise RuntimeError where ranks that should hold the same bits do not: each would train on by itself, and the
    first one's weights be taken for the result."""
    if world_size() == 1:
        return
    held = [t for t in model.state_dict().values() if not isinstance(t, DTensor)]
    if not held:
        return
    sums = torch.stack([_checksum(tensor) for tensor in held])
    least, most = sums.clone(), sums.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    if not torch.equal(least, most):
        raise RuntimeError("the ranks' weights have come apart; their results are not those of one training")


def _checksum(tensor: Tensor) -> Tensor:
    """Of its bits and of their places."""
    bits = tensor.detach().contiguous().flatten().view(torch.uint8).long()
    return (bits * torch.arange(1, len(bits) + 1, device=bits.device)).sum()
