"""Levels of several looks: they add up, and looking costs no coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from ablations.config.schema import LOOKS
from ablations.judge.looks import level
from ablations.judge.stats import differences


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 7])
def test_the_looks_spend_the_level_and_no_more(alpha: float) -> None:
    levels = [level(LOOKS, seen, alpha) for seen in LOOKS]
    assert sum(levels) == pytest.approx(alpha, rel=1e-12)
    assert levels[0] < 0.01 * alpha < levels[1] < 0.2 * alpha < 0.8 * alpha < levels[2]
    assert level((), 6, alpha) == alpha, "a single look has the whole"
    by_the_half, by_the_quarter = math.erfc(1.959964), math.erfc(1.959964 * math.sqrt(2))
    assert level(LOOKS, 8, 0.05) == pytest.approx(by_the_half - by_the_quarter, rel=1e-5)


def crossed(samples: np.ndarray, each: dict[int, float]) -> float:
    """The share of rows of which some look's interval excludes 0."""
    seen = [stats.ttest_1samp(samples[:, :n], 0.0, axis=1).pvalue < each[n] for n in LOOKS]
    return float(np.logical_or.reduce(seen).mean())


@pytest.mark.parametrize("tails", [1e6, 4.0], ids=["normal", "heavy"])
def test_all_looks_together_err_no_more_often_than_one(tails: float) -> None:
    samples = stats.t.rvs(tails, size=(40_000, LOOKS[-1]), random_state=np.random.default_rng(3))
    careful = {n: level(LOOKS, n, 0.05) for n in LOOKS}
    assert 0.03 < crossed(samples, careful) < 0.053
    assert crossed(samples, dict.fromkeys(LOOKS, 0.05)) > 0.08, "each at the whole level would err twice as often"


def test_a_familys_comparisons_are_looked_at_by_their_share_of_the_level() -> None:
    rng = np.random.default_rng(0)
    values = {arm: dict(enumerate(rng.normal(0.0, 1.0, 8))) for arm in "abc"}
    pairs = [("a", "c"), ("b", "c")]
    looked = differences(values, pairs, "loss", look=lambda alpha: level(LOOKS, 8, alpha))
    plain = differences(values, pairs, "loss", alpha=level(LOOKS, 8, 0.05))
    assert looked == plain and looked[0].comparisons == 2
    assert looked[0].high > differences(values, pairs, "loss")[0].high
