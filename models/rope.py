"""Rotary position embedding (2104.09864) on interleaved pairs, as DeepSeek's code does, and its stretching: YaRN."""

import math

import torch
from torch import Tensor

from models.config import RopeConfig


def rope_angles(
    positions: Tensor, dim: int, rope: RopeConfig, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """cos and sin (..., dim / 2) of integer `positions` (...), computed in FP64: position t rotates pair i by t f_i."""
    angles = positions.double().unsqueeze(-1) * frequencies(dim, rope, positions.device)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def frequencies(dim: int, rope: RopeConfig, device: torch.device | None = None) -> Tensor:
    """f_i = theta^(-2i / dim) in radians per token, FP64 (dim / 2), stretched as `rope.scaling` says.

    YaRN (2309.00071, 3.2): a pair that turns more than beta_fast times within the trained length keeps f_i, one that
    turns less than beta_slow times gets f_i / s, and between them runs a linear ramp over i.
    """
    plain = rope.theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    if rope.scaling == "none":
        return plain
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "yarn":

        def pair_that_turns(times: float) -> float:
            """The i, a real number, at which original_length * f_i = 2 pi * times."""
            return dim * math.log(rope.original_length / (times * 2 * math.pi)) / (2 * math.log(rope.theta))

        low = max(math.floor(pair_that_turns(rope.beta_fast)), 0)
        high = min(math.ceil(pair_that_turns(rope.beta_slow)), dim - 1)
        pairs = torch.arange(dim // 2, dtype=torch.float64, device=device)
        slow = ((pairs - low) / max(high - low, 1e-3)).clamp(0, 1)
        return plain / rope.factor * slow + plain * (1 - slow)
    raise ValueError(f"unknown scaling {rope.scaling}")


def softmax_temperature(rope: RopeConfig) -> float:
    """What the softmax scale is multiplied by: t = (0.1 mscale ln s + 1)^2 for YaRN (V3 4.3), 1 otherwise.

    The paper puts sqrt(t) on the decoupled key alone; DeepSeek's code, followed here, on the whole product.
    """
    if rope.scaling != "yarn":
        return 1.0
    return (0.1 * rope.mscale * math.log(rope.factor) + 1.0) ** 2


def rotate(x_BTHd: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x_2i, x_2i+1), in x's type, by angles (T, d / 2) or (B, T, d / 2); the result holds all first
    halves, then all second ones.

    Queries and keys come out in the same order, so their products are those of the interleaved layout.
    """
    even, odd = x_BTHd[..., 0::2], x_BTHd[..., 1::2]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
