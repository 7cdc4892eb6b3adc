"""The products that `benchmarks.fp8_gemm` compares: each in BF16, and in FP8 with its codes ready or made from BF16."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

Codes = tuple[Tensor, Tensor]
"""Codes and scales of one operand."""
Multiply = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""From codes and scales of A and of B."""


@dataclass(frozen=True)
class Product:
    """A B^T, or one per expert; both operands have the contracted side last."""

    a: Tensor
    b: Tensor
    bf16: Callable[[], Tensor]
    a_codes: Callable[[], Codes]
    b_codes: Callable[[], Codes]
    b_is_a_weight: bool
    fp8: Mapping[str, Multiply]
    reference: Callable[[Tensor, Tensor], Tensor]
    """The same of FP32 operands."""

    def sides(self) -> dict[str, Callable[[], Tensor]]:
        a_ready, b_ready = self.a_codes(), self.b_codes()
        found: dict[str, Callable[[], Tensor]] = {"bf16": self.bf16}
        for name, multiply in self.fp8.items():
            found[name] = partial(multiply, *a_ready, *b_ready)
            if self.b_is_a_weight:
                found[f"{name} + rows"] = partial(self._with_rows, multiply, b_ready)
            found[f"{name} + all"] = partial(self._with_all, multiply)
        return found

    def _with_rows(self, multiply: Multiply, b_ready: Codes) -> Tensor:
        return multiply(*self.a_codes(), *b_ready)

    def _with_all(self, multiply: Multiply) -> Tensor:
        return multiply(*self.a_codes(), *self.b_codes())

    def references(self) -> tuple[Tensor, Tensor]:
        """In FP32: the product of A and B, and that of what their codes stand for."""
        exact = self.reference(self.a.float(), self.b.float())
        return exact, self.reference(values(*self.a_codes()), values(*self.b_codes()))


def values(codes: Tensor, scales: Tensor) -> Tensor:
    """FP32 codes * scales, of 1x128 tiles or 128x128 blocks."""
    if scales.shape[-2] != codes.shape[-2]:
        scales = scales.repeat_interleave(128, dim=-2)[..., : codes.shape[-2], :]
    return codes.float() * scales.repeat_interleave(128, dim=-1)[..., : codes.shape[-1]]


def products(x: Tensor, w: Tensor, dy: Tensor) -> dict[str, Product]:
    """Of a linear layer: x (R, K), w (N, K), dy (R, N)."""
    from models.precision.triton_gemm import gemm
    from models.precision.triton_products import scaled_mm

    bf16 = {"forward": partial(torch.mm, x, w.t()), "dgrad": partial(torch.mm, dy, w)}
    bf16["wgrad"] = partial(torch.mm, dy.t(), x)
    fp8: dict[str, dict[str, Multiply]] = {name: {"scaled_mm": scaled_mm, "triton": gemm} for name in bf16}
    return _three(x, w, dy, bf16, fp8, _whole, _whole)


def grouped_products(x: Tensor, w: Tensor, dy: Tensor, offsets_E: Tensor) -> dict[str, Product]:
    """The same with a w (E, N, K) per group of rows. torch has no grouped product with these scales."""
    from models.precision.triton_gemm import grouped_gemm, grouped_wgrad

    def rows(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
        return grouped_gemm(a, a_scales, b, b_scales, offsets_E)

    def columns(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
        return grouped_wgrad(a, a_scales, b, b_scales, offsets_E)

    counts = offsets_E.diff(prepend=offsets_E.new_zeros(1)).tolist()
    multiply = partial(F.grouped_mm, offs=offsets_E)
    bf16 = {"forward": partial(multiply, x, w.mT), "dgrad": partial(multiply, dy, w)}
    bf16["wgrad"] = partial(multiply, dy.t(), x)
    fp8 = {"forward": {"triton": rows}, "dgrad": {"triton": rows}, "wgrad": {"triton": columns}}
    return _three(x, w, dy, bf16, fp8, partial(_by_rows, counts), partial(_by_columns, counts))


def _three(
    x: Tensor,
    w: Tensor,
    dy: Tensor,
    bf16: Mapping[str, Callable[[], Tensor]],
    fp8: Mapping[str, Mapping[str, Multiply]],
    reference: Callable[[Tensor, Tensor], Tensor],
    wgrad_reference: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Product]:
    from models.precision.triton_quantise import quantise_blocks, quantise_both_ways, quantise_tiles

    def columns(of: Tensor) -> Callable[[], Codes]:
        return lambda: quantise_both_ways(of)[2:]

    operands: dict[str, tuple[Tensor, Tensor, Callable[[], Codes], Callable[[], Codes]]] = {
        "forward": (x, w, partial(quantise_tiles, x), lambda: quantise_blocks(w)[:2]),
        "dgrad": (dy, w.mT, partial(quantise_tiles, dy), lambda: quantise_blocks(w)[2:]),
        "wgrad": (dy.t(), x.t(), columns(dy), columns(x)),
    }
    return {
        name: Product(
            *(a, b, bf16[name], a_codes, b_codes, name != "wgrad", fp8[name]),
            wgrad_reference if name == "wgrad" else reference,
        )
        for name, (a, b, a_codes, b_codes) in operands.items()
    }


def _whole(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.mT


def _by_rows(counts: list[int], a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([rows @ matrix.mT for rows, matrix in zip(a.split(counts), b, strict=True)])


def _by_columns(counts: list[int], a: Tensor, b: Tensor) -> Tensor:
    pairs = zip(a.split(counts, dim=1), b.split(counts, dim=1), strict=True)
    return torch.stack([one @ other.mT for one, other in pairs])


def layer(x: Tensor, w: Tensor, dy: Tensor) -> dict[str, Callable[[], tuple[Tensor, ...]]]:
    """All three products of a linear layer, each operand quantised once."""
    from models.precision.triton_quantise import quantise_blocks, quantise_both_ways

    three = products(x, w, dy)

    def bf16() -> tuple[Tensor, ...]:
        return tuple(product.bf16() for product in three.values())

    def fp8(multiply: Multiply) -> tuple[Tensor, ...]:
        x_rows, x_row_scales, x_columns, x_column_scales = quantise_both_ways(x)
        w_codes, w_scales, w_turned, w_turned_scales = quantise_blocks(w)
        y = multiply(x_rows, x_row_scales, w_codes, w_scales)
        rows, row_scales, columns, column_scales = quantise_both_ways(dy)
        dx = multiply(rows, row_scales, w_turned, w_turned_scales)
        return y, dx, multiply(columns, column_scales, x_columns, x_column_scales)

    sides: dict[str, Callable[[], tuple[Tensor, ...]]] = {"bf16": bf16}
    return sides | {f"{name} + all": partial(fp8, multiply) for name, multiply in three["forward"].fp8.items()}
