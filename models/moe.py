"""DeepSeekMoE (2401.06066; V3 2.1.2, eq. 12-16): a router, fine-grained routed experts, shared experts."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from models.balance import Routing, build_balance
from models.config import ModelConfig, MoEConfig
from models.layers import SwiGLU, Weights, at_least_fp32, swiglu


class Router(nn.Module):
    """Affinities, top-k on the biased ones, gates from the unbiased ones. All in at least FP32."""

    e_score_correction_bias: Tensor

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, d_model))
        self.balance = build_balance(config)
        if self.balance.has_bias:
            self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.groups_limited = config.topk_group < config.n_group

    def forward(self, x_BTD: Tensor) -> Routing:
        logits = F.linear(at_least_fp32(x_BTD), self.weight)
        scores = logits.sigmoid() if self.config.scoring == "sigmoid" else logits.softmax(dim=-1)
        scores_NE = scores.flatten(0, 1)
        with torch.no_grad():
            seen = self.balance.biased(scores_NE, self.e_score_correction_bias) if self.balance.has_bias else scores_NE
            if self.groups_limited:
                seen = only_best_groups(seen, self.config)
            experts_NK = seen.topk(self.config.top_k, dim=-1, sorted=False).indices
            load_E = torch.bincount(experts_NK.flatten(), minlength=scores.shape[-1])
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


class Experts(Weights):
    """All routed experts of a layer. `gate_up_proj` (E, 2I, D) holds gate rows, then up rows; `down_proj` (E, D, I)."""

    def __init__(self, d_model: int, config: MoEConfig) -> None:
        super().__init__()
        experts, width = config.n_routed_experts, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * width, d_model))
        self.down_proj = nn.Parameter(torch.empty(experts, d_model, width))
        self.product = PRODUCTS[config.backend]

    def forward(self, x_ND: Tensor, routing: Routing) -> Tensor:
        """Weighted sum of each token's experts, (N, D).

        Assignments are laid out by expert, so that each expert's rows are one group. The gates, computed in FP32, are
        rounded to the activations' type and multiply the hidden rows: the down projection is linear, so that is the
        weighted sum. Rows that only fill a group up have a gate of 0.
        """
        k = routing.experts_NK.shape[1]
        native = x_ND.device.type == "cpu" and x_ND.dtype == torch.bfloat16
        slot, source, rows_E = _layout(routing, ROW_MULTIPLE if native else 1)
        gates = routing.gates_NK.flatten().to(x_ND.dtype)
        row_gates = gates.new_zeros(len(source)).index_copy(0, slot, gates)
        rows = _Dispatch.apply(x_ND, slot.view(-1, k), source // k)
        hidden = self.product(rows, self.matrix("gate_up_proj", x_ND.dtype), rows_E)
        out = self.product(swiglu(hidden, row_gates), self.matrix("down_proj", x_ND.dtype), rows_E)
        summed: Tensor = _Combine.apply(out, slot.view(-1, k), source // k)
        return summed


@torch.no_grad()
def _layout(routing: Routing, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each assignment's row lies when rows are grouped by expert: slot (N * K) of each assignment, source (rows)
    the assignment that fills each row, and rows per expert (E). Rows that only fill a group up copy assignment 0;
    nothing reads their outputs."""
    experts, load = routing.experts_NK.flatten(), routing.load_E
    order = experts.argsort(stable=True)
    rows_E = load if multiple == 1 else (load + multiple - 1) // multiple * multiple
    shift_E = (rows_E.cumsum(0) - rows_E) - (load.cumsum(0) - load)
    places = torch.arange(len(experts), device=experts.device) + shift_E[experts[order]]
    slot = torch.empty_like(order).scatter_(0, order, places)
    if multiple == 1:  # no host needs to know the number of rows
        return slot, order, rows_E
    source = order.new_zeros(int(rows_E.sum())).scatter_(0, places, order)
    return slot, source, rows_E


def grouped_product(x: Tensor, weight_EON: Tensor, rows_E: Tensor) -> Tensor:
    """x (rows, N) times each row's expert matrix transposed, one grouped GEMM; rows are grouped by expert."""
    return _Contiguous.apply(F.grouped_mm(x, weight_EON.mT, offs=rows_E.cumsum(0).to(torch.int32)))


def loop_product(x: Tensor, weight_EON: Tensor, rows_E: Tensor) -> Tensor:
    """The same, one GEMM per expert. `unbind`, because indexing a weight makes its backward fill a whole (E, O, N)."""
    groups = x.split(rows_E.tolist())
    return torch.cat([rows @ w.mT for rows, w in zip(groups, weight_EON.unbind(0), strict=True)])


PRODUCTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "grouped_mm": grouped_product,
    "loop": loop_product,
}


class _Dispatch(torch.autograd.Function):
    """Copy each token's row to its assignments' rows. Backward sums over them in FP32 (`_sum_rows`); the index_add of
    plain indexing would accumulate in BF16, in an order that is not fixed on a GPU."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_ND: Tensor, slot_NK: Tensor, token: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(slot_NK)
        return x_ND.index_select(0, token)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (slot_NK,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return _sum_rows(grad, slot_NK), None, None


class _Combine(torch.autograd.Function):
    """Sum each token's assignments' rows: the reverse of `_Dispatch`. In the backward, rows that only fill a group up
    get the gradient of token 0; their gate of 0 stops it."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, slot_NK: Tensor, token: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(token)
        return _sum_rows(rows, slot_NK)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (token,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad.index_select(0, token), None, None


def _sum_rows(rows: Tensor, slot_NK: Tensor) -> Tensor:
    """(N, D): the rows named in `slot_NK`, summed over K in FP32 without writing them out first."""
    return F.embedding_bag(slot_NK, rows, mode="sum")


class _Contiguous(torch.autograd.Function):
    """grouped_mm's backward refuses an expanded or sliced gradient; hand it a contiguous one."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.view_as(x)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:  # type: ignore[override]
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
