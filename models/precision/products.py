"""Products of quantised operands. Each operand is summed over along its last dimension; a transposed view is one whose
columns are quantised.

    dense       a (M, K), b (N, K)                                a b^T (M, N)
    grouped     a (R, K), b (E, N, K), rows of a lie by expert     each row times its expert's b^T (R, N)
    contracted  a (M, R), b (N, R), columns lie by expert          each expert's a b^T (E, M, N)
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from models.base.bounds import Kernels
from models.moe import Layout
from models.precision.accumulate import limited_product
from models.precision.quantise import Codes, Rounding, quantised, rounded


class Products(Protocol):
    """An operand is whatever `operand` makes of a matrix."""

    def operand(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> Any: ...

    def operand_and_codes(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> tuple[Any, Codes]: ...

    def transposed(self, operand: Any) -> Any: ...

    def dispatched(self, operand: Any, layout: Layout) -> Any:
        """Each row's token."""
        ...

    def dense(self, a: Any, b: Any) -> Tensor: ...

    def grouped(self, a: Any, b: Any, rows_E: Tensor) -> Tensor: ...

    def contracted(self, a: Any, b: Any, rows_E: Tensor) -> Tensor: ...


class Emulated:
    """Rounded operands, multiplied in the compute type and summed in FP32. On any device."""

    def operand(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> Tensor:
        if x.stride(-1) != 1 and x.stride(-2) == 1:  # rounded where it lies
            rows, columns = rounding.size(x.shape)
            return rounded(x.mT, rounding, (columns, rows), dtype).mT
        return rounded(x, rounding, dtype=dtype)

    def operand_and_codes(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> tuple[Tensor, Codes]:
        return quantised(x, rounding, dtype=dtype)

    def transposed(self, operand: Tensor) -> Tensor:
        return operand.mT

    def dispatched(self, operand: Tensor, layout: Layout) -> Tensor:
        return layout.rows_of(operand)

    def dense(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b.mT

    def grouped(self, a: Tensor, b: Tensor, rows_E: Tensor) -> Tensor:
        return F.grouped_mm(a, b.mT, offs=ends(rows_E))

    def contracted(self, a: Tensor, b: Tensor, rows_E: Tensor) -> Tensor:
        return F.grouped_mm(a, b.mT, offs=ends(rows_E))


class EmulatedLoop(Emulated):
    """The same, one expert after the other: the reference, and for FP64."""

    def grouped(self, a: Tensor, b: Tensor, rows_E: Tensor) -> Tensor:
        parts = a.split(rows_E.tolist())
        return torch.cat([self.dense(rows, expert) for rows, expert in zip(parts, b.unbind(0), strict=True)])

    def contracted(self, a: Tensor, b: Tensor, rows_E: Tensor) -> Tensor:
        counts = rows_E.tolist()
        parts = zip(a.split(counts, dim=1), b.split(counts, dim=1), strict=True)
        return torch.stack([self.dense(left, right) for left, right in parts])


class EmulatedLimited(EmulatedLoop):
    """Summed in the tensor core's short accumulator, to the end."""

    def dense(self, a: Tensor, b: Tensor) -> Tensor:
        return limited_product(a.float(), b.float()).to(a.dtype)


def resolve_kernels(kernels: Kernels) -> Kernels:
    """`auto`: what was proved right on the machine at hand, which is the emulation."""
    return "emulated" if kernels == "auto" else kernels


def ends(rows_E: Tensor) -> Tensor:
    """Where each expert's rows end."""
    return rows_E.cumsum(0).to(torch.int32)
