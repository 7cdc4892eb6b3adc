"""How a trained model uses a long context: its loss by how much stands before a token, and what it finds again."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import inferring
from models.transformer import Transformer


def losses_by_position(
    model: Transformer, batches: Iterable[Tensor], ends: Sequence[int], document_end: int | None = None
) -> list[float]:
    """Mean cross entropy, in nats per token, of the targets of (B, T + 1) tokens that are predicted from 1 to ends[0]
    tokens, from there to ends[1], and so on: T is the last of them. With `document_end`, attention stays within
    documents."""
    total, rows = torch.zeros(ends[-1], dtype=torch.float64), 0
    with inferring(model):
        for tokens in batches:
            logits = model(tokens[:, :-1], document_end=document_end).logits
            total += _lost(logits, tokens[:, 1:]).sum(dim=0, dtype=torch.float64).cpu()
            rows += len(tokens)
    begins = [0, *ends[:-1]]
    return [float(total[begin:end].mean()) / rows for begin, end in zip(begins, ends, strict=True)]


def found_again(model: Transformer, tokens: Tensor, mask: Tensor, others: Tensor | None = None) -> tuple[float, float]:
    """Of (B, T + 1) tokens the mean cross entropy, in nats per token, of the targets that the mask (B, T) counts, and
    by how many nats they are likelier than `others` (B, T) in their place; 0 without any."""
    with inferring(model):
        logits = model(tokens[:, :-1]).logits
        own = _lost(logits, tokens[:, 1:])[mask].mean(dtype=torch.float64)
        wrong = own if others is None else _lost(logits, others)[mask].mean(dtype=torch.float64)
    return float(own), float(wrong - own)


def _lost(logits: Tensor, targets: Tensor) -> Tensor:
    """(B, T): the cross entropy of each target."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(wide.transpose(1, 2), targets, reduction="none")
