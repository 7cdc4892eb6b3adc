"""Chains against Python's own arithmetic, one step after another."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.problems.modchain import ModChain
from tasks.problems.problem import Questions

CHAIN = ModChain(length=[1, 3], modulus=9)
DOES = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}


def texts(tokens: np.ndarray) -> list[str]:
    return [" ".join(CHAIN.words[token] for token in row if token) for row in tokens]


def asked(count: int = 3000) -> tuple[Questions, list[list[str]]]:
    questions = CHAIN.draw(np.random.default_rng(0), count)
    return questions, [text.removesuffix(" =").split() for text in texts(questions.tokens_NQ)]


def by_hand(first: str, *steps: str) -> str:
    value, written = int(first), list[str]()
    for operator, number in zip(steps[::2], steps[1::2], strict=True):
        made = DOES[operator](value, int(number)) % CHAIN.modulus
        written.append(f"{value} {operator} {number} = {made}")
        value = made
    return " ; ".join(written) + f" => {value}"


def test_answers_are_those_of_the_rule() -> None:
    questions, words = asked()
    steps, short = (
        texts(CHAIN.solved(np.random.default_rng(1), questions, style).tokens_NA) for style in ("steps", "short")
    )
    for row, text, brief in zip(words, steps, short, strict=True):
        assert text == by_hand(*row) and brief == "=>" + text.split("=>")[1]


def test_values_operators_and_numbers_are_drawn_alike() -> None:
    questions, words = asked()
    results = Counter(by_hand(*row).split()[-1] for row in words)
    levels = Counter(questions.levels_N.tolist())
    operators = Counter(row[1] for row in words)
    terms, units = (Counter(row[2] for row in words if (row[1] == "*") == times) for times in (False, True))
    assert {len(row) for row in words} == {3, 7}
    assert {*units} == {str(i) for i in range(2, 9) if math.gcd(i, 9) == 1} and {*terms} == {*"12345678"}
    for counts, kinds in ((results, 9), (levels, 2), (operators, 3), (terms, 8), (units, 5)):
        expected = counts.total() / kinds
        assert len(counts) == kinds and max(abs(n - expected) for n in counts.values()) < 4.5 * np.sqrt(expected)
    assert max(results.values()) / 3000 == pytest.approx(CHAIN.chance, abs=0.03)


def test_a_wrong_answer_goes_on_with_its_mistake_or_has_only_its_result_wrong() -> None:
    questions, words = asked()
    places = Counter[tuple[int, int]]()
    for row, text in zip(
        words, texts(CHAIN.solved(np.random.default_rng(1), questions, "wrong").tokens_NA), strict=True
    ):
        trace, result = text.split(" => ")
        value, mistakes = int(row[0]), list[int]()
        for i, step in enumerate(trace.split(" ; ")):
            before, operator, number, _, after = step.split()
            assert (int(before), operator, number) == (value, *row[1 + 2 * i : 3 + 2 * i])
            if DOES[operator](value, int(number)) % 9 != int(after):
                mistakes.append(i)
            value = int(after)
        length = len(row) // 2
        mistakes += [length] if int(result) != value else []
        assert len(mistakes) == 1 and result != by_hand(*row).split()[-1]
        places[length, mistakes[0]] += 1
    for length in (1, 3):
        counts = [places[length, place] for place in range(length + 1)]
        expected = sum(counts) / len(counts)
        assert max(abs(n - expected) for n in counts) < 4.5 * np.sqrt(expected)


def test_what_is_decided_are_values_of_steps_or_the_short_result() -> None:
    questions, _ = asked(50)
    for style in ("steps", "short"):
        found = CHAIN.solved(np.random.default_rng(0), questions, style)
        for text, decided in zip(texts(found.tokens_NA), found.decided_NA, strict=True):
            words, sign = text.split(), "=" if style == "steps" else "=>"
            assert np.flatnonzero(decided).tolist() == [i + 1 for i, word in enumerate(words) if word == sign]


@pytest.mark.parametrize("length", [[0, 2], [1001]])
def test_what_cannot_be_is_one_line(length: Any) -> None:
    with pytest.raises(ConfigError, match=r"^data.settings.length=\[.*a chain has 1 to 1000 operations$"):
        ModChain(length=length).check()
