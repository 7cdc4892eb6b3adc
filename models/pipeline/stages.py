"""A stage of the model and what is done with one microbatch on it: F forward, B backward, I and W the two halves of B.

A chunk has one tensor that comes in and one that goes out, hidden states on the way forward and their gradient on the
way back. Auxiliary losses of a stage enter its backward chunk with a gradient of their own.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from models.balance import Routing
from models.config import ModelConfig
from models.moe import Router
from models.pipeline.schedules import Action
from models.pipeline.split import split, uses_embedding_again
from models.training.executor import StepResult, Targets, aux_loss, microbatch_targets, mtp_losses
from models.transformer import Transformer


class Stage:
    """Layers of a Transformer; on the first stage the embedding before them, on the last norm, head, MTP modules and
    losses after them. It works on the model's own modules: stages of one process share them."""

    def __init__(self, model: Transformer, index: int, stages: int, document_end: int | None = None) -> None:
        self.document_end = document_end
        self.model, self.layers = model, split(model.config, stages)[index]
        self.first, self.last = index == 0, index == stages - 1
        modules: list[nn.Module] = [model.model.layers[layer] for layer in self.layers]
        if self.last:
            modules += [model.model.norm, model.lm_head, *(model.mtp if model.config.mtp.depth else ())]
        self.routers = [m for module in modules for m in module.modules() if isinstance(m, Router)]
        if self.last and uses_embedding_again(model.config):
            modules.append(model.model.embed_tokens)
        self.parameters = [p for module in modules for p in module.parameters()]
        """Of what follows the stage's inlet."""
        self.splits = not self.last or can_split(model.config)

    def embed(self, tokens_BT1: Tensor) -> Tensor:
        return self.model.model.embed_tokens(tokens_BT1[:, :-1], self.model.dtype)

    def forward(self, x: Tensor, tokens_BT1: Tensor, targets: Targets, progress: float, share: float) -> "Passed":
        """`x` (B, T, D); `share` is the microbatch's of the batch."""
        tokens_BT = tokens_BT1[:, :-1]
        places = self.model.places(tokens_BT, self.document_end)
        x, routings = self.model.through(self.layers, x, places)
        terms: dict[str, Tensor | None] = {}
        if self.last:
            output = self.model.finish(x, tokens_BT, places, routings, mtp=True)
            routings = output.routings
            terms["loss"] = targets.loss(output.logits)
            terms |= mtp_losses(self.model.config.mtp, output, targets, progress)
        terms["aux_loss"] = aux = aux_loss(self.routers, routings)
        if self.last:
            counted = [t for name in ("loss", "aux_loss", "mtp_loss") if (t := terms.get(name)) is not None]
            out = torch.stack(counted).sum() * share
        else:
            out = x if aux is None else _WithLoss.apply(x, aux * share)
        return Passed(out, {name: term.detach() for name, term in terms.items() if term is not None}, routings)


def can_split(config: ModelConfig) -> bool:
    """Whether the last stage can do I and W apart. A chained MTP module beyond the first embeds tokens on the path of
    the one before it, and W cannot start from there twice: such a stage does all of B in I."""
    return not (uses_embedding_again(config) and config.mtp.depth > 1)


@dataclass
class Passed:
    """A forward chunk's results."""

    out: Tensor
    """Hidden states (B, T, D); on the last stage the microbatch's share of the loss."""
    terms: dict[str, Tensor]
    routings: list[Routing]


class _WithLoss(torch.autograd.Function):
    """x, and in backward a gradient of 1 to the loss beside it."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, loss: Tensor) -> Tensor:
        ctx.save_for_backward(loss)
        return x.clone()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, torch.ones_like(ctx.saved_tensors[0])  # type: ignore[attr-defined]


@dataclass
class _Chunk:
    """What a microbatch leaves on a stage between its forward and its backward."""

    inlet: Tensor
    out: Tensor
    embedded: Tensor | None
    groups: list[dict[str, Any]] = field(default_factory=list)


class Chunks:
    """One optimizer step's chunks on the stages that are held here, and what they add up to."""

    def __init__(
        self,
        stages: Mapping[int, Stage],
        tokens_BT1: Tensor,
        microbatches: int,
        progress: float,
        mask_BT: Tensor | None = None,
    ) -> None:
        if tokens_BT1.shape[0] % microbatches:
            raise ValueError(f"{tokens_BT1.shape[0]} sequences do not divide into {microbatches} microbatches")
        self.stages, self.parts, self.progress = stages, tokens_BT1.chunk(microbatches), progress
        self.waiting: dict[tuple[int, int], _Chunk] = {}
        config = next(iter(stages.values())).model.config
        self.targets = microbatch_targets(tokens_BT1, mask_BT, microbatches, config.mtp.depth)
        names = ["loss", "aux_loss"]
        names += ["mtp_loss", *(f"mtp_loss_{k}" for k in range(1, config.mtp.depth + 1))] if config.mtp.depth else []
        zero = tokens_BT1.new_zeros((), dtype=torch.float64)
        self.losses = {name: zero.clone() for name in names}
        shape = (config.routers, config.moe.n_routed_experts)
        self.load_LE = torch.zeros(shape, dtype=torch.int64, device=tokens_BT1.device)
        self.last_LE = torch.zeros_like(self.load_LE)

    def run(self, action: Action, arriving: Tensor | None) -> Tensor | None:
        """F takes hidden states and returns them, B and I the gradient; None beyond the ends, and for W."""
        stage, place = self.stages[action.stage], (action.stage, action.microbatch)
        if action.kind == "F":
            return self._forward(stage, place, arriving)
        if action.kind == "W":
            self._weights(stage, self.waiting.pop(place))
            return None
        chunk = self.waiting[place]
        if action.kind == "B" or not stage.splits:
            torch.autograd.backward(chunk.out, arriving)
        else:
            outs, grads = [chunk.out], [torch.ones_like(chunk.out) if arriving is None else arriving]
            _, chunk.groups = stage_backward_input(outs, grads, [chunk.inlet], iter(stage.parameters))
        gradient = chunk.inlet.grad
        if action.kind == "B":
            self._embedding(self.waiting.pop(place))
        return None if stage.first else gradient

    def _forward(self, stage: Stage, place: tuple[int, int], arriving: Tensor | None) -> Tensor | None:
        tokens = self.parts[place[1]]
        embedded = stage.embed(tokens) if stage.first else None
        x = arriving if embedded is None else embedded
        assert x is not None
        inlet = x.detach().requires_grad_()
        passed = self.passed(stage, place[1], inlet, tokens)
        self.waiting[place] = _Chunk(inlet, passed.out, embedded)
        return None if stage.last else passed.out.detach()

    def passed(self, stage: Stage, microbatch: int, x: Tensor, tokens_BT1: Tensor) -> Passed:
        """A forward chunk, and its losses and load counted."""
        passed = stage.forward(x, tokens_BT1, self.targets[microbatch], self.progress, 1 / len(self.parts))
        for name, term in passed.terms.items():
            self.losses[name] += term / len(self.parts)
        for router, routing in zip(stage.routers, passed.routings, strict=True):
            self.load_LE[router.row] += routing.load_E
            if microbatch == len(self.parts) - 1:
                self.last_LE[router.row] = routing.load_E
        return passed

    def _weights(self, stage: Stage, chunk: _Chunk) -> None:
        if stage.splits:
            stage_backward_weight(iter(stage.parameters), chunk.groups)
        self._embedding(chunk)

    @staticmethod
    def _embedding(chunk: _Chunk) -> None:
        if chunk.embedded is not None:
            chunk.embedded.backward(chunk.inlet.grad)

    def result(self) -> StepResult:
        return StepResult(self.losses, self.load_LE, self.last_LE)


def stages_of(
    model: Transformer, stages: int, held: Collection[int] | None = None, document_end: int | None = None
) -> dict[int, Stage]:
    """The stages of a model, or those of them that are held."""
    indices = range(stages) if held is None else sorted(held)
    return {index: Stage(model, index, stages, document_end) for index in indices}
