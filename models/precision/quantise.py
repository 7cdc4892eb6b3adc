"""Rounding a matrix to codes with scales: value = code * scale, scale = largest magnitude / largest code (V3 3.3.2).

A matrix is (R, C), or a stack (E, R, C) of them. A piece of `size` (rows, columns) shares one scale; pieces at the
edges are smaller.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.precision.config import Role
from models.precision.formats import Format

Granularity = Literal["tile", "block", "row", "tensor"]
BAND_ELEMENTS = 1 << 17
"""Elements worked on at once on a CPU: half a megabyte of FP32, which a core's cache holds."""
SMALLEST_SCALE = 2.0**-126
"""The scale of a piece of zeros, whose codes are then 0 and not 0 / 0."""


@dataclass(frozen=True)
class Rounding:
    """What the operands of one role are rounded to."""

    format: Format
    granularity: Granularity
    block: int
    power_of_two: bool = False
    """Scales are rounded up to a power of two."""
    role: Role = "activation"
    """For what is counted by role; it changes nothing."""

    def size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """(rows, columns) that share a scale in a matrix of this shape whose products sum over its columns."""
        rows, columns = shape[-2:]
        sizes = {"tile": (1, self.block), "block": (self.block, self.block), "row": (1, columns)}
        r, c = sizes.get(self.granularity, (rows, columns))
        return max(1, min(r, rows)), max(1, min(c, columns))


@dataclass(frozen=True)
class Codes:
    """A quantised matrix: `codes` (..., R, C) in the format's type, `scales` in FP32, one per piece."""

    codes: Tensor
    scales: Tensor
    """(..., ceil(R / r), ceil(C / c))."""
    size: tuple[int, int]

    def values(self, dtype: torch.dtype) -> Tensor:
        """codes * scales."""
        codes = _pieces(self.codes, self.size)
        scales = self.scales.reshape(codes.shape[0], 1, codes.shape[2], 1)
        out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        for band in _bands(codes):
            out[band] = _widened(codes[band]).mul_(scales[band[0]])
        return _whole(out, self.codes.shape, self.size)

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes


def quantise(x: Tensor, rounding: Rounding, size: tuple[int, int] | None = None) -> Codes:
    """Codes and scales of `x` (..., R, C), in FP32 arithmetic. `size` where it is not `rounding`'s own."""
    return quantised(x, rounding, size, values=False)[1]


def rounded(
    x: Tensor, rounding: Rounding, size: tuple[int, int] | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    """codes * scales of `x`, in its type or `dtype`, without keeping either."""
    return quantised(x, rounding, size, dtype, codes=False)[0]


def quantised(
    x: Tensor,
    rounding: Rounding,
    size: tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
    *,
    values: bool = True,
    codes: bool = True,
) -> tuple[Tensor, Codes]:
    """(codes * scales in the type of `x` or `dtype`, codes and scales) in one pass; what is not asked for is empty.

    NaN stays NaN, and an infinity makes its whole piece NaN, so that a training that leaves the finite range shows it.
    In BF16, codes * scales are rounded once more (by at most 2^-9, a 32nd of E4M3's own rounding) unless scales are
    powers of two.
    """
    size = size or rounding.size(x.shape)
    pieces = _pieces(x, size)
    found = torch.empty(pieces.shape if values else (0,), dtype=dtype or x.dtype, device=x.device)
    kept = torch.empty(pieces.shape if codes else (0,), dtype=rounding.format.dtype, device=x.device)
    scales = torch.zeros((pieces.shape[0], 1, pieces.shape[2], 1), dtype=torch.float32, device=x.device)
    in_one = _rows_at_once(pieces) == pieces.shape[1]
    if not in_one:
        for band in _bands(pieces):
            torch.maximum(scales[band[0]], _largest(pieces[band].float().abs()), out=scales[band[0]])
        _largest_to_scale_(scales, rounding)
    wide = spare = torch.empty(0, device=x.device)  # used again by every band, so that they stay in the cache
    for band in _bands(pieces):
        part, scale = pieces[band], scales[band[0]]
        if wide.shape != part.shape:
            wide, spare = torch.empty(part.shape, device=x.device), torch.empty(part.shape, device=x.device)
        wide.copy_(part)
        if in_one:
            scale.copy_(_largest(torch.abs(wide, out=spare)))
            _largest_to_scale_(scale, rounding)
        code = rounding.format.round_(wide.div_(scale), spare)
        if codes:
            kept[band] = torch.copysign(code, part, out=spare)  # a small negative number has the code of -0
        if values:
            found[band] = code.mul_(scale)
    shape = (*x.shape[:-2], -1, pieces.shape[2])
    whole = _whole(kept, x.shape, size) if codes else kept
    return _whole(found, x.shape, size) if values else found, Codes(whole, scales.view(shape), size)


def _largest_to_scale_(largest: Tensor, rounding: Rounding) -> None:
    largest.div_(rounding.format.largest).clamp_min_(SMALLEST_SCALE)
    if rounding.power_of_two:
        round_up_to_power_of_two_(largest)


def _largest(magnitudes: Tensor) -> Tensor:
    """Of each piece, (P, 1, Q, 1)."""
    p, r, q, c = magnitudes.shape
    if r == 1 and c < 64 and magnitudes.device.type == "cpu":  # three times faster than a short reduction
        return F.max_pool1d(magnitudes.view(1, p, q * c), c, c).view(p, 1, q, 1)
    return magnitudes.amax(dim=(1, 3), keepdim=True)


def round_up_to_power_of_two_(positive: Tensor) -> Tensor:
    """FP32, normal numbers: the mantissa's carry does it."""
    bits = positive.view(torch.int32)
    bits.add_(0x7FFFFF).bitwise_and_(0x7F800000)
    return positive


def _pieces(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, r, Q, c): P rows of pieces (over all matrices of a stack), Q pieces in each. Pads the edges with zeros."""
    (r, c), (rows, columns) = size, x.shape[-2:]
    more_rows, more_columns = -rows % r, -columns % c
    if more_rows or more_columns:
        bits = x.view(torch.uint8) if x.dtype.itemsize == 1 else x  # padding knows no FP8
        x = F.pad(bits, (0, more_columns, 0, more_rows)).view(x.dtype)
    return x.reshape(-1, r, (columns + more_columns) // c, c)


def _whole(pieces: Tensor, shape: torch.Size, size: tuple[int, int]) -> Tensor:
    """The inverse of `_pieces`."""
    (r, c), (rows, columns) = size, shape[-2:]
    padded = pieces.view(*shape[:-2], -(-rows // r) * r, -(-columns // c) * c)
    return padded[..., :rows, :columns].contiguous() if padded.shape != shape else padded


def _bands(pieces: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices along the first two dimensions, of about BAND_ELEMENTS elements; all at once on a GPU."""
    p, r, q, c = pieces.shape
    rows, many = _rows_at_once(pieces), max(1, _limit(pieces) // max(1, r * q * c))
    for first in range(0, p, many):
        for top in range(0, r, rows):
            yield slice(first, first + many), slice(top, top + rows)


def _rows_at_once(pieces: Tensor) -> int:
    """Rows of a piece in one band."""
    _, r, q, c = pieces.shape
    return max(1, min(r, _limit(pieces) // max(1, q * c)))


def _limit(pieces: Tensor) -> int:
    return BAND_ELEMENTS if pieces.device.type == "cpu" else max(1, pieces.numel())


_TABLES: dict[torch.dtype, Tensor] = {}


def _widened(codes: Tensor) -> Tensor:
    """FP32 copy. A table is five times faster than the CPU's cast of FP8."""
    if codes.dtype.itemsize > 1 or codes.device.type != "cpu":
        return codes.float()
    if codes.dtype not in _TABLES:
        _TABLES[codes.dtype] = torch.arange(256, dtype=torch.uint8).view(codes.dtype).float()
    index = codes.reshape(-1).view(torch.uint8).int()
    return _TABLES[codes.dtype].index_select(0, index).view(codes.shape)
