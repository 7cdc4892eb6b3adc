"""The router against NumPy: affinities, groups, choices by biased scores, gates by unbiased ones; and its bias."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.balance import Routing
from models.config import ModelConfig
from models.moe import Router, only_best_groups
from models.training.config import OptimConfig
from models.training.executor import Microbatching, update_routers
from models.training.optim import adamw
from models.transformer import Transformer

Tiny = Callable[..., ModelConfig]
Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
D, N = 24, 40


def router_of(config: ModelConfig, seed: int = 0) -> Router:
    router = Router(config.d_model, config.moe).double()
    torch.nn.init.normal_(router.weight, 0, 0.3, torch.Generator().manual_seed(seed))
    return router


def hidden(seed: int = 1) -> Tensor:
    return torch.randn(4, N // 4, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def affinities(router: Router, x_BTD: Tensor) -> np.ndarray:
    """(N, E): V3 eq. 15, or V2's softmax."""
    logits = x_BTD.numpy().reshape(-1, D) @ router.weight.detach().numpy().T
    if router.config.scoring == "sigmoid":
        scores: np.ndarray = 1 / (1 + np.exp(-logits))
        return scores
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    scores = exp / exp.sum(-1, keepdims=True)
    return scores


def choose(seen: np.ndarray, n_group: int, topk_group: int, top_k: int) -> set[int]:
    """One token, V3 2.1.2 word for word: at most M groups, by the sum of the highest K_r / M affinities in each."""
    groups = np.split(np.arange(len(seen)), n_group)
    per_group = max(1, top_k // topk_group)
    worth = [np.sort(seen[group])[::-1][:per_group].sum() for group in groups]
    best = sorted(range(n_group), key=lambda g: -worth[g])[:topk_group]
    candidates = [int(i) for g in best for i in groups[g]]
    return set(sorted(candidates, key=lambda i: -seen[i])[:top_k])


def check_gates(routing: Routing, scores: np.ndarray, normalise: bool, scaling: float) -> None:
    """Of the unbiased affinities of the chosen experts."""
    for token, chosen, gates in zip(scores, routing.experts_NK.numpy(), routing.gates_NK.detach().numpy(), strict=True):
        total = token[chosen].sum() if normalise else 1.0
        np.testing.assert_allclose(gates, scaling * token[chosen] / total, rtol=1e-12)


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
@pytest.mark.parametrize("scaling", [1.0, 2.5])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
def test_router_chooses_by_the_biased_and_weighs_by_the_unbiased(
    tiny: Tiny, scoring: str, normalise: bool, scaling: float, form: str
) -> None:
    keys = {"scoring": scoring, "normalise": normalise, "routed_scaling_factor": scaling, "top_k": 3}
    config = tiny(
        {f"moe.{key}": value for key, value in keys.items()}
        | {"moe.balance.kind": "bias", "moe.balance.bias_form": form}
    )
    router, x = router_of(config), hidden()
    plain = router(x)
    bias = np.array([0.9, -0.9, 0.0, 0.3, -0.3, 0.0])
    router.e_score_correction_bias += torch.from_numpy(bias)
    routing = router(x)
    scores = affinities(router, x)
    np.testing.assert_allclose(routing.scores_BTE.detach().numpy().reshape(scores.shape), scores, rtol=1e-12)
    seen = scores + bias if form == "additive" else scores * (1 + bias)
    for n, token in enumerate(seen):
        assert set(routing.experts_NK[n].tolist()) == set(np.argsort(-token)[:3].tolist())
    check_gates(routing, scores, normalise, scaling)
    check_gates(plain, scores, normalise, scaling)
    assert not torch.equal(plain.load_E, routing.load_E), "a bias of 0.9 must move some choices"
    assert routing.load_E.tolist() == np.bincount(routing.experts_NK.numpy().ravel(), minlength=6).tolist()
    assert int(routing.load_E.sum()) == N * 3 and routing.load_E.dtype == torch.int64


GROUPS = [
    # experts, n_group, topk_group, top_k; the sums of 3, 4, 2, 1, 1, 2 and 1 scores of a group
    (12, 3, 1, 3),
    (24, 4, 1, 4),
    (24, 6, 2, 5),
    (24, 8, 5, 4),
    (16, 4, 3, 3),
    (32, 8, 4, 8),
    (6, 6, 4, 4),
]


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize(("experts", "n_group", "topk_group", "top_k"), GROUPS)
def test_groups_limit_a_token_to_the_best_of_them(
    tiny: Tiny, experts: int, n_group: int, topk_group: int, top_k: int, scoring: str, form: str
) -> None:
    """Groups are judged by what top-k sees, bias included; transformers always takes the sum of two. A limit to
    top_k groups or more limits nothing."""
    keys = {"n_routed_experts": experts, "n_group": n_group, "topk_group": topk_group, "top_k": top_k}
    config = tiny(
        {f"moe.{key}": value for key, value in keys.items()}
        | {"moe.scoring": scoring, "moe.balance.kind": "bias", "moe.balance.bias_form": form}
    )
    for seed in range(3):
        router, x = router_of(config, seed), hidden(seed + 10)
        bias = np.random.default_rng(seed).uniform(-0.4, 0.4, experts) * (1 if form == "multiplicative" else 0.3)
        router.e_score_correction_bias += torch.from_numpy(bias)
        routing, scores = router(x), affinities(router, x)
        seen = scores + bias if form == "additive" else scores * (1 + bias)
        unlimited = 0
        for n, token in enumerate(seen):
            chosen = routing.experts_NK[n].tolist()
            assert len({i // (experts // n_group) for i in chosen}) <= topk_group, "more groups than allowed"
            assert len(set(chosen)) == top_k and set(chosen) == choose(token, n_group, topk_group, top_k)
            unlimited += set(chosen) == set(np.argsort(-token)[:top_k].tolist())
        assert (unlimited < N) == (topk_group < top_k), "judged by its best score, no group of a top expert is left out"
        check_gates(routing, scores, True, 1.0)


def test_a_group_of_low_scores_is_not_chosen_for_its_zeros(tiny: Tiny) -> None:
    """Multiplicative or additive, biased scores may be negative: outside the groups nothing is chosen all the same."""
    config = tiny({"moe.n_routed_experts": 8, "moe.n_group": 4, "moe.topk_group": 2, "moe.top_k": 4})
    scores = -1.0 - torch.arange(8, dtype=torch.float64).flip(0).expand(3, 8)
    allowed = only_best_groups(scores, config.moe)
    assert torch.equal(allowed[:, 4:], scores[:, 4:]) and bool((allowed[:, :4] == -torch.inf).all())


def step(built: Built, tokens: Tokens, changes: dict[str, Any], microbatches: int = 2, steps: int = 2) -> Transformer:
    model = built({"dtype": "float32", "moe.balance.kind": "bias", "moe.balance.update_speed": 0.05} | changes)
    optimizer, executor = adamw(model, OptimConfig(lr=1e-2)), Microbatching(model, microbatches)
    for done in range(steps):
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens(8, 10, seed=done), done / steps)
        optimizer.step()
        update_routers(model, result, done / steps)
    return model


def state(model: Transformer) -> dict[str, Tensor]:
    gradients = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return dict(model.state_dict()) | gradients


def differing(one: Transformer, other: Transformer) -> list[str]:
    a, b = state(one), state(other)
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


OFF = {
    "all groups allowed": {"moe.n_group": 3, "moe.topk_group": 3},
    "as many groups as experts": {"moe.n_group": 6, "moe.topk_group": 6},
    "scaled by 1": {"moe.routed_scaling_factor": 1.0},
    "nothing frozen": {"moe.balance.frozen_fraction": 0.0},
}


@pytest.mark.parametrize("changes", OFF.values(), ids=OFF.keys())
def test_switched_off_is_the_baseline_bit_for_bit(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    assert differing(step(built, tokens, changes), step(built, tokens, {})) == []


def test_with_all_groups_allowed_their_code_is_not_called(
    built: Built, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.moe.only_best_groups", lambda *_: pytest.fail("called"))
    built({"moe.n_group": 3, "moe.topk_group": 3})(tokens(1, 4))


def test_one_microbatch_is_the_batch(built: Built, tokens: Tokens) -> None:
    local = {"moe.balance.load_scope": "microbatch"}
    assert differing(step(built, tokens, local, microbatches=1), step(built, tokens, {}, microbatches=1)) == []
    assert differing(step(built, tokens, local), step(built, tokens, {})) != []


ON: dict[str, dict[str, Any]] = {
    "baseline": {},
    "softmax": {"moe.scoring": "softmax"},
    "not normalised": {"moe.normalise": False},
    "softmax, not normalised": {"moe.scoring": "softmax", "moe.normalise": False},
    "scaled": {"moe.routed_scaling_factor": 2.5},
    "3 groups": {"moe.n_group": 3, "moe.topk_group": 1},
    "proportional": {"moe.balance.bias_rule": "proportional"},
    "multiplicative": {"moe.balance.bias_form": "multiplicative"},
    "local": {"moe.balance.load_scope": "microbatch"},
    "frozen": {"moe.balance.frozen_fraction": 0.5},
}


def test_arms_differ_and_each_moves_the_model_in_its_first_steps(built: Built, tokens: Tokens) -> None:
    """From the same initial values: what touches the gates shows in the first gradient, what touches the bias in the
    bias after the first step (frozen: after the second) and in the choices of a later one."""
    arms = {name: step(built, tokens, changes, steps=4) for name, changes in ON.items()}
    names = list(arms)
    same = [(a, b) for i, a in enumerate(names) for b in names[:i] if not differing(arms[a], arms[b])]
    assert same == []
    first = {name: step(built, tokens, changes, steps=1) for name, changes in ON.items()}
    weight = "model.layers.2.mlp.experts.down_proj.grad"
    bias = "model.layers.2.mlp.gate.e_score_correction_bias"
    found = {name: differing(model, first["baseline"]) for name, model in first.items()}
    gates = {"softmax", "not normalised", "softmax, not normalised", "scaled", "3 groups"}
    assert {name for name in ON if weight in found[name]} == gates
    assert {"3 groups", "proportional", "local"} <= {name for name in ON if bias in found[name]}


def test_bias_stops_exactly_where_its_speed_ends(built: Built, tokens: Tokens) -> None:
    """Steps 0 to 3 of 4: with half of the training frozen, the bias after the last is that after the second."""
    two_of_four = step(built, tokens, {"moe.balance.frozen_fraction": 0.5}, steps=4)
    after_two, whole = (step(built, tokens, {}, steps=steps) for steps in (2, 4))
    for frozen, half, never in zip(two_of_four.routers(), after_two.routers(), whole.routers(), strict=True):
        assert torch.equal(frozen.e_score_correction_bias, half.e_score_correction_bias)
        assert not torch.equal(frozen.e_score_correction_bias, never.e_score_correction_bias)


@pytest.mark.parametrize("kind", ["bias", "bias_aux_loss", "none", "aux_loss"])
def test_only_a_strategy_with_a_bias_keeps_one(tiny: Tiny, kind: str) -> None:
    """Under the published name, FP32 whatever the compute type, and no parameter."""
    router = Router(D, tiny({"moe.balance.kind": kind, "dtype": "bfloat16"}).moe)
    assert ("e_score_correction_bias" in router.state_dict()) == kind.startswith("bias")
    assert [name for name, _ in router.named_parameters()] == ["weight"]
    router.update(torch.tensor([9, 1, 5, 5, 6, 4]), torch.tensor([5] * 6), 0.0)
    if kind.startswith("bias"):
        assert router.e_score_correction_bias.dtype == torch.float32
        moved = 0.001 * np.sign(5 - np.array([9, 1, 5, 5, 6, 4]))
        np.testing.assert_allclose(router.e_score_correction_bias.numpy(), moved, rtol=1e-6)
