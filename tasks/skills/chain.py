"""Chains of modular arithmetic (LEGO, 2206.04301; modular as in iGSM, 2407.20311): variables, each a number or made of
one before it, of which one is asked. Below modulo 7; the answer takes three of five statements.

    a = 3 ; d = 5 ; b = a + 4 ; e = d - 1 ; c = b * 2 ; c ? [0]
    ...                                                 c ? a [3] d [5] b [0] e [4] c [0]    with `steps`

Every step is one-to-one (no product with what shares a factor with the modulus), and the number at its root is any, so
that all numbers are as likely. Chance is of who looks a variable up and copies the number that stands in its statement,
without any arithmetic: that is right where it stands alone, and else as often as any number is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END_WORD, GAP, Items, distinct, factors, packed
from tasks.skills.skill import behind

NAMES = "abcdefghijklmnopqrstuvwxyz"
STOP, EQUALS, ASK, PLUS, MINUS, TIMES, ZERO = 1, 2, 3, 4, 5, 6, 7


@dataclass(frozen=True)
class Chain:
    """A sequence asks for a variable that takes one of the numbers of `length`, all of them equally often."""

    level: ClassVar[str] = "statements of the chain"
    ceiling: ClassVar[float] = 1.0

    length: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [1, 2, 3])
    """Statements that the answer depends on."""
    statements: Annotated[int, AtLeast(1), AtMost(len(NAMES))] = 5
    """In all; the others are of no use, and may be made of those that are."""
    modulus: Annotated[int, AtLeast(3), AtMost(1000)] = 7
    steps: bool = False
    """Whether the value of each variable is written, in the order of the statements, until the one that is asked comes.
    All are answers then, and an item is right where all would be right that the model writes by itself. Otherwise the
    answer follows at once."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, ";", "=", "?", "+", "-", "*", *(str(i) for i in range(self.modulus)), *NAMES]

    @property
    def chance(self) -> float:
        """Where all that is asked stands alone, to look it up is the skill, and chance is of any number."""
        alone, answers = (math.fsum(counts) for counts in zip(*map(self._expected, self.length), strict=True))
        share = alone / answers
        return (share if share < 1 else 0.0) + (1 - share or 1.0) / self.modulus

    def _expected(self, length: int) -> tuple[float, float]:
        """How many variables that are answers are a number alone, and how many are answers, in a sequence that takes
        `length` statements."""
        if not self.steps:
            return float(length == 1), 1.0
        places, chains = range(self.statements), math.comb(self.statements, length)
        # Beside the chain's root: those that are of no use, before the last of the chain, and made of none.
        beside = (1 - length / self.statements - math.comb(place, length) / chains for place in places)
        alone = 1 + math.fsum(share / (place + 1) for place, share in zip(places, beside, strict=True))
        return alone, length * (self.statements + 1) / (length + 1)

    def check(self, seq_len: int) -> None:
        least, most = min(self.length), max(self.length)
        if least < 1:
            raise ConfigError(f"data.settings.length={self.length}: {least} statements give no value; at least 1")
        if most > self.statements:
            raise ConfigError(
                f"data.settings.length={self.length}: {most} statements are more than there are "
                f"(statements={self.statements}); ask for shorter chains, or for more statements"
            )
        wanted = 6 * self.statements - 1 + (2 * self.statements if self.steps else 1)  # one of them is a number
        if wanted > seq_len:
            raise ConfigError(
                f"data.settings.statements={self.statements}: they, and what is asked, take up to {wanted} tokens of "
                f"data.seq_len={seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.length), count)
        parents_NS, asked_N = self._tree(rng, levels)
        operators_NS = rng.integers(PLUS, TIMES + 1, (count, self.statements))
        numbers_NS = self._numbers(rng, parents_NS, operators_NS)
        values_NS = self._values(parents_NS, operators_NS, numbers_NS)
        names_NS = ZERO + self.modulus + distinct(rng, count, len(NAMES), self.statements)

        slots_NS6 = np.full((count, self.statements, 6), GAP)
        slots_NS6[:, :, 0], slots_NS6[:, :, 1], slots_NS6[:, :, 5] = names_NS, EQUALS, STOP
        of_another = parents_NS >= 0
        parent_names = np.take_along_axis(names_NS, np.maximum(parents_NS, 0), axis=1)
        slots_NS6[:, :, 2] = np.where(of_another, parent_names, ZERO + numbers_NS)
        slots_NS6[:, :, 3] = np.where(of_another, operators_NS, GAP)
        slots_NS6[:, :, 4] = np.where(of_another, ZERO + numbers_NS, GAP)
        asked_N1 = asked_N[:, None]
        question = [np.take_along_axis(names_NS, asked_N1, axis=1), np.full((count, 1), ASK)]
        if self.steps:
            written = np.stack([names_NS, ZERO + values_NS], axis=2)
            written[np.arange(self.statements) > asked_N1] = GAP
        else:
            written = ZERO + np.take_along_axis(values_NS, asked_N1, axis=1)
        parts = [slots_NS6.reshape(count, -1), *question, written.reshape(count, -1)]
        slots = np.concatenate(parts, axis=1)
        tokens = packed(slots, slots != GAP, seq_len + 1)
        targets = tokens[:, 1:]
        is_number = (targets >= ZERO) & (targets < ZERO + self.modulus)
        return Items(tokens, behind(ASK, tokens) & is_number, levels)

    def learned(self, items: Items) -> NDArray[np.bool_]:
        """The names before the values too."""
        return behind(ASK, items.tokens_NT1)

    def _tree(self, rng: np.random.Generator, levels: NDArray[np.int64]) -> tuple[np.ndarray, np.ndarray]:
        """Which earlier statement each is made of (N, S), -1 for a number; and which is asked (N)."""
        rows = len(levels)
        parents = rng.integers(-1, np.arange(self.statements), (rows, self.statements))
        in_chain = distinct(rng, rows, self.statements, self.statements) < levels[:, None]
        last = np.full(rows, -1)
        for place in range(self.statements):
            parents[:, place] = np.where(in_chain[:, place], last, parents[:, place])
            last = np.where(in_chain[:, place], place, last)
        return parents, last

    def _numbers(self, rng: np.random.Generator, parents: np.ndarray, operators: np.ndarray) -> NDArray[np.int64]:
        """Of each statement. None leaves a value as it was, but a product with 0."""
        units = factors(self.modulus)
        terms = rng.integers(1, self.modulus, parents.shape)
        made = np.where(operators == TIMES, units[rng.integers(len(units), size=parents.shape)], terms)
        return np.where(parents < 0, rng.integers(self.modulus, size=parents.shape), made)

    def _values(self, parents: np.ndarray, operators: np.ndarray, numbers: np.ndarray) -> NDArray[np.int64]:
        values = np.zeros_like(numbers)
        for place in range(self.statements):
            parent, operator, number = parents[:, place], operators[:, place], numbers[:, place]
            before = np.take_along_axis(values, np.maximum(parent, 0)[:, None], axis=1)[:, 0]
            made = np.select([operator == PLUS, operator == MINUS], [before + number, before - number], before * number)
            values[:, place] = np.where(parent < 0, number, made) % self.modulus
        return values
