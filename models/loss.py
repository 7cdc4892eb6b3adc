"""Cross entropy in blocks of rows: a large vocabulary's logits are never held in FP32 as a whole."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from models.layers import at_least_fp32

BLOCK_ELEMENTS = 1 << 19
"""Logits worked on at once: 2 MB of FP32, which a core's cache holds."""


def language_model_loss(logits_BTV: Tensor, targets_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats per token, in at least FP32."""
    loss: Tensor = _CrossEntropy.apply(logits_BTV.flatten(0, 1), targets_BT.flatten())
    return loss


class _CrossEntropy(torch.autograd.Function):
    """F.cross_entropy of (N, V) logits. Keeps log sum exp per row and makes the softmax anew for the gradient, which is
    in the logits' own type. The composite fills, copies and converts (N, V) several times over."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits_NV: Tensor, targets_N: Tensor) -> Tensor:  # type: ignore[override]
        work = _work_space(logits_NV)
        lse_N = work.new_empty(len(targets_N))
        for first in range(0, len(targets_N), len(work)):
            logits = logits_NV[first : first + len(work)]
            block = work[: len(logits)].copy_(logits)
            highest = block.amax(dim=-1, keepdim=True)
            sums = block.sub_(highest).exp_().sum(dim=-1)
            lse_N[first : first + len(work)] = sums.log_().add_(highest.squeeze(1))
        chosen_N = at_least_fp32(logits_NV.gather(1, targets_N.unsqueeze(1))).squeeze(1)
        ctx.save_for_backward(logits_NV, targets_N, lse_N)
        return (lse_N - chosen_N).mean()

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits_NV, targets_N, lse_N = ctx.saved_tensors  # type: ignore[attr-defined]
        work = _work_space(logits_NV)
        scale = grad / len(targets_N)
        grad_NV = torch.empty_like(logits_NV)
        for first in range(0, len(targets_N), len(work)):
            rows = slice(first, first + len(work))
            share = work[: len(targets_N[rows])].copy_(logits_NV[rows]).sub_(lse_N[rows].unsqueeze(1)).exp_()
            answers = targets_N[rows].unsqueeze(1)
            share.scatter_(1, answers, share.gather(1, answers) - 1)
            grad_NV[rows] = share.mul_(scale)
        return grad_NV, None


def _work_space(logits_NV: Tensor) -> Tensor:
    """(rows, V) in at least FP32: the block that is worked on, used again and again."""
    rows = min(len(logits_NV), max(1, BLOCK_ELEMENTS // logits_NV.shape[1]))
    return torch.empty(
        rows,
        logits_NV.shape[1],
        dtype=torch.promote_types(logits_NV.dtype, torch.float32),
        device=logits_NV.device,
    )
