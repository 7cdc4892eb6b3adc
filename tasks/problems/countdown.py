"""Countdown: numbers, and a target that an expression of all of them, each once, has to come to:

    3 5 8 ? 16 = 3 + 5 = [8] , 8 + 8 = [16] => ( 3 + 5 ) + 8
                 3 * 5 = [15] , 15 + 8 = [23] ; 3 + 5 = [8] , 8 + 8 = [16] => ( 3 + 5 ) + 8     after a try
    `-question-' `-------- steps of the answer -----------------------'    `--result--'

    => [(] [3] [+] [5] [)] [+] [8]                                              short
    3 * 5 = 15 , 15 + 8 = 16 => ( 3 * 5 ) + 8                 wrong: the last step claims to come to the target
    3 + 5 = 8 , 8 + 8 = 16 => ( 3 * 5 ) + 8                   wrong: the result alone

What is decided stands in brackets. Solutions take one number after another, and nothing on the way is below 0 or above
`most`; the one that is written is the first of a fixed list, and the tries before it are any others. A result is any
expression of numbers, signs and parentheses; products come before sums, and on the way it may come to anything.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, GAP
from tasks.problems.expression import value_of
from tasks.problems.problem import FIRST, SHARED_WORDS, SO, Answers, Judgement, Questions, Shares, Style, result_of

PLUS, MINUS, TIMES, OPEN, CLOSE, ASK, EQUALS, THEN, NEXT, ZERO = range(FIRST, FIRST + 10)
FROM = -MINUS
"""A minus whose number comes first: x - what there is."""
KINDS = (PLUS, MINUS, TIMES, FROM)
STEP = 6
"""Tokens of a step, with the sign behind it."""
MOST_NUMBERS = 4
SAMPLE = 1024


class Folds(NamedTuple):
    """All ways F to take K numbers one after another."""

    places_FK: NDArray[np.int64]
    kinds_FJ: NDArray[np.int64]
    """What is done with each but the first."""


@functools.cache
def folds(numbers: int) -> Folds:
    """The same list always."""
    every = itertools.product(itertools.permutations(range(numbers)), itertools.product(KINDS, repeat=numbers - 1))
    places, kinds = zip(*every, strict=True)
    return Folds(np.array(places), np.array(kinds))


@dataclass(frozen=True)
class Countdown(Shares):
    """A question has as many numbers as one of `numbers`, all of them equally often."""

    level: ClassVar[str] = "numbers"

    numbers: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [2, 3])
    largest: Annotated[int, AtLeast(1), AtMost(1000)] = 12
    """Of the numbers, which begin at 1. They are asked in their order."""
    most: Annotated[int, AtLeast(1), AtMost(10_000)] = 60
    """The largest number that is written: of targets, and of what a step comes to."""
    tries: Annotated[int, AtLeast(0), AtMost(20)] = 1
    """How many tries that fail are written before a solution, at most: each number of them equally often."""

    @property
    def words(self) -> Sequence[str]:
        return [*SHARED_WORDS, *"+-*()?=,;", *(str(i) for i in range(self.most + 1))]

    @property
    def longest(self) -> tuple[int, int]:
        most = max(self.numbers)
        expression = 2 * most - 1 + 2 * max(0, most - 2)
        return most + 3, (self.tries + 1) * (most - 1) * STEP + expression

    @property
    def chance(self) -> float:
        """Of any of the folds that keep to `most`, measured on a sample."""
        rng, found = np.random.default_rng(0), []
        for count in self.numbers:
            numbers_NK = self._numbers(rng, SAMPLE, count)
            values, kept = self._values(numbers_NK)
            target = np.take_along_axis(values[:, :, -1], _any(rng, kept)[:, None], axis=1)
            found.append((((values[:, :, -1] == target) & kept).sum(axis=1) / kept.sum(axis=1)).mean())
        return float(np.mean(found))

    def check(self) -> None:
        least, most = min(self.numbers), max(self.numbers)
        if least < 2 or most > MOST_NUMBERS:
            raise ConfigError(f"data.settings.numbers={self.numbers}: a question has 2 to {MOST_NUMBERS} numbers")
        if most * self.largest > self.most:
            raise ConfigError(
                f"data.settings.most={self.most}: {most} numbers up to largest={self.largest} come to "
                f"{most * self.largest}; at least that"
            )

    def draw(self, rng: np.random.Generator, count: int) -> Questions:
        levels = rng.choice(np.array(self.numbers), count)
        tokens = np.full((count, self.longest[0]), END)
        for level in self.numbers:
            rows = np.flatnonzero(levels == level)
            numbers_NK = self._numbers(rng, len(rows), level)
            values, kept = self._values(numbers_NK)
            kept &= values[:, :, -1] > 0
            target = np.take_along_axis(values[:, :, -1], _any(rng, kept)[:, None], axis=1)
            ask, equals = (np.full((len(rows), 1), sign) for sign in (ASK, EQUALS))
            tokens[rows, : level + 3] = np.concatenate([ZERO + numbers_NK, ask, ZERO + target, equals], axis=1)
        return Questions(tokens, levels)

    def same(self, questions: Questions) -> NDArray[np.int64]:
        return questions.tokens_NQ

    def solved(self, rng: np.random.Generator, questions: Questions, style: Style) -> Answers:
        width = self.longest[1]
        shape = (len(questions.levels_N), width)
        tokens, decided = np.full(shape, END), np.zeros(shape, dtype=bool)
        for level in self.numbers:
            rows = np.flatnonzero(questions.levels_N == level)
            asked = questions.tokens_NQ[rows]
            tokens[rows], decided[rows] = self._solved(rng, asked[:, :level] - ZERO, asked[:, level + 1] - ZERO, style)
        return Answers(tokens, decided)

    def judge(self, question: Sequence[int], answer: Sequence[int]) -> Judgement:
        result = result_of(answer)
        if result is None:
            return Judgement(False, False)
        signs = {PLUS: "+", MINUS: "-", TIMES: "*", OPEN: "(", CLOSE: ")"}
        numbers = range(ZERO, ZERO + self.most + 1)
        if any(token not in signs and token not in numbers for token in result):
            return Judgement(False, False)
        end = list(question).index(ASK)
        fair = Counter(token for token in result if token >= ZERO) == Counter(question[:end])
        # What uses other numbers is wrong whatever it comes to, which may then be without bounds.
        value = value_of([signs.get(token, token - ZERO if fair else 0) for token in result])
        return Judgement(fair and value == question[end + 1] - ZERO, value is not None)

    def _numbers(self, rng: np.random.Generator, count: int, level: int) -> NDArray[np.int64]:
        """In their order: whatever is drawn in another is the same question."""
        return np.sort(rng.integers(1, self.largest + 1, (count, level)), axis=1)

    def _values(self, numbers_NK: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Of every fold what each step comes to (N, F, J), and whether all of it may be written (N, F)."""
        places_FK, kinds_FJ = folds(numbers_NK.shape[1])
        taken_NFK = numbers_NK[:, places_FK]
        values, value = [], taken_NFK[:, :, 0]
        for step in range(kinds_FJ.shape[1]):
            number, kind = taken_NFK[:, :, step + 1], kinds_FJ[:, step]
            made = [value + number, value - number, value * number, number - value]
            value = np.select([kind == which for which in KINDS], made)
            values.append(value)
        values_NFJ = np.stack(values, axis=2)
        kept: NDArray[np.bool_] = np.all((values_NFJ >= 0) & (values_NFJ <= self.most), axis=2)
        return values_NFJ, kept

    def _solved(
        self, rng: np.random.Generator, numbers_NK: NDArray[np.int64], target_N: NDArray[np.int64], style: Style
    ) -> Answers:
        """Of questions of one level."""
        count, rows = len(numbers_NK), np.arange(len(numbers_NK))
        values_NFJ, kept_NF = self._values(numbers_NK)
        hits_NF = kept_NF & (values_NFJ[:, :, -1] == target_N[:, None])
        misses_NF = kept_NF & ~hits_NF
        solution, missed = np.argmax(hits_NF, axis=1), _any(rng, misses_NF)
        claims = rng.random(count) < 0.5 if style == "wrong" else np.zeros(count, dtype=bool)
        written = np.where(claims, missed, solution)
        steps = values_NFJ[rows, written]
        steps[:, -1] = np.where(claims, target_N, steps[:, -1])
        parts = [_steps(numbers_NK, written, steps, GAP)]
        tried = rng.integers(self.tries + 1, size=count)
        for i in range(self.tries):
            failed = _any(rng, misses_NF)
            part = _steps(numbers_NK, failed, values_NFJ[rows, failed], NEXT)
            part[tried <= i] = GAP
            parts.insert(0, part)
        trace = np.concatenate(parts, axis=1)
        decided = np.zeros(trace.shape, dtype=bool)
        decided[:, STEP - 2 :: STEP] = True
        if style == "short":
            trace[:] = GAP
        result = _expression(numbers_NK, missed if style == "wrong" else solution)
        so, of_result = np.full((count, 1), SO), np.full(result.shape, style == "short")
        return Answers.of(
            np.concatenate([trace, so, result], axis=1),
            np.concatenate([decided, so != SO, of_result], axis=1),
            self.longest[1],
        )


def _any(rng: np.random.Generator, allowed_NF: NDArray[np.bool_]) -> NDArray[np.int64]:
    """One of those that are allowed, all of them alike."""
    return np.argmax(rng.random(allowed_NF.shape) * allowed_NF, axis=1)


def _steps(
    numbers_NK: NDArray[np.int64], chosen_N: NDArray[np.int64], values_NJ: NDArray[np.int64], behind: int
) -> NDArray[np.int64]:
    """Slots of the steps of one fold each, with a sign behind the last."""
    places_NK, kinds_NJ = (of[chosen_N] for of in folds(numbers_NK.shape[1]))
    taken_NK = np.take_along_axis(numbers_NK, places_NK, axis=1)
    before_NJ = np.concatenate([taken_NK[:, :1], values_NJ[:, :-1]], axis=1)
    slots_NJS = np.full((*values_NJ.shape, STEP), THEN)
    turned = kinds_NJ == FROM
    slots_NJS[:, :, 0] = ZERO + np.where(turned, taken_NK[:, 1:], before_NJ)
    slots_NJS[:, :, 1] = np.abs(kinds_NJ)
    slots_NJS[:, :, 2] = ZERO + np.where(turned, before_NJ, taken_NK[:, 1:])
    slots_NJS[:, :, 3], slots_NJS[:, :, 4] = EQUALS, ZERO + values_NJ
    slots_NJS[:, -1, 5] = behind
    return slots_NJS.reshape(len(numbers_NK), STEP * values_NJ.shape[1])


def _expression(numbers_NK: NDArray[np.int64], chosen_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Slots of one fold each: what is there in parentheses, and the next number behind or before it."""
    places_NK, kinds_NJ = (of[chosen_N] for of in folds(numbers_NK.shape[1]))
    taken_NK = ZERO + np.take_along_axis(numbers_NK, places_NK, axis=1)
    count, steps = kinds_NJ.shape
    slots = [taken_NK[:, 0]]
    for step in range(steps):
        turned, number = kinds_NJ[:, step] == FROM, taken_NK[:, step + 1]
        within = ([np.full(count, OPEN)], [np.full(count, CLOSE)]) if step else ([], [])
        first = [np.where(turned, number, GAP), np.where(turned, MINUS, GAP)]
        last = [np.where(turned, GAP, kinds_NJ[:, step]), np.where(turned, GAP, number)]
        slots = [*first, *within[0], *slots, *within[1], *last]
    return np.stack(slots, axis=1)
