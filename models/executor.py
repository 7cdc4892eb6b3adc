"""The execution seam: one optimizer step's forward and backward passes, `executor.step(batch, progress) -> StepResult`.

Plain microbatching is one executor; pipeline schedules are others (models/pipeline/). An executor leaves gradients of
the mean loss in the parameters; when they are clipped and when the optimizer steps is the trainer's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.balance import Routing
from models.config import MTPConfig
from models.layers import cast_once
from models.loss import language_model_loss
from models.moe import Router
from models.mtp import mtp_weight
from models.transformer import Output, Transformer


@dataclass
class StepResult:
    losses: dict[str, Tensor]
    """Detached scalars: `loss`, the language-modelling loss in nats per token, and apart from it `aux_loss`, and with
    MTP `mtp_loss`, both as they enter the gradient, and `mtp_loss_k`, depth k's mean cross entropy per prediction."""
    load_LE: Tensor
    """Assignments per MoE layer and expert over the whole batch, all microbatches and ranks; MTP modules last."""
    last_load_LE: Tensor
    """The same of the last microbatch on this rank alone."""


class Executor(Protocol):
    def step(self, tokens_BT1: Tensor, progress: float = 0.0) -> StepResult:
        """`progress` is the share of the training that this step begins at (MTP's weight depends on it)."""
        ...

    def clip(self, parameters: Iterable[Tensor], limit: float) -> None:
        """Scale gradients to a norm of at most `limit`: the norm of the whole model, of which `parameters` are those
        in this process."""
        ...


class Microbatching:
    """Forward and backward for each microbatch in turn; gradients accumulate (in FP32, see `cast_once`).

    A strategy that must know the whole batch's assignments before its loss (batch scope) gets them from a counting
    pass: the forwards run once more, without gradient. It is exact, and it costs a third of a step.
    """

    def __init__(self, model: Transformer, microbatches: int, document_end: int | None = None) -> None:
        """With a token id as `document_end`, attention stays within documents, which that token ends."""
        self.model, self.microbatches, self.document_end = model, microbatches, document_end

    def step(self, tokens_BT1: Tensor, progress: float = 0.0) -> StepResult:
        if tokens_BT1.shape[0] % self.microbatches:
            raise ValueError(f"{tokens_BT1.shape[0]} sequences do not divide into {self.microbatches} microbatches")
        parts = tokens_BT1.chunk(self.microbatches)
        routers = self.model.routers()
        losses: dict[str, Tensor] = {"loss": tokens_BT1.new_zeros((), dtype=torch.float64)}
        losses["aux_loss"] = losses["loss"].clone()
        n_experts = self.model.config.moe.n_routed_experts
        load_LE = torch.zeros(len(routers), n_experts, dtype=torch.int64, device=tokens_BT1.device)
        last_LE = load_LE
        with cast_once(self.model):
            batch_f = self._count(parts) if any(r.balance.needs_batch_load for r in routers) else None
            for part in parts:
                output = self.model(part[:, :-1], mtp=True, document_end=self.document_end)
                terms: dict[str, Tensor | None] = {
                    "loss": language_model_loss(output.logits, part[:, 1:]),
                    "aux_loss": aux_loss(routers, output.routings, batch_f),
                    **mtp_losses(self.model.config.mtp, output, part[:, 1:], progress),
                }
                counted = [t for name in ("loss", "aux_loss", "mtp_loss") if (t := terms.get(name)) is not None]
                (torch.stack(counted).sum() / self.microbatches).backward()
                for name, term in terms.items():
                    if term is not None:
                        losses[name] = losses.get(name, 0.0) + term.detach() / self.microbatches
                if routers:
                    last_LE = torch.stack([routing.load_E for routing in output.routings])
                    load_LE = load_LE + last_LE
        return StepResult(losses, all_ranks(load_LE), last_LE)

    def clip(self, parameters: Iterable[Tensor], limit: float) -> None:
        nn.utils.clip_grad_norm_(parameters, limit)

    @torch.no_grad()
    def _count(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        """f (E) of eq. 18 per MoE layer over the whole batch: unbiased top-k, normalised so that uniform is 1."""
        top_k = self.model.config.moe.top_k
        counts: list[Tensor] = []
        for part in parts:
            output = self.model(part[:, :-1], mtp=True, document_end=self.document_end)
            for layer, routing in enumerate(output.routings):
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


def aux_loss(routers: list[Router], routings: list[Routing], batch_f: list[Tensor] | None = None) -> Tensor | None:
    """Summed over layers."""
    terms = []
    for layer, (router, routing) in enumerate(zip(routers, routings, strict=True)):
        term = router.balance.loss(routing, None if batch_f is None else batch_f[layer])
        if term is not None:
            terms.append(term)
    return torch.stack(terms).sum() if terms else None


def mtp_losses(config: MTPConfig, output: Output, targets_BT: Tensor, progress: float) -> dict[str, Tensor]:
    """V3 eq. 24-25: the cross entropies of depth k summed over its T - k predictions and divided by T, then
    lambda / D times their sum."""
    if not output.mtp_logits:
        return {}
    length = targets_BT.shape[1]
    means = [language_model_loss(logits, targets_BT[:, k:]) for k, logits in enumerate(output.mtp_logits, start=1)]
    total = torch.stack([mean * ((length - k) / length) for k, mean in enumerate(means, start=1)]).sum()
    weighted = total * (mtp_weight(config, progress) / len(means))
    return {"mtp_loss": weighted, **{f"mtp_loss_{k}": mean for k, mean in enumerate(means, start=1)}}


def all_ranks(count: Tensor) -> Tensor:
    """Summed over ranks where there are several."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(count)
    return count
