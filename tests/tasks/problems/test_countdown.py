"""Countdown against brute force over all ways to join numbers, and expressions against Python's own parser."""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.problems.countdown import Countdown, folds
from tasks.problems.expression import value_of
from tasks.problems.problem import Questions

COUNTDOWN = Countdown(numbers=[2, 3], largest=9, most=40, tries=2)
DOES = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
KINDS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*"}


def texts(tokens: np.ndarray) -> list[str]:
    return [" ".join(COUNTDOWN.words[token] for token in row if token) for row in tokens]


def asked(count: int = 1500, seed: int = 0) -> tuple[Questions, list[tuple[list[int], int]]]:
    questions = COUNTDOWN.draw(np.random.default_rng(seed), count)
    read = []
    for text in texts(questions.tokens_NQ):
        numbers, target = text.removesuffix(" =").split(" ? ")
        read.append(([int(word) for word in numbers.split()], int(target)))
    return questions, read


def python_value(text: str) -> int | None:
    """By Python's own parser; None where it is no expression of numbers, + - * and parentheses."""

    def value(node: ast.AST) -> int:
        match node:
            case ast.BinOp(left, op, right) if type(op) in KINDS:
                return DOES[KINDS[type(op)]](value(left), value(right))
            case ast.Constant(int(number)):
                return number
        raise SyntaxError

    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except SyntaxError:
        return None


def reachable(numbers: list[int], most: int) -> Iterator[int]:
    """All that can be made of all of them, joining any two, with nothing below 0 or above `most` on the way."""
    if len(numbers) == 1:
        yield numbers[0]
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for does in DOES.values():
            if 0 <= (made := does(numbers[i], numbers[j])) <= most:
                yield from reachable([*rest, made], most)


def test_every_fold_is_there_once_and_they_make_all_that_can_be_made() -> None:
    """Of three numbers; of four, what joins two pairs is no fold."""
    for numbers, count in ((2, 2 * 4), (3, 6 * 16), (4, 24 * 64)):
        found = folds(numbers)
        assert len({*zip(map(bytes, found.places_FK), map(bytes, found.kinds_FJ), strict=True)}) == count
    for numbers in ([2, 7], [3, 4, 8], [1, 5, 5], [9, 9, 9]):
        values, kept = COUNTDOWN._values(np.array([numbers]))
        assert {*values[kept][:, -1].tolist()} == {*reachable(numbers, 40)}


def test_targets_are_reachable_and_numbers_are_drawn_alike() -> None:
    _, read = asked()
    assert all(target > 0 and target in reachable(numbers, 40) for numbers, target in read)
    assert all(numbers == sorted(numbers) for numbers, _ in read), "another order is the same question"
    each = Counter(number for numbers, _ in read for number in numbers)
    expected = each.total() / 9
    assert len(each) == 9 and max(abs(n - expected) for n in each.values()) < 4.5 * np.sqrt(expected)
    assert {len(numbers) for numbers, _ in read} == {2, 3} and len({target for _, target in read}) > 30


def steps_of(line: str, numbers: list[int]) -> tuple[int, list[tuple[int, int]]]:
    """What a try says it comes to, and (said, true) of each step: the numbers are used as they are there."""
    left, said = Counter(numbers), []
    for step in line.split(" , "):
        first, operator, second, _, value = step.split()
        used = Counter([int(first), int(second)])
        assert used <= left
        left += Counter([int(value)])
        left -= used
        said.append((int(value), DOES[operator](int(first), int(second))))
    assert left.total() == 1
    return int(value), said


def test_steps_are_right_and_only_the_last_try_comes_to_the_target() -> None:
    questions, read = asked()
    answers, tries = texts(COUNTDOWN.solved(np.random.default_rng(1), questions, "steps").tokens_NA), Counter[int]()
    short = texts(COUNTDOWN.solved(np.random.default_rng(2), questions, "short").tokens_NA)
    for (numbers, target), text, brief in zip(read, answers, short, strict=True):
        trace, result = text.split(" => ")
        *failed, last = (steps_of(line, numbers) for line in trace.split(" ; "))
        assert last[0] == target and all(value != target for value, _ in failed)
        assert all(said == true and 0 <= said <= 40 for _, steps in [*failed, last] for said, true in steps)
        assert python_value(result) == target and brief == f"=> {result}", "one solution, whatever the dice"
        value, operands = last[1][-1][0], [int(word) for word in result.split() if word.isdigit()]
        assert value == target and sorted(operands) == numbers
        tries[len(failed)] += 1
    assert min(tries.values()) > 400 and {*tries} == {0, 1, 2}


def test_a_wrong_answer_claims_the_target_or_has_only_its_result_wrong() -> None:
    questions, read = asked()
    kinds = Counter[str]()
    wrong = texts(COUNTDOWN.solved(np.random.default_rng(1), questions, "wrong").tokens_NA)
    for (numbers, target), text in zip(read, wrong, strict=True):
        trace, result = text.split(" => ")
        value, said = steps_of(trace.split(" ; ")[-1], numbers)
        assert value == target != python_value(result)
        assert sorted(int(word) for word in result.split() if word.isdigit()) == numbers
        mistakes = [i for i, (found, true) in enumerate(said) if found != true]
        if mistakes:
            assert mistakes == [len(said) - 1] and said[-1][1] == python_value(result)
        kinds["claims" if mistakes else "result"] += 1
    assert min(kinds.values()) > 650


def test_what_is_decided_are_values_of_steps_or_the_short_result() -> None:
    questions, _ = asked(50)
    for style in ("steps", "short"):
        found = COUNTDOWN.solved(np.random.default_rng(0), questions, style)
        for text, decided in zip(texts(found.tokens_NA), found.decided_NA, strict=True):
            words = text.split()
            expected = [i + 1 for i, word in enumerate(words) if word == "="]
            assert np.flatnonzero(decided).tolist() == (expected if style == "steps" else list(range(1, len(words))))


def test_four_numbers_are_solved_too() -> None:
    four = Countdown(numbers=[4], largest=6, most=50)
    questions = four.draw(np.random.default_rng(0), 100)
    for style in ("steps", "short"):
        answers = four.solved(np.random.default_rng(1), questions, style).tokens_NA
        for question, answer in zip(questions.tokens_NQ, answers, strict=True):
            numbers, target = " ".join(four.words[t] for t in question).removesuffix(" =").split(" ? ")
            result = " ".join(four.words[t] for t in answer if t).split("=> ")[1]
            assert python_value(result) == int(target)
            assert sorted(word for word in result.split() if word.isdigit()) == sorted(numbers.split())


def test_other_shapes_and_precedence_are_judged_too() -> None:
    """What no solution of ours looks like."""
    four = Countdown(numbers=[4], largest=6, most=50)
    token = {word: i for i, word in enumerate(four.words)}
    question = [token[word] for word in ["2", "3", "4", "5", "?", "26", "="]]
    for result, right, formatted in (
        ("2 * 3 + 4 * 5", True, True),
        ("( 2 * 3 ) + ( 4 * 5 )", True, True),
        ("( ( ( 5 * 4 + 3 * 2 ) ) )", True, True),
        ("2 * ( 3 + 4 ) * 5", False, True),
        ("2 * 3 + 4 * 5 + 5 - 5", False, True),
        ("26", False, True),
        ("2 * 3 + 4 * 5 =", False, False),
        ("2 * 3 + 4 * * 5", False, False),
        ("- 2 * 3 + 4 * 5", False, False),
        ("( 2 * 3 + 4 * 5", False, False),
        ("2 * 3 + 4 * 5 )", False, False),
    ):
        assert four.judge(question, [3, *(token[word] for word in result.split())]) == (right, formatted), result


def test_expressions_come_to_what_python_says() -> None:
    rng, parts = np.random.default_rng(3), [*"+-*()", 0, 1, 7, 12]
    formed = 0
    for _ in range(60_000):
        some = [parts[i] for i in rng.integers(len(parts), size=rng.integers(0, 8))]
        expected = python_value(" ".join(map(str, some)))
        assert value_of(some) == expected, some
        formed += expected is not None
    assert formed > 3000


def test_chance_is_what_any_solution_gets() -> None:
    """Of one of the ways to take the numbers one after another, by the question: another sample."""
    rng, hit = np.random.default_rng(4), []
    for numbers, target in asked(1500, seed=5)[1]:
        values = list[int]()
        for order in itertools.permutations(numbers):
            for kinds in itertools.product(["+", "-", "*", "from"], repeat=len(numbers) - 1):
                value = order[0]
                for kind, number in zip(kinds, order[1:], strict=True):
                    value = number - value if kind == "from" else DOES[kind](value, number)
                    if not 0 <= value <= 40:
                        break
                else:
                    values.append(value)
        hit.append(values[rng.integers(len(values))] == target)
    assert COUNTDOWN.chance == pytest.approx(np.mean(hit), abs=0.04)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"numbers": [1]}, "data.settings.numbers=[1]: a question has 2 to 4 numbers"),
        ({"numbers": [5]}, "data.settings.numbers=[5]: a question has 2 to 4 numbers"),
        ({"most": 30}, "data.settings.most=30: 3 numbers up to largest=12 come to 36; at least that"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Countdown(**settings).check()
    assert str(error.value) == said
