"""The phone book's sequences against mad-lab's own rule, written out one by one (2403.17844)."""

import math
from collections import Counter

import numpy as np
import pytest

from models.base.typed import ConfigError, build
from tasks.config import DataConfig
from tasks.drawn import Items
from tasks.skills.data import SkillData
from tasks.skills.phonebook import Phonebook

Fact = tuple[tuple[int, ...], tuple[int, ...]]


def mad(rng: np.random.Generator, facts: int, asked: int) -> list[int]:
    """Which facts mad-lab asks (`generate_memorization_instance`): any, one by one. Those that came already are left
    out: it asks them again, but shows no number, so that there they are questions like the others."""
    found = list[int]()
    while len(found) < asked:
        fact = int(rng.choice(np.arange(facts)))
        if fact not in found:
            found.append(fact)
    return found


def read(items: Items, skill: Phonebook) -> list[list[Fact]]:
    """Names and numbers of each sequence, with every claim about its form checked."""
    size, found = skill.name_tokens + skill.number_tokens, list[list[Fact]]()
    for row, mask, _ in zip(*items, strict=True):
        there = row[: len(row) // size * size]
        there = there[: np.count_nonzero(there)].reshape(-1, size)
        assert not row[there.size :].any()
        names, numbers = there[:, : skill.name_tokens], there[:, skill.name_tokens :]
        assert 1 <= names.min() <= names.max() <= skill.letters < numbers.min()
        assert numbers.max() <= skill.letters + skill.digits
        digits = np.zeros_like(there, dtype=bool)
        digits[:, skill.name_tokens :] = True
        expected = np.append(digits.ravel(), np.zeros(len(row) - there.size, dtype=bool))
        assert (mask == expected[1:]).all(), "all digits are asked, and nothing else"
        found.append([(tuple(a), tuple(b)) for a, b in zip(names.tolist(), numbers.tolist(), strict=True)])
    return found


def test_its_counts_are_those_of_mad() -> None:
    """Which fact is asked at each place, and which two first: 3,000 sequences of each."""
    facts, asked, count, rng = 16, 4, 3000, np.random.default_rng(1)
    skill = Phonebook(facts=facts, often=[1])
    rows = read(skill.draw(np.random.default_rng(2), count, 4 * asked), skill)
    numbered = {name: i for i, name in enumerate(sorted({name for row in rows for name, _ in row}))}
    ours, theirs = [[numbered[name] for name, _ in row] for row in rows], [mad(rng, facts, asked) for _ in range(count)]
    assert len(numbered) == facts and {len(row) for row in ours} == {asked}
    for place in range(asked):
        alike([row[place] for row in ours], [row[place] for row in theirs], place)
    alike([tuple(row[:2]) for row in ours], [tuple(row[:2]) for row in theirs], "two together")


def alike(ours: list, theirs: list, what: object) -> None:
    own, other = Counter(ours), Counter(theirs)
    for value in own | other:
        assert abs(own[value] - other[value]) < 4.5 * (own[value] + other[value] + 1) ** 0.5, (what, value)


def test_every_answer_is_the_number_of_its_name_in_one_book() -> None:
    """On all sides, in every draw, of whoever makes the skill anew; and no name twice in a sequence."""
    book = dict[tuple[int, ...], tuple[int, ...]]()
    for seed in range(3):
        skill = Phonebook(facts=300)
        for row in read(skill.draw(np.random.default_rng(seed), 256, 128), skill):
            assert len({name for name, _ in row}) == len(row)
            for name, number in row:
                assert book.setdefault(name, number) == number
    assert len(book) == 300
    other = Phonebook(facts=300, book=1)
    rows = read(other.draw(np.random.default_rng(0), 256, 128), other)
    assert {fact for row in rows for fact in row} != {*book.items()}


def test_the_test_asks_what_was_taught_in_sequences_that_were_not() -> None:
    data = SkillData(DataConfig(source="skill", skill="phonebook", seq_len=128, answers_only=True), 512)
    skill = Phonebook()
    test = next(iter(data.evaluation_items("test", 256 * 128, 256)))
    taught = data.train_sequences(0, 0, 1024)
    assert taught.mask_BT is not None
    learned = read(Items(taught.tokens_BT1.numpy(), taught.mask_BT.numpy(), np.zeros(1024, dtype=int)), skill)
    asked = read(test, skill)
    assert {fact for row in asked for fact in row} <= {fact for row in learned for fact in row}
    assert not {*map(tuple, asked)} & {*map(tuple, learned)}


def test_one_sequence_is_of_one_part() -> None:
    skill = Phonebook()
    (row,) = read(skill.draw(np.random.default_rng(5), 1, 128), skill)
    assert len(row) == 32


def test_a_fact_comes_as_often_as_its_part_says() -> None:
    """The parts have nine facts and eight."""
    skill, count = Phonebook(facts=17, often=[1, 3]), 3000
    items = skill.draw(np.random.default_rng(3), count, 31)
    of, times = dict[tuple[int, ...], int](), Counter[tuple[int, ...]]()
    for row, level in zip(read(items, skill), items.levels_N.tolist(), strict=True):
        for name, _ in row:
            assert of.setdefault(name, level) == level, "a sequence is of one part"
            times[name] += 1
    assert Counter(of.values()) == {1: 9, 3: 8}
    for name, seen in times.items():
        expected = count * 2 * of[name] / (9 * 1 + 8 * 3)
        assert abs(seen - expected) < 4.5 * expected**0.5


def test_digits_are_drawn_alike_so_that_a_number_is_worth_its_nats() -> None:
    """Each place of a number, and two places together, on a large book."""
    skill = Phonebook(facts=20_000, often=[1], name_tokens=3, digits=5, number_tokens=3)
    numbers = np.concatenate(skill._parts)[:, 3:] - 1 - skill.letters
    for place in (0, 1, 2):
        pairs = numbers[:, place] * 5 + numbers[:, (place + 1) % 3]
        counts = np.bincount(pairs, minlength=25)
        assert len(counts) == 25 and (abs(counts - 800) < 4.5 * 800**0.5).all()


@pytest.mark.parametrize(
    ("settings", "length", "off"),
    [
        ({}, 256, 0.003),
        ({"facts": 21, "often": [5, 1], "digits": 3, "number_tokens": 4}, 128, 0.006),
        ({"facts": 16, "often": [1]}, 128, 0.006),
        ({}, 64, 0.006),  # of a shorter sequence it is more than a guess has
    ],
)
def test_chance_is_what_the_commonest_number_gives(settings: dict[str, object], length: int, off: float) -> None:
    """A guess that knows the numbers of a part, and not whose they are, simulated: at each digit the commonest among
    those that began as this one has, and have not come."""
    skill = build(Phonebook, settings)
    items, right = skill.draw(np.random.default_rng(4), 300, length), 0.0
    parts = dict(zip(skill.often, skill._parts, strict=True))
    for row, level in zip(read(items, skill), items.levels_N.tolist(), strict=True):
        left = Counter(map(tuple, parts[level][:, skill.name_tokens :].tolist()))
        for _, number in row:
            for i, digit in enumerate(number):
                next_one = Counter[int]()
                for other, times in left.items():
                    if other[:i] == number[:i]:
                        next_one[other[i]] += times
                best = [d for d, times in next_one.items() if times == max(next_one.values())]
                right += (digit in best) / len(best)
            left[number] -= 1
    guess = right / items.answers_NT.sum()
    assert guess == pytest.approx(skill.chance, abs=off + 0.004) and (length > 64 or guess < skill.chance)


def test_of_many_facts_chance_comes_near_to_a_guess_at_each_digit() -> None:
    assert Phonebook(facts=90_000, often=[1], name_tokens=3, digits=4).chance == pytest.approx(1 / 4, abs=0.006)
    assert math.isclose(Phonebook(facts=1, often=[1]).chance, 1.0), "of one fact there is nothing to tell apart"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"facts": 5000}, "facts=5000: 2 of 64 letters make 4096 names; lower it, or raise letters or name_tokens"),
        (
            {"facts": 31},
            "facts=31: a part for each of often=[1, 2, 4, 8] needs 8, so that a sequence asks two; at",
        ),
        ({"number_tokens": 3}, "name_tokens=2: with number_tokens=3 not two facts fit into data.seq_len=8; lower them"),
        ({"often": [1, 1]}, "often=[1, 1]: 1 stands in it twice"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Phonebook, settings, "data.settings").check(8)
    assert str(error.value).startswith(f"data.settings.{said}") and "\n" not in str(error.value)
