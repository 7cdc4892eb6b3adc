"""Shared windows, against sets of tuples."""

import numpy as np
import pytest

from tasks.separation import contained, shared_ngrams, window_hashes, word_ngrams


@pytest.mark.parametrize("n", [1, 2, 5, 13, 32])
def test_shared_ngrams_equals_counting_tuples(n: int) -> None:
    source = np.random.default_rng(n)
    train = source.integers(0, 3, 4000).astype(np.uint16)
    held_out = source.integers(0, 3, 600).astype(np.uint16)
    held_out[100:300] = train[1000:1200]
    seen = {tuple(train[i : i + n]) for i in range(len(train) - n + 1)}
    windows = [tuple(held_out[i : i + n]) for i in range(len(held_out) - n + 1)]
    assert shared_ngrams(train, held_out, n) == pytest.approx(np.mean([window in seen for window in windows]))


def test_windows_of_few_symbols_do_not_collide() -> None:
    """All patterns of 16 bits, then zeros: a base of 1 forgets the order, an even one shifts the first items out."""
    windows = np.zeros((2**16, 100), dtype=np.uint8)
    windows[:, :16] = np.arange(2**16)[:, None] >> np.arange(16) & 1
    hashes = window_hashes(windows.reshape(-1), 100)[::100]
    assert len(np.unique(hashes)) == 2**16


def test_short_text_shares_nothing() -> None:
    tokens = np.arange(31, dtype=np.uint16)
    assert shared_ngrams(tokens, tokens, 32) == 0.0
    assert shared_ngrams(tokens[:5], tokens, 31) == 0.0
    assert not contained(np.empty(0, np.uint64), np.empty(0, np.uint64)).size


def test_words_are_runs_of_letters_digits_and_underscores() -> None:
    assert (word_ngrams("f(x_1,é2)", 3) == word_ngrams("  f x_1\n\té2 ", 3)).all()
    assert len(word_ngrams("f(x_1,é2)", 3)) == 1
    assert word_ngrams("f(x_1,é2)", 3) != word_ngrams("f(1_x,é2)", 3)
    assert word_ngrams("ab c", 2) != word_ngrams("a bc", 2)
    assert not len(word_ngrams("(())", 1))
