"""Fuzzy recall's sequences against mad-lab's own rule, written out one by one (2403.17844)."""

from collections import Counter
from itertools import permutations
from typing import NamedTuple

import numpy as np
import pytest

from models.base.typed import ConfigError, build
from tasks.skills.fuzzy import Fuzzy

KEYS, VALUES, SIZE, LONGEST, PAIRS = 6, 4, 3, 2, 7
LENGTH = (SIZE + LONGEST) * (PAIRS + 1)


class Pair(NamedTuple):
    key: tuple[int, ...]
    value: tuple[int, ...]
    asked: bool


def mad(rng: np.random.Generator) -> list[Pair]:
    """What mad-lab tests with (`generate_fuzzy_in_context_recall_instance`, multi_query and not is_training)."""
    keys = list(permutations(range(KEYS), SIZE))
    values = {size: list(permutations(range(VALUES), size)) for size in range(1, LONGEST + 1)}

    def drawn(of: list[tuple[int, ...]]) -> tuple[int, ...]:
        return of[rng.integers(len(of))]

    last, its = drawn(keys), drawn(values[int(rng.choice(list(values)))])
    room, of, pairs, length = SIZE + len(its), dict[tuple[int, ...], tuple[int, ...]](), list[Pair](), 0
    at, there = rng.choice(LENGTH - 2 * room), False
    while length < LENGTH - room - (SIZE + LONGEST):
        size = int(rng.choice(list(values)))
        if length >= at and not there:
            key, there = last, True
            value = its
        elif (key := drawn(keys)) == last:
            value, there = its, True
        else:
            value = of[key] if key in of else drawn(values[size])
        pairs.append(Pair(key, value, key in of))
        of[key] = value
        length += SIZE + len(value)
    return [*pairs, Pair(last, its, True)]


def read(row: np.ndarray, mask: np.ndarray, size: int, skill: Fuzzy) -> list[Pair]:
    """The same of one of ours, with every claim about its form checked."""
    pairs, at, tokens = list[Pair](), 0, row.tolist()
    value_from = 1 + skill.keys
    while at < len(tokens) and tokens[at]:
        key, begin = tuple(token - 1 for token in tokens[at : at + size]), at + size
        end = begin
        while end < len(tokens) and tokens[end] >= value_from:
            end += 1
        value = tuple(token - value_from for token in tokens[begin:end])
        assert len({*key}) == size and 0 <= min(key) <= max(key) < skill.keys
        assert len({*value}) == len(value) and 1 <= len(value) <= skill.value_tokens and max(value) < skill.values
        assert not mask[max(0, at - 1) : begin - 1].any(), "no key is asked"
        assert len({*mask[begin - 1 : end - 1]}) == 1, "a whole value or nothing"
        pairs.append(Pair(key, value, bool(mask[begin - 1])))
        at = end
    assert not any(tokens[at:]) and not mask[max(0, at - 1) :].any() and len(pairs) == skill.pairs + 1
    return pairs


def alike(ours: list, theirs: list, what: object) -> None:
    own, other = Counter(ours), Counter(theirs)
    for value in own | other:
        assert abs(own[value] - other[value]) < 4.5 * (own[value] + other[value] + 1) ** 0.5, (what, value)


def test_its_counts_are_those_of_mad() -> None:
    """The first pairs, whose number does not depend on where mad-lab stops, and the last one: 3,000 of each."""
    count, rng = 3000, np.random.default_rng(1)
    skill = Fuzzy(key_tokens=[SIZE], value_tokens=LONGEST, keys=KEYS, values=VALUES, pairs=PAIRS)
    items = skill.draw(np.random.default_rng(2), count, LENGTH)
    ours = [read(row, mask, SIZE, skill) for row, mask, _ in zip(*items, strict=True)]
    theirs = [mad(rng) for _ in range(count)]
    for place in (0, 1, 3, -1):
        for part in ("key", "value", "asked"):
            alike(*([getattr(row[place], part) for row in rows] for rows in (ours, theirs)), (place, part))
        alike(*([(row[place].key[0], row[place].value) for row in rows] for rows in (ours, theirs)), (place, "both"))


def test_a_key_is_any_and_asked_when_it_came_before() -> None:
    """By the formula: of n keys one has come in i draws with probability 1 - (1 - 1/n)^i."""
    skill, count = Fuzzy(key_tokens=[2], keys=4), 3000
    items = skill.draw(np.random.default_rng(3), count, 128)
    asked = np.zeros(skill.pairs + 1)
    for row, mask, size in zip(*items, strict=True):
        asked += [pair.asked for pair in read(row, mask, size, skill)]
    expected = np.append(1 - (1 - 1 / 12) ** np.arange(skill.pairs), 1) * count
    assert (abs(asked - expected) <= 4.5 * np.sqrt(expected * (1 - expected / count))).all()


def test_every_answer_is_the_value_of_its_key() -> None:
    skill = Fuzzy()
    items = skill.draw(np.random.default_rng(4), 600, 128)
    sizes = Counter[int]()
    for row, mask, size in zip(*items, strict=True):
        of = dict[tuple[int, ...], tuple[int, ...]]()
        pairs = read(row, mask, size, skill)
        for pair in pairs:
            assert pair.asked == (pair.key in of) and of.setdefault(pair.key, pair.value) == pair.value
        assert pairs[-1].asked
        sizes.update(map(len, of.values()))
    assert set(sizes) == set(range(1, skill.value_tokens + 1)), "of every length"


def test_to_know_a_key_by_its_last_token_is_half_of_it() -> None:
    skill, right = Fuzzy(), list[bool]()
    for row, mask, size in zip(*skill.draw(np.random.default_rng(8), 600, 128), strict=True):
        of = dict[int, tuple[int, ...]]()
        for pair in read(row, mask, size, skill):
            if pair.asked:
                right.append(of[pair.key[-1]][0] == pair.value[0])
            of[pair.key[-1]] = pair.value
    assert 0.4 < np.mean(right) < 0.6


def test_one_sequence_is_of_one_level() -> None:
    items = Fuzzy().draw(np.random.default_rng(9), 1, 128)
    assert read(items.tokens_NT1[0], items.answers_NT[0], int(items.levels_N[0]), Fuzzy())[-1].asked


def test_levels_come_equally_often() -> None:
    counts = Counter(Fuzzy().draw(np.random.default_rng(5), 3000, 128).levels_N.tolist())
    assert min(counts.values()) > 900 and set(counts) == {2, 3}


@pytest.mark.parametrize(
    "settings", [{}, {"key_tokens": [1, 2], "keys": 3, "value_tokens": 3, "values": 3, "pairs": 9}]
)
def test_chance_is_what_the_commonest_value_gives(settings: dict[str, object]) -> None:
    """A guess that knows the values of the keys seen, and not which of them is asked, simulated: at each token the
    commonest among those that began as this one has."""
    skill, right, asked = build(Fuzzy, settings), 0, 0
    items = skill.draw(np.random.default_rng(6), 1500, 128)
    for row, mask, size in zip(*items, strict=True):
        of = dict[tuple[int, ...], tuple[int, ...]]()
        for pair in read(row, mask, size, skill):
            for i in range(len(pair.value) if pair.asked else 0):
                left = Counter(value[i] for value in of.values() if value[:i] == pair.value[:i] and len(value) > i)
                right += left.most_common(1)[0][0] == pair.value[i]
                asked += 1
            of[pair.key] = pair.value
    assert right / asked == pytest.approx(skill.chance, abs=0.013)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"key_tokens": [1, 4], "keys": 3}, "key_tokens=[1, 4]: a key of 4 different tokens needs as many (keys=3)"),
        ({"key_tokens": [5]}, "key_tokens[0]=5: must be at most 4"),
        ({"value_tokens": 3, "values": 2}, "value_tokens=3: a value of as many different tokens needs them (values=2)"),
        ({"pairs": 40}, "pairs=40: as many pairs and a question of"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Fuzzy, settings, "data.settings").check(128)
    assert str(error.value).startswith(f"data.settings.{said}") and "\n" not in str(error.value)


def test_the_longest_fit() -> None:
    skill = Fuzzy(key_tokens=[4], value_tokens=1, pairs=3)
    skill.check(19)
    items = skill.draw(np.random.default_rng(7), 50, 19)
    assert items.tokens_NT1.all() and items.answers_NT[:, -1].all()
