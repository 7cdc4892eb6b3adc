"""Shared windows, against sets of tuples."""

import itertools

import numpy as np
import pytest

from tasks.text import separation
from tasks.text.separation import Sought, shared_ngrams, window_hashes, word_ngram_blocks, word_ngrams


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
    nothing = Sought(np.empty(0, np.uint64))
    nothing.look(np.arange(3, dtype=np.uint64))
    assert not nothing.found(np.empty(0, np.uint64)).size


def test_words_are_runs_of_letters_digits_and_underscores() -> None:
    assert (word_ngrams("f(x_1,é2)", 3) == word_ngrams("  f x_1\n\té2 ", 3)).all()
    assert len(word_ngrams("f(x_1,é2)", 3)) == 1
    assert word_ngrams("f(x_1,é2)", 3) != word_ngrams("f(1_x,é2)", 3)
    assert word_ngrams("ab c", 2) != word_ngrams("a bc", 2)
    assert not len(word_ngrams("(())", 1))


@pytest.mark.parametrize("block", [40, 1000, 1 << 18])
def test_texts_that_pass_by_in_blocks_hold_the_windows_of_each(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of no two: what is across a border cannot be in a text."""
    source = np.random.default_rng(block)
    texts = [" ".join(f"w{i}" for i in source.integers(0, 30, count)) for count in (0, 1, 4, 5, 300, 12, 5, 900)]
    expected = np.concatenate([word_ngrams(text, 5) for text in texts])
    monkeypatch.setattr(separation, "_BLOCK", block)
    passed = np.concatenate(list(word_ngram_blocks(texts, 5)))
    assert set(expected.tolist()) <= set(passed.tolist())
    assert len(passed) == sum(len(text.split()) + 1 for text in texts) - 4, "one word more for each border"
    across = np.concatenate([word_ngrams(f"{one} {two}", 5) for one, two in itertools.pairwise(texts)])
    assert set(np.setdiff1d(across, expected).tolist()) & set(passed.tolist()) == set()
    assert (np.concatenate([word_ngrams(text, 5) for text in texts]) == expected).all(), "of one text, too"


@pytest.mark.parametrize("bits", [3, 24])
def test_sought_hashes_are_found_in_whichever_block_they_pass_by(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a table that sheds nearly all others, and with one that sheds none."""
    monkeypatch.setattr(separation, "_TABLE_BITS", bits)
    monkeypatch.setattr(separation, "_SHIFT", np.uint64(64 - bits))
    source = np.random.default_rng(0)
    needles = source.integers(0, 2**64, 1000, dtype=np.uint64)
    sought = Sought(np.concatenate([needles, needles[:5]]))
    for begin in range(0, 600, 100):
        others = source.integers(0, 2**64, 500, dtype=np.uint64)
        sought.look(source.permutation(np.concatenate([needles[begin : begin + 50], others])))
    expected = np.arange(1000) % 100 < 50
    expected[600:] = False
    assert (sought.found(needles) == expected).all()


def test_tokens_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    source = np.random.default_rng(1)
    train, held_out = source.integers(0, 3, 4000).astype(np.uint16), source.integers(0, 3, 600).astype(np.uint16)
    held_out[100:300] = train[900:1100]
    whole = shared_ngrams(train, held_out, 12)
    monkeypatch.setattr(separation, "_BLOCK", 7)
    assert shared_ngrams(train, held_out, 12) == whole > 0.3
