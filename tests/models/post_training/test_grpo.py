"""GRPO's loss against one written out token by token and against trl's, and what it comes to where that is known."""

import contextlib
import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.post_training.config import GRPOConfig
from models.post_training.grpo import (
    advantages,
    grpo_terms,
    log_ratio_divergence,
    token_logs,
    token_weights,
    without_signal,
)

Q, G, T, V, MOST = 3, 4, 6, 7, 9


def case(seed: int = 0, temperature: float = 1.0) -> dict[str, Tensor]:
    """B = Q * G answers of different lengths, drawn by a policy that differs somewhat from this one."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(Q * G, T, V, generator=rng)
    targets = torch.randint(0, V, (Q * G, T), generator=rng)
    lengths = torch.randint(1, T + 1, (Q * G, 1), generator=rng)
    own = token_logs(logits, targets, temperature)
    return {
        "logits": logits,
        "targets": targets,
        "mask": torch.arange(T).expand(Q * G, T) < lengths,
        "rewards": torch.randint(0, 2, (Q, G), generator=rng).float(),
        "drawn": own + 0.4 * torch.randn(Q * G, T, generator=rng),
        "reference": own + 0.4 * torch.randn(Q * G, T, generator=rng),
    }


CONFIGS = [
    GRPOConfig(updates=2),
    GRPOConfig(updates=2, scale_by_sd=False, average="fixed", answer_tokens=MOST, kl_weight=0.0),
    GRPOConfig(updates=2, average="token", clip_high=0.28, kl_weight=0.0),
    GRPOConfig(updates=2, kl_estimator="k1", kl_weight=0.3),
    GRPOConfig(updates=2, kl_estimator="k2", kl_weight=0.3, entropy_weight=0.05),
    GRPOConfig(updates=1, temperature=0.7, entropy_weight=0.1, average="token"),
]


def ours(config: GRPOConfig, given: dict[str, Tensor], logits: Tensor, parts: int = 1) -> tuple[Tensor, ...]:
    gains = advantages(given["rewards"], config.scale_by_sd).flatten()
    weights = token_weights(given["mask"], config.average, MOST)
    shares = token_weights(given["mask"], "token", 0)
    found = []
    for rows in torch.arange(Q * G).chunk(parts):
        drawn = given["drawn"][rows] if config.updates > 1 else None
        reference = given["reference"][rows] if config.kl_weight else None
        batch = (logits[rows], given["targets"][rows], gains[rows], weights[rows], shares[rows])
        found.append(torch.stack(grpo_terms(*batch, config, drawn, reference)))
    return tuple(torch.stack(found).sum(dim=0))


def written_out(config: GRPOConfig, given: dict[str, Tensor]) -> tuple[float, float, float, float]:
    """In Python's own numbers, a token at a time."""
    loss = kl = entropy = clipped = 0.0
    count = int(given["mask"].sum())
    for b in range(Q * G):
        rewards = given["rewards"][b // G].tolist()
        mean = sum(rewards) / G
        gain = rewards[b % G] - mean
        if config.scale_by_sd:
            gain /= math.sqrt(sum((r - mean) ** 2 for r in rewards) / (G - 1)) + 1e-4
        length = int(given["mask"][b].sum())
        for t in range(length):
            z = [x / config.temperature for x in given["logits"][b, t].tolist()]
            norm = math.log(sum(map(math.exp, z)))
            log = z[int(given["targets"][b, t])] - norm
            ratio = math.exp(log - float(given["drawn"][b, t])) if config.updates > 1 else 1.0
            free = ratio * gain
            held = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high) * gain
            h = -sum(math.exp(x - norm) * (x - norm) for x in z)
            weight = {"answer": 1 / (length * Q * G), "token": 1 / count, "fixed": 1 / (Q * G * MOST)}[config.average]
            loss -= weight * min(free, held)
            clipped += (held < free) / count
            entropy += h / count
            if config.kl_weight:
                d = float(given["reference"][b, t]) - log
                term = {"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[config.kl_estimator]
                loss, kl = loss + config.kl_weight * weight * term, kl + term / count
            loss -= config.entropy_weight * h / count
    return loss, kl, entropy, clipped


@pytest.mark.parametrize("config", CONFIGS)
def test_the_loss_is_the_one_written_out(config: GRPOConfig) -> None:
    given = case(temperature=config.temperature)
    found = [float(term) for term in ours(config, given, given["logits"])]
    assert found == pytest.approx(written_out(config, given), rel=2e-5, abs=1e-6)
    assert config.updates == 1 or found[3] > 0.1, "some tokens are clipped, or this tests little"


@pytest.mark.parametrize("config", CONFIGS)
def test_parts_of_a_batch_add_up_to_it(config: GRPOConfig) -> None:
    given = case(temperature=config.temperature)
    gradients = []
    for parts in (1, 4):
        logits = given["logits"].clone().requires_grad_()
        terms = ours(config, given, logits, parts)
        terms[0].backward()
        gradients.append((torch.stack(terms).detach(), logits.grad))
    for one, many in zip(*gradients, strict=True):
        torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-7)


@contextlib.contextmanager
def quiet() -> Any:
    level = logging.getLogger("trl").level
    logging.getLogger("trl").setLevel(logging.ERROR)
    yield
    logging.getLogger("trl").setLevel(level)


THEIRS = {"answer": "grpo", "token": "dapo", "fixed": "dr_grpo"}


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.kl_estimator == "k3"])
def test_loss_and_gradient_are_trls(config: GRPOConfig) -> None:
    """Their own method on the same tensors: all that it asks of its trainer is given by hand."""
    with quiet():
        grpo = pytest.importorskip("trl.trainer.grpo_trainer")
    given = case(temperature=config.temperature)
    logits = given["logits"].clone().requires_grad_()

    def logs_and_entropies(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        logs = torch.log_softmax(logits / config.temperature, dim=-1)
        chosen = torch.gather(logs, -1, given["targets"].unsqueeze(-1)).squeeze(-1)
        return chosen, torch.distributions.Categorical(logits=logs).entropy(), None

    def reduce(tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor

    passed = SimpleNamespace(num_processes=1, gather=lambda x: x, reduce=reduce, sync_gradients=True)
    args = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    metrics: Any = {"train": __import__("collections").defaultdict(list)}
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=logs_and_entropies,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=config.kl_weight,
        args=args,
        loss_type=THEIRS[config.average],
        epsilon_low=config.clip_low,
        epsilon_high=config.clip_high,
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=MOST,
        accelerator=passed,
        _entropy_bonus_enabled=bool(config.entropy_weight),
        use_adaptive_entropy=False,
        entropy_coef=config.entropy_weight,
        _metrics=metrics,
    )
    mask = given["mask"].float()
    rewards = given["rewards"]
    gains = rewards - rewards.mean(dim=1, keepdim=True)  # as in _generate_and_score_completions
    if config.scale_by_sd:
        gains = gains / (rewards.std(dim=1, keepdim=True) + 1e-4)
    inputs = {
        "prompt_ids": torch.zeros(Q * G, 1, dtype=torch.long),
        "prompt_mask": torch.ones(Q * G, 1),
        "completion_ids": given["targets"],
        "completion_mask": mask,
        "advantages": gains.flatten(),
        "old_per_token_logps": given["drawn"] if config.updates > 1 else None,
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": mask.sum(),
    }
    theirs = grpo.GRPOTrainer._compute_loss(trainer, None, inputs)
    theirs.backward()
    own = given["logits"].clone().requires_grad_()
    loss, *_ = ours(config, given, own)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    torch.testing.assert_close(own.grad, logits.grad, rtol=1e-4, atol=1e-7)
    assert float(own.grad.abs().max()) > 1e-3  # type: ignore[union-attr]


def test_every_toggle_toggles() -> None:
    given = case()
    base = GRPOConfig(updates=2)
    found = float(ours(base, given, given["logits"])[0])
    for change in (
        {"scale_by_sd": False},
        {"average": "token"},
        {"average": "fixed"},
        {"clip_low": 0.1},
        {"clip_high": 0.28},
        {"kl_weight": 0.0},
        {"kl_estimator": "k2"},
        {"kl_estimator": "k1"},
        {"entropy_weight": 0.01},
        {"temperature": 0.9},
        {"updates": 1},
    ):
        other = GRPOConfig(**{"updates": 2, **change})  # type: ignore[arg-type]
        assert float(ours(other, given, given["logits"])[0]) != found, change


def test_a_group_whose_answers_earn_alike_teaches_nothing() -> None:
    rewards = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    gains = advantages(rewards, by_sd=True)
    assert not gains[:2].any() and gains[2].tolist() == pytest.approx([1.1545, -0.5773, -0.5773], abs=1e-3)
    assert float(without_signal(rewards)) == pytest.approx(2 / 3)
    rounded = torch.full((1, 7), 0.1)
    assert float(rounded.mean()) != 0.1 and (rounded - rounded.mean()).any(), "or it proves nothing"
    assert not advantages(rounded, by_sd=True).any() and not advantages(rounded, by_sd=False).any()


@pytest.mark.parametrize(("estimator", "gradient"), [("k1", "none"), ("k2", "to reference"), ("k3", "from reference")])
def test_estimators_of_the_divergence_in_the_mean(estimator: str, gradient: str) -> None:
    """Over all outcomes, each as often as the policy draws it: k1 and k3 are the KL. As a loss their gradients are not:
    k1's is 0, k2's that of KL(policy || reference), k3's that of KL(reference || policy)."""
    reference = torch.log_softmax(torch.tensor([0.5, -1.0, 0.2, 0.9], dtype=torch.float64), dim=0)
    z = torch.tensor([-0.3, 0.8, 0.1, -0.6], dtype=torch.float64, requires_grad=True)
    logs = torch.log_softmax(z, dim=0)
    samples = log_ratio_divergence(logs, reference, estimator)
    mean = (logs.detach().exp() * samples).sum()
    divergence = (logs.exp() * (logs - reference)).sum()
    if estimator != "k2":
        assert float(mean.detach()) == pytest.approx(float(divergence.detach()), rel=1e-9)
    (found,) = torch.autograd.grad(mean, z, retain_graph=True)
    other = (reference.exp() * (reference - logs)).sum()
    wanted = {"none": 0 * divergence, "to reference": divergence, "from reference": other}[gradient]
    (right,) = torch.autograd.grad(wanted, z)
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_a_bandit_of_two_arms_comes_to_the_optimum_that_is_known(estimator: str) -> None:
    """Reward 1 for the second arm alone, the reference undecided. In the mean an advantage is (G - 1) / G of the reward
    above the policy's own (the group's mean holds the answer itself), so with w that share, beta the KL's weight and p
    the second arm's probability: k2 balances at ln(p / (1 - p)) = w / beta, k3 at w p (1 - p) = beta (p - 1/2)."""
    group, beta, count = 8, 0.5, 4000
    config = GRPOConfig(group=group, scale_by_sd=False, average="token", kl_weight=beta, kl_estimator=estimator)  # type: ignore[arg-type]
    z = torch.zeros(2, requires_grad=True)
    reference, generator = torch.full((count * group, 1), math.log(0.5)), torch.Generator().manual_seed(0)
    mask, found = torch.ones(count * group, 1, dtype=torch.bool), []
    weights = token_weights(mask, "token", 1)
    optimizer = torch.optim.SGD([z], lr=1.0)
    for _ in range(120):
        arms = torch.multinomial(torch.softmax(z.detach(), 0), count * group, replacement=True, generator=generator)
        gains = advantages(arms.float().view(count, group), by_sd=False).flatten()
        logits = z.expand(count * group, 1, 2)
        terms = grpo_terms(logits, arms.unsqueeze(1), gains, weights, weights, config, None, reference)
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        found.append(float(torch.softmax(z.detach(), 0)[1]))
    w = (group - 1) / group
    wanted = 1 / (1 + math.exp(-w / beta)) if estimator == "k2" else max(np.roots([w, beta - w, -beta / 2]).real)
    assert np.mean(found[-40:]) == pytest.approx(wanted, abs=0.004)
