"""Different numbers that are to be sorted, by selection: the smallest, and what is left of the others. Of four:

    9 4 7 5 ? [4] : 9 7 5 ; [5] : 9 7 ; [7] : 9 ; 9 => 4 5 7 9
    `question `------ steps of the answer --------' `-result-'

    => [4] [5] [7] [9]                                        short
    4 : 9 7 5 ; 7 : 9 5 ; 5 : 9 ; 9 => 4 7 5 9                wrong: one that is not the smallest, and on with the rest
    4 : 9 7 5 ; 5 : 9 7 ; 7 : 9 ; 9 => 4 7 5 9                wrong: the result alone, two neighbours exchanged

What is decided stands in brackets.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, GAP, distinct
from tasks.problems.problem import FIRST, SHARED_WORDS, SO, Answers, Judgement, Questions, Shares, Style, result_of

ASK, LEAVES, NEXT, ZERO = range(FIRST, FIRST + 4)


@dataclass(frozen=True)
class Sorting(Shares):
    """A question has as many numbers as one of `numbers`, all of them equally often."""

    level: ClassVar[str] = "numbers"

    numbers: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [4, 5, 6])
    below: Annotated[int, AtLeast(2), AtMost(10_000)] = 30
    """The numbers are from 0 up to here."""

    @property
    def words(self) -> Sequence[str]:
        return [*SHARED_WORDS, "?", ":", ";", *(str(i) for i in range(self.below))]

    @property
    def longest(self) -> tuple[int, int]:
        most = max(self.numbers)
        return most + 1, most * (most + 1) // 2 + 2 * (most - 1) + 1 + most

    @property
    def chance(self) -> float:
        """Of some order."""
        return float(np.mean([1 / math.factorial(numbers) for numbers in self.numbers]))

    def check(self) -> None:
        if min(self.numbers) < 2:
            raise ConfigError(f"data.settings.numbers={self.numbers}: one number is sorted; at least 2")
        if max(self.numbers) > self.below:
            raise ConfigError(
                f"data.settings.numbers={self.numbers}: {max(self.numbers)} different ones are more than there are "
                f"(below={self.below}); raise it"
            )

    def draw(self, rng: np.random.Generator, count: int) -> Questions:
        levels, width = rng.choice(np.array(self.numbers), count), max(self.numbers)
        tokens = np.full((count, width + 1), ASK)
        tokens[:, :width] = ZERO + distinct(rng, count, self.below, width)
        places, ends_N1 = np.arange(width + 1), levels[:, None]
        return Questions(np.where(places < ends_N1, tokens, np.where(places == ends_N1, ASK, END)), levels)

    def same(self, questions: Questions) -> np.ndarray:
        """In whichever order they stand: the answer is one."""
        numbers = questions.tokens_NQ >= ZERO
        places = np.argsort(np.where(numbers, questions.tokens_NQ, ZERO + self.below), axis=1, kind="stable")
        found: np.ndarray = np.take_along_axis(questions.tokens_NQ, places, axis=1)
        return found

    def solved(self, rng: np.random.Generator, questions: Questions, style: Style) -> Answers:
        levels, width = questions.levels_N, max(self.numbers)
        count, rows = len(levels), np.arange(len(levels))
        left_NK = np.where(np.arange(width) < levels[:, None], questions.tokens_NQ[:, :width], GAP)
        mistaken = rng.integers(levels) if style == "wrong" else np.full(count, -1)
        """The selection; at the last one there is no choice, and the result is mistaken."""
        slots, result_NK = list[np.ndarray](), np.full((count, width), GAP)
        signs = np.full(count, LEAVES), np.full(count, NEXT)
        for step in range(width):
            there, more = step < levels, step + 1 < levels
            smallest = np.argmin(np.where(left_NK == GAP, ZERO + self.below, left_NK), axis=1)
            others = rng.random((count, width)) * (left_NK != GAP)
            others[rows, smallest] = 0
            chosen = np.where((mistaken == step) & more, np.argmax(others, axis=1), smallest)
            picked = np.where(there, left_NK[rows, chosen], GAP)
            left_NK[rows, chosen] = GAP
            colon, semicolon = (np.where(more, sign, GAP) for sign in signs)
            slots += [picked[:, None], colon[:, None], left_NK.copy(), semicolon[:, None]]
            result_NK[:, step] = picked
        exchanged = np.flatnonzero(mistaken == levels - 1)
        first = rng.integers(np.maximum(levels - 1, 1))[exchanged]
        result_NK[exchanged, first], result_NK[exchanged, first + 1] = (
            result_NK[exchanged, first + 1], result_NK[exchanged, first],
        )  # fmt: skip

        trace = np.concatenate(slots, axis=1)
        decided = np.zeros(trace.shape, dtype=bool)
        decided[:, :: width + 3] = np.arange(width) + 1 < levels[:, None]
        if style == "short":
            trace[:] = GAP
        so = np.full((count, 1), SO)
        of_result = np.full(result_NK.shape, style == "short")
        return Answers.of(
            np.concatenate([trace, so, result_NK], axis=1),
            np.concatenate([decided, so != SO, of_result], axis=1),
            self.longest[1],
        )

    def judge(self, question: Sequence[int], answer: Sequence[int]) -> Judgement:
        result = result_of(answer)
        if not result or any(not ZERO <= token < ZERO + self.below for token in result):
            return Judgement(False, False)
        return Judgement(result == sorted(question[:-1]), True)
