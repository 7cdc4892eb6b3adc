"""Polynomial arithmetic (2404.19737 section 4.2): an expression of operations on polynomials over F_7, in which high
powers of X are nothing, and the coefficients of what it comes to. Below with two of them, the lowest power first.

    + - 3 1 * 2 2 0 5 = [4] [2]        -(3 + X) + (2 + 2X)(5X)

The paper says: unary negation, addition, multiplication and composition; operators and coefficients drawn uniformly; 1
to 5 operations in training; powers below the fifth (`terms=5`). It does not say how expressions are written, nor how
trees are drawn: here an operator stands before what it is applied to, and the operations that are left are divided
between its two operands uniformly.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END_WORD, GAP, Items, packed
from tasks.skills.skill import behind

Operator = Literal["negate", "add", "multiply", "compose"]
SIGNS: dict[Operator, str] = {"negate": "-", "add": "+", "multiply": "*", "compose": "o"}
EQUALS, OPERATORS, ZERO = 1, 2, 2 + len(SIGNS)
NEGATE, ADD, MULTIPLY, COMPOSE = range(OPERATORS, ZERO)
OPERAND = ZERO
"""Stands for any polynomial, where operators stand for themselves."""
SAMPLE, FEWEST, MOST = 1 << 20, 2048, 60_000
"""Coefficients that are read and asked by which chance is estimated, to a hundredth at worst, and bounds on the items
that they are in."""


@dataclass(frozen=True)
class Polynomial:
    """A sequence has one of the numbers of `operations`, all of them equally often."""

    level: ClassVar[str] = "operations"
    ceiling: ClassVar[float] = 1.0

    operations: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [1, 2, 3])
    operators: Annotated[list[Operator], NotEmpty(), Distinct()] = field(default_factory=lambda: list(SIGNS))
    terms: Annotated[int, AtLeast(1), AtMost(100)] = 2
    """Coefficients of a polynomial: powers of X from this one on are nothing."""
    modulus: Annotated[int, AtLeast(2), AtMost(1000)] = 7

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, "=", *SIGNS.values(), *(str(i) for i in range(self.modulus))]

    @functools.cached_property
    def chance(self) -> float:
        """Of always guessing 0, the most frequent coefficient (of products above all), or of who looks at one token, so
        many from the beginning or before the end of the expression, and names it, or what is left to 0, or what it
        mostly comes to. That is learned for each coefficient from a third of a sample, which of them all is best, for
        each or for all, is seen in the second, and how often it is right is counted in the third."""
        count = min(MOST, max(FEWEST, SAMPLE // (self.terms * max(self.operations))))
        items = self.draw(np.random.Generator(np.random.Philox(0)), count, self._longest())
        ends_N1 = np.argmax(items.tokens_NT1 == EQUALS, axis=1)[:, None]
        results_NC = np.take_along_axis(items.tokens_NT1, ends_N1 + 1 + np.arange(self.terms), axis=1) - ZERO
        third = count // 3
        learned, tried, counted = (slice(i * third, (i + 1) * third) for i in range(3))
        right_PG2 = np.array(
            [
                [[(guess_N[part] == right_N[part]).mean() for part in (tried, counted)] for guess_N in guesses]
                for power, right_N in enumerate(results_NC.T)
                for guesses in [self._guesses(power, items.tokens_NT1, ends_N1, right_N, learned)]
            ]
        )
        each_P = right_PG2[:, :, 0].argmax(axis=1)
        one = right_PG2[:, :, 0].sum(axis=0).argmax()  # where few items would lead astray who chooses for each power
        return float(max(right_PG2[range(self.terms), each_P, 1].mean(), right_PG2[:, one, 1].mean()))

    def _guesses(
        self,
        power: int,
        tokens_NT1: NDArray[np.int64],
        ends_N1: NDArray[np.int64],
        right_N: NDArray[np.int64],
        seen: slice,
    ) -> list[NDArray[np.int64]]:
        """(N,) each: what a coefficient may be taken for. `seen`: the items that may be learned from."""
        guesses = [np.zeros_like(right_N)]
        for places_N1 in self._looked_at(power, ends_N1):
            read_N = np.where(places_N1 < 0, EQUALS, np.take_along_axis(tokens_NT1, places_N1, axis=1))[:, 0]
            counts = np.bincount(read_N[seen] * self.modulus + right_N[seen], None, len(self.words) * self.modulus)
            mostly = counts.reshape(-1, self.modulus).argmax(axis=1)
            guesses += [mostly[read_N], (read_N - ZERO) % self.modulus, (ZERO - read_N) % self.modulus]
        return guesses

    def _looked_at(self, power: int, ends_N1: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Places of a token each: the operators at the beginning, and numbers of the same power or the lowest in the
        first operand and in the last two; below 0 where there is none."""
        for place in (*range(4), *range(1 + power, 4 + power)):
            yield np.where(place < ends_N1, place, -1)
        for operand in (1, 2):
            for number in (0, power):
                yield ends_N1 - operand * self.terms + number

    def check(self, seq_len: int) -> None:
        if (least := min(self.operations)) < 1:
            raise ConfigError(f"data.settings.operations={self.operations}: {least} operations leave nothing to do")
        if (wanted := self._longest()) > seq_len:
            raise ConfigError(
                f"data.settings.operations={self.operations}: {max(self.operations)} operations on polynomials of "
                f"terms={self.terms} take up to {wanted} tokens of data.seq_len={seq_len}; lower them or lengthen it"
            )

    def _longest(self) -> int:
        operations = max(self.operations)
        operands = 1 if self.operators == ["negate"] else operations + 1
        return operations + (operands + 1) * self.terms

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.operations), count)
        symbols_NS = self._expressions(rng, levels)
        polynomials_NSC = rng.integers(self.modulus, size=(*symbols_NS.shape, self.terms))
        results_NC = self._evaluated(symbols_NS, polynomials_NSC)
        slots_NSC = np.full_like(polynomials_NSC, GAP)
        slots_NSC[:, :, 0] = symbols_NS
        is_operand = symbols_NS == OPERAND
        slots_NSC[is_operand] = ZERO + polynomials_NSC[is_operand]
        parts = [slots_NSC.reshape(count, -1), np.full((count, 1), EQUALS), ZERO + results_NC]
        slots = np.concatenate(parts, axis=1)
        tokens = packed(slots, slots != GAP, seq_len + 1)
        return Items(tokens, behind(EQUALS, tokens), levels)

    def _expressions(self, rng: np.random.Generator, levels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(N, S): operators and operands, each operator before its own; GAP behind them. Built from the left, with a
        stack of how many operations each operand has that is still to come."""
        most = int(levels.max(initial=1))
        symbols = np.full((len(levels), 2 * most + 1), GAP)
        operators = np.array([OPERATORS + list(SIGNS).index(name) for name in self.operators])
        stack, top = np.zeros((len(levels), most + 2), dtype=np.int64), np.zeros(len(levels), dtype=np.int64)
        stack[:, 0] = levels
        for place in range(symbols.shape[1]):
            rows = np.flatnonzero(top >= 0)
            operations = stack[rows, top[rows]]
            drawn = operators[rng.integers(len(operators), size=len(rows))]
            first = rng.integers(np.maximum(operations, 1))
            symbols[rows, place] = np.where(operations > 0, drawn, OPERAND)
            takes_two = (operations > 0) & (drawn != NEGATE)
            stack[rows, top[rows]] = operations - 1 - np.where(takes_two, first, 0)
            stack[rows[takes_two], top[rows[takes_two]] + 1] = first[takes_two]
            top[rows] += np.where(operations > 0, takes_two, -1)
        return symbols

    def _evaluated(self, symbols_NS: np.ndarray, polynomials_NSC: np.ndarray) -> NDArray[np.int64]:
        """(N, C), read from the right: whatever an operator takes lies on the stack when it is reached."""
        count, length = symbols_NS.shape
        stack = np.zeros((count, length + 2, self.terms), dtype=np.int64)
        top = np.full(count, -1)
        for place in reversed(range(length)):
            symbol = symbols_NS[:, place]
            for kind in (OPERAND, NEGATE, ADD, MULTIPLY, COMPOSE):
                rows = np.flatnonzero(symbol == kind)
                if kind == OPERAND:
                    top[rows] += 1
                    stack[rows, top[rows]] = polynomials_NSC[rows, place]
                elif kind == NEGATE:
                    stack[rows, top[rows]] = -stack[rows, top[rows]] % self.modulus
                else:
                    first, second = stack[rows, top[rows]], stack[rows, top[rows] - 1]
                    top[rows] -= 1
                    stack[rows, top[rows]] = self._applied(kind, first, second)
        return stack[:, 0]

    def _applied(self, kind: int, first_NC: np.ndarray, second_NC: np.ndarray) -> NDArray[np.int64]:
        if kind == ADD:
            return (first_NC + second_NC) % self.modulus
        if kind == MULTIPLY:
            return self._product(first_NC, second_NC)
        result = np.zeros_like(first_NC)  # Horner: the second is put into the first
        for power in reversed(range(self.terms)):
            result = self._product(result, second_NC)
            result[:, 0] = (result[:, 0] + first_NC[:, power]) % self.modulus
        return result

    def _product(self, first_NC: np.ndarray, second_NC: np.ndarray) -> NDArray[np.int64]:
        result = np.zeros_like(first_NC)
        for power in range(self.terms):
            result[:, power:] += first_NC[:, power : power + 1] * second_NC[:, : self.terms - power]
        return result % self.modulus
