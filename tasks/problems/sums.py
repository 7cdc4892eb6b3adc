"""Sums of two numbers, column by column from the ones on: in each the two digits and what is carried into it, then what
is carried out of it and the digit that stays. Of two digits:

    4 7 + 8 5 = 7 5 0 = [1] [2] ; 4 8 1 = [1] [3] => 1 3 2
    `question-' `--- steps of the answer --------' `result'

    => [1] [3] [2]                                             short
    7 5 0 = 1 9 ; 4 8 1 = 1 3 => 1 3 9                         wrong: one column's sum, with which it goes on
    7 5 0 = 1 2 ; 4 8 1 = 1 3 => 1 7 2                         wrong: the result alone

What is decided stands in brackets. A result is the one number, without zeros before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError, Distinct, NotEmpty
from tasks.drawn import END, GAP
from tasks.problems.problem import FIRST, SHARED_WORDS, SO, Answers, Judgement, Questions, Shares, Style, result_of

ZERO = FIRST
PLUS, EQUALS, NEXT = ZERO + 10, ZERO + 11, ZERO + 12
MOST_DIGITS = 15
COLUMN = 7
"""Tokens of a column, with the sign behind it."""


@dataclass(frozen=True)
class Sums(Shares):
    """A question adds two numbers that have as many digits as one of `digits`, all of them equally often."""

    level: ClassVar[str] = "digits"

    digits: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [2, 3])

    @property
    def words(self) -> Sequence[str]:
        return [*SHARED_WORDS, *"0123456789", "+", "=", ";"]

    @property
    def longest(self) -> tuple[int, int]:
        most = max(self.digits)
        return 2 * most + 2, COLUMN * most + most + 1  # the last column has no sign behind it, but SO

    @property
    def chance(self) -> float:
        """Of the sum that is the most frequent one: as many pairs make it as there are numbers."""
        return float(np.mean([1 / (_end(d) - _begin(d)) for d in self.digits]))

    def check(self) -> None:
        least, most = min(self.digits), max(self.digits)
        if least < 1 or most > MOST_DIGITS:
            raise ConfigError(f"data.settings.digits={self.digits}: numbers have 1 to {MOST_DIGITS} digits")

    def draw(self, rng: np.random.Generator, count: int) -> Questions:
        levels = rng.choice(np.array(self.digits), count)
        width = max(self.digits)
        bounds = [np.array([of(d) for d in range(width + 1)])[levels, None] for of in (_begin, _end)]
        numbers_N2 = rng.integers(bounds[0], bounds[1], (count, 2))
        tokens = np.full((count, self.longest[0]), END)
        for level in self.digits:
            rows = np.flatnonzero(levels == level)
            for number, begin in ((0, 0), (1, level + 1)):
                tokens[rows, begin : begin + level] = ZERO + _digits(numbers_N2[rows, number], level)[:, ::-1]
            tokens[rows, level], tokens[rows, 2 * level + 1] = PLUS, EQUALS
        return Questions(tokens, levels)

    def same(self, questions: Questions) -> NDArray[np.int64]:
        """Whichever of the two comes first."""
        tokens, (first, second) = questions.tokens_NQ.copy(), self._numbers(questions)
        swapped = first > second
        for level in self.digits:
            rows = np.flatnonzero(swapped & (questions.levels_N == level))
            one, other = slice(0, level), slice(level + 1, 2 * level + 1)
            tokens[rows, one], tokens[rows, other] = questions.tokens_NQ[rows, other], questions.tokens_NQ[rows, one]
        return tokens

    def solved(self, rng: np.random.Generator, questions: Questions, style: Style) -> Answers:
        count, levels, width = len(questions.levels_N), questions.levels_N, max(self.digits)
        first, second = self._numbers(questions)
        digits_ND2 = np.stack([_digits(first, width), _digits(second, width)], axis=2)
        mistaken = rng.integers(levels + 1) if style == "wrong" else np.full(count, -1)
        """The column; the one behind the last is the result."""
        slots_NDC, result, carried = np.full((count, width, COLUMN), GAP), np.zeros(count, np.int64), first * 0
        for column in range(width):
            total = digits_ND2[:, column].sum(axis=1) + carried
            total = np.where(mistaken == column, (total + rng.integers(1, 20, count)) % 20, total)
            there = column < levels
            slots_NDC[:, column, :2], slots_NDC[:, column, 2] = ZERO + digits_ND2[:, column], ZERO + carried
            carried = np.where(there, total // 10, carried)
            slots_NDC[:, column, 3:6] = np.stack([np.full(count, EQUALS), ZERO + total // 10, ZERO + total % 10], 1)
            slots_NDC[:, column, 6] = np.where(column + 1 < levels, NEXT, GAP)
            slots_NDC[~there, column] = GAP
            result += np.where(there, total % 10 * 10**column, 0)
        result += carried * 10**levels
        changed = _one_digit_changed(rng, result, levels)
        result = np.where(mistaken == levels, changed, result)

        written = _written(result, width + 1)
        if style == "short":
            slots_NDC[:] = GAP
        decided_NDC = np.zeros(slots_NDC.shape, dtype=bool)
        decided_NDC[:, :, 4:6] = True
        trace, of_trace = (part.reshape(count, width * COLUMN) for part in (slots_NDC, decided_NDC))
        so, of_result = np.full((count, 1), SO), np.full(written.shape, style == "short")
        slots = np.concatenate([trace, so, written], axis=1)
        decided = np.concatenate([of_trace, so != SO, of_result], axis=1)
        return Answers.of(slots, decided, self.longest[1])

    def judge(self, question: Sequence[int], answer: Sequence[int]) -> Judgement:
        result = result_of(answer)
        if not result or any(not ZERO <= token < ZERO + 10 for token in result):
            return Judgement(False, False)
        if len(result) > 1 and result[0] == ZERO:
            return Judgement(False, False)
        plus, equals = (list(question).index(sign) for sign in (PLUS, EQUALS))
        total = _number(question[:plus]) + _number(question[plus + 1 : equals])
        return Judgement([token - ZERO for token in result] == [int(digit) for digit in str(total)], True)

    def _numbers(self, questions: Questions) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        first = np.zeros(len(questions.levels_N), dtype=np.int64)
        second = first.copy()
        for level in self.digits:
            rows = np.flatnonzero(questions.levels_N == level)
            powers = 10 ** np.arange(level)[::-1]
            first[rows] = (questions.tokens_NQ[rows, :level] - ZERO) @ powers
            second[rows] = (questions.tokens_NQ[rows, level + 1 : 2 * level + 1] - ZERO) @ powers
        return first, second


def _begin(digits: int) -> int:
    """The smallest number of so many digits."""
    return 10 ** (digits - 1) if digits > 1 else 0


def _end(digits: int) -> int:
    return int(10**digits)


def _digits(numbers_N: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """(N, width), the ones first."""
    found: NDArray[np.int64] = numbers_N[:, None] // 10 ** np.arange(width) % 10
    return found


def _written(numbers_N: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Slots (N, width) of a number's digits, without the zeros before it."""
    digits = _digits(numbers_N, width)[:, ::-1]
    there = np.cumsum(digits, axis=1) > 0
    there[:, -1] = True
    return np.where(there, ZERO + digits, GAP)


def _one_digit_changed(
    rng: np.random.Generator, numbers_N: NDArray[np.int64], levels_N: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Of each number one digit, below the one that the last column carries, is another one."""
    power = (10 ** np.arange(MOST_DIGITS))[rng.integers(levels_N)]
    digit: NDArray[np.int64] = numbers_N // power % 10
    other: NDArray[np.int64] = (digit + rng.integers(1, 10, len(digit))) % 10
    return numbers_N + (other - digit) * power


def _number(digits: Sequence[int]) -> int:
    number = 0
    for token in digits:
        number = 10 * number + token - ZERO
    return number
