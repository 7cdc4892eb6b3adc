"""Matrices, norms and the SwiGLU feed-forward.

Shape letters used in this folder: B batch, T positions, N = B * T tokens, D `d_model`, H heads, E routed experts,
K experts per token (`top_k`), I hidden width of a feed-forward, V vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


class Weights(nn.Module):
    """A module that multiplies by master weights (at least FP32) in the type of its activations.

    Inside `cast_once` each matrix is cast at its first use and shared by all microbatches of the step; gradients flow
    back through the cast, so they accumulate in the master type (V3 3.3.3 keeps FP32 there too).
    """

    _cast: dict[str, Any] | None = None
    compiled = False
    """Whether it is compiled (models/training/compiled.py): it then casts at each use, as a part of what uses it."""

    def matrix(self, name: str, dtype: torch.dtype) -> Tensor:
        master: Tensor = getattr(self, name)
        if master.dtype == dtype:
            return master
        if self._cast is None:
            return master.to(dtype)
        if name not in self._cast:
            with torch.enable_grad():  # a counting pass may come first, and must not leave a cast without a gradient
                self._cast[name] = master.to(dtype)
        return self._cast[name]


@contextmanager
def cast_once(model: nn.Module) -> Iterator[None]:
    """Cast every matrix of `model` at most once while the context lasts. Weights must not change inside."""
    owners = [module for module in model.modules() if isinstance(module, Weights) and not module.compiled]
    for owner in owners:
        owner._cast = {}
    try:
        yield
    finally:
        for owner in owners:
            owner._cast = None


@contextmanager
def inferring(model: nn.Module) -> Iterator[None]:
    """Eval mode, no gradient, every matrix cast once."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), cast_once(model):
            yield
    finally:
        model.train(was_training)


class LowPrecision(Protocol):
    """How an FP8 recipe multiplies (models/precision/linear.py)."""

    def dense(self, x: Tensor, *owners: nn.Module) -> Tensor: ...


class Linear(Weights):
    """y = x W^T without bias, W (out, in). In training, `low` multiplies instead where it is set."""

    low: LowPrecision | None = None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        if self.low is not None and self.training:
            return self.low.dense(x, self)
        return F.linear(x, self.matrix("weight", x.dtype))


def together(x: Tensor, *linears: Linear) -> Tensor:
    """The outputs of several Linears with the same input, side by side."""
    if linears[0].low is not None and linears[0].training:
        return linears[0].low.dense(x, *linears)
    return F.linear(x, stacked(x.dtype, *linears))


def stacked(dtype: torch.dtype, *linears: Linear) -> Tensor:
    """The matrices of several Linears with the same input, on top of each other, in the compute type: one product
    instead of several. Inside `cast_once` it is made once."""
    first = linears[0]
    if first._cast is not None and "stacked" in first._cast:
        return first._cast["stacked"]
    with torch.set_grad_enabled(torch.is_grad_enabled() or first._cast is not None):
        matrix = torch.cat([linear.weight.to(dtype) for linear in linears])
    if first._cast is not None:
        first._cast["stacked"] = matrix
    return matrix


KEPT: Literal["kept"] = "kept"
Start = float | Literal["kept"]
Starts = Mapping[str, Start]
"""A module's `starts`: by parameter, the value that it begins at where it is not drawn (models.transformer.initialise),
or `kept`, where it begins as its constructor has made it, from a generator of its own if from any."""


class Rounded(nn.Module):
    """A module with values that an FP8 recipe may round in training: `rounding`, where it is set."""

    rounding: Callable[[Tensor], Tensor] | None = None

    def low(self, x: Tensor) -> Tensor:
        return x if self.rounding is None or not self.training else self.rounding(x)


class Embedding(Weights, Rounded):
    """Rows of W (V, D), in the compute type."""

    def __init__(self, vocab_size: int, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, d_model))

    def forward(self, tokens_BT: Tensor, dtype: torch.dtype) -> Tensor:
        return self.low(F.embedding(tokens_BT, self.matrix("weight", dtype)))


class RMSNorm(Rounded):
    """x / rms(x) * g (1910.07467), over the last dimension; statistics in at least FP32."""

    starts: ClassVar[Starts] = {"weight": 1.0}

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = _RMSNorm.apply(self.low(x), self.weight, self.eps)
        return y


class _RMSNorm(torch.autograd.Function):
    """F.rms_norm in at least FP32, with its backward written out: a third of the kernels of the composite on a CPU.

    With r = 1 / rms(x) and n = x r: y = n g, dx = r (dy g - n mean(dy g n)), dg = sum dy n.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x32 = at_least_fp32(x)
        r = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, r)
        return (x32 * r).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, r = ctx.saved_tensors  # type: ignore[attr-defined]
        grad32, normed = at_least_fp32(grad), at_least_fp32(x) * r
        products = grad32 * normed
        along = (products @ weight).unsqueeze(-1)
        grad_weight = products.flatten(0, -2).sum(dim=0)
        grad_x = (grad32 * weight).addcmul_(normed, along, value=-1 / x.shape[-1]).mul_(r)
        return grad_x.to(x.dtype), grad_weight, None


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): the dense and the shared experts' feed-forward."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(d_model, width)
        self.up_proj = Linear(d_model, width)
        self.down_proj = Linear(width, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(swiglu(together(x, self.gate_proj, self.up_proj)))


def swiglu(hidden: Tensor, gates: Tensor | None = None) -> Tensor:
    """silu(first half) * second half of `hidden` (..., 2I), times `gates` (...) where given; (..., I)."""
    out: Tensor = _SwiGLU.apply(hidden, gates)
    return out


class _SwiGLU(torch.autograd.Function):
    """Keeps only its inputs."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, gates: Tensor | None) -> Tensor:
        gate, up = hidden.chunk(2, dim=-1)
        ctx.save_for_backward(hidden, gates)  # type: ignore[arg-type]
        out = F.silu(gate).mul_(up)
        return out if gates is None else out.mul_(gates.unsqueeze(-1))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden, gates = ctx.saved_tensors  # type: ignore[attr-defined]
        return swiglu_backward(hidden, gates, grad)


def swiglu_backward(hidden: Tensor, gates: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    """Gradients of `hidden` and `gates`; both halves of the first are written in place, but where a compiler decides
    what is written where."""
    gate, up = hidden.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        through_up = grad * F.silu(gate)
        grad_gates = None if gates is None else (through_up * up).sum(dim=-1)
        if gates is not None:
            through_up, grad = through_up * gates.unsqueeze(-1), grad * gates.unsqueeze(-1)
        return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), through_up), dim=-1), grad_gates
    grad_hidden = torch.empty_like(hidden)
    grad_gate, grad_up = grad_hidden.chunk(2, dim=-1)
    torch.mul(grad, F.silu(gate), out=grad_up)
    grad_gates = None
    if gates is not None:
        grad_gates = torch.linalg.vecdot(grad_up, up)
        grad_up.mul_(gates.unsqueeze(-1))
        grad = grad * gates.unsqueeze(-1)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
    return grad_hidden, grad_gates


def at_least_fp32(x: Tensor) -> Tensor:
    """BF16 becomes FP32; FP32 and FP64 stay as they are."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
