"""Rotary position embedding (2104.09864), on interleaved pairs as DeepSeek's code does."""

import torch
from torch import Tensor


def rope_angles(
    length: int, dim: int, theta: float, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """cos and sin (T, dim / 2), computed in FP64: position t rotates pair i by t * theta^(-2i / dim)."""
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64, device=device), frequencies)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x_BTHd: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> Tensor:
    """Rotate the pairs (x_2i, x_2i+1), in x's type; the result holds all first halves, then all second ones.

    Queries and keys come out in the same order, so their products are those of the interleaved layout.
    """
    even, odd = x_BTHd[..., 0::2], x_BTHd[..., 1::2]
    cos, sin = cos_Td[:, None, :], sin_Td[:, None, :]
    return torch.cat((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
