"""The blocked cross entropy against torch's own."""

import pytest
import torch
import torch.nn.functional as F

import models.training.loss
from models.training.loss import language_model_loss


@pytest.mark.parametrize("block", [1, 61 * 4, 1 << 19], ids=["row by row", "4 rows", "at once"])
def test_loss_and_gradient_are_torchs(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """14 rows: blocks of 4 leave a rest. Large logits do not overflow."""
    monkeypatch.setattr(models.training.loss, "BLOCK_ELEMENTS", block)
    generator = torch.Generator().manual_seed(0)
    logits = 300 * torch.randn(2, 7, 61, generator=generator, dtype=torch.float64)
    targets = torch.randint(61, (2, 7), generator=generator)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = language_model_loss(ours, targets)
    expected = F.cross_entropy(theirs.flatten(0, 1), targets.flatten())
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)
    (2.5 * loss).backward()
    (2.5 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("block", [1, 61 * 4, 1 << 19], ids=["row by row", "4 rows", "at once"])
def test_with_a_mask_it_is_torchs_of_what_counts(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Also where logits that do not count are not finite, and where nothing counts."""
    monkeypatch.setattr(models.training.loss, "BLOCK_ELEMENTS", block)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 7, 61, generator=generator, dtype=torch.float64)
    targets = torch.randint(61, (2, 7), generator=generator)
    mask = torch.rand(2, 7, generator=generator) < 0.4
    logits[~mask, 5] = torch.inf
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    loss = language_model_loss(ours, targets, mask)
    expected = F.cross_entropy(theirs[mask], targets[mask])
    assert 0 < int(mask.sum()) < 14 and float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)
    (2.5 * loss).backward()
    (2.5 * expected).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-16)
    nothing = language_model_loss(ours, targets, torch.zeros_like(mask))
    assert torch.equal(nothing, torch.zeros_like(nothing))


def test_bf16_logits_are_summed_in_fp32() -> None:
    """The loss is that of the rounded logits, exactly; the gradient is rounded once."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(4, 50, 300, generator=generator)).bfloat16()
    targets = torch.randint(300, (4, 50), generator=generator)
    ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    loss = language_model_loss(ours, targets)
    expected = F.cross_entropy(exact.flatten(0, 1), targets.flatten())
    assert loss.dtype == torch.float32 and float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)
    loss.backward()
    expected.backward()
    assert ours.grad is not None and exact.grad is not None and ours.grad.dtype == torch.bfloat16
    difference = (ours.grad.double() - exact.grad).abs()
    assert float((difference - 2**-8 * exact.grad.abs()).max()) < 1e-8
