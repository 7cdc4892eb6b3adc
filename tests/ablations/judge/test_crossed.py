"""Seeds and items crossed: how often equal arms differ, against variances known by hand and other packages."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablations.judge.crossed import interval, item_by_item, mcnemar
from ablations.record.record import Record


def false_positives(rng: np.random.Generator, seeds: int, of_item: float, of_seed: float, items: int = 200) -> Any:
    """Shares of 600 pairs of equal arms, right or wrong on each item, that differ: crossed, and pooled."""
    crossed = pooled = 0
    for _ in range(600):
        ability, sides = rng.normal(0, 1, items), []
        for _ in range(2):
            own = rng.normal(0, of_item, items) + rng.normal(0, of_seed, (seeds, 1))
            sides.append((rng.random((seeds, items)) < 1 / (1 + np.exp(-ability - own))).astype(float))
        d_SI = sides[1] - sides[0]
        crossed += interval(d_SI)[2] < 0.05
        pooled += stats.ttest_1samp(d_SI.ravel(), 0).pvalue < 0.05
    return crossed / 600, pooled / 600


@pytest.mark.parametrize(
    ("seeds", "of_item", "of_seed"), [(6, 0.0, 0.0), (6, 0.0, 0.15), (6, 0.9, 0.0), (4, 0.9, 0.15), (16, 0.3, 0.1)]
)
def test_equal_arms_differ_as_rarely_as_is_said(seeds: int, of_item: float, of_seed: float) -> None:
    crossed, pooled = false_positives(np.random.default_rng(7), seeds, of_item, of_seed)
    assert crossed <= 0.07
    if of_item or of_seed:
        assert pooled > 0.09 and pooled > 1.5 * crossed, "and pooling does not"
    if of_item and not of_seed:
        assert crossed >= 0.02, "it is not kept by never differing"


def test_the_variance_is_that_of_the_layout() -> None:
    """From draws of known variances: half the width is t times the root of seed/S + item/I + rest/SI."""
    rng, seeds, items = np.random.default_rng(0), 40, 400
    errors = []
    for _ in range(40):
        d_SI = 0.3 * rng.normal(size=(seeds, 1)) + 0.8 * rng.normal(size=items) + rng.normal(size=(seeds, items))
        low, high, _ = interval(d_SI)
        assert low is not None and high is not None and (low + high) / 2 == pytest.approx(d_SI.mean())
        errors.append((high - low) / 2 / 1.97)
    assert np.mean(errors) == pytest.approx(math.sqrt(0.09 / 40 + 0.64 / 400 + 1 / 16000), rel=0.05)


def test_one_seed_is_a_t_over_items() -> None:
    d_I = np.random.default_rng(1).normal(0.1, 1, 50)
    expected = stats.ttest_1samp(d_I, 0)
    low, high, p = interval(d_I[None])
    assert (low, high, p) == pytest.approx((*expected.confidence_interval(), expected.pvalue))
    assert interval(d_I[None, :10]) == (None, None, 1.0)
    assert interval(np.zeros((3, 50))) == (None, None, 1.0)


def test_two_checkpoints_are_judged_by_the_items_that_they_answer_differently() -> None:
    one, other = np.array([1.0] * 40 + [0] * 30), np.array([1.0] * 38 + [0] * 2 + [1] * 12 + [0] * 18)
    assert mcnemar(one, other) == pytest.approx(stats.binomtest(2, 14).pvalue)


def record(seed: int, items: str, nats: list[float], sizes: list[int], **changes: Any) -> Record:
    documents = {"nats": nats, "bytes": sizes}
    scores = {"piqa": {"acc": 0.5, "items": items}, "wikitext": {"bits_per_byte": 1.0, "documents": documents}}
    return Record(f"{seed}", seed, "complete", changes, scores=scores, data={"sha": "a"})


def side(shift: float, seeds: int = 4, sizes: list[int] | None = None, **changes: Any) -> list[Record]:
    rng, sizes = np.random.default_rng(9), sizes or [int(x) for x in np.exp(np.linspace(5, 8, 30))]
    found = []
    for seed in range(seeds):
        easy = rng.random(60)
        items = "".join("1" if x < 0.4 + shift else "0" for x in easy)
        rate = 0.9 + rng.normal(0, 0.05, 30)
        found.append(record(seed, items, list((rate - shift) * sizes), sizes, **changes))
    return found


def test_scores_with_outcomes_are_compared() -> None:
    right, bits = item_by_item(side(0), side(0.2))
    assert (right.score, right.seeds, right.items) == ("piqa, right", 4, 60)
    assert right.low is not None and right.low > 0 and right.p < 0.05
    assert (bits.score, bits.items) == ("wikitext, bits per byte", 30)
    assert bits.difference == pytest.approx(-0.2 / math.log(2)) and bits.p < 0.001
    assert bits.low == pytest.approx(bits.high), "every byte is easier by the same: lengths do not matter"
    assert bits.one == pytest.approx(
        np.mean([sum(r.scores["wikitext"]["documents"]["nats"]) for r in side(0)])
        / sum(side(0)[0].scores["wikitext"]["documents"]["bytes"])
        / math.log(2)
    )


def test_a_document_without_a_number_leaves_nothing_to_compare() -> None:
    """Of a model whose logits were not finite."""
    broken = side(0.2)
    broken[1].scores["wikitext"]["documents"]["nats"][3] = None
    assert [found.score for found in item_by_item(side(0), broken)] == ["piqa, right"]


def test_two_trials_may_be_of_two_seeds() -> None:
    right, bits = item_by_item(side(0)[:1], side(0.2)[1:2])
    assert (right.seeds, right.low) == (1, None) and bits.low is not None and bits.high is not None


def test_other_items_are_not_compared() -> None:
    assert item_by_item(side(0), side(0, eval={"items": 3})) == []
    assert [found.score for found in item_by_item(side(0), side(0, sizes=[*range(100, 130)]))] == ["piqa, right"]
    assert item_by_item(side(0)[:2], side(0)[2:]) == [], "no seed is common"
