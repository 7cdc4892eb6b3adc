"""How expert load is kept even: one contract, one class per strategy.

A strategy sees three moments: `biased` before top-k, `loss` for each microbatch, `update` once per optimizer step with
the load of the whole batch over all microbatches and ranks. Counting fewer tokens than the batch is a known way to make
the bias the worst arm of all (2501.11873, Table 1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.config import BalanceConfig, MoEConfig


@dataclass
class Routing:
    """What the router of one layer decided on one microbatch."""

    scores_BTE: Tensor
    """Affinities (sigmoid), at least FP32, differentiable."""
    experts_NK: Tensor
    """Chosen experts."""
    gates_NK: Tensor
    """Their weights: unbiased affinities, normalised over the chosen, times `routed_scaling_factor`."""
    load_E: Tensor
    """Assignments per expert, int64; sums to N * K."""


class Balance(nn.Module):
    """No balancing, and the base of the strategies."""

    needs_batch_load = False
    """True where `loss` must know the assignments of the whole batch before the first backward (a counting pass)."""

    def biased(self, scores: Tensor) -> Tensor:
        """The scores that top-k sees; gates always use the unbiased ones (V3 eq. 16)."""
        return scores

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor | None:
        """The auxiliary term of one microbatch, or None. Averaged over microbatches it is the step's term."""
        return None

    def update(self, load_E: Tensor) -> None:
        """Called once per optimizer step with the load of the whole batch."""


class AuxLoss(Balance):
    """alpha * sum_i f_i P_i (V3 eq. 17-20).

    f_i = E / (K T) * sum_t [expert i is among the top K of token t's *unbiased* affinities] (eq. 18), without gradient;
    P_i = mean_t s_it / sum_j s_jt (eq. 19-20). Scope says over which t: each sequence (then averaged over sequences),
    each microbatch, or the batch. Uniform routing gives alpha.
    """

    def __init__(self, alpha: float, scope: str, top_k: int) -> None:
        super().__init__()
        self.alpha, self.scope, self.top_k = alpha, scope, top_k
        self.needs_batch_load = scope == "batch"

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor:
        probabilities = routing.scores_BTE / routing.scores_BTE.sum(dim=-1, keepdim=True)
        if self.scope == "sequence":
            f_BE = expert_share(routing.scores_BTE, self.top_k)
            return self.alpha * (f_BE * probabilities.mean(dim=1)).sum(dim=-1).mean()
        p_E = probabilities.mean(dim=(0, 1))
        if self.scope == "microbatch":
            return self.alpha * (expert_share(routing.scores_BTE, self.top_k).mean(dim=0) * p_E).sum()
        if self.scope == "batch":
            if batch_f_E is None:
                raise ValueError("batch scope needs the f of the whole batch, from a counting pass")
            # f is a constant, so the mean over microbatches of f . P_m is f . P of the batch: exact.
            return self.alpha * (batch_f_E * p_E).sum()
        raise ValueError(f"unknown scope {self.scope}")


class Bias(Balance):
    """Auxiliary-loss-free balancing (2408.15664 Algorithm 1; V3 2.1.2): b_i += u * sign(mean load - load_i)."""

    bias_E: Tensor

    def __init__(self, update_speed: float, n_experts: int) -> None:
        super().__init__()
        self.update_speed = update_speed
        self.register_buffer("bias_E", torch.zeros(n_experts))

    def biased(self, scores: Tensor) -> Tensor:
        return scores + self.bias_E

    @torch.no_grad()
    def update(self, load_E: Tensor) -> None:
        load = load_E.double()
        self.bias_E += (self.update_speed * (load.mean() - load).sign()).to(self.bias_E.dtype)


class BiasAndAuxLoss(Bias):
    """The bias plus a small auxiliary loss, as V3 was trained (alpha 0.0001, sequence scope)."""

    def __init__(self, update_speed: float, n_experts: int, aux: AuxLoss) -> None:
        super().__init__(update_speed, n_experts)
        self.aux = aux
        self.needs_batch_load = aux.needs_batch_load

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor:
        return self.aux.loss(routing, batch_f_E)


@torch.no_grad()
def expert_share(scores_BTE: Tensor, top_k: int) -> Tensor:
    """f (B, E) of eq. 18 per sequence, from the unbiased top-k; 1 everywhere when uniform."""
    experts = scores_BTE.topk(top_k, dim=-1, sorted=False).indices.flatten(1)
    n_experts, per_sequence = scores_BTE.shape[-1], experts.shape[1]
    counts = scores_BTE.new_zeros(scores_BTE.shape[0], n_experts)
    counts.scatter_add_(1, experts, counts.new_ones(()).expand_as(experts))
    return counts * (n_experts / per_sequence)


def build_balance(config: MoEConfig) -> Balance:
    b: BalanceConfig = config.balance
    if b.kind == "none":
        return Balance()
    if b.kind == "aux_loss":
        return AuxLoss(b.alpha, b.scope, config.top_k)
    if b.kind == "bias":
        return Bias(b.update_speed, config.n_routed_experts)
    if b.kind == "bias_aux_loss":
        return BiasAndAuxLoss(b.update_speed, config.n_routed_experts, AuxLoss(b.alpha, b.scope, config.top_k))
    raise ValueError(f"unknown balancing {b.kind}")


def max_vio(load_E: Tensor) -> Tensor:
    """max load / mean load - 1 over the last dimension (2408.15664 eq. 4); at most E / K - 1, 0 when even."""
    load = load_E.double()
    return load.amax(dim=-1) / load.mean(dim=-1).clamp_min(1e-12) - 1
