"""E4M3 codes and their scales, as Triton kernels (V3 3.3.2: 1x128 tiles for activations and gradients, 128x128 blocks
for weights).

scale = max(amax / 448, 2^-126) in FP32, code = nearest E4M3 number to x / scale, ties to even; a value is code * scale.
The lower bound, the smallest normal number, gives code 0 to a block of zeros, where 0 / 0 would be NaN. Inf becomes
NaN, and NaN stays NaN, so that a run which diverges shows it.

Shape letters: M and K (or N and K) are the two sides of a matrix, E experts. A scale tensor has ceil(side / 128)
entries along a side that is tiled; the last tile holds what there is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 128
E4M3 = torch.float8_e4m3fn
_TILE = tl.constexpr(TILE)
_E4M3_MAX = tl.constexpr(448.0)
_SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def _scales_of(amax: tl.tensor, POWER_OF_TWO: tl.constexpr) -> tl.tensor:
    # `/` would be an approximate division, and codes would differ from the CPU's
    scales = tl.maximum(tl.div_rn(amax, tl.full(amax.shape, _E4M3_MAX, tl.float32)), _SMALLEST_NORMAL)
    if POWER_OF_TWO:  # upwards, so that nothing exceeds 448: a mantissa other than 0 carries into the exponent
        scales = ((scales.to(tl.int32, bitcast=True) + 0x7FFFFF) & 0x7F800000).to(tl.float32, bitcast=True)
    return scales


@triton.jit
def _codes_of(x: tl.tensor, scales: tl.tensor) -> tl.tensor:
    # x / scale to the last bit, the sign of 0 included, as `div_rn` gives it, but in 3 operations instead of some 20: a
    # Newton step from the product with the correctly rounded inverse (Markstein 1990, IBM J. Res. Dev. 34). Exact from
    # |x| = 2^-103 up. It exceeds 448 by a rounding error at most, which the cast takes away: nothing need be clamped.
    inverses = tl.div_rn(tl.full(scales.shape, 1.0, tl.float32), scales)
    guesses = x * inverses
    excess = tl.fma(guesses, scales, x * -1.0)  # `-x` is 0 - x, one operation more
    return tl.fma(excess, -inverses, guesses).to(tl.float8e4nv)


@triton.jit
def _tiles_kernel(
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    M: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
    BLOCK_M: tl.constexpr,
) -> None:
    tiles_K = tl.cdiv(K, _TILE)
    tile_k = tl.program_id(0) % tiles_K
    m = (tl.program_id(0) // tiles_K * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    k = tile_k * _TILE + tl.arange(0, _TILE)
    inside = (m < M)[:, None] & (k < K)[None, :]
    at = m[:, None] * K + k[None, :]
    values = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    scales_M = _scales_of(tl.max(tl.abs(values), axis=1), POWER_OF_TWO)
    tl.store(codes + at, _codes_of(values, scales_M[:, None]), mask=inside)
    tl.store(scales + tile_k.to(tl.int64) * M + m, scales_M, mask=m < M)


@triton.jit
def _both_ways_kernel(
    x: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    codes_T: tl.tensor,
    scales_T: tl.tensor,
    M: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
) -> None:
    tiles_K = tl.cdiv(K, _TILE)
    tile_m, tile_k = tl.program_id(0) // tiles_K, tl.program_id(0) % tiles_K
    m = (tile_m * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    k = (tile_k * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    inside = (m < M)[:, None] & (k < K)[None, :]
    values = tl.load(x + m[:, None] * K + k[None, :], mask=inside, other=0.0).to(tl.float32)
    sizes = tl.abs(values)
    scales_M = _scales_of(tl.max(sizes, axis=1), POWER_OF_TWO)
    tl.store(codes + m[:, None] * K + k[None, :], _codes_of(values, scales_M[:, None]), mask=inside)
    tl.store(scales + tile_k.to(tl.int64) * M + m, scales_M, mask=m < M)
    scales_K = _scales_of(tl.max(sizes, axis=0), POWER_OF_TWO)
    tl.store(codes_T + k[None, :] * M + m[:, None], _codes_of(values, scales_K[None, :]), mask=inside)
    tl.store(scales_T + tile_m.to(tl.int64) * K + k, scales_K, mask=k < K)


@triton.jit
def _blocks_kernel(
    w: tl.tensor,
    codes: tl.tensor,
    scales: tl.tensor,
    codes_T: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    POWER_OF_TWO: tl.constexpr,
) -> None:
    blocks_N, blocks_K = tl.cdiv(N, _TILE), tl.cdiv(K, _TILE)
    block = tl.program_id(0)  # the blocks of an expert, row by row, then the next expert's: as the scales lie
    expert = (block // (blocks_N * blocks_K)).to(tl.int64)
    n = (block // blocks_K % blocks_N * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    k = (block % blocks_K * _TILE + tl.arange(0, _TILE)).to(tl.int64)
    inside = (n < N)[:, None] & (k < K)[None, :]
    at = expert * N * K + n[:, None] * K + k[None, :]
    values = tl.load(w + at, mask=inside, other=0.0).to(tl.float32)
    scale = _scales_of(tl.max(tl.max(tl.abs(values), axis=1), axis=0)[None], POWER_OF_TWO)
    block_codes = _codes_of(values, scale[:, None])
    tl.store(codes + at, block_codes, mask=inside)
    tl.store(codes_T + expert * N * K + k[None, :] * N + n[:, None], block_codes, mask=inside)
    tl.store(scales + block + tl.arange(0, 1), scale)


def quantise_tiles(x_MK: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor]:
    """Codes (M, K) and FP32 scales (M, ceil(K / 128)) of 1x128 tiles. x is contiguous, BF16 or FP32.

    The scales lie column by column (strides (1, M)): F.scaled_mm wants them so, and a product's tile reads neighbours.
    """
    _check("x_MK", x_MK, (2,))
    m, k = x_MK.shape
    codes, scales = _codes(x_MK, m, k), _tile_scales(x_MK, m, k)
    if x_MK.numel():
        block = 64
        grid = (triton.cdiv(m, block) * triton.cdiv(k, TILE),)
        _tiles_kernel[grid](x_MK, codes, scales, m, k, POWER_OF_TWO=power_of_two, BLOCK_M=block, num_warps=4)
    return codes, scales


def quantise_both_ways(x_MK: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`quantise_tiles` of x and of its transpose, which is codes (K, M) and scales (K, ceil(M / 128)), reading x once.

    Both are made from x itself: transposing codes and scaling them anew would round twice.
    """
    _check("x_MK", x_MK, (2,))
    m, k = x_MK.shape
    codes, scales = _codes(x_MK, m, k), _tile_scales(x_MK, m, k)
    codes_T, scales_T = _codes(x_MK, k, m), _tile_scales(x_MK, k, m)
    if x_MK.numel():
        grid = (triton.cdiv(m, TILE) * triton.cdiv(k, TILE),)
        _both_ways_kernel[grid](x_MK, codes, scales, codes_T, scales_T, m, k, POWER_OF_TWO=power_of_two, num_warps=4)
    return codes, scales, codes_T, scales_T


def quantise_blocks(w: Tensor, power_of_two: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of w (N, K) or (E, N, K), contiguous, BF16 or FP32, in 128x128 blocks: codes, FP32 scales (..., ceil(N / 128),
    ceil(K / 128)), the same codes transposed (..., K, N), contiguous, and the scales transposed (a view)."""
    _check("w", w, (2, 3))
    *experts, n, k = w.shape
    codes, codes_T = _codes(w, *experts, n, k), _codes(w, *experts, k, n)
    scales = w.new_empty(*experts, triton.cdiv(n, TILE), triton.cdiv(k, TILE), dtype=torch.float32)
    if w.numel():
        grid = (scales.numel(),)
        _blocks_kernel[grid](w, codes, scales, codes_T, n, k, POWER_OF_TWO=power_of_two, num_warps=8)
    return codes, scales, codes_T, scales.mT


def _codes(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=E4M3)


def _tile_scales(like: Tensor, rows: int, columns: int) -> Tensor:
    return like.new_empty(triton.cdiv(columns, TILE), rows, dtype=torch.float32).t()


def _check(name: str, x: Tensor, dims: tuple[int, ...]) -> None:
    if x.dim() not in dims:
        raise ValueError(f"{name} has shape {tuple(x.shape)}: must have {' or '.join(map(str, dims))} dimensions")
    if x.dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"{name} is {x.dtype}: must be torch.bfloat16 or torch.float32")
    if not x.is_contiguous():
        raise ValueError(f"{name} has strides {x.stride()}: must be contiguous")
