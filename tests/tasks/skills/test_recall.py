"""Recall's items against zoology's own rule, written out one by one (2312.04927)."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.drawn import END, Items
from tasks.skills.recall import Recall

KEYS, PAIRS, LENGTH = 12, 4, 32


def zoology(rng: np.random.Generator, pairs: int) -> tuple[list[int], list[int], list[int]]:
    """Keys, values and the gaps of the queries, as zoology draws them for one sequence: `choice` without replacement,
    the gaps by d^(power - 1); but for which pair has which."""
    keys = rng.choice(np.arange(KEYS), replace=False, size=pairs)
    values = rng.choice(np.arange(KEYS), replace=False, size=pairs)
    slots = (LENGTH - 2 * pairs) // 2
    law = 0.01 * np.arange(1, slots + 1) ** (0.01 - 1)
    gaps = rng.choice(np.arange(slots), replace=False, p=law / law.sum(), size=pairs)
    rng.shuffle(gaps)  # zoology leaves them as they were drawn (see test_chance_is_what_striking_out_gives)
    return list(keys), list(values), list(gaps)


def read(skill: Recall, items: Items, row: int) -> tuple[list[int], list[int], list[int]]:
    """The same of one of our sequences, with every claim about its form checked."""
    tokens, pairs = items.tokens_NT1[row], int(items.levels_N[row])
    keys, values = tokens[0 : 2 * pairs : 2] - 2, tokens[1 : 2 * pairs : 2] - 2 - skill.keys
    assert len({*keys}) == len({*values}) == pairs and {*keys, *values} <= set(range(skill.keys))
    asked = np.flatnonzero(items.answers_NT[row])
    of = dict(zip(keys, values, strict=True))
    assert [of[k] for k in tokens[asked] - 2] == list(tokens[asked + 1] - 2 - skill.keys), "the pair's own value"
    assert sorted(tokens[asked] - 2) == sorted(keys), "each key once"
    at = dict(zip(tokens[asked] - 2, (asked - 2 * pairs) // 2, strict=True))
    assert (tokens[asked[-1] + 2 :] == END).all(), "nothing behind the last answer"
    between = np.setdiff1d(np.arange(2 * pairs, asked[-1]), [*asked, *asked + 1])
    assert (tokens[between] > END if skill.noise else tokens[between] == 1).all()
    return list(keys), list(values), [int(at[key]) for key in keys]


@pytest.mark.parametrize("noise", [False, True])
def test_its_counts_are_those_of_zoology(noise: bool) -> None:
    """Where the k-th key is asked, how often each key and each value is drawn: 4,000 sequences of each."""
    skill, count = Recall(pairs=[PAIRS], keys=KEYS, noise=noise), 4000
    items = skill.draw(np.random.default_rng(1), count, LENGTH)
    ours = [read(skill, items, row) for row in range(count)]
    rng = np.random.default_rng(2)
    theirs = [zoology(rng, PAIRS) for _ in range(count)]
    for part, what in enumerate(("keys", "values", "gaps")):
        for place in (0, PAIRS - 1):
            own, other = (Counter(int(row[part][place]) for row in rows) for rows in (ours, theirs))
            for value in own | other:
                spread = 4.5 * np.sqrt(own[value] + other[value] + 1)
                assert abs(own[value] - other[value]) < spread, (what, place, value, own[value], other[value])


def test_levels_come_equally_often_and_have_so_many_answers() -> None:
    skill = Recall()
    items = skill.draw(np.random.default_rng(3), 4000, 128)
    assert (items.answers_NT.sum(axis=1) == items.levels_N).all()
    counts = Counter(items.levels_N.tolist())
    assert set(counts) == {4, 8, 16, 32} and min(counts.values()) > 900


@pytest.mark.parametrize("settings", [{"pairs": [3, 8]}, {"pairs": [2, 4, 8], "keys": 16}])
def test_chance_is_what_striking_out_gives(settings: dict[str, Any]) -> None:
    """A guess among the values that have not been asked yet, simulated: one of them, the earliest pair's, the latest's.
    Had the pairs drawn their places in turn, the earliest's would be right a sixth oftener."""
    skill, rng = Recall(**settings), np.random.default_rng(4)
    items = skill.draw(rng, 4000, 4 * max(skill.pairs))
    right = Counter[str]()
    for row, mask, pairs in zip(*items, strict=True):
        left = list(row[1 : 2 * pairs : 2])
        for place in np.flatnonzero(mask):
            for who, guess in (("any", rng.choice(left)), ("earliest", left[0]), ("latest", left[-1])):
                right[who] += guess == row[place + 1]
            left.remove(row[place + 1])
    for who, count in right.items():
        assert count / items.answers_NT.sum() == pytest.approx(skill.chance, abs=0.012), who


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pairs": [64]}, "64 pairs have more keys than there are (keys=63)"),
        ({"pairs": [0, 4]}, "0 pairs leave nothing to ask"),
        ({"pairs": [4, 33]}, "take 132 tokens of data.seq_len=128"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, list[int]], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Recall(**settings).check(128)
    assert said in str(error.value) and str(error.value).startswith("data.settings.pairs=")
