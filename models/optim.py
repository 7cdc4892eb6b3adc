"""AdamW and the learning-rate schedules."""

import math

import torch
from torch import nn

from models.config import OptimConfig


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


def adamw(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; matrices decay, norms' gains do not."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    kept = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
