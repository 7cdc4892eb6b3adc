"""Selective copying's sequences against mad-lab's own rule, written out one by one (2403.17844)."""

from collections import Counter

import numpy as np
import pytest

from models.base.typed import ConfigError, build
from tasks.skills.copy import Copy

COPIED, SYMBOLS, LENGTH = 5, 6, 24
BLANK, ASK, FIRST = 1, 2, 3


def mad(rng: np.random.Generator) -> list[int]:
    """What mad-lab makes (`generate_copying_instance`, selective), with the targets where it has blanks in the end:
    there they have no place of their own."""
    drawn = rng.choice(np.arange(SYMBOLS), size=COPIED, replace=True)
    blanks = LENGTH + 1 - 2 * COPIED - 1
    before = rng.integers(0, COPIED, blanks)
    sequence = np.insert(FIRST + drawn, before, [BLANK] * blanks)
    return [*sequence.tolist(), ASK, *(FIRST + drawn).tolist()]


def test_its_counts_are_those_of_mad() -> None:
    """Where the k-th token stands, what it is, and what stands at each place: 4,000 sequences of each."""
    count, rng = 4000, np.random.default_rng(1)
    items = Copy(copied=[COPIED], symbols=SYMBOLS).draw(np.random.default_rng(2), count, LENGTH)
    ours, theirs = items.tokens_NT1, np.array([mad(rng) for _ in range(count)])
    seen = [(rows[:, : LENGTH - COPIED] >= FIRST).nonzero()[1].reshape(count, COPIED) for rows in (ours, theirs)]
    for k in range(COPIED):
        alike(seen[0][:, k], seen[1][:, k], f"place of token {k}")
    for place in range(LENGTH + 1):
        alike(ours[:, place], theirs[:, place], f"token at {place}")
    alike(ours[:, -COPIED] * 10 + ours[:, -1], theirs[:, -COPIED] * 10 + theirs[:, -1], "first and last together")


def alike(ours: np.ndarray, theirs: np.ndarray, what: str) -> None:
    own, other = Counter(ours.tolist()), Counter(theirs.tolist())
    for value in own | other:
        assert abs(own[value] - other[value]) < 4.5 * (own[value] + other[value] + 1) ** 0.5, (what, value)


def test_every_answer_is_the_next_token_that_is_not_blank() -> None:
    items = Copy().draw(np.random.default_rng(3), 1000, 128)
    assert set(items.levels_N.tolist()) == {4, 8, 16, 32}
    for row, mask, copied in zip(*items, strict=True):
        ask = row.tolist().index(ASK)
        shown = [token for token in row[:ask] if token != BLANK]
        assert len(shown) == copied and min(shown) >= FIRST
        assert row[1:][mask].tolist() == shown and np.flatnonzero(mask).tolist() == [*range(ask, 128)]
    assert items.tokens_NT1.max() == FIRST + 13 == len(Copy().words) - 1


def test_levels_come_equally_often() -> None:
    counts = Counter(Copy().draw(np.random.default_rng(4), 4000, 128).levels_N.tolist())
    assert min(counts.values()) > 900 and len(counts) == 4


@pytest.mark.parametrize("settings", [{}, {"copied": [3], "symbols": 4}])
def test_chance_is_what_striking_out_gives(settings: dict[str, object]) -> None:
    """A guess that knows what is left, and not its order: the commonest, simulated."""
    skill = build(Copy, settings)
    items, right = skill.draw(np.random.default_rng(5), 2000, 128), 0
    for row, mask, _ in zip(*items, strict=True):
        left = Counter(row[1:][mask].tolist())
        for token in row[1:][mask].tolist():
            right += max(left, key=lambda one: (left[one], one)) == token  # ties: by what is no order
            left -= Counter([token])
    assert right / items.answers_NT.sum() == pytest.approx(skill.chance, abs=0.013)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"copied": [4, 64]}, "copied=[4, 64]: 64 tokens, a blank among them, and their copies take 129 inputs of"),
        ({"copied": [0]}, "copied[0]=0: must be at least 1"),
        ({"copied": []}, "copied=[]: must not be empty"),
        ({"symbols": 1}, "symbols=1: must be at least 2"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Copy, settings, "data.settings").check(128)
    assert str(error.value).startswith(f"data.settings.{said}") and "\n" not in str(error.value)


def test_the_longest_that_fits_has_one_blank() -> None:
    skill = Copy(copied=[63])
    skill.check(127)
    items = skill.draw(np.random.default_rng(6), 50, 127)
    assert ((items.tokens_NT1 == BLANK).sum(axis=1) == 1).all() and (items.answers_NT.sum(axis=1) == 63).all()
