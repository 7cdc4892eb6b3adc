"""The routed experts under an FP8 recipe: their grouped products, what is sent to them and back, and what is kept."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models.layers import swiglu, swiglu_backward
from models.moe import Experts, Layout
from models.precision.linear import Kept, Site, through
from models.precision.outliers import site_after_norm
from models.precision.products import Products
from models.precision.quantise import Codes, quantise
from models.precision.recipe import Recipe, sent


class QuantisedExperts:
    """Takes the place of an `Experts`' own forward pass. Rows lie by expert and in whole tiles, so that no scale of a
    weight gradient's operands spans two experts."""

    def __init__(self, recipe: Recipe, products: Products) -> None:
        config, there, back = recipe.config, sent(recipe.activation), sent(recipe.gradient)
        self.row_multiple = config.block
        none = (None, None)
        self.dispatch = (there, back) if config.dispatch == "fp8" else none
        """What is sent to the experts, and the gradient that is sent to their outputs."""
        self.combine = (there, back) if config.combine == "fp8" else none
        """What the experts send back, and the gradient of their inputs."""
        self.recompute = replace(recipe.activation, granularity="tile") if config.recompute_swiglu else None
        """How the inputs of SwiGLU are kept, from which its output is then made again."""
        self.gate_up = site_after_norm(recipe, products, activation=self.dispatch[0], sent_back=self.combine[1])
        self.down = Site(recipe, products, gradient=self.dispatch[1])

    def __call__(self, experts: Experts, x_ND: Tensor, layout: Layout) -> Tensor:
        hidden = self.gate_up.dispatched(x_ND, experts, "gate_up_proj", layout)
        activated, kept = self._activate(hidden, layout.gates_R)
        out = self.down.grouped(activated, experts, "down_proj", layout, kept)
        return through(layout.combine(through(out, forward=self.combine[0])), backward=self.dispatch[1])

    def _activate(self, hidden: Tensor, gates_R: Tensor) -> tuple[Tensor, Kept | None]:
        if self.recompute is None:
            return swiglu(hidden, gates_R), None
        codes = quantise(hidden.detach(), self.recompute)
        activated: Tensor = _RecomputedSwiGLU.apply(hidden, gates_R, codes)
        return activated, _kept_hidden(codes, gates_R.detach())


def _kept_hidden(codes: Codes, gates_R: Tensor) -> Kept:
    size = codes.size

    def restore(c: Tensor, scales: Tensor, gates: Tensor) -> Tensor:
        return swiglu(Codes(c, scales, size).values(gates.dtype), gates)

    return Kept((codes.codes, codes.scales, gates_R), restore)


class _RecomputedSwiGLU(torch.autograd.Function):
    """`swiglu`, whose backward knows its input only as codes."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, gates: Tensor, codes: Codes) -> Tensor:
        ctx.save_for_backward(codes.codes, codes.scales, gates)
        ctx.size = codes.size
        return swiglu(hidden, gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        codes, scales, gates = ctx.saved_tensors
        hidden = Codes(codes, scales, ctx.size).values(grad.dtype)
        return (*swiglu_backward(hidden, gates, grad), None)
