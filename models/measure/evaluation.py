"""What is measured on a trained model: loss and expert load, and how far its MTP modules agree with it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.balance import max_vio
from models.layers import inferring
from models.training.batch import Batch
from models.training.loss import language_model_loss
from models.transformer import Transformer


@dataclass
class Evaluation:
    """Over all target tokens of the evaluated batches."""

    loss: float
    """Mean cross entropy in nats per token."""
    tokens: int
    """Targets that count."""
    load_LE: Tensor
    """Assignments per MoE layer of the main model and expert."""
    entropy_L: Tensor
    """Mean entropy of the router's normalised affinities per MoE layer, in nats."""


def evaluate(model: Transformer, batches: Iterable[Tensor | Batch], document_end: int | None = None) -> Evaluation:
    """Loss over the targets that count, load over all tokens. With `document_end`, attention stays within documents."""
    layers = len(model.main_routers())
    total, count, routed = 0.0, 0, 0
    load = torch.zeros(layers, model.config.moe.n_routed_experts, dtype=torch.int64)
    entropy = torch.zeros(layers, dtype=torch.float64)
    with inferring(model):
        for tokens, mask in map(Batch.of, batches):
            output = model(tokens[:, :-1], document_end=document_end)
            targets = tokens[:, 1:]
            counted = targets.numel() if mask is None else int(mask.sum())
            total += float(language_model_loss(output.logits, targets, mask)) * counted
            count += counted
            routed += targets.numel()
            for layer, routing in enumerate(output.routings):
                load[layer] += routing.load_E.cpu()
                p = routing.scores_BTE / routing.scores_BTE.sum(dim=-1, keepdim=True)
                entropy[layer] += -(p * p.clamp_min(1e-20).log()).sum().cpu()
    return Evaluation(total / count, count, load, entropy / routed)


@dataclass
class Answers:
    """Over the answers of evaluated sequences: of all (level None), and of each level."""

    nats: dict[int | None, float]
    """Mean cross entropy."""
    right: dict[int | None, float]
    """Share of answers that are the likeliest token."""
    whole: float
    """Share of sequences all of whose answers are right."""
    ahead: list[float]
    """Per MTP depth k: the share of answers in whose place it names the token k behind the answer."""


def evaluate_answers(model: Transformer, batches: Iterable[tuple[Batch, Tensor]]) -> Answers:
    """On sequences whose counted targets are the answers, with the level of each sequence, (B)."""
    nats, right, count, whole = dict[int, float](), Counter[int](), Counter[int](), [0, 0]
    depth = model.config.mtp.depth
    seen, foreseen = [0] * depth, [0] * depth
    with inferring(model):
        for (tokens, mask), levels in batches:
            assert mask is not None
            output = model(tokens[:, :-1], mtp=depth > 0)
            logits, targets = output.logits.float(), tokens[:, 1:]
            for k, further in enumerate(output.mtp_logits, start=1):
                asked = mask[:, :-k]  # an answer that ends the sequence has nothing behind it
                seen[k - 1] += int(asked.sum())
                foreseen[k - 1] += int(((further.argmax(dim=-1) == targets[:, k:]) & asked).sum())
            lost_BT = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none") * mask
            hit_BT = (logits.argmax(dim=-1) == targets) & mask
            for level in levels.unique().tolist():
                rows = levels == level
                nats[level] = nats.get(level, 0.0) + float(lost_BT[rows].sum(dtype=torch.float64))
                right[level] += int(hit_BT[rows].sum())
                count[level] += int(mask[rows].sum())
            whole[0] += int((hit_BT == mask).all(dim=1).sum())
            whole[1] += len(tokens)
    total = count.total()
    return Answers(
        {None: sum(nats.values()) / total, **{level: nats[level] / n for level, n in sorted(count.items())}},
        {None: right.total() / total, **{level: right[level] / n for level, n in sorted(count.items())}},
        whole[0] / whole[1],
        [named / max(1, n) for named, n in zip(foreseen, seen, strict=True)],
    )


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


def evaluate_mtp(
    model: Transformer, batches: Iterable[Tensor | Batch], document_end: int | None = None
) -> MTPEvaluation:
    """On all tokens, whichever targets count. Only positions that the deepest module reaches are, at every depth."""
    depth = model.config.mtp.depth
    losses, agreed, count = [0.0] * depth, [0] * depth, 0
    with inferring(model):
        for tokens, _ in map(Batch.of, batches):
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
