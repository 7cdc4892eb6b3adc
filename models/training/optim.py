"""AdamW and the learning-rate schedules."""

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.training.config import OptimConfig


def lr_ratio(step: float, total_steps: float, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) over the peak.

    Steps are counted in tokens, in units of the full batch, so that a batch-size ramp leaves the schedule where it is:
    during a ramp `step` is not whole.
    """
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    if config.schedule == "constant":
        return 1.0
    floor = config.final_lr_ratio
    if config.schedule == "cosine":
        return _cosine((step - warmup) / max(1, total_steps - warmup), floor)
    if config.schedule == "wsd":
        decay = max(1, round(config.decay_fraction * total_steps))
        progress = (step - (total_steps - decay)) / decay
        return 1.0 if progress <= 0 else 1.0 - (1 - floor) * min(1.0, progress)
    if config.schedule == "v3":
        done = step / total_steps
        if done >= config.tail_from:
            return config.tail_lr_ratio
        falling = config.cosine_until - config.cosine_from
        return 1.0 if done < config.cosine_from else _cosine((done - config.cosine_from) / falling, floor)
    raise ValueError(f"unknown schedule {config.schedule}")


def _cosine(progress: float, floor: float) -> float:
    """From 1 at 0 to `floor` at 1 and after."""
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def in_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Matrices, which decay, and the rest, which does not."""
    parameters = list(model.parameters())
    return [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]


def adamw(model: nn.Module, config: OptimConfig, moments: Literal["fp32", "bf16"] = "fp32") -> torch.optim.Optimizer:
    """AdamW over all parameters; matrices decay, norms' gains do not."""
    decayed, kept = in_groups(model)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    if moments == "bf16":
        return AdamWInBF16(groups, lr=config.lr, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


class AdamWInBF16(torch.optim.Optimizer):
    """AdamW that keeps its two moments in BF16 (V3 3.3.3) and computes in the parameters' type."""

    def __init__(
        self, params: list[dict[str, Any]], lr: float, betas: tuple[float, float], eps: float, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = state["exp_avg_sq"] = torch.zeros_like(p, dtype=torch.bfloat16)
        state["step"] += 1
        first = state["exp_avg"].to(p.dtype).lerp_(grad, 1 - beta1)
        second = state["exp_avg_sq"].to(p.dtype).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        step = float(state["step"])
        root = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"]).addcdiv_(first, root, value=-group["lr"] / (1 - beta1**step))
        # New tensors, because a resumed optimizer gets its state back in the parameters' type.
        state["exp_avg"], state["exp_avg_sq"] = first.bfloat16(), second.bfloat16()
