"""What is measured on a trained model: loss and expert load, and how far its MTP modules agree with it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.balance import max_vio
from models.layers import inferring
from models.loss import language_model_loss
from models.transformer import Transformer


@dataclass
class Evaluation:
    """Over all target tokens of the evaluated batches."""

    loss: float
    """Mean cross entropy in nats per token."""
    tokens: int
    load_LE: Tensor
    """Assignments per MoE layer of the main model and expert."""
    entropy_L: Tensor
    """Mean entropy of the router's normalised affinities per MoE layer, in nats."""


def evaluate(model: Transformer, batches: Iterable[Tensor], document_end: int | None = None) -> Evaluation:
    """On batches of (B, T + 1) tokens. With `document_end`, attention stays within documents."""
    layers = len(model.main_routers())
    total, count = 0.0, 0
    load = torch.zeros(layers, model.config.moe.n_routed_experts, dtype=torch.int64)
    entropy = torch.zeros(layers, dtype=torch.float64)
    with inferring(model):
        for tokens in batches:
            output = model(tokens[:, :-1], document_end=document_end)
            targets = tokens[:, 1:]
            total += float(language_model_loss(output.logits, targets)) * targets.numel()
            count += targets.numel()
            for layer, routing in enumerate(output.routings):
                load[layer] += routing.load_E.cpu()
                p = routing.scores_BTE / routing.scores_BTE.sum(dim=-1, keepdim=True)
                entropy[layer] += -(p * p.clamp_min(1e-20).log()).sum().cpu()
    return Evaluation(total / count, count, load, entropy / count)


@dataclass
class MTPEvaluation:
    """Per depth 1 .. D, on the true text."""

    losses: list[float]
    """Mean cross entropy of each depth's predictions, in nats."""
    acceptance: list[float]
    """Share of positions at which depth k and all depths before it name the token that the main model, given the true
    text up to there, would choose itself: the acceptance of greedy self-speculative decoding, chained."""

    @property
    def tokens_per_forward(self) -> float:
        """Expected tokens of one forward pass of the main model: its own and the accepted drafts."""
        return 1.0 + sum(self.acceptance)


def evaluate_mtp(model: Transformer, batches: Iterable[Tensor], document_end: int | None = None) -> MTPEvaluation:
    """On batches of (B, T + 1) tokens. Only positions that the deepest module reaches are counted, at every depth."""
    depth = model.config.mtp.depth
    losses, agreed, count = [0.0] * depth, [0] * depth, 0
    with inferring(model):
        for tokens in batches:
            output = model(tokens[:, :-1], mtp=True, document_end=document_end)
            length = tokens.shape[1] - 1 - depth
            chosen = output.logits.argmax(dim=-1)
            so_far = torch.ones_like(chosen[:, :length], dtype=torch.bool)
            for k, logits in enumerate(output.mtp_logits, start=1):
                targets = tokens[:, 1 + k : 1 + k + length]
                losses[k - 1] += float(language_model_loss(logits[:, :length], targets)) * targets.numel()
                so_far = so_far & (logits[:, :length].argmax(dim=-1) == chosen[:, k : k + length])
                agreed[k - 1] += int(so_far.sum())
            count += so_far.numel()
    return MTPEvaluation([loss / count for loss in losses], [number / count for number in agreed])


def mean_max_vio(load_LE: Tensor) -> float:
    """MaxVio averaged over layers; 0 for a model without MoE layers."""
    return float(max_vio(load_LE).mean()) if len(load_LE) else 0.0
