"""How expert load is kept even: one contract, one class per strategy.

A strategy sees three moments: `biased` before top-k, `loss` for each microbatch, `step` once per optimizer step with
the load of the whole batch over all microbatches and ranks. Counting fewer tokens than the batch is a known way to make
the bias the worst arm of all (2501.11873, Table 1).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.config import MoEConfig


@dataclass
class Routing:
    """What the router of one layer decided on one microbatch."""

    scores_BTE: Tensor
    """Affinities, at least FP32, differentiable."""
    experts_NK: Tensor
    """Chosen experts."""
    gates_NK: Tensor
    """Their weights: unbiased affinities, as `normalise` says, times `routed_scaling_factor`."""
    load_E: Tensor
    """Assignments per expert, int64; sums to N * K."""


class Balance:
    """No balancing, and the base of the strategies. A strategy keeps no state: the bias lies in the router, under the
    published name. What others must know of it beforehand is said by its config."""

    def __init__(self, config: MoEConfig) -> None:
        self.config, self.top_k = config.balance, config.top_k
        self.has_bias, self.needs_batch_load = self.config.has_bias, self.config.needs_batch_load

    def biased(self, scores: Tensor, bias_E: Tensor) -> Tensor:
        """The scores that top-k sees; gates always use the unbiased ones (V3 eq. 16)."""
        return scores

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor | None:
        """The auxiliary term of one microbatch, or None. Averaged over microbatches it is the step's term."""
        return None

    def step(self, load_E: Tensor, last_E: Tensor, progress: float) -> Tensor | None:
        """What the bias moves by after an optimizer step, FP64, or None. `load_E` counts the whole batch, `last_E` its
        last microbatch; `progress` is the share of the training that the step began at."""
        return None


class AuxLoss(Balance):
    """alpha * sum_i f_i P_i (V3 eq. 17-20).

    f_i = E / (K T) * sum_t [expert i is among the top K of token t's *unbiased* affinities] (eq. 18), without gradient;
    P_i = mean_t s_it / sum_j s_jt (eq. 19-20). Scope says over which t: each sequence (then averaged over sequences),
    each microbatch, or the batch. Uniform routing gives alpha.
    """

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor:
        alpha, scope = self.config.alpha, self.config.scope
        probabilities = routing.scores_BTE / routing.scores_BTE.sum(dim=-1, keepdim=True)
        if scope == "sequence":
            f_BE = expert_share(routing.scores_BTE, self.top_k)
            return alpha * (f_BE * probabilities.mean(dim=1)).sum(dim=-1).mean()
        p_E = probabilities.mean(dim=(0, 1))
        if scope == "microbatch":
            return alpha * (expert_share(routing.scores_BTE, self.top_k).mean(dim=0) * p_E).sum()
        if scope == "batch":
            if batch_f_E is None:
                raise ValueError("batch scope needs the f of the whole batch, from a counting pass")
            # f is a constant, so the mean over microbatches of f . P_m is f . P of the batch: exact.
            return alpha * (batch_f_E * p_E).sum()
        raise ValueError(f"unknown scope {scope}")


class Bias(Balance):
    """Auxiliary-loss-free balancing (2408.15664 Algorithm 1; V3 2.1.2): b_i += u * sign(mean load - load_i)."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        b = self.config
        self.update_speed, self.frozen_from = b.update_speed, 1 - b.frozen_fraction
        self.proportional = b.bias_rule == "proportional"
        self.multiplicative = b.bias_form == "multiplicative"
        self.local = b.load_scope == "microbatch"

    def biased(self, scores: Tensor, bias_E: Tensor) -> Tensor:
        return scores * (1 + bias_E) if self.multiplicative else scores + bias_E

    @torch.no_grad()
    def step(self, load_E: Tensor, last_E: Tensor, progress: float) -> Tensor | None:
        if progress >= self.frozen_from - 1e-12:  # 1 - 0.7 is a little more than 3 steps of 10
            return None
        load = (last_E if self.local else load_E).double()
        error = load.mean() - load
        return self.update_speed * (error / load.mean() if self.proportional else error.sign())


class BiasAndAuxLoss(Bias):
    """The bias plus a small auxiliary loss, as V3 was trained (alpha 0.0001, sequence scope)."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__(config)
        self.aux = AuxLoss(config)

    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor:
        return self.aux.loss(routing, batch_f_E)


@torch.no_grad()
def assignments(experts: Tensor, n_experts: int) -> Tensor:
    """How often each of `n_experts` stands in `experts` (any shape), int64 (E). On a GPU torch.bincount would make the
    host wait, to learn how long its result is."""
    flat = experts.flatten()
    return flat.new_zeros(n_experts).scatter_add_(0, flat, torch.ones_like(flat))


@torch.no_grad()
def expert_share(scores_BTE: Tensor, top_k: int) -> Tensor:
    """f (B, E) of eq. 18 per sequence, from the unbiased top-k; 1 everywhere when uniform."""
    experts = scores_BTE.topk(top_k, dim=-1, sorted=False).indices.flatten(1)
    n_experts, per_sequence = scores_BTE.shape[-1], experts.shape[1]
    counts = scores_BTE.new_zeros(scores_BTE.shape[0], n_experts)
    counts.scatter_add_(1, experts, counts.new_ones(()).expand_as(experts))
    return counts * (n_experts / per_sequence)


STRATEGIES: dict[str, type[Balance]] = {
    "none": Balance,
    "aux_loss": AuxLoss,
    "bias": Bias,
    "bias_aux_loss": BiasAndAuxLoss,
}


def build_balance(config: MoEConfig) -> Balance:
    return STRATEGIES[config.balance.kind](config)


def max_vio(load_E: Tensor) -> Tensor:
    """max load / mean load - 1 over the last dimension (2408.15664 eq. 4); at most E / K - 1, 0 when even."""
    load = load_E.double()
    return load.amax(dim=-1) / load.mean(dim=-1).clamp_min(1e-12) - 1
