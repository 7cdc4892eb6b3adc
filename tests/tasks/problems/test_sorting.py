"""Sorting against Python's own, selection by selection."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.problems.problem import Questions
from tasks.problems.sorting import Sorting

SORTING = Sorting(numbers=[2, 5], below=8)


def texts(tokens: np.ndarray) -> list[str]:
    return [" ".join(SORTING.words[token] for token in row if token) for row in tokens]


def asked(count: int = 3000) -> tuple[Questions, list[list[int]]]:
    questions = SORTING.draw(np.random.default_rng(0), count)
    return questions, [[int(w) for w in text.removesuffix(" ?").split()] for text in texts(questions.tokens_NQ)]


def line(picked: int, left: list[int]) -> str:
    return " ".join(map(str, [picked, *([":", *left] if left else [])]))


def by_hand(numbers: list[int]) -> str:
    left, lines = list(numbers), list[str]()
    for number in sorted(numbers):
        left.remove(number)
        lines.append(line(number, left))
    return " ; ".join(lines) + " => " + " ".join(map(str, sorted(numbers)))


def test_answers_are_those_of_the_rule() -> None:
    questions, numbers = asked()
    steps, short = (
        texts(SORTING.solved(np.random.default_rng(1), questions, style).tokens_NA) for style in ("steps", "short")
    )
    for row, text, brief in zip(numbers, steps, short, strict=True):
        assert text == by_hand(row) and brief == "=>" + text.split("=>")[1]


def test_orders_and_numbers_are_drawn_alike() -> None:
    _, numbers = asked()
    assert all(len({*row}) == len(row) for row in numbers)
    orders = Counter(tuple(np.argsort(row).tolist()) for row in numbers if len(row) == 5)
    first = Counter(row[0] for row in numbers)
    for counts, kinds in ((orders, 120), (first, 8), (Counter(map(len, numbers)), 2)):
        expected = counts.total() / kinds
        assert len(counts) == kinds and max(abs(n - expected) for n in counts.values()) < 4.5 * np.sqrt(expected)
    assert SORTING.chance == pytest.approx((1 / math.factorial(2) + 1 / math.factorial(5)) / 2)


def test_a_wrong_answer_goes_on_with_its_mistake_or_has_only_its_result_wrong() -> None:
    questions, numbers = asked()
    places = Counter[tuple[int, int]]()
    wrong = texts(SORTING.solved(np.random.default_rng(1), questions, "wrong").tokens_NA)
    for row, text in zip(numbers, wrong, strict=True):
        trace, result = text.split(" => ")
        left, taken, mistakes = list(row), list[int](), list[int]()
        for i, step in enumerate(trace.split(" ; ")):
            number = int(step.split()[0])
            if number != min(left):
                mistakes.append(i)
            left.remove(number)
            taken.append(number)
            assert step == line(number, left)
        found = [int(word) for word in result.split()]
        if found != taken:
            mistakes.append(len(row) - 1)
            off = [i for i, (a, b) in enumerate(zip(found, taken, strict=True)) if a != b]
            assert len(off) == 2 and off[1] == off[0] + 1 and sorted(found) == taken
        assert not left and len(mistakes) == 1 and found != sorted(row)
        places[len(row), mistakes[0]] += 1
    for length in (2, 5):
        counts = [places[length, place] for place in range(length)]
        expected = sum(counts) / len(counts)
        assert max(abs(n - expected) for n in counts) < 4.5 * np.sqrt(expected)


def test_what_is_decided_are_selections_with_a_choice_or_the_short_result() -> None:
    questions, _ = asked(50)
    for style in ("steps", "short"):
        found = SORTING.solved(np.random.default_rng(0), questions, style)
        for text, decided in zip(texts(found.tokens_NA), found.decided_NA, strict=True):
            words = text.split()
            expected = [i - 1 for i, word in enumerate(words) if word == ":"]
            assert np.flatnonzero(decided).tolist() == (expected if style == "steps" else list(range(1, len(words))))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"numbers": [1, 3]}, "data.settings.numbers=[1, 3]: one number is sorted; at least 2"),
        ({"numbers": [4], "below": 3}, "data.settings.numbers=[4]: 4 different ones are more than there are (below=3)"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Sorting(**settings).check()
    assert str(error.value).startswith(said)


def test_a_question_is_the_same_in_whichever_order_its_numbers_stand() -> None:
    problem = Sorting(numbers=[3, 4], below=9)
    questions = problem.draw(np.random.default_rng(0), 500)
    turned = questions.tokens_NQ.copy()
    for row, level in zip(turned, questions.levels_N.tolist(), strict=True):
        row[:level] = row[:level][::-1]
    again = problem.same(Questions(turned, questions.levels_N))
    assert np.array_equal(problem.same(questions), again) and not np.array_equal(turned, questions.tokens_NQ)
    sets = {tuple(sorted(row[:level])) for row, level in zip(turned.tolist(), questions.levels_N.tolist(), strict=True)}
    assert len(np.unique(again, axis=0)) == len(sets), "and other numbers are another question"
