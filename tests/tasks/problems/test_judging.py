"""Every problem's judge: right answers are right, spoiled ones are what an independent evaluator says, and nothing
raises."""

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tasks.problems.chosen import PROBLEMS
from tasks.problems.problem import Judgement, Problem, Style

Words = list[str]


def sums_says(question: Words, result: Words) -> tuple[bool, bool]:
    """Right, formatted: by Python's own numbers."""
    text = " ".join(result)
    formatted = re.fullmatch(r"\d( \d)*", text) is not None and re.match(r"0 ", text) is None
    first, second = "".join(question).removesuffix("=").split("+")
    return formatted and int("".join(result)) == int(first) + int(second), formatted


def modchain_says(question: Words, result: Words) -> tuple[bool, bool]:
    """The whole chain in one go, parentheses around all that is before a sign; the modulus last."""
    if len(result) != 1 or not result[0].isdigit():
        return False, False
    first, *rest = question[:-1]
    text = first
    for operator, number in zip(rest[::2], rest[1::2], strict=True):
        text = f"({text} {operator} {number})"
    return eval(text) % 11 == int(result[0]), True


def sorting_says(question: Words, result: Words) -> tuple[bool, bool]:
    formatted = bool(result) and all(word.isdigit() for word in result)
    numbers = [int(word) for word in result] if formatted else []
    kept = Counter(result) == Counter(question[:-1])
    return formatted and kept and all(a <= b for a, b in pairwise(numbers)), formatted


def countdown_says(question: Words, result: Words) -> tuple[bool, bool]:
    """Python's own parser and value, of what has no operators but ours, and no sign before a number."""
    if not result or any(not word.isdigit() and word not in "+-*()" for word in result):
        return False, False
    try:
        tree = ast.parse(" ".join(result), mode="eval")
    except SyntaxError:
        return False, False
    allowed = (ast.Expression, ast.BinOp, ast.Constant, ast.Add, ast.Sub, ast.Mult)
    if not all(isinstance(node, allowed) for node in ast.walk(tree)):
        return False, False
    *numbers, _, target, _ = question
    used = Counter(word for word in result if word.isdigit())
    return used == Counter(numbers) and eval(compile(tree, "", "eval")) == int(target), True


SAYS: dict[str, Callable[[Words, Words], tuple[bool, bool]]] = {
    "sums": sums_says,
    "modchain": modchain_says,
    "sorting": sorting_says,
    "countdown": countdown_says,
}


def said(name: str, problem: Problem, question: Sequence[int], answer: Sequence[int]) -> Judgement:
    """By what stands behind the one `=>` of it."""
    words = [problem.words[token] if 0 <= token < len(problem.words) else "?!" for token in answer]
    if words.count("=>") != 1:
        return Judgement(False, False)
    result = words[words.index("=>") + 1 :]
    return Judgement(*SAYS[name]([problem.words[token] for token in question], result))


def mutants(rng: np.random.Generator, answer: list[int], words: int, count: int) -> Iterator[list[int]]:
    """An answer with a token changed, left out, doubled, put in, or two of them exchanged; or cut."""
    for _ in range(count):
        tokens, place = list(answer), int(rng.integers(len(answer)))
        match int(rng.integers(6)):
            case 0:
                tokens[place] = int(rng.integers(1, words))
            case 1:
                del tokens[place]
            case 2:
                tokens.insert(place, tokens[place])
            case 3:
                tokens.insert(place, int(rng.integers(1, words)))
            case 4:
                other = int(rng.integers(len(answer)))
                tokens[place], tokens[other] = tokens[other], tokens[place]
            case _:
                tokens = tokens[:place]
        yield tokens


def garbage(rng: np.random.Generator, words: int, count: int) -> Iterator[list[int]]:
    """Tokens of the vocabulary and beyond it, `=>` among them more often than by chance."""
    for _ in range(count):
        length = int(rng.integers(0, 12))
        tokens = rng.integers(-2, words + 3, length)
        tokens[rng.random(length) < 0.2] = 3
        yield tokens.tolist()


def cases(problem: Problem, style: Style, count: int = 200) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(5)
    questions = problem.draw(rng, count)
    answers = problem.solved(rng, questions, style).tokens_NA
    trimmed = [[[t for t in row if t] for row in tokens.tolist()] for tokens in (questions.tokens_NQ, answers)]
    return list(zip(*trimmed, strict=True))


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("style", ["steps", "short", "wrong"])
def test_each_style_is_judged_as_what_it_is(name: str, style: Style) -> None:
    problem: Problem = PROBLEMS[name]()
    for question, answer in cases(problem, style):
        assert problem.judge(question, answer) == Judgement(style != "wrong", True)
        assert said(name, problem, question, answer) == Judgement(style != "wrong", True)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("style", ["steps", "short", "wrong"])
def test_of_no_questions_there_are_no_answers(name: str, style: Style) -> None:
    problem: Problem = PROBLEMS[name]()
    questions = problem.draw(np.random.default_rng(0), 0)
    found = problem.solved(np.random.default_rng(0), questions, style)
    assert found.tokens_NA.shape == found.decided_NA.shape == (0, problem.longest[1])
    assert problem.same(questions).shape == (0, problem.longest[0])


@pytest.mark.parametrize("name", PROBLEMS)
def test_mutants_are_judged_as_an_independent_evaluator_does(name: str) -> None:
    problem: Problem = PROBLEMS[name]()
    rng, right, unformatted = np.random.default_rng(6), 0, 0
    words = len(problem.words)
    for question, answer in [*cases(problem, "steps", 60), *cases(problem, "short", 200)]:
        for mutant in mutants(rng, answer, words, 30):
            found = problem.judge(question, mutant)
            assert found == said(name, problem, question, mutant), (question, mutant)
            right, unformatted = right + found.right, unformatted + (not found.formatted)
    assert right > 100 and unformatted > 500, "both kinds were among them"


@pytest.mark.parametrize("name", PROBLEMS)
def test_garbage_is_judged_and_never_raises(name: str) -> None:
    problem: Problem = PROBLEMS[name]()
    rng = np.random.default_rng(7)
    question, _ = cases(problem, "steps", 1)[0]
    for answer in garbage(rng, len(problem.words), 3000):
        assert problem.judge(question, answer) == said(name, problem, question, answer)
    assert SAYS.keys() == PROBLEMS.keys()
    for long in ([3] + [5] * 5000, [5] * 5000, [3] * 5000, []):
        assert not problem.judge(question, long).right


def test_the_docs_have_every_problem_with_its_levels_and_chance() -> None:
    lines = (Path(__file__).parents[3] / "docs/problems.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    found = {row[0].strip("`"): (row[3], row[4]) for row in rows if row[0].strip("`") in PROBLEMS}
    assert found == {name: (made.level, f"{made().chance:.3f}") for name, made in PROBLEMS.items()}
