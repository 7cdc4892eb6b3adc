"""Every problem's judge: right answers are right, spoiled ones are what an independent evaluator says, and nothing
raises."""

import re
from collections.abc import Callable, Iterator, Sequence

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


SAYS: dict[str, Callable[[Words, Words], tuple[bool, bool]]] = {"sums": sums_says}


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
    for long in ([3] + [5] * 5000, [5] * 5000, [3] * 5000, []):
        assert not problem.judge(question, long).right
