"""The execution seam: one optimizer step's forward and backward passes, `executor.step(batch, progress) -> StepResult`.

Plain microbatching is one executor; pipeline schedules are others (models/pipeline/). An executor leaves gradients of
the mean loss in the parameters; when they are clipped and when the optimizer steps is the trainer's.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.balance import Routing, assignments
from models.config import MTPConfig
from models.layers import cast_once
from models.moe import Router
from models.mtp import mtp_weight
from models.training.loss import language_model_loss
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
    measures: dict[str, float] = field(default_factory=dict)
    """What else is to be noted of the step, by name."""


class Executor(Protocol):
    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        """`progress` is the share of the training that this step begins at (MTP's weight depends on it). The boolean
        mask says which targets count; the losses are means over those of the whole batch."""
        ...

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        """Scale gradients to a norm of at most `limit`: the norm of the whole model, of which `parameters` are those
        in this process. Returns the norm that they had."""
        ...


@dataclass(frozen=True)
class Targets:
    """What one microbatch is to predict. Its means, averaged over the microbatches, are those of the whole batch: a
    microbatch in which more targets count weighs more."""

    tokens_BT: Tensor
    mask_BT: Tensor | None = None
    """Which of them count; all without one, and all microbatches alike."""
    weights: Sequence[float] = ()
    """By depth (0: the next token, k: MTP's): the targets counted here, over the mean of the microbatches."""
    reach: Sequence[float] = ()
    """By depth: the targets counted in the whole batch, over those of depth 0."""

    def loss(self, logits: Tensor, depth: int = 0) -> Tensor:
        """Of `logits` (B, T - depth, V)."""
        targets = self.tokens_BT[:, depth:]
        if self.mask_BT is None:
            return language_model_loss(logits, targets)
        return language_model_loss(logits, targets, self.mask_BT[:, depth:]) * self.weights[depth]

    def mean(self, values_BT: Tensor) -> Tensor:
        """Of something that each of the next tokens has."""
        if self.mask_BT is None:
            return values_BT.mean()
        counted = values_BT.masked_fill(~self.mask_BT, 0.0).sum() / self.mask_BT.sum().clamp_min(1)
        return counted * self.weights[0]

    def share(self, depth: int) -> float:
        """The predictions of this depth for each one of the next token."""
        length = self.tokens_BT.shape[1]
        return (length - depth) / length if self.mask_BT is None else self.reach[depth]


def microbatch_targets(
    tokens_BT1: Tensor, mask_BT: Tensor | None, microbatches: int, depth: int, ranks: int = 1
) -> list[Targets]:
    """Of each microbatch. `depth` is that of MTP; with data-parallel `ranks`, whose gradients are averaged, the whole
    batch is that of all of them. Raises ValueError for a mask of another shape, or one that leaves nothing to learn."""
    targets = tokens_BT1[:, 1:].chunk(microbatches)
    if mask_BT is None:
        return [Targets(part) for part in targets]
    if mask_BT.shape != tokens_BT1[:, 1:].shape or mask_BT.dtype != torch.bool:
        raise ValueError(f"mask {tuple(mask_BT.shape)} of {mask_BT.dtype}: must be one boolean for each target")
    masks = mask_BT.chunk(microbatches)
    counted_MD = torch.stack([torch.stack([mask[:, k:].sum() for k in range(depth + 1)]) for mask in masks])
    totals = counted_MD.sum(dim=0)
    means = (all_ranks(totals) if ranks > 1 else totals).double() / (microbatches * ranks)
    if not float(means[0]):
        raise ValueError("the mask counts no target of the batch")
    weights, reach = (counted_MD / means.clamp_min(1e-300)).tolist(), (means / means[0]).tolist()
    return [Targets(*parts, reach) for parts in zip(targets, masks, weights, strict=True)]


class Microbatching:
    """Forward and backward for each microbatch in turn; gradients accumulate (in FP32, see `cast_once`).

    A strategy that must know the whole batch's assignments before its loss (batch scope) gets them from a counting
    pass: the forwards run once more, without gradient. It is exact, and it costs a third of a step.
    """

    learned: ClassVar[Sequence[str]] = ("loss", "aux_loss", "mtp_loss")
    """Of the terms, those whose sum is learned."""

    def __init__(self, model: Transformer, microbatches: int, document_end: int | None = None) -> None:
        """With a token id as `document_end`, attention stays within documents, which that token ends."""
        self.model, self.microbatches, self.document_end = model, microbatches, document_end

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        if tokens_BT1.shape[0] % self.microbatches:
            raise ValueError(f"{tokens_BT1.shape[0]} sequences do not divide into {self.microbatches} microbatches")
        parts = tokens_BT1.chunk(self.microbatches)
        depth = self.model.config.mtp.depth
        targets = microbatch_targets(tokens_BT1, mask_BT, self.microbatches, depth, world_size())
        routers = self.model.routers()
        losses: dict[str, Tensor] = {"loss": tokens_BT1.new_zeros((), dtype=torch.float64)}
        losses["aux_loss"] = losses["loss"].clone()
        n_experts = self.model.config.moe.n_routed_experts
        load_LE = torch.zeros(len(routers), n_experts, dtype=torch.int64, device=tokens_BT1.device)
        last_LE = load_LE
        with self.casting():
            batch_f = self._count(parts) if any(r.balance.needs_batch_load for r in routers) else None
            for part, target in zip(parts, targets, strict=True):
                output = self.model(part[:, :-1], mtp=True, document_end=self.document_end)
                terms = self.terms(part[:, :-1], output, target, progress)
                terms["aux_loss"] = aux_loss(routers, output.routings, batch_f)
                counted = [term for name in self.learned if (term := terms.get(name)) is not None]
                (torch.stack(counted).sum() / self.microbatches).backward()
                for name, term in terms.items():
                    if term is not None:
                        losses[name] = losses.get(name, 0.0) + term.detach() / self.microbatches
                if routers:
                    last_LE = torch.stack([routing.load_E for routing in output.routings])
                    load_LE = load_LE + last_LE
        return StepResult(losses, all_ranks(load_LE), last_LE)

    def terms(self, tokens_BT: Tensor, output: Output, target: Targets, progress: float) -> dict[str, Tensor | None]:
        """Of one microbatch, scalars by name; that of the balance is added to them."""
        return {
            "loss": target.loss(output.logits),
            **mtp_losses(self.model.config.mtp, output, target, progress),
        }

    def casting(self) -> AbstractContextManager[None]:
        """What the microbatches of a step pass in."""
        return cast_once(self.model)

    def clip(self, parameters: Iterable[Tensor], limit: float) -> Tensor:
        return nn.utils.clip_grad_norm_(parameters, limit)

    @torch.no_grad()
    def _count(self, parts: tuple[Tensor, ...]) -> list[Tensor]:
        """f (E) of eq. 18 per MoE layer over the whole batch: unbiased top-k, normalised so that uniform is 1."""
        top_k = self.model.config.moe.top_k
        counts: list[Tensor] = []
        for part in parts:
            output = self.model(part[:, :-1], mtp=True, document_end=self.document_end)
            for layer, routing in enumerate(output.routings):
                experts = routing.scores_BTE.topk(top_k, dim=-1, sorted=False).indices
                count = assignments(experts, routing.scores_BTE.shape[-1])
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


def mtp_losses(config: MTPConfig, output: Output, targets: Targets, progress: float) -> dict[str, Tensor]:
    """V3 eq. 24-25: the cross entropies of depth k summed over its T - k predictions and divided by T (with a mask: by
    the counted targets of the next token), then lambda / D times their sum."""
    if not output.mtp_logits:
        return {}
    means = [targets.loss(logits, k) for k, logits in enumerate(output.mtp_logits, start=1)]
    total = torch.stack([mean * targets.share(k) for k, mean in enumerate(means, start=1)]).sum()
    weighted = total * (mtp_weight(config, progress) / len(means))
    return {"mtp_loss": weighted, **{f"mtp_loss_{k}": mean for k, mean in enumerate(means, start=1)}}


def update_routers(model: Transformer, result: StepResult, progress: float) -> None:
    """Move every router's bias by the load of the whole optimizer batch, once per optimizer step."""
    for router in model.routers():
        router.update(result.load_LE[router.row], result.last_load_LE[router.row], progress)


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_ranks(count: Tensor) -> Tensor:
    """Summed over ranks where there are several."""
    if world_size() > 1:
        dist.all_reduce(count)
    return count
