"""The execution seam: one optimizer step's forward and backward passes, `executor.step(batch) -> StepResult`.

Plain microbatching is one executor; pipeline schedules will be others. An executor leaves gradients of the mean loss in
the parameters; clipping and the optimizer step stay with the trainer.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models.balance import Routing
from models.layers import at_least_fp32, cast_once
from models.transformer import Transformer


@dataclass
class StepResult:
    losses: dict[str, Tensor]
    """Detached scalars: `loss`, the language-modelling loss in nats per token, and `aux_loss`, apart from it."""
    load_LE: Tensor
    """Assignments per MoE layer and expert over the whole batch, all microbatches and ranks."""


class Executor(Protocol):
    def step(self, tokens_BT1: Tensor) -> StepResult: ...


def language_model_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, in at least FP32."""
    return F.cross_entropy(at_least_fp32(logits_BTV).flatten(0, 1), targets_BT.flatten())


class Microbatching:
    """Forward and backward for each microbatch in turn; gradients accumulate (in FP32, see `cast_once`).

    A strategy that must know the whole batch's assignments before its loss (batch scope) gets them from a counting
    pass: the forwards run once more, without gradient. It is exact, and it costs a third of a step.
    """

    def __init__(self, model: Transformer, microbatches: int) -> None:
        self.model, self.microbatches = model, microbatches

    def step(self, tokens_BT1: Tensor) -> StepResult:
        if tokens_BT1.shape[0] % self.microbatches:
            raise ValueError(f"{tokens_BT1.shape[0]} sequences do not divide into {self.microbatches} microbatches")
        parts = tokens_BT1.chunk(self.microbatches)
        balances = self.model.balances()
        total, total_aux = tokens_BT1.new_zeros((), dtype=torch.float64), tokens_BT1.new_zeros((), dtype=torch.float64)
        load_LE = torch.zeros(
            len(balances), self.model.config.moe.n_routed_experts, dtype=torch.int64, device=tokens_BT1.device
        )
        with cast_once(self.model):
            batch_f = self._count(parts) if any(b.needs_batch_load for b in balances) else None
            for part in parts:
                output = self.model(part[:, :-1])
                loss = language_model_loss(output.logits, part[:, 1:]) / self.microbatches
                aux = self._aux_loss(output.routings, batch_f)
                (loss if aux is None else loss + aux).backward()
                total += loss.detach()
                if aux is not None:
                    total_aux += aux.detach()
                for layer, routing in enumerate(output.routings):
                    load_LE[layer] += routing.load_E
        return StepResult({"loss": total, "aux_loss": total_aux}, all_ranks(load_LE))

    def _aux_loss(self, routings: list[Routing], batch_f: list[Tensor] | None) -> Tensor | None:
        """Summed over layers, divided by the microbatches."""
        terms = []
        for layer, (balance, routing) in enumerate(zip(self.model.balances(), routings, strict=True)):
            term = balance.loss(routing, None if batch_f is None else batch_f[layer])
            if term is not None:
                terms.append(term)
        return torch.stack(terms).sum() / self.microbatches if terms else None

    @torch.no_grad()
    def _count(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        """f (E) of eq. 18 per MoE layer over the whole batch: unbiased top-k, normalised so that uniform is 1."""
        top_k = self.model.config.moe.top_k
        counts: list[Tensor] = []
        for part in parts:
            for layer, routing in enumerate(self.model(part[:, :-1]).routings):
                experts = routing.scores_BTE.topk(top_k, dim=-1, sorted=False).indices.flatten()
                count = torch.bincount(experts, minlength=routing.scores_BTE.shape[-1])
                if layer < len(counts):
                    counts[layer] += count
                else:
                    counts.append(count)
        shares = []
        for count in counts:
            count = all_ranks(count).double()
            shares.append((count * len(count) / count.sum()).to(self.model.lm_head.weight.dtype))
        return shares


def all_ranks(count: Tensor) -> Tensor:
    """Summed over ranks where there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
    return count
