"""The products of V3's recipe on a Hopper GPU: E4M3 tiles of 128 and blocks of 128 x 128, by Triton or by torch."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.moe import Layout
from models.precision.products import ends
from models.precision.quantise import Codes, Rounding
from models.precision.triton_gemm import gemm, grouped_gemm, grouped_wgrad
from models.precision.triton_quantise import TILE, quantise_blocks, quantise_tiles


class TritonProducts:
    """Our kernels (triton_quantise.py, triton_gemm.py). An operand is its `Codes`."""

    def __init__(self, dtype: torch.dtype) -> None:
        """`dtype`: of what products give, BF16 or FP32."""
        self.dtype = dtype

    def operand(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> Codes:
        x = x.contiguous()
        if rounding.granularity == "tile":
            codes, scales = quantise_tiles(x, rounding.power_of_two)
        else:
            codes, scales, *_ = quantise_blocks(x, rounding.power_of_two)
        return Codes(codes, scales, rounding.size(x.shape))

    def operand_and_codes(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> tuple[Codes, Codes]:
        codes = self.operand(x, rounding, dtype)
        return codes, codes

    def transposed(self, operand: Codes) -> Codes:
        rows, columns = operand.size
        return Codes(operand.codes.mT.contiguous(), operand.scales.mT, (columns, rows))

    def dispatched(self, operand: Codes, layout: Layout) -> Codes:
        bytes_RD = layout.rows_of(operand.codes.view(torch.uint8))
        return Codes(bytes_RD.view(operand.codes.dtype), operand.scales[layout.token_R], operand.size)

    def dense(self, a: Codes, b: Codes) -> Tensor:
        return gemm(a.codes, a.scales, b.codes, b.scales, self.dtype)

    def grouped(self, a: Codes, b: Codes, rows_E: Tensor) -> Tensor:
        return grouped_gemm(a.codes, a.scales, b.codes, b.scales, ends(rows_E), self.dtype)

    def contracted(self, a: Codes, b: Codes, rows_E: Tensor) -> Tensor:
        return grouped_wgrad(a.codes, a.scales, b.codes, b.scales, ends(rows_E), self.dtype)


class TorchProducts(TritonProducts):
    """Dense products by torch's F.scaled_mm. What it has no kernel for is Triton's: grouped products, and matrices that
    128 does not divide."""

    def dense(self, a: Codes, b: Codes) -> Tensor:
        if b.codes.shape[0] % TILE or a.codes.shape[1] % TILE:
            return super().dense(a, b)
        return scaled_mm(a.codes, a.scales, b.codes, b.scales, self.dtype)


def scaled_mm(
    a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """A B^T by cuBLAS. The scales of tiles lie column by column; so do those of blocks, with K / 128 rounded up to a
    multiple of 4, as (K / 128, N / 128)."""
    tiles, blocks = F.ScalingType.BlockWise1x128, F.ScalingType.BlockWise128x128
    a_scales = a_scales.t().contiguous().t()
    if len(b_scales) == len(b):
        b_scales = b_scales.t().contiguous().t()
        return F.scaled_mm(a, b.t(), a_scales, tiles, b_scales, tiles, output_dtype=out_dtype)
    padded = F.pad(b_scales, (0, -b_scales.shape[1] % 4)).contiguous()
    return F.scaled_mm(a, b.t(), a_scales, tiles, padded.t(), blocks, output_dtype=out_dtype)
