"""The relative loss error of a curve, and where it falls, against numbers worked out by hand."""

import math

import pytest

from ablations.judge.loss_curve import loss_error, smoothed, steepest_fall


def test_smoothing_is_an_exponential_moving_average_from_the_first_point():
    assert smoothed([1.0, 2.0, 3.0]) == pytest.approx([1.0, 1.1, 1.29])
    assert smoothed([]) == []


def test_a_curve_that_is_higher_by_a_share_has_that_error():
    reference = [4.0 - 0.01 * i for i in range(100)]
    assert loss_error(reference, reference) == 0
    assert loss_error([1.0025 * x for x in reference], reference) == pytest.approx(0.0025)
    assert loss_error([0.99 * x for x in reference], reference) == pytest.approx(-0.01)


def test_only_the_second_half_counts_and_what_the_average_still_remembers_of_the_first():
    reference = [2.0] * 200
    early = [4.0] * 10 + [2.0] * 190
    assert 0 < loss_error(early, reference) < 1e-4
    late = [2.0] * 100 + [2.2] * 100
    assert loss_error(late, reference) == pytest.approx(0.1 * (1 - sum(0.9**k for k in range(1, 101)) / 100))


def test_a_shorter_training_is_compared_at_equal_shares_of_it():
    reference = [4.0 - 0.01 * i for i in range(101)]
    assert loss_error(reference[::2], reference) == pytest.approx(0.026, abs=0.001), (
        "the average of half as many points lags twice as far"
    )
    flat = [3.0] * 101
    assert loss_error([3.0] * 50, flat) == pytest.approx(0, abs=1e-12)


def fallen(tokens: float, jump: float) -> float:
    """A slope of 0.5 nats per e-fold, and of 1.5 while the tokens grow from `jump` by a factor of 1.5."""
    return 8 - 0.5 * math.log(tokens) - min(max(math.log(tokens / jump), 0.0), math.log(1.5))


def test_the_steepest_fall_is_found_and_whether_the_end_lies_within_it():
    tokens = [1000.0 * step for step in range(1, 201)]
    early = steepest_fall(tokens, [fallen(t, 60_000) for t in tokens])
    assert early is not None and 81_000 <= early.tokens <= 90_000, "a whole window has passed since the jump began"
    assert early.steepest == pytest.approx(1.5, abs=1e-6) and early.last == pytest.approx(0.5, abs=1e-6)
    assert not early.lasts and not early.begins
    smooth = steepest_fall(tokens, [4 + (1000 / t) ** 0.5 for t in tokens])
    assert smooth is not None and smooth.begins, "which falls ever less steeply"
    late = steepest_fall(tokens, [fallen(t, 145_000) for t in tokens])
    assert late is not None and late.lasts and late.tokens == pytest.approx(200_000, rel=0.05)
    at_once = steepest_fall(tokens, [fallen(t, 5_000) for t in tokens])
    assert at_once is not None and at_once.steepest == pytest.approx(0.5), "what falls in the warmup is not looked at"
    assert steepest_fall(tokens[:8], [1.0] * 8) is None
