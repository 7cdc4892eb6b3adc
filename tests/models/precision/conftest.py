"""Quantisation written plainly: one piece after the other, with torch's own cast."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.float8_e5m2: 57344.0}


def _quantised(x: Tensor, size: tuple[int, int], dtype=torch.float8_e4m3fn, power_of_two=False):
    """(codes, scales) of a matrix; `size` = (rows, columns) of a piece."""
    x = x.float()
    (r, c), (rows, columns) = size, x.shape
    codes = torch.empty(x.shape, dtype=dtype)
    scales = torch.empty(-(-rows // r), -(-columns // c))
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            piece = x[i * r : (i + 1) * r, j * c : (j + 1) * c]
            scale = torch.maximum(piece.abs().max() / LARGEST[dtype], torch.tensor(2.0**-126))
            if power_of_two:
                scale = torch.exp2(torch.ceil(torch.log2(scale.double()))).float()
            scales[i, j] = scale
            codes[i * r : (i + 1) * r, j * c : (j + 1) * c] = (piece / scale).to(dtype)
    return codes, scales


def _values(x: Tensor, size: tuple[int, int], dtype=torch.float8_e4m3fn, power_of_two=False) -> Tensor:
    """codes * scales, in FP32 and then in the type of `x`."""
    codes, scales = _quantised(x, size, dtype, power_of_two)
    rows, columns = x.shape
    spread = scales.repeat_interleave(size[0], 0)[:rows].repeat_interleave(size[1], 1)[:, :columns]
    return (codes.float() * spread).to(x.dtype)


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    return SimpleNamespace(quantised=_quantised, values=_values)
