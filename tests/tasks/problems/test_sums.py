"""Sums against Python's own, column by column, read from the words of an answer."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.problems.problem import Questions, Style
from tasks.problems.sums import Sums

SUMS = Sums(digits=[1, 2, 3])


def texts(tokens: np.ndarray) -> list[str]:
    return ["".join(f"{SUMS.words[token]} " for token in row if token) for row in tokens]


def asked(count: int = 2000, seed: int = 0) -> tuple[Questions, list[tuple[str, str]]]:
    """Questions, and their two numbers as they are written."""
    questions = SUMS.draw(np.random.default_rng(seed), count)
    written = [text.replace(" ", "").removesuffix("=").split("+") for text in texts(questions.tokens_NQ)]
    return questions, [(a, b) for a, b in written]


def answered(questions: Questions, style: Style) -> list[str]:
    return texts(SUMS.solved(np.random.default_rng(1), questions, style).tokens_NA)


def by_hand(first: str, second: str) -> str:
    """The whole answer, as the docstring has it."""
    columns, carried = [], 0
    for a, b in zip(reversed(first), reversed(second), strict=True):
        total = int(a) + int(b) + carried
        columns.append(f"{a} {b} {carried} = {total // 10} {total % 10} ")
        carried = total // 10
    return "; ".join(columns) + "=> " + "".join(f"{digit} " for digit in str(int(first) + int(second)))


def test_answers_are_those_of_the_rule() -> None:
    questions, numbers = asked()
    for text, short, (first, second) in zip(
        answered(questions, "steps"), answered(questions, "short"), numbers, strict=True
    ):
        assert text == by_hand(first, second)
        assert short == "=> " + text.split("=> ")[1]


def test_numbers_are_drawn_alike() -> None:
    questions, numbers = asked(9000, seed=2)
    for level in (1, 2, 3):
        own = [pair for pair, n in zip(numbers, questions.levels_N, strict=True) if n == level]
        assert 2700 < len(own) < 3300 and {len(word) for pair in own for word in pair} == {level}
        first, least = 10 ** (level - 1) if level > 1 else 0, 10**level
        means = [np.mean([int(pair[i]) for pair in own]) for i in (0, 1)]
        spread = (least - first) / np.sqrt(12 * len(own))
        assert means == pytest.approx([(first + least - 1) / 2] * 2, abs=4.5 * spread)
        counts = Counter(int(pair[0][0]) for pair in own)
        expected = len(own) / len(counts)
        assert len(counts) == (10 if level == 1 else 9)
        assert max(abs(n - expected) for n in counts.values()) < 4.5 * np.sqrt(expected)
    assert len({*numbers}) > 4000


def test_a_wrong_answer_goes_on_with_its_mistake_or_has_only_its_result_wrong() -> None:
    """Every column but the mistaken one is right by what is carried into it; places of the mistake come alike."""
    questions, numbers = asked()
    places = Counter[tuple[int, int]]()
    for text, (first, second) in zip(answered(questions, "wrong"), numbers, strict=True):
        trace, result = text.split("=> ")
        columns = [column.split() for column in trace.split(";")]
        mistakes, carried, value = [], 0, 0
        for place, (a, b, into, _, out, digit) in enumerate(columns):
            assert (a, b, int(into)) == (first[-1 - place], second[-1 - place], carried)
            if int(a) + int(b) + carried != 10 * int(out) + int(digit):
                mistakes.append(place)
            carried, value = int(out), value + int(digit) * 10**place
        value += carried * 10 ** len(columns)
        if int(result.replace(" ", "")) != value:
            mistakes.append(len(columns))
        assert len(mistakes) == 1 and int(result.replace(" ", "")) != int(first) + int(second)
        assert str(int(result.replace(" ", ""))) == result.replace(" ", "")
        places[len(first), mistakes[0]] += 1
    for level in (1, 2, 3):
        counts = [places[level, place] for place in range(level + 1)]
        expected = sum(counts) / len(counts)
        assert max(abs(n - expected) for n in counts) < 4.5 * np.sqrt(expected)


def test_what_is_decided_are_sums_of_columns_or_the_short_result() -> None:
    questions, _ = asked(50)
    for style in ("steps", "short"):
        found = SUMS.solved(np.random.default_rng(0), questions, style)
        for tokens, decided in zip(found.tokens_NA.tolist(), found.decided_NA, strict=True):
            words = [SUMS.words[token] for token in tokens if token]
            behind = {i + j for i, word in enumerate(words) if word == "=" for j in (1, 2)}
            expected = behind if style == "steps" else set(range(1, len(words)))
            assert {*np.flatnonzero(decided).tolist()} == expected


def test_a_question_is_the_same_either_way_round() -> None:
    tokens = SUMS.draw(np.random.default_rng(3), 1)
    words = {word: i for i, word in enumerate(SUMS.words)}
    width = tokens.tokens_NQ.shape[1]

    def question(text: str) -> list[int]:
        return [*(words[word] for word in text), *[0] * (width - len(text))]

    several = ["12+34=", "34+12=", "345+123=", "123+345=", "7+3=", "3+7=", "3+8="]
    levels = np.array([2, 2, 3, 3, 1, 1, 1])
    same = SUMS.same(Questions(np.array([question(text) for text in several]), levels)).tolist()
    assert same[0] == same[1] and same[2] == same[3] and same[4] == same[5]
    assert len({*map(tuple, same)}) == 4
    assert same[0] == question("12+34=")


def test_chance_is_the_most_frequent_sum() -> None:
    for digits in (1, 2):
        first, end = (0 if digits == 1 else 10 ** (digits - 1)), 10**digits
        sums = Counter(a + b for a in range(first, end) for b in range(first, end))
        assert Sums(digits=[digits]).chance == pytest.approx(max(sums.values()) / sums.total())


@pytest.mark.parametrize("digits", [[0, 2], [16]])
def test_what_cannot_be_is_one_line(digits: Any) -> None:
    with pytest.raises(ConfigError, match=r"^data.settings.digits=\[[^\n]*numbers have 1 to 15 digits$"):
        Sums(digits=digits).check()


def test_the_longest_numbers_are_added_rightly() -> None:
    sums, rng = Sums(digits=[15]), np.random.default_rng(0)
    questions = sums.draw(rng, 200)
    answers = sums.solved(rng, questions, "short").tokens_NA
    for question, answer in zip(questions.tokens_NQ, answers, strict=True):
        first, second = "".join(sums.words[t] for t in question).removesuffix("=").split("+")
        assert "".join(sums.words[t] for t in answer if t) == f"=>{int(first) + int(second)}"
