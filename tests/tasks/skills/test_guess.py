"""What a guess gets right, and pairs in a row, against all that can be, one by one."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from tasks.skills.guess import asked_when_seen, binomial, commonest
from tasks.skills.stream import first_of, with_a_last


@pytest.mark.parametrize(("of", "draws"), [(1, 3), (2, 6), (3, 6), (5, 4), (6, 4)])
def test_the_commonest_is_counted_over_all_draws(of: int, draws: int) -> None:
    found = commonest(of, draws)
    assert found.shape == (draws + 1,) and found[0] == 0
    for m in range(1, draws + 1):
        every = itertools.product(range(of), repeat=m)
        expected = sum(Counter(drawn).most_common(1)[0][1] for drawn in every) / of**m / m
        assert found[m] == pytest.approx(expected, abs=1e-12)


def test_of_many_draws_the_commonest_stays_exact() -> None:
    """Two alike: m draws have |heads - tails| more of the commoner, of which the mean is known."""
    m = 400
    apart = m * math.comb(m, m // 2) / 2**m
    assert commonest(2, m)[m] == pytest.approx((m + apart) / 2 / m, abs=1e-12)


def test_binomial_rows_are_the_formula() -> None:
    found = binomial(7, 0.3)
    expected = [[math.comb(m, i) * 0.3**i * 0.7 ** (m - i) for i in range(8)] for m in range(8)]
    np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("keys", [2, 5])
def test_what_is_asked_is_counted_over_all_streams(keys: int, share: float) -> None:
    slots, expected = 4, np.zeros(6)
    for there in itertools.product((False, True), repeat=slots):
        likely = math.prod(share if pair else 1 - share for pair in there)
        for drawn in itertools.product(range(keys), repeat=1 + slots):
            seen = {drawn[0]}
            for key, pair in zip(drawn[1:], there, strict=True):
                if pair:
                    expected[len(seen)] += likely / keys ** (1 + slots) * (key in seen)
                    seen.add(key)
            expected[len(seen)] += likely / keys ** (1 + slots)
    found = asked_when_seen(keys, slots, share)
    np.testing.assert_allclose(found, expected[: len(found)], atol=1e-12)
    assert len(found) == min(keys, slots + 1) + 1 and not expected[len(found) :].any()


def test_each_key_knows_where_it_came_first_and_the_last_is_any_of_them() -> None:
    rng = np.random.default_rng(1)
    keys, pairs = rng.integers(0, 5, (3000, 9)), rng.random((3000, 9)) < 0.7
    pairs[:, 4] = True
    keys = np.where(pairs, keys, -1 - np.arange(9))
    first = first_of(keys)
    assert first.tolist() == [[row.index(key) for key in row] for row in keys.tolist()]
    shown = with_a_last(rng, first, pairs)
    assert (shown[:, :-1] == first).all()
    for among in (2, 4):  # different keys in a row
        rows = [i for i, row in enumerate(keys) if len({*row[row >= 0]}) == among]
        ranks = Counter(sorted({*first[i][pairs[i]]}).index(shown[i, -1]) for i in rows)
        for rank in range(among):
            assert ranks[rank] == pytest.approx(len(rows) / among, abs=4.5 * len(rows) ** 0.5 / 2)
