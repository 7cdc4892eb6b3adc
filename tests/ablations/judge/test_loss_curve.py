"""The relative loss error of a curve, against numbers worked out by hand."""

import pytest

from ablations.judge.loss_curve import loss_error, smoothed


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
