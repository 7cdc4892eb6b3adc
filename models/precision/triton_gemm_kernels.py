"""The kernels of FP8 products with block scales, for Hopper (V3 3.3.2); `triton_gemm` launches them.

Both operands lie with the contracted side last, as the tensor core wants FP8.

Hopper's tensor core adds FP8 products into a register of some 14 bits. These kernels start it afresh every 128 products
and add what it gives, times the scales, to FP32 registers: V3's promotion with N_C = 128 comes with the scaling.

Shape letters: M, N the sides of a product, K the contracted one, E experts, R rows that are grouped by expert.
"""

import triton
import triton.language as tl

from models.precision.triton_quantise import TILE

_TILE = tl.constexpr(TILE)


CONFIGS = [
    triton.Config({"BLOCK_M": m, "HALVES": halves, "BLOCK_N": n, "GROUP_M": 8}, num_warps=warps, num_stages=stages)
    for m, halves, n, warps, stages in [
        (64, 2, 128, 4, 3),
        (128, 1, 128, 8, 3),
        (128, 1, 128, 8, 4),
        (128, 2, 128, 8, 3),
        (64, 2, 128, 8, 3),
        (64, 1, 128, 4, 3),
        (64, 1, 128, 4, 4),
        (64, 1, 64, 4, 4),
    ]
]
"""A program makes `HALVES` tiles of BLOCK_M x BLOCK_N, one below the other, which share what they read of B.

Large programs read less from the L2 cache per product, up to what registers hold: besides its FP32 sums a tile needs as
many registers for 128 products. With 4 warps two programs share a multiprocessor, so that one's promotion can overlap
the other's products.
"""
_TRIED = CONFIGS[:1] if triton.knobs.runtime.interpret else CONFIGS  # an interpreter's times say nothing


@triton.jit
def _swizzled(tiles_M: tl.tensor, tiles_N: tl.tensor, GROUP_M: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """(m, n) of this program's tile: GROUP_M rows of tiles at a time, so that programs which run together read the same
    parts of A and B."""
    program = tl.program_id(0)
    first = program // (GROUP_M * tiles_N) * GROUP_M
    height = tl.minimum(tiles_M - first, GROUP_M)
    within = program % (GROUP_M * tiles_N)
    return first + within % height, within // height


@triton.jit
def _tile_product(
    a: tl.tensor,
    a_scales: tl.tensor,
    a_scales_m: tl.tensor,
    a_scales_k: tl.tensor,
    b: tl.tensor,
    b_scales: tl.tensor,
    b_scales_n: tl.tensor,
    b_scales_k: tl.tensor,
    out: tl.tensor,
    m: tl.tensor,
    M: tl.tensor,
    n: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    row: tl.tensor,
    B_BLOCKS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Rows m to min(m + HALVES * BLOCK_M, M) by columns n to min(n + BLOCK_N, N) of A B^T over K products, stored.

    Rows of A and of B are `row` codes apart. Rows beyond M or N repeat the last one and are not stored, so that only a
    K which 128 does not divide needs masks in the loop.
    """
    k = tl.arange(0, _TILE)
    upper_M = tl.minimum(tl.arange(0, BLOCK_M), M - 1 - m)
    lower_M = tl.minimum(tl.arange(0, BLOCK_M) + BLOCK_M, M - 1 - m)
    seen_N = tl.minimum(tl.arange(0, BLOCK_N), N - 1 - n)
    a += m.to(tl.int64) * row
    b += n.to(tl.int64) * row
    a_scales += m.to(tl.int64) * a_scales_m
    if B_BLOCKS:
        # One scale, but loaded for each row: a scalar has been seen to race in pipelined loops.
        b_scales += n // _TILE * b_scales_n
        b_scales_at = tl.zeros([BLOCK_M], tl.int32)
    else:
        b_scales += n.to(tl.int64) * b_scales_n
        b_scales_at = seen_N * b_scales_n
    upper = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    lower = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(tl.cdiv(K, _TILE)):
        inside = k < K - block * _TILE
        b_codes = _codes_at(b + seen_N[None, :] * row + k[:, None], inside[:, None], EVEN_K)
        b_scale = tl.load(b_scales + b_scales_at)
        codes = _codes_at(a + upper_M[:, None] * row + k[None, :], inside[None, :], EVEN_K)
        scale = tl.load(a_scales + upper_M * a_scales_m)
        upper += _scaled(tl.dot(codes, b_codes), scale, b_scale, B_BLOCKS)
        if HALVES == 2:
            codes = _codes_at(a + lower_M[:, None] * row + k[None, :], inside[None, :], EVEN_K)
            scale = tl.load(a_scales + lower_M * a_scales_m)
            lower += _scaled(tl.dot(codes, b_codes), scale, b_scale, B_BLOCKS)
        a += _TILE
        b += _TILE
        a_scales += a_scales_k
        b_scales += b_scales_k
    _store(out, upper, m, M, n, N)
    if HALVES == 2:
        _store(out, lower, m + BLOCK_M, M, n, N)


@triton.jit
def _codes_at(pointers: tl.tensor, inside: tl.tensor, EVEN_K: tl.constexpr) -> tl.tensor:
    return tl.load(pointers) if EVEN_K else tl.load(pointers, mask=inside, other=0.0)


@triton.jit
def _scaled(part: tl.tensor, a_scale: tl.tensor, b_scale: tl.tensor, B_BLOCKS: tl.constexpr) -> tl.tensor:
    return part * (a_scale * b_scale)[:, None] if B_BLOCKS else part * a_scale[:, None] * b_scale[None, :]


@triton.jit
def _store(out: tl.tensor, tile: tl.tensor, m: tl.tensor, M: tl.tensor, n: tl.tensor, N: tl.tensor) -> None:
    rows, columns = m + tl.arange(0, tile.shape[0]), n + tl.arange(0, tile.shape[1])
    at = rows.to(tl.int64)[:, None] * N + columns[None, :]
    tl.store(out + at, tile.to(out.dtype.element_ty), mask=(rows < M)[:, None] & (columns < N)[None, :])


@triton.autotune(configs=_TRIED, key=["M", "N", "K", "B_BLOCKS"])
@triton.jit
def gemm_kernel(
    a: tl.tensor,
    a_scales: tl.tensor,
    a_scales_m: tl.tensor,
    a_scales_k: tl.tensor,
    b: tl.tensor,
    b_scales: tl.tensor,
    b_scales_n: tl.tensor,
    b_scales_k: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    B_BLOCKS: tl.constexpr,
    EVEN_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Grid: (tiles of out,)."""
    tile_m, tile_n = _swizzled(tl.cdiv(M, HALVES * BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    m, n = tile_m * HALVES * BLOCK_M, tile_n * BLOCK_N
    _tile_product(
        *(a, a_scales, a_scales_m, a_scales_k, b, b_scales, b_scales_n, b_scales_k, out, m, M, n, N, K, K),
        *(B_BLOCKS, EVEN_K, BLOCK_M, HALVES, BLOCK_N),
    )


@triton.autotune(configs=_TRIED, key=["rows_about", "E", "N", "K"])
@triton.jit
def grouped_kernel(
    a: tl.tensor,
    a_scales: tl.tensor,
    a_scales_m: tl.tensor,
    a_scales_k: tl.tensor,
    b: tl.tensor,
    b_scales: tl.tensor,
    b_scales_e: tl.tensor,
    b_scales_n: tl.tensor,
    b_scales_k: tl.tensor,
    offsets: tl.tensor,
    out: tl.tensor,
    rows_about: tl.tensor,
    E: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    EVEN_K: tl.constexpr,
    E_CEILING: tl.constexpr,
    BLOCK_M: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Grid: ((R // ROWS + E) slots of ROWS rows, by tiles along N,), where slots that no expert fills end at once.
    `rows_about` is R rounded, so that not every number of rows is tuned anew."""
    tiles_N = tl.cdiv(N, BLOCK_N)
    slot, tile_n = _swizzled(tl.num_programs(0) // tiles_N, tiles_N, GROUP_M)
    # Expert e owns the slots from start // ROWS + e to end // ROWS + e. Those are never fewer than its tiles, and no
    # sum over the experts before it is needed.
    ROWS: tl.constexpr = HALVES * BLOCK_M
    e = tl.arange(0, E_CEILING)
    ends = tl.load(offsets + e, mask=e < E, other=0)
    expert = tl.sum(((e < E) & (ends // ROWS + e < slot)).to(tl.int32), axis=0)
    if expert >= E:
        return
    start = tl.load(offsets + expert - 1, mask=expert > 0, other=0)
    end = tl.load(offsets + expert)
    m, n = start + (slot - start // ROWS - expert) * ROWS, tile_n * BLOCK_N
    if m >= end:
        return
    b += expert.to(tl.int64) * N * K
    b_scales += expert.to(tl.int64) * b_scales_e
    _tile_product(
        *(a, a_scales, a_scales_m, a_scales_k, b, b_scales, b_scales_n, b_scales_k, out, m, end, n, N, K, K),
        *(True, EVEN_K, BLOCK_M, HALVES, BLOCK_N),
    )


@triton.autotune(configs=_TRIED, key=["rows_about", "E", "M", "N"])
@triton.jit
def grouped_wgrad_kernel(
    a: tl.tensor,
    a_scales: tl.tensor,
    a_scales_m: tl.tensor,
    a_scales_r: tl.tensor,
    b: tl.tensor,
    b_scales: tl.tensor,
    b_scales_n: tl.tensor,
    b_scales_r: tl.tensor,
    offsets: tl.tensor,
    out: tl.tensor,
    rows_about: tl.tensor,
    E: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    R: tl.tensor,
    BLOCK_M: tl.constexpr,
    HALVES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Grid: (tiles of an expert's out, E)."""
    expert = tl.program_id(1)
    tile_m, tile_n = _swizzled(tl.cdiv(M, HALVES * BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    m, n = tile_m * HALVES * BLOCK_M, tile_n * BLOCK_N
    start = tl.multiple_of(tl.load(offsets + expert - 1, mask=expert > 0, other=0), _TILE)
    rows = tl.load(offsets + expert) - start
    a_scales += start // _TILE * a_scales_r
    b_scales += start // _TILE * b_scales_r
    out += expert.to(tl.int64) * M * N
    a += start
    b += start
    _tile_product(
        *(a, a_scales, a_scales_m, a_scales_r, b, b_scales, b_scales_n, b_scales_r, out, m, M, n, N, rows, R),
        *(False, True, BLOCK_M, HALVES, BLOCK_N),
    )


@triton.jit
def tensor_scaled_kernel(
    a: tl.tensor,
    b: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    every: tl.tensor,
    IMPRECISE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    GROUP_M: tl.constexpr,
) -> None:
    """Grid: (tiles of out,). `every`: products between two promotions; IMPRECISE: Triton promotes within a dot."""
    tile_m, tile_n = _swizzled(tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N), GROUP_M)
    m, n, k = tile_m * BLOCK_M, tile_n * BLOCK_N, tl.arange(0, _TILE)
    a += tl.minimum(m + tl.arange(0, BLOCK_M), M - 1).to(tl.int64)[:, None] * K + k[None, :]
    b += tl.minimum(n + tl.arange(0, BLOCK_N), N - 1).to(tl.int64)[None, :] * K + k[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, K, every):
        part = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for at in range(start, tl.minimum(start + every, K), _TILE):
            inside = k < K - at
            codes, b_codes = _codes_at(a + at, inside[None, :], False), _codes_at(b + at, inside[:, None], False)
            part = tl.dot(codes, b_codes, part, max_num_imprecise_acc=IMPRECISE)
        total += part
    _store(out, total * tl.load(scale), m, M, n, N)
