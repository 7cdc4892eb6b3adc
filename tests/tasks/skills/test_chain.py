"""Chains of modular arithmetic against a generator that makes one statement after another, and Python's own sums."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.drawn import Items
from tasks.skills.chain import NAMES, Chain

STATEMENTS, MODULUS, LENGTH = 5, 9, 48

Statement = tuple[str, str | None, str, int]
"""Name, the name that it is made of, operator, number."""
SUMS = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def written(rng: np.random.Generator, length: int) -> tuple[list[Statement], str]:
    """Statements, and which is asked, one after another: by the docstring of the skill, and of LEGO's chains."""
    chain = sorted(int(i) for i in rng.choice(STATEMENTS, length, replace=False))
    names = [NAMES[i] for i in rng.choice(len(NAMES), STATEMENTS, replace=False)]
    statements = list[Statement]()
    for place, name in enumerate(names):
        if place in chain:
            at = chain.index(place)
            of = names[chain[at - 1]] if at else None
        else:
            of = [None, *names[:place]][rng.integers(place + 1)]
        operator = "+-*"[rng.integers(3)]
        if of is None:
            number = int(rng.integers(MODULUS))
        elif operator == "*":
            number = int(rng.choice([n for n in range(2, MODULUS) if math.gcd(n, MODULUS) == 1]))
        else:
            number = int(rng.integers(1, MODULUS))
        statements.append((name, of, operator if of else "", number))
    return statements, names[chain[-1]]


def read(skill: Chain, items: Items, row: int) -> tuple[list[Statement], str]:
    """The same of one of our sequences. Every value that is written is checked, and how many it takes."""
    named = skill.words
    words = [named[token] for token in items.tokens_NT1[row] if token]
    assert not items.tokens_NT1[row, len(words) :].any()
    mark = words.index("?")
    asked, answer = words[mark - 1], words[mark + 1 :]
    statements, values, needs = list[Statement](), dict[str, int](), dict[str, set[str]]()
    for text in " ".join(words[: mark - 1]).split(" ;")[:-1]:
        name, equals, *made = text.split()
        assert equals == "=" and len(made) in (1, 3) and name not in values
        of, operator, number = (None, "", int(made[0])) if len(made) == 1 else (made[0], made[1], int(made[2]))
        values[name] = (SUMS[operator](values[of], number) if of else number) % skill.modulus
        needs[name] = {name} | (needs[of] if of else set())
        statements.append((name, of, operator, number))
    assert len(statements) == skill.statements and len(needs[asked]) == items.levels_N[row]
    expected = [word for name in values for word in (name, str(values[name]))]
    if skill.steps:
        assert answer == expected[: expected.index(asked) + 2]
    else:
        assert answer == [str(values[asked])]
    marked = np.flatnonzero(items.answers_NT[row]) + 1
    assert marked.tolist() == [i for i in range(mark + 1, len(words)) if words[i].isdigit()]
    return statements, asked


@pytest.mark.parametrize("steps", [False, True])
def test_its_counts_are_those_of_the_rule(steps: bool) -> None:
    """Operators, their numbers, what is made of what, which place is asked: 3,000 sequences that take three."""
    skill, count = Chain(length=[3], statements=STATEMENTS, modulus=MODULUS, steps=steps), 3000
    items = skill.draw(np.random.default_rng(1), count, LENGTH)
    rng = np.random.default_rng(2)
    ours, theirs = [read(skill, items, i) for i in range(count)], [written(rng, 3) for _ in range(count)]
    counts = dict[str, tuple[Counter[Any], Counter[Any]]]()
    for side, rows in enumerate((ours, theirs)):
        for statements, asked in rows:
            names = [name for name, *_ in statements]
            seen: dict[str, Any] = {"asked": names.index(asked), "first name": names[0]}
            for place, (_, of, operator, number) in enumerate(statements):
                seen[f"of {place}"] = names.index(of) if of else -1
                seen[f"number {place}"] = (operator, number)
            for what, value in seen.items():
                counts.setdefault(what, (Counter(), Counter()))[side][value] += 1
    for what, (own, other) in counts.items():
        for value in own | other:
            spread = 4.5 * np.sqrt(own[value] + other[value] + 1)
            assert abs(own[value] - other[value]) < spread, (what, value, own[value], other[value])


def test_what_is_written_on_the_way_is_learned() -> None:
    skill = Chain(steps=True)
    items = skill.draw(np.random.default_rng(6), 100, LENGTH)
    for tokens, learned in zip(items.tokens_NT1.tolist(), skill.learned(items), strict=True):
        mark = tokens.index(skill.words.index("?"))
        assert np.flatnonzero(learned).tolist() == list(range(mark, tokens.index(0) - 1))


def test_levels_come_equally_often() -> None:
    levels = Counter(Chain(length=[1, 2, 5]).draw(np.random.default_rng(3), 3000, LENGTH).levels_N.tolist())
    assert set(levels) == {1, 2, 5} and min(levels.values()) > 900


@pytest.mark.parametrize(
    "settings",
    [{}, {"steps": True}, {"length": [1, 3], "statements": 4}, {"length": [2], "modulus": 6, "steps": True}]
    + [{"statements": 3, "modulus": 5, "steps": True}],
)
def test_chance_is_of_who_copies_the_number_of_the_statement_that_is_asked(settings: dict[str, Any]) -> None:
    skill, right = Chain(**settings), 0
    items = skill.draw(np.random.default_rng(8), 4000, LENGTH)
    for row in range(4000):
        statements, _ = read(skill, items, row)
        words = [skill.words[token] for token in items.tokens_NT1[row] if token]
        written = {name: str(number) for name, _, _, number in statements}
        for place in np.flatnonzero(items.answers_NT[row]) + 1:
            name = words[place - 1] if skill.steps else words[place - 2]
            right += written[name] == words[place]
    assert right / items.answers_NT.sum() == pytest.approx(skill.chance, abs=0.015)


def test_where_every_number_stands_alone_to_look_it_up_is_the_skill() -> None:
    assert Chain(length=[1]).chance == Chain(length=[1], statements=1, steps=True).chance == 1 / 7


@pytest.mark.parametrize("modulus", [6, 7])
def test_chance_is_what_any_guess_gives_that_does_not_do_the_chain(modulus: int) -> None:
    """Any number; the number of the last statement; the value before the last step, which is even less."""
    skill, rng = Chain(length=[3], modulus=modulus), np.random.default_rng(4)
    items = skill.draw(rng, 3000, LENGTH)
    any_of, last, before, answers, zero = 0, 0, 0, Counter[int](), skill.words.index("0")
    for row in range(3000):
        statements, asked = read(skill, items, row)
        answer = int(items.tokens_NT1[row, 1:][items.answers_NT[row]][0]) - zero
        values = dict[str, int]()
        for name, of, operator, number in statements:
            values[name] = (SUMS[operator](values[of], number) if of else number) % modulus
        of, number = next((of, number) for name, of, _, number in statements if name == asked)
        any_of += rng.integers(modulus) == answer
        last += number == answer
        before += of is not None and values[of] == answer
        answers[answer] += 1
    assert skill.chance == 1 / modulus
    for right in (any_of, last, *answers.values()):
        assert right / 3000 == pytest.approx(skill.chance, abs=0.028)
    assert before / 3000 < skill.chance


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": [0, 1]}, "data.settings.length=[0, 1]: 0 statements give no value; at least 1"),
        ({"length": [2, 6]}, "data.settings.length=[2, 6]: 6 statements are more than there are (statements=5)"),
        ({"statements": 22}, "data.settings.statements=22: they, and what is asked, take up to 132 tokens of"),
        ({"statements": 17, "steps": True}, "data.settings.statements=17: they, and what is asked, take up to 135"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Chain(**settings).check(128)
    assert said in str(error.value)


@pytest.mark.parametrize(("steps", "longest"), [(False, 18), (True, 23)])
def test_the_longest_that_fits_fits(steps: bool, longest: int) -> None:
    """A number, two made of others, and the question: 4 + 6 + 6 + 2 tokens, and what is written, the last no input."""
    skill = Chain(length=[3], statements=3, steps=steps)
    skill.check(longest)
    assert skill.draw(np.random.default_rng(5), 200, longest).tokens_NT1.all()
    with pytest.raises(ConfigError):
        skill.check(longest - 1)
