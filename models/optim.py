"""AdamW and the learning-rate schedules."""

import math

import torch
from torch import nn

from models.config import OptimConfig


def lr_ratio(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of step `step` (from 0) over the peak."""
    warmup = round(config.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "constant":
        return 1.0
    floor = config.final_lr_ratio
    if config.schedule == "cosine":
        progress = (step - warmup) / max(1, total_steps - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    if config.schedule == "wsd":
        decay = max(1, round(config.decay_fraction * total_steps))
        progress = (step - (total_steps - decay)) / decay
        return 1.0 if progress <= 0 else 1.0 - (1 - floor) * min(1.0, progress)
    raise ValueError(f"unknown schedule {config.schedule}")


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; matrices decay, norms' gains do not."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
