"""Chains of operations modulo p, done from left to right as on a plain pocket calculator. Below modulo 7:

    4 + 5 * 3 - 6 = 4 + 5 = [2] ; 2 * 3 = [6] ; 6 - 6 = [0] => 0
    `--question-' `------- steps of the answer -------'   `result'

    => [0]                                                          short
    4 + 5 = 2 ; 2 * 3 = 1 ; 1 - 6 = 2 => 2                          wrong: one step, with whose value it goes on
    4 + 5 = 2 ; 2 * 3 = 6 ; 6 - 6 = 0 => 4                          wrong: the result alone

What is decided stands in brackets. As in the skill `chain`, every operation is one-to-one: so all numbers are as
likely, and a wrong value never becomes right again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, GAP, factors
from tasks.problems.problem import FIRST, SHARED_WORDS, SO, Answers, Judgement, Questions, Shares, Style, result_of

PLUS, MINUS, TIMES, EQUALS, NEXT, ZERO = range(FIRST, FIRST + 6)
STEP = 6
"""Tokens of a step, with the sign behind it."""
MOST_STEPS = 1000


@dataclass(frozen=True)
class ModChain(Shares):
    """A question has as many operations as one of `length`, all of them equally often."""

    level: ClassVar[str] = "operations"

    length: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [2, 3, 4])
    modulus: Annotated[int, AtLeast(3), AtMost(1000)] = 11

    @property
    def words(self) -> Sequence[str]:
        return [*SHARED_WORDS, "+", "-", "*", "=", ";", *(str(i) for i in range(self.modulus))]

    @property
    def longest(self) -> tuple[int, int]:
        most = max(self.length)
        return 2 * most + 2, STEP * most + 1  # the last step has no sign behind it, but SO

    @property
    def chance(self) -> float:
        return 1 / self.modulus

    def check(self) -> None:
        if min(self.length) < 1 or max(self.length) > MOST_STEPS:
            raise ConfigError(f"data.settings.length={self.length}: a chain has 1 to {MOST_STEPS} operations")

    def draw(self, rng: np.random.Generator, count: int) -> Questions:
        levels, width = rng.choice(np.array(self.length), count), max(self.length)
        operators_NK = rng.integers(PLUS, TIMES + 1, (count, width))
        terms_NK, units = rng.integers(1, self.modulus, (count, width)), factors(self.modulus)
        numbers_NK = np.where(operators_NK == TIMES, units[rng.integers(len(units), size=(count, width))], terms_NK)
        tokens = np.full((count, self.longest[0]), END)
        tokens[:, 0] = ZERO + rng.integers(self.modulus, size=count)
        tokens[:, 1:-1:2], tokens[:, 2:-1:2] = operators_NK, ZERO + numbers_NK
        ends_N1 = 2 * levels[:, None] + 1
        places = np.arange(tokens.shape[1])
        tokens = np.where(places < ends_N1, tokens, np.where(places == ends_N1, EQUALS, END))
        return Questions(tokens, levels)

    def same(self, questions: Questions) -> np.ndarray:
        return questions.tokens_NQ

    def solved(self, rng: np.random.Generator, questions: Questions, style: Style) -> Answers:
        tokens, levels, width = questions.tokens_NQ, questions.levels_N, max(self.length)
        count = len(levels)
        mistaken = rng.integers(levels + 1) if style == "wrong" else np.full(count, -1)
        """The step; the one behind the last is the result."""
        slots_NKS = np.full((count, width, STEP), GAP)
        value = tokens[:, 0] - ZERO
        for step in range(width):
            there, operator, number = step < levels, tokens[:, 2 * step + 1], tokens[:, 2 * step + 2] - ZERO
            made = np.select([operator == PLUS, operator == MINUS], [value + number, value - number], value * number)
            made = self._mistaken(rng, made % self.modulus, mistaken == step)
            columns = (ZERO + value, operator, ZERO + number, np.full(count, EQUALS), ZERO + made)
            slots_NKS[there, step, :5] = np.stack(columns, axis=1)[there]
            slots_NKS[step + 1 < levels, step, 5] = NEXT
            value = np.where(there, made, value)
        value = self._mistaken(rng, value, mistaken == levels)

        if style == "short":
            slots_NKS[:] = GAP
        decided_NKS = np.zeros(slots_NKS.shape, dtype=bool)
        decided_NKS[:, :, 4] = True
        result = np.stack([np.full(count, SO), ZERO + value], axis=1)
        of_result = np.stack([np.zeros(count, dtype=bool), np.full(count, style == "short")], axis=1)
        slots = np.concatenate([slots_NKS.reshape(count, width * STEP), result], axis=1)
        decided = np.concatenate([decided_NKS.reshape(count, width * STEP), of_result], axis=1)
        return Answers.of(slots, decided, self.longest[1])

    def judge(self, question: Sequence[int], answer: Sequence[int]) -> Judgement:
        result = result_of(answer)
        if result is None or len(result) != 1 or not ZERO <= result[0] < ZERO + self.modulus:
            return Judgement(False, False)
        value = question[0] - ZERO
        for operator, token in zip(question[1:-1:2], question[2:-1:2], strict=True):
            number = token - ZERO
            value = value + number if operator == PLUS else value - number if operator == MINUS else value * number
        return Judgement(value % self.modulus == result[0] - ZERO, True)

    def _mistaken(self, rng: np.random.Generator, values: np.ndarray, where: np.ndarray) -> np.ndarray:
        """There another value, any of them alike."""
        others = (values + rng.integers(1, self.modulus, len(values))) % self.modulus
        return np.where(where, others, values)
