"""Cross entropy in blocks of rows: a large vocabulary's logits are never held in FP32 as a whole."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

BLOCK_ELEMENTS = 1 << 19
"""Logits worked on at once: 2 MB of FP32, which a core's cache holds."""


def language_model_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, in at least FP32."""
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return loss


class _CrossEntropy(torch.autograd.Function):
    """F.cross_entropy of (N, V) logits. The gradient, in the logits' own type, makes the softmax anew. The composite
    fills, copies and converts (N, V) several times over."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits_NV: Tensor, targets_N: Tensor) -> Tensor:
        work, out = _work_space(logits_NV), _work_space(logits_NV)
        losses_N = work.new_empty(len(targets_N))
        for first in range(0, len(targets_N), len(work)):
            rows = slice(first, first + len(work))
            count = len(targets_N[rows])
            logarithms = torch.log_softmax(work[:count].copy_(logits_NV[rows]), dim=-1, out=out[:count])
            losses_N[rows] = logarithms.gather(1, targets_N[rows].unsqueeze(1)).squeeze(1).neg_()
        ctx.save_for_backward(logits_NV, targets_N)
        return losses_N.mean()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        logits_NV, targets_N = ctx.saved_tensors  # type: ignore[attr-defined]
        work, softmax = _work_space(logits_NV), _work_space(logits_NV)
        scale = grad / len(targets_N)
        grad_NV = torch.empty_like(logits_NV)
        for first in range(0, len(targets_N), len(work)):
            rows = slice(first, first + len(work))
            count = len(targets_N[rows])
            share = torch.softmax(work[:count].copy_(logits_NV[rows]), dim=-1, out=softmax[:count])
            answers = targets_N[rows].unsqueeze(1)
            share.scatter_(1, answers, share.gather(1, answers) - 1)
            grad_NV[rows] = share.mul_(scale)
        return grad_NV, None


def _work_space(logits_NV: Tensor) -> Tensor:
    """(rows, V) in at least FP32: the block that is worked on, used again and again."""
    rows = min(len(logits_NV), max(1, BLOCK_ELEMENTS // logits_NV.shape[1]))
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return torch.empty(rows, logits_NV.shape[1], dtype=dtype, device=logits_NV.device)
