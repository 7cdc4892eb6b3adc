"""Learning-rate schedules by value, and which parameters decay."""

import math
from itertools import pairwise

import pytest
import torch

from models.layers import RMSNorm, SwiGLU
from models.training.config import OptimConfig
from models.training.optim import adamw, lr_ratio

TOTAL = 100


def rates(**settings: object) -> list[float]:
    config = OptimConfig(**settings)  # type: ignore[arg-type]
    return [lr_ratio(step, TOTAL, config) for step in range(TOTAL + 1)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant", "v3"])
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


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "v3"])
@pytest.mark.parametrize("total", [1, 2, 3, 7])
def test_short_trainings_have_a_rate_at_every_step(schedule: str, total: int) -> None:
    config = OptimConfig(schedule=schedule)  # type: ignore[arg-type]
    assert all(0 < lr_ratio(step, total, config) <= 1 for step in range(total + 1))


V3_STEPS = 14_800
"""One step stands for a billion tokens."""


@pytest.mark.parametrize(
    ("billions", "rate"),
    [
        # V3 4.2: 2.2e-4 until 10T tokens, a cosine to 2.2e-5 over 4.3T, 2.2e-5 for 333B, 7.3e-6 for 167B.
        (100, 2.2e-4),
        (9_999, 2.2e-4),
        (12_150, 1.21e-4),
        (14_300, 2.2e-5),
        (14_400, 2.2e-5),
        (14_632, 2.2e-5),
        (14_634, 7.3e-6),
        (14_799, 7.3e-6),
    ],
)
def test_v3s_schedule_at_its_corners(billions: int, rate: float) -> None:
    """The defaults are V3's numbers, rounded to three digits of the whole, and of 7.3e-6 / 2.2e-4."""
    config = OptimConfig(lr=2.2e-4, schedule="v3", warmup_fraction=0.0)
    assert config.lr * lr_ratio(billions, V3_STEPS, config) == pytest.approx(rate, rel=2e-3)


def test_v3s_schedule_with_other_corners_is_the_formula() -> None:
    """By hand, at fractions of the training that are whole steps."""
    found = rates(
        schedule="v3",
        warmup_fraction=0.1,
        cosine_from=0.3,
        cosine_until=0.7,
        final_lr_ratio=0.2,
        tail_from=0.9,
        tail_lr_ratio=0.05,
    )
    assert found[10:31] == [1.0] * 21
    assert found[31:71] == pytest.approx([0.6 + 0.4 * math.cos(math.pi * n / 40) for n in range(1, 41)])
    assert found[70:90] == pytest.approx([0.2] * 20) and found[90:] == [0.05] * 11


def test_schedules_differ_and_an_unknown_one_is_not_guessed() -> None:
    found = [rates(schedule=schedule) for schedule in ("cosine", "wsd", "constant", "v3")]
    assert len({tuple(values) for values in found}) == 4
    with pytest.raises(ValueError, match="linear"):
        rates(schedule="linear")


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant", "v3"])
def test_places_between_steps_lie_on_the_same_curve(schedule: str) -> None:
    """A batch-size ramp makes steps begin between those of full batches: the rate is that of the tokens seen.

    No curve has a corner at these places, so half a step is half the way: but for the bend of v3's cosine, over 29 of
    these steps, 0.9 / 16 * (pi / 29)^2 = 7e-4.
    """
    config = OptimConfig(schedule=schedule)  # type: ignore[arg-type]
    for step in (2, 20, 70, 80, 95):
        here, half, there = (lr_ratio(step + part, TOTAL, config) for part in (0.0, 0.5, 1.0))
        assert min(here, there) <= half <= max(here, there)
        assert half == pytest.approx((here + there) / 2, abs=7e-4)
    assert lr_ratio(9.5, TOTAL, config) == 1.0, "the last step of the warmup may not overshoot"


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


def trajectory(
    moments: str, steps: int = 20, reload_at: int | None = None
) -> tuple[torch.Tensor, torch.optim.Optimizer]:
    """A matrix after some steps on fixed random gradients."""
    model = torch.nn.Linear(6, 5, bias=False)
    torch.nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    optimizer = adamw(model, OptimConfig(lr=0.05), moments)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        model.weight.grad = torch.randn(5, 6, generator=generator)
        optimizer.step()
        if step == reload_at:
            state = optimizer.state_dict()
            optimizer = adamw(model, OptimConfig(lr=0.05), moments)  # type: ignore[arg-type]
            optimizer.load_state_dict(state)
    return model.weight.detach(), optimizer


def test_moments_in_bf16_are_adamw_rounded_by_hand() -> None:
    """Against NumPy-like arithmetic in FP64 whose moments are rounded to BF16 after every step."""
    found, optimizer = trajectory("bf16")
    w = torch.empty(5, 6).normal_(generator=torch.Generator().manual_seed(0)).double()
    generator, m, v = torch.Generator().manual_seed(1), torch.zeros(5, 6), torch.zeros(5, 6)
    for step in range(1, 21):
        g = torch.randn(5, 6, generator=generator).double()
        m64, v64 = 0.9 * m.double() + 0.1 * g, 0.95 * v.double() + 0.05 * g * g
        w = w * (1 - 0.05 * 0.1)
        w = w - 0.05 * (m64 / (1 - 0.9**step)) / ((v64 / (1 - 0.95**step)).sqrt() + 1e-8)
        m, v = m64.float().bfloat16().float(), v64.float().bfloat16().float()
    torch.testing.assert_close(found.double(), w, rtol=1e-4, atol=1e-5)
    (state,) = optimizer.state.values()
    assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16


def test_moments_in_bf16_are_another_training_and_a_near_one() -> None:
    in_fp32, in_bf16 = trajectory("fp32")[0], trajectory("bf16")[0]
    assert not torch.equal(in_fp32, in_bf16)
    assert (in_fp32 - in_bf16).norm() < 0.01 * in_fp32.norm()


def test_moments_in_bf16_go_on_with_the_same_bits_after_a_reload() -> None:
    """torch hands a loaded state over in the parameters' type."""
    assert torch.equal(trajectory("bf16")[0], trajectory("bf16", reload_at=9)[0])
