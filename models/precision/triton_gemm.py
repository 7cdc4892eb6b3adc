"""FP8 products with block scales, as Triton kernels for Hopper (V3 3.3.2).

Both operands lie with the contracted side last. With the codes and scales that `triton_quantise` makes, a linear layer
y = x W^T takes three products:

    forward  y  = gemm(x,    W),    1x128 tiles by 128x128 blocks
    dgrad    dx = gemm(dy,   W^T),  1x128 tiles by 128x128 blocks
    wgrad    dW = gemm(dy^T, x^T),  1x128 tiles by 1x128 tiles

This module checks what it is given, allocates and launches; how a product is computed is in `triton_gemm_kernels`.

Shape letters: M, N the sides of a product, K the contracted one, E experts, R rows that are grouped by expert.
"""

import torch
import triton
from torch import Tensor

from models.precision.triton_gemm_kernels import gemm_kernel, grouped_kernel, grouped_wgrad_kernel, tensor_scaled_kernel
from models.precision.triton_quantise import E4M3, TILE


def gemm(
    a_MK: Tensor, a_scales: Tensor, b_NK: Tensor, b_scales: Tensor, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """A B^T (M, N). A's scales are (M, ceil(K / 128)); B's either likewise (N, ceil(K / 128)) or, of 128x128 blocks,
    (ceil(N / 128), ceil(K / 128)), told apart by their shape. Codes are contiguous; scales may have any strides."""
    m, k = _sides("a_MK", a_MK, 2)
    n, _ = _sides("b_NK", b_NK, 2, k)
    tiles = triton.cdiv(k, TILE)
    blocks = tuple(b_scales.shape) != (n, tiles)
    _check_scales("a_scales", a_scales, m, tiles)
    _check_scales("b_scales", b_scales, triton.cdiv(n, TILE) if blocks else n, tiles)
    out = _out(a_MK, out_dtype, m, n)
    if out.numel():
        gemm_kernel[lambda meta: (_tiles(m, n, meta),)](
            *(a_MK, a_scales, *a_scales.stride(), b_NK, b_scales, *b_scales.stride(), out, m, n, k),
            B_BLOCKS=blocks,
            EVEN_K=k % TILE == 0,
        )
    return out


def grouped_gemm(
    a_RK: Tensor,
    a_scales: Tensor,
    b_ENK: Tensor,
    b_scales: Tensor,
    offsets_E: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """Each row of A times its expert's B^T, (R, N). Expert e has the rows from offsets_E[e - 1] (0 for the first) up to
    offsets_E[e], any number; rows from the last offset on are left as they were allocated.

    A's scales are (R, ceil(K / 128)), B's (E, ceil(N / 128), ceil(K / 128)). The host never learns the offsets.
    """
    r, k = _sides("a_RK", a_RK, 2)
    e, n, _ = _sides("b_ENK", b_ENK, 3, k)
    _check_scales("a_scales", a_scales, r, triton.cdiv(k, TILE))
    _check_scales("b_scales", b_scales, e, triton.cdiv(n, TILE), triton.cdiv(k, TILE))
    _check_offsets(offsets_E, e)
    out = _out(a_RK, out_dtype, r, n)
    if out.numel():

        def grid(meta: dict[str, int]) -> tuple[int]:
            slots = r // (meta["HALVES"] * meta["BLOCK_M"]) + e
            return (slots * triton.cdiv(n, meta["BLOCK_N"]),)

        grouped_kernel[grid](
            *(a_RK, a_scales, *a_scales.stride(), b_ENK, b_scales, *b_scales.stride()),
            *(offsets_E, out, triton.next_power_of_2(r), e, n, k),
            EVEN_K=k % TILE == 0,
            E_CEILING=triton.next_power_of_2(e),
        )
    return out


def grouped_wgrad(
    a_MR: Tensor,
    a_scales: Tensor,
    b_NR: Tensor,
    b_scales: Tensor,
    offsets_E: Tensor,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """A B^T over each expert's rows, (E, M, N), zeros where it has none. Scales are (M, R / 128) and (N, R / 128).

    Every offset must be a multiple of 128, so that no tile holds rows of two experts. That is not checked, as the
    offsets stay on the device.
    """
    m, r = _sides("a_MR", a_MR, 2)
    n, _ = _sides("b_NR", b_NR, 2, r)
    if r % TILE:
        raise ValueError(f"a_MR has {r} columns: must be a multiple of {TILE}, as every expert's number of rows")
    _check_scales("a_scales", a_scales, m, r // TILE)
    _check_scales("b_scales", b_scales, n, r // TILE)
    e = offsets_E.numel()
    _check_offsets(offsets_E, e)
    out = _out(a_MR, out_dtype, e, m, n)
    if out.numel():
        grouped_wgrad_kernel[lambda meta: (_tiles(m, n, meta), e)](
            *(a_MR, a_scales, *a_scales.stride(), b_NR, b_scales, *b_scales.stride()),
            *(offsets_E, out, triton.next_power_of_2(r), e, m, n, r),
        )
    return out


def gemm_tensor_scaled(
    a_MK: Tensor,
    b_NK: Tensor,
    scale: Tensor,
    promote_every: int | None = TILE,
    out_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A B^T (M, N) times one `scale` (FP32, one element). The tensor core's sums move to FP32 registers after every
    `promote_every` products: 32, 64, or a multiple of 128; None leaves all K of them to its own accumulator."""
    m, k = _sides("a_MK", a_MK, 2)
    n, _ = _sides("b_NK", b_NK, 2, k)
    if promote_every is not None and promote_every not in (32, 64) and (promote_every < TILE or promote_every % TILE):
        raise ValueError(f"promote_every is {promote_every}: must be 32, 64, a multiple of {TILE}, or None")
    if scale.dtype != torch.float32 or scale.numel() != 1:
        raise ValueError(f"scale is {scale.dtype} {tuple(scale.shape)}: must be one torch.float32")
    out = _out(a_MK, out_dtype, m, n)
    if out.numel():
        every = k if promote_every is None else max(promote_every, TILE)
        within = promote_every if promote_every in (32, 64) else None
        tensor_scaled_kernel[lambda meta: (_tiles(m, n, meta),)](
            *(a_MK, b_NK, scale, out, m, n, k, every, within),
            BLOCK_M=128,
            BLOCK_N=128,
            GROUP_M=8,
            num_warps=8,
            num_stages=3,
        )
    return out


def _tiles(m: int, n: int, meta: dict[str, int]) -> int:
    return triton.cdiv(m, meta.get("HALVES", 1) * meta["BLOCK_M"]) * triton.cdiv(n, meta["BLOCK_N"])


def _out(like: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    if dtype not in (torch.bfloat16, torch.float32):
        raise ValueError(f"out_dtype is {dtype}: must be torch.bfloat16 or torch.float32")
    return like.new_empty(shape, dtype=dtype)


def _sides(name: str, codes: Tensor, dims: int, k: int | None = None) -> tuple[int, ...]:
    """The shape of `codes`, checked; its last side must be `k` where given."""
    if codes.dim() != dims:
        raise ValueError(f"{name} has shape {tuple(codes.shape)}: must have {dims} dimensions")
    if codes.dtype != E4M3:
        raise ValueError(f"{name} is {codes.dtype}: must be {E4M3}")
    if not codes.is_contiguous():
        raise ValueError(f"{name} has strides {codes.stride()}: must be contiguous")
    if k is not None and codes.shape[-1] != k:
        raise ValueError(f"{name} has shape {tuple(codes.shape)}: its last side must be the first operand's, {k}")
    return tuple(codes.shape)


def _check_scales(name: str, scales: Tensor, *shape: int) -> None:
    if scales.dtype != torch.float32:
        raise ValueError(f"{name} is {scales.dtype}: must be torch.float32")
    if tuple(scales.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(scales.shape)}: must be {shape}")


def _check_offsets(offsets_E: Tensor, e: int) -> None:
    if offsets_E.dtype != torch.int32 or tuple(offsets_E.shape) != (e,) or not offsets_E.is_contiguous():
        raise ValueError(f"offsets_E is {offsets_E.dtype} {tuple(offsets_E.shape)}: must be torch.int32 ({e},)")
