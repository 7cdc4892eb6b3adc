"""Polynomial arithmetic against the paper's description (2404.19737 section 4.2), by recursion and schoolbook sums."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.drawn import Items
from tasks.skills.polynomial import Polynomial

Tree = Any
"""An operand's coefficients, or an operator with its trees."""
MODULUS = 7


def tree(rng: np.random.Generator, operations: int, terms: int) -> Tree:
    """Coefficients of operands, and operators, uniformly; the rest of the operations divided uniformly."""
    if not operations:
        return [int(rng.integers(MODULUS)) for _ in range(terms)]
    operator = "-+*o"[rng.integers(4)]
    if operator == "-":
        return operator, tree(rng, operations - 1, terms)
    first = int(rng.integers(operations))
    return operator, tree(rng, first, terms), tree(rng, operations - 1 - first, terms)


def value(of: Tree) -> list[int]:
    """By the definitions: a product by all pairs of powers, a composition by a sum of powers."""
    if isinstance(of, list):
        return of
    operator, first, *others = of
    a = value(first)
    if operator == "-":
        return [(MODULUS - c) % MODULUS for c in a]
    b = value(others[0])
    if operator == "+":
        return [(x + y) % MODULUS for x, y in zip(a, b, strict=True)]
    if operator == "*":
        return product(a, b)
    power, total = [1] + [0] * (len(a) - 1), [0] * len(a)
    for coefficient in a:
        total = [(x + coefficient * y) % MODULUS for x, y in zip(total, power, strict=True)]
        power = product(power, b)
    return total


def product(a: list[int], b: list[int]) -> list[int]:
    total = [0] * len(a)
    for i, j in itertools.product(range(len(a)), repeat=2):
        if i + j < len(a):
            total[i + j] += a[i] * b[j]
    return [c % MODULUS for c in total]


def parsed(words: Iterator[str], terms: int) -> Tree:
    word = next(words)
    if word.isdigit():
        return [int(word), *(int(next(words)) for _ in range(terms - 1))]
    return (word, *(parsed(words, terms) for _ in range(1 if word == "-" else 2)))


def read(skill: Polynomial, items: Items, row: int) -> Tree:
    """One of our sequences, its result and its number of operations checked."""
    named = skill.words
    text = " ".join(named[token] for token in items.tokens_NT1[row] if token)
    question, result = text.split(" = ")
    words = iter(question.split())
    found = parsed(words, skill.terms)
    assert next(words, None) is None, "one expression"
    assert [int(c) for c in result.split()] == value(found)
    assert sum(map(question.split().count, "-+*o")) == items.levels_N[row]
    end = len(text.split())
    assert np.flatnonzero(items.answers_NT[row]).tolist() == list(range(end - skill.terms - 1, end - 1))
    return found


def operations(of: Tree) -> int:
    return 0 if isinstance(of, list) else 1 + sum(map(operations, of[1:]))


@pytest.mark.parametrize(("terms", "most"), [(5, 3), (2, 5)])
def test_its_counts_are_those_of_the_description(terms: int, most: int) -> None:
    """The first operator and the second, how much the first operand holds, and the coefficients of what it comes to:
    3,000 expressions of so many operations."""
    skill, count = Polynomial(operations=[most], terms=terms), 3000
    items = skill.draw(np.random.default_rng(1), count, 64)
    rng = np.random.default_rng(2)
    ours, theirs = ([read(skill, items, i) for i in range(count)], [tree(rng, most, terms) for _ in range(count)])
    counts = dict[str, tuple[Counter[Any], Counter[Any]]]()
    for side, trees in enumerate((ours, theirs)):
        for found in trees:
            seen = {"operator": found[0], "first": operations(found[1]), "next": found[1][0]}
            seen |= {"last": found[-1][0], "size": len(found)}
            seen |= {f"coefficient {i}": c for i, c in enumerate(value(found))}
            for what, part in seen.items():
                counts.setdefault(what, (Counter(), Counter()))[side][part] += 1
    for what, (own, other) in counts.items():
        for part in own | other:
            spread = 4.5 * np.sqrt(own[part] + other[part] + 1)
            assert abs(own[part] - other[part]) < spread, (what, part, own[part], other[part])


def test_levels_come_equally_often_and_operators_are_those_that_are_wanted() -> None:
    skill = Polynomial(operations=[1, 4], operators=["add", "compose"], terms=2)
    items = skill.draw(np.random.default_rng(3), 2000, 32)
    assert min(Counter(items.levels_N.tolist()).values()) > 900
    assert {skill.words[token] for token in np.unique(items.tokens_NT1)} & {*"-+*o"} == {*"+o"}


@pytest.mark.parametrize("terms", [2, 5])
def test_chance_is_what_one_number_tells_and_no_other_guess_gives_more(terms: int) -> None:
    """That of the last operand, on other items than it was learned from; more than always 0, and than whichever number
    is most frequent in a place behind an operator."""
    skill = Polynomial(terms=terms)
    items = skill.draw(np.random.default_rng(4), 8000, 64)
    results = items.tokens_NT1[:, 1:][items.answers_NT].reshape(8000, terms) - skill.words.index("0")
    rows, places = np.nonzero(items.answers_NT)
    read = (items.tokens_NT1[rows, places - terms] - skill.words.index("0")).reshape(8000, terms)
    learned = [np.bincount(results[:4000][read[:4000] == number], minlength=7).argmax() for number in range(7)]
    assert (np.array(learned)[read[4000:]] == results[4000:]).mean() == pytest.approx(skill.chance, abs=0.012)
    assert (results == 0).mean() < skill.chance
    operator, right = items.tokens_NT1[:, 0], 0
    for kind in range(2, 6):
        here, there = results[:4000][operator[:4000] == kind], results[4000:][operator[4000:] == kind]
        right += sum(int((there[:, i] == np.bincount(here[:, i]).argmax()).sum()) for i in range(terms))
    assert right / (4000 * terms) < skill.chance + 0.012


@pytest.mark.parametrize(("modulus", "terms"), [(97, 20), (1000, 2), (1000, 6)])
def test_chance_is_known_where_few_numbers_come_twice(modulus: int, terms: int) -> None:
    """A part of the results is the last operand's, negated or not."""
    skill = Polynomial(modulus=modulus, terms=terms)
    tokens = skill.draw(np.random.default_rng(7), 20_000, skill._longest()).tokens_NT1
    ends = np.argmax(tokens == 1, axis=1)[:, None]
    result, last = (
        np.take_along_axis(tokens, ends + first + np.arange(terms), axis=1) - skill.words.index("0")
        for first in (1, -terms)
    )
    assert skill.chance == pytest.approx(float((result == -last % modulus).mean()), abs=0.01)


@pytest.mark.parametrize(
    "settings",
    [
        {"operators": ["compose"], "operations": [1], "terms": 1},
        {"operators": ["compose"]},
        {"operators": ["compose", "add"], "operations": [1]},
        {"operators": ["multiply"], "operations": [1, 2], "terms": 3},
        {"operators": ["negate"], "operations": [1]},
        {"operations": [2], "modulus": 3},
    ],
)
def test_no_token_at_a_place_tells_more_than_chance(settings: dict[str, Any]) -> None:
    """Any place, counted from either side; and one of them tells as much, or always 0 does."""
    skill, most = Polynomial(**settings), 0.0
    items = skill.draw(np.random.default_rng(6), 8000, 40)
    texts = [[token for token in row if token] for row in items.tokens_NT1.tolist()]
    asked, answers = ([text[part] for text in texts] for part in (slice(-skill.terms), slice(-skill.terms, None)))
    for power in range(skill.terms):
        right = [answer[power] for answer in answers]
        told = [float(np.mean([answer == skill.words.index("0") for answer in right]))]
        for place in (*range(10), *range(-10, 0)):
            seen = [text[place] if -len(text) <= place < len(text) else 0 for text in asked]
            counts = defaultdict[int, Counter[int]](Counter)
            for token, answer in zip(seen[:4000], right[:4000], strict=True):
                counts[token][answer] += 1
            best = {token: count.most_common(1)[0][0] for token, count in counts.items()}
            told.append(float(np.mean([best.get(t) == a for t, a in zip(seen[4000:], right[4000:], strict=True)])))
        most += max(told) / skill.terms
    assert most == pytest.approx(skill.chance, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"operations": [0]}, "data.settings.operations=[0]: 0 operations leave nothing to do"),
        ({"operations": [1, 42]}, "42 operations on polynomials of terms=2 take up to 130 tokens of data.seq_len=128"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Polynomial(**settings).check(128)
    assert said in str(error.value)


@pytest.mark.parametrize(("operators", "longest"), [(["negate"], 8), (["add", "multiply"], 14)])
def test_the_longest_that_fits_fits(operators: Any, longest: int) -> None:
    skill = Polynomial(operations=[2], operators=operators, terms=3)
    skill.check(longest)
    assert skill.draw(np.random.default_rng(5), 20, longest).tokens_NT1.all()
    with pytest.raises(ConfigError):
        skill.check(longest - 1)


def test_chance_is_not_below_any_number_where_items_are_few() -> None:
    """Who chooses a guess for each of 31 coefficients by 700 items is led astray; who takes one for all is not."""
    assert Polynomial(terms=32, operations=[16]).chance > 1 / 7
