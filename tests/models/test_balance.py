"""Each balancing strategy's formula against NumPy, its gradient by finite differences, and how the bias moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.balance import Balance, BiasAndAuxLoss, Routing, build_balance, max_vio
from models.config import BalanceConfig, ModelConfig, MoEConfig
from models.moe import MoE

E, K, ALPHA, SPEED = 6, 2, 0.37, 0.01
SCOPES = ("sequence", "microbatch", "batch")
Tiny = Callable[..., ModelConfig]


def strategy(kind: str, scope: str = "sequence", alpha: float = ALPHA) -> Balance:
    balance = BalanceConfig(kind=kind, scope=scope, alpha=alpha, update_speed=SPEED)  # type: ignore[arg-type]
    return build_balance(MoEConfig(n_routed_experts=E, top_k=K, balance=balance))


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


def after(strategy: Balance, loads: list[list[int]], last: list[list[int]] | None = None) -> np.ndarray:
    """The bias after steps with these loads, one after another; 0 at first."""
    bias = np.zeros(E)
    for load, part in zip(loads, last or loads, strict=True):
        moved = strategy.step(torch.tensor(load), torch.tensor(part), progress=0.0)
        assert moved is not None and moved.dtype == torch.float64
        bias += moved.numpy()
    return bias


LOADS = [[9, 1, 5, 5, 6, 4], [0, 0, 0, 0, 0, 30], [1000, 0, 2, 2, 2, 2], [5] * E]


def rule(**settings: Any) -> Balance:
    kind = settings.pop("kind", "bias")
    balance = BalanceConfig(kind=kind, alpha=ALPHA, update_speed=SPEED, **settings)
    return build_balance(MoEConfig(n_routed_experts=E, top_k=K, balance=balance))


@pytest.mark.parametrize("kind", ["bias", "bias_aux_loss"])
def test_bias_moves_by_u_against_the_load_and_only_by_its_sign(kind: str) -> None:
    """2408.15664 Algorithm 1: b_i += u sign(mean load - load_i)."""
    expected = np.zeros(E)
    for n, load in enumerate(LOADS, start=1):
        expected += SPEED * np.sign(np.mean(load) - np.array(load))
        np.testing.assert_allclose(after(strategy(kind), LOADS[:n]), expected, atol=1e-15)
    assert expected[0] < 0 < expected[1], "the crowded expert falls, the idle one rises"


@pytest.mark.parametrize("kind", ["bias", "bias_aux_loss"])
def test_proportional_rule_moves_by_the_relative_error(kind: str) -> None:
    """2408.15664 table 3, over the mean load: a batch twice as large moves the bias as far."""
    proportional = rule(kind=kind, bias_rule="proportional")
    for load in LOADS:
        expected = SPEED * (np.mean(load) - np.array(load)) / np.mean(load)
        np.testing.assert_allclose(after(proportional, [load]), expected, rtol=1e-14, atol=1e-18)
        np.testing.assert_allclose(after(proportional, [[2 * n for n in load]]), expected, rtol=1e-14, atol=1e-18)
    assert not np.allclose(after(proportional, LOADS), after(rule(kind=kind), LOADS))


@pytest.mark.parametrize("bias_rule", ["sign", "proportional"])
def test_load_scope_says_whose_load_counts(bias_rule: str) -> None:
    """`batch` never looks at the last microbatch, `microbatch` at nothing else; the two pull opposite ways here."""
    whole, last = [[9, 1, 5, 5, 6, 4]], [[0, 8, 2, 1, 1, 0]]
    by_batch, by_last = (rule(bias_rule=bias_rule, load_scope=scope) for scope in ("batch", "microbatch"))
    assert after(by_batch, whole, last).tolist() == after(by_batch, whole).tolist()
    assert after(by_last, whole, last).tolist() == after(by_batch, last).tolist()
    assert after(by_last, whole, last)[1] < 0 < after(by_batch, whole, last)[1]


def test_what_top_k_sees() -> None:
    """Additive s + b, multiplicative s (1 + b) (2408.15664 table 4); a bias of 0 changes no bit."""
    scores, bias = affinities().flatten(0, 1), torch.linspace(-0.5, 0.5, E, dtype=torch.float64)
    additive, multiplicative = (rule(bias_form=form) for form in ("additive", "multiplicative"))
    np.testing.assert_array_equal(additive.biased(scores, bias).numpy(), scores.numpy() + bias.numpy())
    np.testing.assert_array_equal(multiplicative.biased(scores, bias).numpy(), scores.numpy() * (1 + bias.numpy()))
    for form in (additive, multiplicative):
        assert torch.equal(form.biased(scores, torch.zeros(E)), scores)


@pytest.mark.parametrize("kind", ["bias", "bias_aux_loss"])
def test_update_speed_is_zero_in_the_tail(kind: str) -> None:
    """V3 4.2: u = 0.001 for 14.3T of 14.8T tokens, then 0. The first step of the tail already moves nothing."""
    frozen = rule(kind=kind, frozen_fraction=0.25)
    load = torch.tensor(LOADS[0])
    moved = [frozen.step(load, load, step / 8) is not None for step in range(8)]
    assert moved == [True] * 6 + [False] * 2
    v3 = rule(kind=kind, frozen_fraction=0.5 / 14.8)
    assert [v3.step(load, load, tokens / 14.8) is not None for tokens in (14.29, 14.31)] == [True, False]
    assert rule(kind=kind).step(load, load, 1 - 1e-9) is not None, "off: never"


def test_strategies_without_a_bias_move_none() -> None:
    for kind in ("none", "aux_loss"):
        balance, scores = strategy(kind), affinities()
        assert not balance.has_bias and balance.step(torch.arange(E), torch.arange(E), 0.0) is None
        assert balance.biased(scores, torch.ones(E)) is scores
    assert strategy("none").loss(routed(affinities()), None) is None
    assert strategy("bias").loss(routed(affinities()), None) is None
    assert strategy("bias").has_bias and strategy("bias_aux_loss").has_bias
    assert isinstance(strategy("bias_aux_loss"), BiasAndAuxLoss)


def test_auxiliary_loss_is_the_same_whatever_the_bias(tiny: Tiny) -> None:
    """Through the layer: the bias changes the choices and leaves the term, which is that of the affinities."""
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    moe = MoE(tiny({"moe.balance.kind": "bias_aux_loss", "moe.balance.alpha": ALPHA})).double()
    torch.manual_seed(0)
    for parameter in moe.parameters():
        torch.nn.init.normal_(parameter, 0, 0.3)
    _, before = moe(x)
    moe.gate.e_score_correction_bias += torch.tensor([2.0, 2.0, 0, 0, 0, 0])
    _, biased = moe(x)
    assert biased.load_E.tolist() == [18, 18, 0, 0, 0, 0] != before.load_E.tolist()
    values = [moe.gate.balance.loss(routing, None) for routing in (before, biased)]
    assert values[0] is not None and values[1] is not None and torch.equal(values[0], values[1])
    expected = np.mean([eq_17_to_20(s, ALPHA) for s in biased.scores_BTE.detach().numpy()])
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
