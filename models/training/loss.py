"""Cross entropy in blocks of rows: a large vocabulary's logits are never held in FP32 as a whole."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

BLOCK_ELEMENTS = 1 << 19
"""Logits worked on at once: 2 MB of FP32, which a core's cache holds."""


def language_model_loss(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor | None = None) -> Tensor:
    """Mean cross entropy in nats per token, in at least FP32, of the targets that the boolean mask counts: all without
    one. Where it counts none, 0."""
    counted = None if mask_BT is None else mask_BT.flatten()
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten(), counted)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """F.cross_entropy of (N, V) logits. The gradient, in the logits' own type, makes the softmax anew. The composite
    fills, copies and converts (N, V) several times over."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits_NV: Tensor, targets_N: Tensor, counted_N: Tensor | None) -> Tensor:
        work, out = _work_space(logits_NV), _work_space(logits_NV)
        losses_N = work.new_empty(len(targets_N))
        for first in range(0, len(targets_N), len(work)):
            rows = slice(first, first + len(work))
            count = len(targets_N[rows])
            logarithms = torch.log_softmax(work[:count].copy_(logits_NV[rows]), dim=-1, out=out[:count])
            losses_N[rows] = logarithms.gather(1, targets_N[rows].unsqueeze(1)).squeeze(1).neg_()
        ctx.save_for_backward(logits_NV, targets_N, counted_N)  # type: ignore[arg-type]
        if counted_N is None:
            return losses_N.mean()
        return losses_N.masked_fill_(~counted_N, 0.0).sum() / counted_N.sum().clamp_min(1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        logits_NV, targets_N, counted_N = ctx.saved_tensors  # type: ignore[attr-defined]
        work, softmax = _work_space(logits_NV), _work_space(logits_NV)
        scale = grad / (len(targets_N) if counted_N is None else counted_N.sum().clamp_min(1))
        grad_NV = torch.empty_like(logits_NV)
        for first in range(0, len(targets_N), len(work)):
            rows = slice(first, first + len(work))
            count = len(targets_N[rows])
            share = torch.softmax(work[:count].copy_(logits_NV[rows]), dim=-1, out=softmax[:count])
            answers = targets_N[rows].unsqueeze(1)
            share.scatter_(1, answers, share.gather(1, answers) - 1)
            grad_NV[rows] = share.mul_(scale)
        if counted_N is not None:
            grad_NV.masked_fill_(~counted_N.unsqueeze(1), 0.0)
        return grad_NV, None, None


def _work_space(logits_NV: Tensor) -> Tensor:
    """(rows, V) in at least FP32: the block that is worked on, used again and again."""
    rows = min(len(logits_NV), max(1, BLOCK_ELEMENTS // logits_NV.shape[1]))
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.empty(rows, logits_NV.shape[1], dtype=dtype, device=logits_NV.device)
