"""Learning from a teacher's distribution, against torch, trl, and losses written out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.post_training.config import DistilConfig
from models.post_training.distil import Distilling, divergence
from models.training.executor import Microbatching
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
FORWARD, REVERSE = DistilConfig(loss="forward_kl"), DistilConfig(loss="reverse_kl")
DENSE = {"feed_forward": "dense"}


def logits(seed: int, *shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_both_divergences_are_those_of_torch_and_of_numpy(temperature: float) -> None:
    student, teacher = logits(0, 2, 5, 7), logits(1, 2, 5, 7)
    p, q = (np.exp(x.double().numpy() / temperature) for x in (teacher, student))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    logs = [F.log_softmax(x / temperature, dim=-1) for x in (student, teacher)]
    for config, ours, theirs in (
        (FORWARD, p * np.log(p / q), F.kl_div(logs[0], logs[1], reduction="none", log_target=True)),
        (REVERSE, q * np.log(q / p), F.kl_div(logs[1], logs[0], reduction="none", log_target=True)),
    ):
        found = divergence(student, teacher, dataclasses.replace(config, temperature=temperature))
        torch.testing.assert_close(found, torch.from_numpy(temperature**2 * ours.sum(-1)).float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, temperature**2 * theirs.sum(-1), rtol=1e-4, atol=1e-5)
    forward, reverse = (float(divergence(student, teacher, config).sum()) for config in (FORWARD, REVERSE))
    assert abs(forward - reverse) > 1, "the direction matters"


@pytest.mark.parametrize(("config", "beta"), [(FORWARD, 0.0), (REVERSE, 1.0)])
def test_loss_and_gradient_are_those_of_trl(config: DistilConfig, beta: float) -> None:
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher = logits(2, 2, 5, 7).requires_grad_(), logits(3, 2, 5, 7)
    mask = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 1]], dtype=torch.bool)
    labels = torch.where(mask, 1, -100)
    config = dataclasses.replace(config, temperature=2.0)
    own = divergence(student, teacher, config)[mask].mean() / config.temperature**2
    theirs = gkd.GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=beta, temperature=2.0)
    torch.testing.assert_close(own, theirs)
    (one,) = torch.autograd.grad(own, student)
    (other,) = torch.autograd.grad(theirs, student)
    torch.testing.assert_close(one, other)


def test_at_a_high_temperature_it_is_the_distance_of_logits() -> None:
    """Hinton 1503.02531 eq. 4: with logits of mean 0, the gradient tends to their difference over V, T^2 counted in."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (logits(4, 1, 1, 9), logits(5, 1, 1, 9)))
    student.requires_grad_()
    config = DistilConfig(loss="forward_kl", temperature=1000.0)
    (gradient,) = torch.autograd.grad(divergence(student.double(), teacher.double(), config).sum(), student)
    torch.testing.assert_close(gradient, (student - teacher).detach() / 9, rtol=1e-2, atol=1e-3)


def stepped(built: Built, batch: Tensor, mask: Tensor | None, microbatches: int, config: DistilConfig) -> Any:
    student, teacher = built(DENSE), built(DENSE | {"n_layers": 2}, seed=5)
    result = Distilling(student, teacher, config, microbatches).step(batch, mask_BT=mask)
    return result, student, teacher


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("config", [FORWARD, REVERSE], ids=["forward", "reverse"])
def test_a_step_is_the_mean_over_the_whole_batch(
    built: Built, tokens: Tokens, config: DistilConfig, masked: bool
) -> None:
    batch = tokens(8, 10)
    mask = torch.rand(8, 9, generator=torch.Generator().manual_seed(1)) < 0.4 if masked else None
    for microbatches in (1, 4):
        result, student, teacher = stepped(built, batch, mask, microbatches, config)
        plain = built(DENSE)
        with torch.no_grad():
            target = F.log_softmax(teacher(batch[:, :-1]).logits, dim=-1)
        own = F.log_softmax(plain(batch[:, :-1]).logits, dim=-1)
        of, other = (target, own) if config is FORWARD else (own, target)
        kl = (of.exp() * (of - other)).sum(-1)
        expected = kl.mean() if mask is None else kl[mask].mean()
        expected.backward()
        torch.testing.assert_close(result.losses["distil_loss"], expected.detach())
        for (name, ours), theirs in zip(student.named_parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-12, msg=name)
        text = Microbatching(built(DENSE), microbatches).step(batch, mask_BT=mask)
        torch.testing.assert_close(result.losses["loss"], text.losses["loss"], msg="told, and not learned")
        assert all(p.grad is None for p in teacher.parameters()) and student.training


def test_balance_and_mtp_learn_as_ever(built: Built, tokens: Tokens) -> None:
    changes = {"mtp.depth": 1, "moe.balance.kind": "aux_loss", "moe.balance.alpha": 0.5}
    batch, student = tokens(4, 10), built(changes)
    own = Distilling(student, built(changes, seed=5), FORWARD, 2).step(batch)
    text = Microbatching(built(changes), 2).step(batch)
    for name in ("aux_loss", "mtp_loss", "mtp_loss_1", "loss"):
        torch.testing.assert_close(own.losses[name], text.losses[name])
    assert torch.equal(own.load_LE, text.load_LE)


def test_a_teacher_that_is_the_student_teaches_nothing(built: Built, tokens: Tokens) -> None:
    student = built(DENSE)
    result = Distilling(student, built(DENSE), FORWARD, 1).step(tokens(4, 10))
    assert float(result.losses["distil_loss"]) == pytest.approx(0, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None) < 1e-6


def test_a_teacher_of_another_vocabulary_is_refused(built: Built) -> None:
    with pytest.raises(ValueError, match="a teacher of 96 tokens, and a student of"):
        Distilling(built(DENSE), built(DENSE | {"vocab_size": 96}), FORWARD, 1)
