"""Learning-rate schedules by value, and which parameters decay."""

import math
from itertools import pairwise

import pytest
import torch

from models.config import OptimConfig
from models.layers import RMSNorm, SwiGLU
from models.optim import adamw, lr_ratio

TOTAL = 100


def rates(**settings: object) -> list[float]:
    config = OptimConfig(**settings)  # type: ignore[arg-type]
    return [lr_ratio(step, TOTAL, config) for step in range(TOTAL + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warmup_is_linear_and_starts_above_zero(schedule: str) -> None:
    found = rates(schedule=schedule, warmup_fraction=0.1)
    assert found[:11] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.0])
    assert max(found) == 1.0
    assert rates(schedule=schedule, warmup_fraction=0.0)[0] == 1.0


def test_cosine_ends_at_its_ratio_with_the_last_token() -> None:
    found = rates(schedule="cosine", warmup_fraction=0.1, final_lr_ratio=0.1)
    assert found[TOTAL] == pytest.approx(0.1) and found[55] == pytest.approx(0.55)
    assert found[32] == pytest.approx(0.1 + 0.45 * (1 + math.cos(math.pi * 22 / 90)))
    assert all(a > b for a, b in pairwise(found[10:]))


def test_wsd_stays_and_then_falls_on_a_line() -> None:
    found = rates(schedule="wsd", warmup_fraction=0.1, final_lr_ratio=0.2, decay_fraction=0.25)
    assert set(found[10:76]) == {1.0}
    assert found[75:] == pytest.approx([1 - 0.8 * i / 25 for i in range(26)])


def test_constant_stays() -> None:
    assert set(rates(schedule="constant", warmup_fraction=0.0)) == {1.0}


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_short_trainings_have_a_rate_at_every_step(schedule: str, total: int) -> None:
    config = OptimConfig(schedule=schedule)  # type: ignore[arg-type]
    assert all(0 < lr_ratio(step, total, config) <= 1 for step in range(total + 1))


def test_matrices_decay_and_gains_do_not() -> None:
    """A zero gradient leaves only the decoupled decay: w (1 - lr * wd)."""
    model = torch.nn.ModuleList([SwiGLU(4, 6), RMSNorm(4, 1e-6)])
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 2.0)
        parameter.grad = torch.zeros_like(parameter)
    optimizer = adamw(model, OptimConfig(lr=0.5, weight_decay=0.1, beta1=0.7, beta2=0.8, eps=1e-5))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    assert all(group["betas"] == (0.7, 0.8) and group["eps"] == 1e-5 for group in optimizer.param_groups)
    optimizer.step()
    for parameter in model.parameters():
        expected = 2.0 * (1 - 0.05) if parameter.ndim == 2 else 2.0
        torch.testing.assert_close(parameter.detach(), torch.full_like(parameter, expected))
