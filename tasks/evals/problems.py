"""What a model answers to problems: written greedily, and drawn many times over. The problem's rule judges; nothing is
compared as text alone, and nothing is executed.

pass@k is the share of questions of which k answers hold a right one. Of n >= k answers, c of them right, it is
estimated without bias as 1 - C(n - c, k) / C(n, k) (2107.03374, eq. 1).
"""

import functools
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tasks.config import DataConfig, EvalConfig
    from tasks.problems.problem import Problem

GREEDY, SAMPLES = "problem_greedy", "problem_samples"
"""Our own tasks of this: one answer to each question, and `eval.samples`."""
QUESTIONS = 200
"""Of which answers are drawn, at most: 64 to each of `sums` take a model of 2 layers and d_model=128 some 23 s."""
PASSES = (1, 8, 64)
"""The k of pass@k, those of them that there are answers for."""
SAMPLED = (*(f"pass_{k}" for k in PASSES), "pass_gap", "answers_formatted", "answers_ended", "answer_tokens")
"""What is said of answers that were drawn: all of the same ones."""
UNKNOWN = -1
"""A word that the problem does not have."""


class Answer(NamedTuple):
    right: bool
    formatted: bool
    ended: bool
    tokens: int
    """With the token that ends it."""


def pass_at_k(answers: int, right: int, k: int) -> float:
    """Of so many answers, `right` of them right. Raises ValueError where k are more than there are."""
    if not 0 <= right <= answers or not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {answers} answers, {right} right")
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def judged(doc: dict[str, Any], text: str) -> Answer:
    """Of an item and what was written behind its prompt. It has ended if there was room for more."""
    from tasks.drawn import END
    from tasks.problems.problem import judgement

    problem, ids = _problem(doc["problem"], doc["settings"])
    tokens = [ids.get(word, UNKNOWN) for word in text.split()]
    ended = len(tokens) < doc["room"]
    found = judgement(problem, [ids[word] for word in doc["question"].split()], [*tokens, END] if ended else tokens)
    return Answer(found.right, found.formatted, ended, len(tokens) + ended)


def greedy_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """What lm-eval takes the mean of, of one question."""
    (text,) = results
    return {"exact_match": float(judged(doc, text).right)}


def sampled_results(doc: dict[str, Any], results: list[list[str]]) -> dict[str, float]:
    """The same, of all that was drawn to it."""
    (texts,) = results
    found = [judged(doc, text) for text in texts]
    count, right = len(found), sum(answer.right for answer in found)
    passes = {f"pass_{k}": pass_at_k(count, right, k) for k in PASSES if k <= count}
    return {
        **passes,
        **({"pass_gap": passes["pass_8"] - passes["pass_1"]} if "pass_8" in passes else {}),
        "answers_formatted": sum(answer.formatted for answer in found) / count,
        "answers_ended": sum(answer.ended for answer in found) / count,
        "answer_tokens": sum(answer.tokens for answer in found) / count,
    }


def every(answers: Sequence[Any], docs: Sequence[Any]) -> Sequence[Any]:
    """lm-eval's filter: unless told otherwise it goes on with the first answer alone."""
    return answers


def tokens_written(config: "EvalConfig", data: "DataConfig") -> int:
    """That a trial's answers have, at most; 0 of what is no problem."""
    if data.source != "problem":
        return 0
    from tasks.problems.chosen import problem_of
    from tasks.problems.data import GIVEN

    greedy, questions = (min(most, config.items or most) for most in (GIVEN, QUESTIONS))
    answers = (GREEDY in config.tasks) * greedy + (SAMPLES in config.tasks) * questions * config.samples
    return answers * (problem_of(data).longest[1] + 1)


@functools.lru_cache(maxsize=8)
def _problem(name: str, settings: str) -> "tuple[Problem, dict[str, int]]":
    """As an item names it, with the token of each word."""
    from tasks.config import DataConfig
    from tasks.problems.chosen import problem_of

    problem = problem_of(DataConfig(source="problem", problem=name, settings=json.loads(settings)))
    return problem, {word: token for token, word in enumerate(problem.words)}
