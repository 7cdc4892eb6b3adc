"""The keys of `optim`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.base.bounds import Epsilon, Momentum, NotNegative, Share
from models.base.typed import Above, AtLeast, AtMost, Below


@dataclass(frozen=True)
class OptimConfig:
    """AdamW as V3 4.2 sets it, warmup, then a schedule. Schedules end at the last token, whatever their length."""

    lr: Annotated[float, AtLeast(1e-12), AtMost(1e38)] = 5e-3
    """Peak learning rate. Below the one limit no FP32 weight moves; the other is what one can still hold."""
    schedule: Literal["cosine", "wsd", "constant", "v3"] = "cosine"
    """After the warmup: `cosine` to final_lr_ratio; `wsd` stays and decays linearly over the last decay_fraction; `v3`
    (V3 4.2) stays until `cosine_from`, falls by a cosine to final_lr_ratio at `cosine_until`, stays there, and ends at
    `tail_lr_ratio` from `tail_from` on."""
    warmup_fraction: Annotated[float, AtLeast(0), Below(1)] = 0.1
    final_lr_ratio: Share = 0.1
    decay_fraction: Annotated[float, Above(0), AtMost(1)] = 0.2
    cosine_from: Share = 0.676
    """10T of V3's 14.8T tokens."""
    cosine_until: Share = 0.966
    """14.3T."""
    tail_from: Share = 0.9887
    """The last 167B tokens ..."""
    tail_lr_ratio: Share = 0.0332
    """... at 7.3e-6, of a peak of 2.2e-4."""
    beta1: Momentum = 0.9
    beta2: Momentum = 0.95
    eps: Epsilon = 1e-8
    weight_decay: NotNegative = 0.1
    clip_norm: Annotated[float, AtLeast(1e-4), AtMost(1e9)] = 1.0
    """Norm that gradients are scaled down to. Below the limit, `eps` outweighs what is left of them."""
