"""Rotary position embedding (2104.09864) on interleaved pairs, as DeepSeek's code does, and its stretchings."""

import math

import torch
from torch import Tensor

from models.config import RopeConfig


def rope_turns(positions: Tensor, dim: int, rope: RopeConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """exp(i t f_i), complex (..., dim / 2), of integer `positions` t (...); computed in FP64, kept in at least FP32."""
    angles = positions.double().unsqueeze(-1) * frequencies(dim, rope, positions.device)
    turns = torch.polar(torch.ones_like(angles), angles)
    return turns if dtype == torch.float64 else turns.to(torch.complex64)


def frequencies(dim: int, rope: RopeConfig, device: torch.device | None = None) -> Tensor:
    """f_i = theta^(-2i / dim) in radians per token, FP64 (dim / 2), stretched as `rope.scaling` says.

    NTK-aware (2309.00071, 3.1): theta times s^(dim / (dim - 2)), which divides the slowest pair by s, keeps the fastest
    and spreads what is between. YaRN (3.2): a pair that turns more than beta_fast times within the trained length keeps
    f_i, one that turns less than beta_slow times gets f_i / s, and between them runs a linear ramp over i.
    """
    plain = rope.theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    if rope.scaling == "none":
        return plain
    if rope.scaling == "linear":
        return plain / rope.factor
    if rope.scaling == "ntk":
        theta = rope.theta * rope.factor ** (dim / (dim - 2))
        return theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
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


def rotate(x_BTHd: Tensor, turns: Tensor) -> Tensor:
    """Turn the pairs (x_2i, x_2i+1), as complex numbers, by `turns` (T, d / 2) or (B, T, d / 2); in at least FP32,
    returned in x's type."""
    wide = torch.promote_types(x_BTHd.dtype, torch.float32)
    # Always copied: a complex view needs even strides and an even offset, which a slice after an odd width has not.
    x = x_BTHd.to(wide, copy=True, memory_format=torch.contiguous_format)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns.unsqueeze(-2)).flatten(-2).to(x_BTHd.dtype)
