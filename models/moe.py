"""DeepSeekMoE (2401.06066; V3 2.1.2, eq. 12-16): a router, fine-grained routed experts, shared experts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from models.balance import Routing, assignments, build_balance
from models.config import ModelConfig, MoEConfig
from models.layers import LowPrecision, SwiGLU, Weights, at_least_fp32, swiglu


class Router(nn.Module):
    """Affinities, top-k on the biased ones, gates from the unbiased ones. All in at least FP32."""

    e_score_correction_bias: Tensor
    low: LowPrecision | None = None
    row = 0
    """Its place among the model's routers, MTP modules last; a pipeline's rank holds only some of them."""

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, d_model))
        self.balance = build_balance(config)
        if self.balance.has_bias:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.groups_limited = config.topk_group < config.n_group

    def forward(self, x_BTD: Tensor) -> Routing:
        low = self.low if self.training else None
        logits = F.linear(at_least_fp32(x_BTD), self.weight) if low is None else at_least_fp32(low.dense(x_BTD, self))
        scores = logits.sigmoid() if self.config.scoring == "sigmoid" else logits.softmax(dim=-1)
        scores_NE = scores.flatten(0, 1)
        with torch.no_grad():
            seen = self.balance.biased(scores_NE, self.e_score_correction_bias) if self.balance.has_bias else scores_NE
            if self.groups_limited:
                seen = only_best_groups(seen, self.config)
            experts_NK = seen.topk(self.config.top_k, dim=-1, sorted=False).indices
            load_E = assignments(experts_NK, scores.shape[-1])
        gates = scores_NE.gather(1, experts_NK)
        if self.config.normalise:
            gates = gates / (gates.sum(dim=-1, keepdim=True) + 1e-20)
        return Routing(scores, experts_NK, gates * self.config.routed_scaling_factor, load_E)

    def update(self, load_E: Tensor, last_E: Tensor, progress: float) -> None:
        """Once per optimizer step: move the bias, where there is one."""
        step = self.balance.step(load_E, last_E, progress)
        if step is not None:
            self.e_score_correction_bias += step.to(self.e_score_correction_bias.dtype)


def only_best_groups(scores_NE: Tensor, config: MoEConfig) -> Tensor:
    """-inf outside each token's `topk_group` best groups (V3 2.1.2: nodes), judged by the sum of the highest
    top_k / topk_group scores in each (at least one)."""
    grouped = scores_NE.view(len(scores_NE), config.n_group, -1)
    per_group = min(max(1, config.top_k // config.topk_group), grouped.shape[-1])
    worth_NG = grouped.topk(per_group, dim=-1).values.sum(dim=-1)
    best = worth_NG.topk(config.topk_group, dim=-1, sorted=False).indices
    allowed = torch.zeros_like(worth_NG, dtype=torch.bool).scatter_(1, best, True)
    return grouped.masked_fill(~allowed.unsqueeze(-1), -math.inf).flatten(1)


ROW_MULTIPLE = 32
"""On CPU in BF16, oneDNN compiles a kernel for every new number of rows, and routing makes new ones all the time: a
third of a trial's time, and a gigabyte of kernels. Groups rounded up to a multiple need a few dozen of them."""


@dataclass(frozen=True)
class Layout:
    """A layer's assignments as rows that lie grouped by expert, each group filled up with zeros to a multiple."""

    slot_NK: Tensor
    """The row of each assignment."""
    token_R: Tensor
    """The token of each row."""
    fill_R1: Tensor | None
    """The rows that only fill a group up, as a mask; None where there are none."""
    gates_R: Tensor
    """In the activations' type; 0 where a row only fills up."""
    rows_E: Tensor

    def dispatch(self, x_ND: Tensor) -> Tensor:
        """Each row's token, (R, D)."""
        rows: Tensor = _Dispatch.apply(x_ND, self)
        return rows

    def combine(self, rows_RD: Tensor) -> Tensor:
        """Each token's rows summed, (N, D)."""
        summed: Tensor = _Combine.apply(rows_RD, self)
        return summed

    def rows_of(self, x_ND: Tensor) -> Tensor:
        rows = x_ND.index_select(0, self.token_R)
        return rows if self.fill_R1 is None else rows.masked_fill_(self.fill_R1, 0)

    def sums_of(self, rows_RD: Tensor) -> Tensor:
        """Over K, in FP32, without writing the rows out first."""
        return F.embedding_bag(self.slot_NK, rows_RD, mode="sum")


class LowPrecisionExperts(Protocol):
    """How an FP8 recipe runs the experts (models/precision/experts.py)."""

    row_multiple: int

    def __call__(self, experts: "Experts", x_ND: Tensor, layout: Layout) -> Tensor: ...


class Experts(Weights):
    """All routed experts of a layer. `gate_up_proj` (E, 2I, D) holds gate rows, then up rows; `down_proj` (E, D, I).
    In training, `low` runs them instead where it is set."""

    low: LowPrecisionExperts | None = None

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        experts, width = config.n_routed_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, d_model))
        self.down_proj = nn.Parameter(torch.empty(experts, d_model, width))
        self.product: Product = PRODUCTS[config.backend]

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts, (N, D). The gates, computed in FP32, are rounded to the activations'
        type and multiply the hidden rows: the down projection is linear, so that is the weighted sum."""
        native = x_ND.device.type == "cpu" and x_ND.dtype == torch.bfloat16
        multiple = ROW_MULTIPLE if native else 1
        if self.low is not None and self.training:
            return self.low(self, x_ND, lay_out(routing, math.lcm(multiple, self.low.row_multiple), x_ND.dtype))
        layout = lay_out(routing, multiple, x_ND.dtype)
        rows = layout.dispatch(x_ND)
        hidden = self.product(rows, self.matrix("gate_up_proj", x_ND.dtype), layout.rows_E)
        activated = swiglu(hidden, layout.gates_R)
        return layout.combine(self.product(activated, self.matrix("down_proj", x_ND.dtype), layout.rows_E))


def host_counts(device: torch.device) -> bool:
    """Whether the host learns how many rows there are. A CPU then works on as few as can be; of a GPU it would have to
    wait for the number, and what is compiled has one size."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def lay_out(routing: Routing, multiple: int, dtype: torch.dtype) -> Layout:
    """Rows by expert, each expert's count a multiple of `multiple`; gates in `dtype`. Where the host does not count,
    there are as many rows as there might be, and those that are left over are the last expert's."""
    slot, source, fill, rows_E = _slots(routing, multiple)
    k = routing.experts_NK.shape[1]
    gates = routing.gates_NK.flatten().to(dtype)
    gates_R = gates.new_zeros(len(source)).index_copy(0, slot, gates)
    return Layout(slot.view(-1, k), source // k, fill, gates_R, rows_E)


@torch.no_grad()
def _slots(routing: Routing, multiple: int) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Slot (N * K) of each assignment, source (R): the assignment of each row, or 0, the mask of rows that have none,
    and rows per expert (E)."""
    experts, load = routing.experts_NK.flatten(), routing.load_E
    order = experts.argsort(stable=True)
    rows_E = load if multiple == 1 else (load + multiple - 1) // multiple * multiple
    shift_E = (rows_E.cumsum(0) - rows_E) - (load.cumsum(0) - load)
    slots = torch.arange(len(experts), device=experts.device) + shift_E[experts[order]]
    slot = torch.empty_like(order).scatter_(0, order, slots)
    if multiple == 1:  # no host needs to know the number of rows
        return slot, order, None, rows_E
    if host_counts(experts.device):
        count = int(rows_E.sum())
    else:
        count = (len(experts) + len(load) * (multiple - 1)) // multiple * multiple
        rows_E[-1] += count - rows_E.sum()
    source = order.new_full((count,), -1).scatter_(0, slots, order)
    return slot, source.clamp_min(0), (source < 0).unsqueeze(1), rows_E


def grouped_product(x: Tensor, weight_EON: Tensor, rows_E: Tensor) -> Tensor:
    """x (rows, N) times each row's expert matrix transposed, one grouped GEMM; rows are grouped by expert."""
    return _Contiguous.apply(F.grouped_mm(x, weight_EON.mT, offs=rows_E.cumsum(0).to(torch.int32)))


def loop_product(x: Tensor, weight_EON: Tensor, rows_E: Tensor) -> Tensor:
    """The same, one GEMM per expert. `unbind`, because indexing a weight makes its backward fill a whole (E, O, N)."""
    groups = x.split(rows_E.tolist())
    return torch.cat([rows @ w.mT for rows, w in zip(groups, weight_EON.unbind(0), strict=True)])


Product = Callable[[Tensor, Tensor, Tensor], Tensor]
PRODUCTS: dict[str, Product] = {
    "grouped_mm": grouped_product,
    "loop": loop_product,
}


class _Dispatch(torch.autograd.Function):
    """Copy each token's row to its assignments' rows. Backward sums over them in FP32; the index_add of plain indexing
    would accumulate in BF16, in an order that is not fixed on a GPU."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return layout.rows_of(x_ND)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layout.sums_of(grad), None


class _Combine(torch.autograd.Function):
    """Sum each token's assignments' rows: the reverse of `_Dispatch`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return layout.sums_of(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.layout.rows_of(grad), None


class _Contiguous(torch.autograd.Function):
    """grouped_mm's backward refuses an expanded or sliced gradient; hand it a contiguous one."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return grad.contiguous()


class MoE(nn.Module):
    """Shared experts (one SwiGLU of `n_shared_experts` times the expert width) plus routed ones."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        m = config.moe
        self.gate = Router(config.d_model, m)
        self.experts = Experts(config.d_model, m)
        self.shared_experts = (
            SwiGLU(config.d_model, m.n_shared_experts * m.moe_intermediate_size) if m.n_shared_experts else None
        )

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Routing]:
        routing = self.gate(x_BTD)
        out = self.experts(x_BTD.flatten(0, 1), routing).view_as(x_BTD)
        if self.shared_experts is not None:
            out = out + self.shared_experts(x_BTD)
        return out, routing
