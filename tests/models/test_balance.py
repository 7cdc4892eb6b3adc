"""Each balancing strategy's formula against NumPy, its gradient by finite differences, and the router around it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.balance import Balance, BiasAndAuxLoss, Routing, build_balance, max_vio
from models.config import BalanceConfig, ModelConfig, MoEConfig
from models.moe import MoE, Router

E, K, ALPHA, SPEED = 6, 2, 0.37, 0.01
SCOPES = ("sequence", "microbatch", "batch")
Tiny = Callable[..., ModelConfig]


def strategy(kind: str, scope: str = "sequence", alpha: float = ALPHA) -> Balance:
    balance = BalanceConfig(kind=kind, scope=scope, alpha=alpha, update_speed=SPEED)  # type: ignore[arg-type]
    return build_balance(MoEConfig(n_routed_experts=E, top_k=K, balance=balance)).double()


def affinities(batch: int = 3, length: int = 5, seed: int = 0) -> Tensor:
    """(B, T, E) in (0, 1), far enough apart that a finite difference changes no choice."""
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.linspace(0.05, 0.95, E), (batch, length, 1)), axis=-1)
    return torch.from_numpy(scores + rng.uniform(-0.03, 0.03, scores.shape))


def routed(scores_BTE: Tensor) -> Routing:
    """A routing that carries these affinities; the chosen experts are deliberately others than their top-k."""
    worst = scores_BTE.flatten(0, 1).topk(K, largest=False).indices
    load = torch.bincount(worst.flatten(), minlength=E)
    return Routing(scores_BTE, worst, torch.full(worst.shape, 0.5, dtype=scores_BTE.dtype), load)


def eq_17_to_20(scores: np.ndarray, alpha: float) -> float:
    """V3's equations for one sequence (T, E), term by term."""
    length = len(scores)
    chosen = [set(np.argsort(-token)[:K].tolist()) for token in scores]
    f = [E / (K * length) * sum(i in experts for experts in chosen) for i in range(E)]
    p = [sum(token[i] / token.sum() for token in scores) / length for i in range(E)]
    return alpha * sum(f_i * p_i for f_i, p_i in zip(f, p, strict=True))


def batch_share(scores_BTE: Tensor) -> Tensor:
    """f (E) over all the tokens, from the affinities' own top-k."""
    chosen = np.argsort(-scores_BTE.detach().numpy().reshape(-1, E), axis=-1)[:, :K]
    return torch.from_numpy(np.bincount(chosen.ravel(), minlength=E) * E / chosen.size)


@pytest.mark.parametrize("kind", ["aux_loss", "bias_aux_loss"])
@pytest.mark.parametrize("scope", SCOPES)
def test_auxiliary_loss_is_that_of_the_equations(kind: str, scope: str) -> None:
    """Also with a bias: f counts the top-k of the unbiased affinities (eq. 18), whatever was chosen."""
    scores = affinities()
    loss = strategy(kind, scope).loss(routed(scores), batch_share(scores))
    sequences = list(scores.numpy())
    expected = (
        np.mean([eq_17_to_20(sequence, ALPHA) for sequence in sequences])
        if scope == "sequence"
        else eq_17_to_20(np.concatenate(sequences), ALPHA)
    )
    assert loss is not None
    assert float(loss) == pytest.approx(expected, rel=1e-13)


def test_scopes_differ_on_uneven_sequences_and_uniform_routing_gives_alpha() -> None:
    scores = affinities()
    values = {scope: float(strategy("aux_loss", scope).loss(routed(scores), torch.ones(E))) for scope in SCOPES}  # type: ignore[arg-type]
    assert len(set(values.values())) == 3
    cyclic = torch.stack([torch.linspace(0.1, 0.9, E).double().roll(shift) for shift in range(E)]).expand(2, E, E)
    for scope in SCOPES:
        loss = strategy("aux_loss", scope).loss(routed(cyclic), torch.ones(E))
        assert float(loss) == pytest.approx(ALPHA, rel=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["aux_loss", "bias_aux_loss"])
@pytest.mark.parametrize("scope", SCOPES)
def test_gradient_is_that_of_finite_differences_through_p_alone(kind: str, scope: str) -> None:
    balance = strategy(kind, scope)
    scores = affinities().requires_grad_()
    share = batch_share(scores)

    def loss(scores: Tensor) -> Tensor:
        value = balance.loss(routed(scores), share)
        assert value is not None
        return value

    assert torch.autograd.gradcheck(loss, (scores,), eps=1e-6, atol=1e-9, rtol=1e-6)
    (gradient,) = torch.autograd.grad(loss(scores), scores)
    # By hand with f constant: dP_j/ds_i = (delta_ij - p_j) / sum(s), averaged over tokens.
    s = scores.detach().numpy()
    total = s.sum(-1, keepdims=True)
    f = share.numpy() if scope != "sequence" else np.stack([batch_share(x[None]).numpy() for x in scores])[:, None]
    by_hand = ALPHA / (s.shape[0] * s.shape[1]) * (f - (f * s / total).sum(-1, keepdims=True)) / total
    np.testing.assert_allclose(gradient.numpy(), by_hand, rtol=1e-11, atol=1e-15)


def test_batch_scope_refuses_to_guess_the_batch() -> None:
    balance = strategy("aux_loss", "batch")
    assert balance.needs_batch_load and not strategy("bias").needs_batch_load
    with pytest.raises(ValueError, match="counting pass"):
        balance.loss(routed(affinities()), None)


@pytest.mark.parametrize("kind", ["bias", "bias_aux_loss"])
def test_bias_moves_by_u_against_the_load_and_only_by_its_sign(kind: str) -> None:
    balance = strategy(kind)
    bias = np.zeros(E)
    for load in ([9, 1, 5, 5, 6, 4], [0, 0, 0, 0, 0, 30], [1000, 0, 2, 2, 2, 2], [5] * E):
        balance.update(torch.tensor(load))
        bias += SPEED * np.sign(np.mean(load) - np.array(load))
        np.testing.assert_allclose(balance.bias_E.numpy(), bias, atol=1e-15)  # type: ignore[union-attr, operator]
    assert bias[0] < 0 < bias[1], "the crowded expert falls, the idle one rises"


def test_strategies_without_a_bias_keep_no_state() -> None:
    for kind in ("none", "aux_loss"):
        balance = strategy(kind)
        balance.update(torch.arange(E))
        scores = affinities()
        assert not balance.state_dict() and torch.equal(balance.biased(scores), scores)
    assert strategy("none").loss(routed(affinities()), None) is None
    assert strategy("bias").loss(routed(affinities()), None) is None
    assert isinstance(strategy("bias_aux_loss"), BiasAndAuxLoss)


@pytest.mark.parametrize("scaling", [1.0, 2.5])
def test_router_chooses_by_the_biased_and_weighs_by_the_unbiased(tiny: Tiny, scaling: float) -> None:
    config = tiny({"moe.balance.kind": "bias", "moe.routed_scaling_factor": scaling, "moe.top_k": 3})
    router = Router(config.d_model, config.moe).double()
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(router.weight, 0, 0.3, generator)
    x = torch.randn(2, 7, config.d_model, generator=generator, dtype=torch.float64)
    plain = router(x)
    router.balance.bias_E += torch.tensor([0.9, -0.9, 0.0, 0.3, -0.3, 0.0])  # type: ignore[operator]
    routing = router(x)
    scores = 1 / (1 + np.exp(-(x.numpy().reshape(-1, config.d_model) @ router.weight.detach().numpy().T)))
    np.testing.assert_allclose(routing.scores_BTE.detach().numpy().reshape(scores.shape), scores, rtol=1e-12)
    bias = router.balance.bias_E.numpy()  # type: ignore[union-attr, operator]
    for n, token in enumerate(scores):
        chosen = routing.experts_NK[n].tolist()
        assert set(chosen) == set(np.argsort(-(token + bias))[:3].tolist())
        gates = scaling * token[chosen] / token[chosen].sum()
        np.testing.assert_allclose(routing.gates_NK[n].detach().numpy(), gates, rtol=1e-12)
    assert not torch.equal(plain.load_E, routing.load_E), "a bias of 0.9 must move some choices"
    assert routing.load_E.tolist() == np.bincount(routing.experts_NK.numpy().ravel(), minlength=E).tolist()
    assert int(routing.load_E.sum()) == 14 * 3 and routing.load_E.dtype == torch.int64


def test_auxiliary_loss_is_the_same_whatever_the_bias(tiny: Tiny) -> None:
    """Through the layer: the bias changes the choices and leaves the term, which is that of the affinities."""
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moe = MoE(tiny({"moe.balance.kind": "bias_aux_loss", "moe.balance.alpha": ALPHA})).double()
    torch.manual_seed(0)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    _, before = moe(x)
    moe.gate.balance.bias_E += torch.tensor([2.0, 2.0, 0, 0, 0, 0])  # type: ignore[operator]
    _, after = moe(x)
    assert after.load_E.tolist() == [18, 18, 0, 0, 0, 0] != before.load_E.tolist()
    values = [moe.gate.balance.loss(routing, None) for routing in (before, after)]
    assert values[0] is not None and values[1] is not None and torch.equal(values[0], values[1])
    expected = np.mean([eq_17_to_20(s, ALPHA) for s in after.scores_BTE.detach().numpy()])
    assert float(values[1].detach()) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ([[4, 4, 4, 4]], [0.0]),
        ([[8, 4, 2, 2], [16, 0, 0, 0]], [1.0, 3.0]),
        ([[10**9 + 1, 10**9, 10**9, 10**9]], [0.75 / (10**9 + 0.25)]),
    ],
)
def test_max_vio_by_hand(load: Any, expected: list[float]) -> None:
    assert max_vio(torch.tensor(load)).tolist() == pytest.approx(expected, rel=1e-6)


def test_max_vio_stays_within_its_bounds() -> None:
    """Over routings: 0 when even, E / K - 1 where every token takes the same K experts; NumPy in between."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        tokens = rng.integers(1, 40)
        chosen = np.stack([rng.permutation(E)[:K] for _ in range(tokens)])
        load = np.bincount(chosen.ravel(), minlength=E)
        value = float(max_vio(torch.from_numpy(load)))
        assert value == pytest.approx(load.max() / load.mean() - 1)
        assert 0 <= value <= E / K - 1 + 1e-12
    assert float(max_vio(torch.tensor([7] * K + [0] * (E - K)))) == pytest.approx(E / K - 1)
