"""A linear layer whose three products have quantised operands (V3 3.3.1): y = x W^T (Fprop), dx = dy W (Dgrad) and
dW = dy^T x (Wgrad).

Each operand is quantised along the dimension that its product sums over, so that gradients are quantised twice, and x
again from what was kept of it (V3 3.3.3). Gradients to x and to W come from two Functions side by side, so that a
pipeline that wants one of them first pays for that one only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from models.moe import Layout
from models.precision.products import Products
from models.precision.quantise import Codes, Rounding, quantise, rounded
from models.precision.recipe import Recipe


@dataclass(frozen=True)
class Kept:
    """An input as it waits for the weight gradient: tensors, and how it is made from them again."""

    tensors: tuple[Tensor, ...]
    restore: Callable[..., Tensor]


class Site:
    """A place where a model multiplies by weights: what its operands are rounded to, and who multiplies them."""

    def __init__(
        self,
        recipe: Recipe,
        products: Products,
        activation: Rounding | None = None,
        gradient: Rounding | None = None,
        kept: Rounding | None = None,
        sent_back: Rounding | None = None,
    ) -> None:
        """Roundings where they are not the recipe's; `kept` is how the input is kept for the backward pass, `sent_back`
        how the gradients of rows are rounded before those of a token are summed (None: not)."""
        self.recipe, self.products = recipe, products
        self.activation, self.gradient = activation or recipe.activation, gradient or recipe.gradient
        self.kept, self.sent_back = kept or self.activation, sent_back

    def dense(self, x: Tensor, *owners: nn.Module) -> Tensor:
        """x (..., K) times the `weight` (O, K) of each owner, side by side: (..., sum of O)."""
        rows = x.flatten(0, -2)
        operand, kept = self.input(rows)
        out = [self._multiply(rows, operand, kept, owner, "weight") for owner in owners]
        return (out[0] if len(out) == 1 else torch.cat(out, dim=-1)).unflatten(0, x.shape[:-1])

    def dispatched(self, x_ND: Tensor, owner: nn.Module, name: str, layout: Layout) -> Tensor:
        """x, quantised before it is copied to its experts' rows, times the experts' matrices (E, O, D): (R, O)."""
        operand, kept = self.input(x_ND)
        operand = self.products.dispatched(operand, layout)
        restored = Kept(kept.tensors, lambda *tensors: layout.rows_of(kept.restore(*tensors)))
        return self._multiply(x_ND, operand, restored, owner, name, layout, gather=True)

    def grouped(self, rows: Tensor, owner: nn.Module, name: str, layout: Layout, kept: Kept | None = None) -> Tensor:
        """rows (R, K) times their experts' matrices (E, O, K): (R, O)."""
        if kept is None:
            operand, kept = self.input(rows)
        else:
            operand = self.products.operand(rows.detach(), self.activation, rows.dtype)
        return self._multiply(rows, operand, kept, owner, name, layout)

    def _multiply(
        self,
        x: Tensor,
        operand: Any,
        kept: Kept,
        owner: nn.Module,
        name: str,
        layout: Layout | None = None,
        gather: bool = False,
    ) -> Tensor:
        call = _Call(self, *self._weights(owner, name, x.dtype), layout, gather, x.dtype, kept.restore)
        y: Tensor = _ToInput.apply(x, operand, call)
        zero: Tensor = _ToWeight.apply(self.master(owner, name), call, y.shape, *kept.tensors)
        both: Tensor = _Both.apply(y, zero)
        return both

    def master(self, owner: nn.Module, name: str) -> Tensor:
        """The matrix that is multiplied by, before anything is rounded."""
        matrix: Tensor = getattr(owner, name)
        return matrix

    @torch.no_grad()
    def input(self, rows: Tensor) -> tuple[Any, Kept]:
        """The operand of Fprop, and what is kept for Wgrad."""
        if self.recipe.config.cache_activations == "bf16" and self.kept is self.activation:
            return self.products.operand(rows, self.activation, rows.dtype), Kept((rows,), lambda x: x)
        if self.kept is self.activation:
            operand, codes = self.products.operand_and_codes(rows, self.activation, rows.dtype)
        else:
            operand, codes = self.products.operand(rows, self.activation, rows.dtype), quantise(rows, self.kept)
        return operand, kept_codes(codes, rows.dtype)

    @torch.no_grad()
    def _weights(self, owner: nn.Module, name: str, dtype: torch.dtype) -> tuple[Any, Any]:
        """The operands of Fprop and Dgrad, made from the master weights once per step (see `cast_once`)."""
        cache, key = getattr(owner, "_cast", None), f"{name}:quantised"
        if cache is not None and key in cache:
            return cache[key]
        master, rounding = self.master(owner, name).detach(), self.recipe.weight
        forward = self.products.operand(master, rounding, dtype)
        if rounding.granularity in ("block", "tensor"):  # the same codes whichever way they are summed
            backward = self.products.transposed(forward)
        else:
            backward = self.products.operand(master.mT.contiguous(), rounding, dtype)
        both = (forward, backward)
        if cache is not None:
            cache[key] = both
        return both


def kept_codes(codes: Codes, dtype: torch.dtype) -> Kept:
    size = codes.size
    return Kept((codes.codes, codes.scales), lambda c, s: Codes(c, s, size).values(dtype))


@dataclass(frozen=True)
class _Call:
    """One use of a site."""

    site: Site
    forward_weight: Any
    backward_weight: Any
    layout: Layout | None
    """With experts."""
    gather: bool
    """Rows were copied from tokens, so their gradients are summed to the tokens' again."""
    dtype: torch.dtype
    restore: Callable[..., Tensor]

    def fprop(self, operand: Any) -> Tensor:
        return self._by_rows(operand, self.forward_weight)

    def dgrad(self, grad: Tensor) -> Tensor:
        dx = self._by_rows(self._operand(grad, self.site.gradient), self.backward_weight)
        if not self.gather or self.layout is None:
            return dx
        return self.layout.sums_of(dx if self.site.sent_back is None else rounded(dx, self.site.sent_back))

    def wgrad(self, grad: Tensor, x: Tensor) -> Tensor:
        left = self._operand(grad.mT, self.site.gradient)
        right = self._operand(x.mT, self.site.activation)
        products = self.site.products
        if self.layout is None:
            return products.dense(left, right)
        return products.contracted(left, right, self.layout.rows_E)

    def _operand(self, x: Tensor, rounding: Rounding) -> Any:
        return self.site.products.operand(x, rounding, self.dtype)

    def _by_rows(self, operand: Any, weight: Any) -> Tensor:
        products = self.site.products
        if self.layout is None:
            return products.dense(operand, weight)
        return products.grouped(operand, weight, self.layout.rows_E)


class _ToInput(torch.autograd.Function):
    """Fprop, and Dgrad for its backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, operand: Any, call: _Call) -> Tensor:
        ctx.call = call
        return call.fprop(operand)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.call.dgrad(grad.contiguous()), None, None


class _ToWeight(torch.autograd.Function):
    """Zeros, and Wgrad for their backward."""

    @staticmethod
    def forward(ctx: Any, master: Tensor, call: _Call, shape: torch.Size, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.call, ctx.dtype, ctx.kept = call, master.dtype, len(kept)
        return master.new_zeros((), dtype=call.dtype).expand(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        weight_grad = call.wgrad(grad.contiguous(), call.restore(*ctx.saved_tensors))
        return weight_grad.to(ctx.dtype), None, None, *(None for _ in range(ctx.kept))


class _Both(torch.autograd.Function):
    """y + zeros, without the addition."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, zero: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        return grad, grad


def through(x: Tensor, forward: Rounding | None = None, backward: Rounding | None = None) -> Tensor:
    """`x` (..., C) rounded on its way forward, its gradient on its way back; the derivative of rounding is 1."""
    if forward is None and backward is None:
        return x
    out: Tensor = _Through.apply(x, forward, backward)
    return out


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, there: Rounding | None, back: Rounding | None) -> Tensor:
        ctx.back = back  # type: ignore[attr-defined]
        return x.view_as(x) if there is None else _rows_rounded(x, there)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        back: Rounding | None = ctx.back  # type: ignore[attr-defined]
        return grad if back is None else _rows_rounded(grad.contiguous(), back), None, None


def _rows_rounded(x: Tensor, rounding: Rounding) -> Tensor:
    """All leading dimensions are rows."""
    return rounded(x.flatten(0, -2), rounding).view_as(x)
