"""Memorisation (MAD, 2403.17844): a book of names and their numbers, the same in every sequence, to be known by heart.

    n7 n2 [d4 d0]   n1 n9 [d4 d3]   n2 n7 [d1 d8]

The test asks for facts that the training has taught: that is the skill, and no leak. Held out are sequences, that is
which names are asked together and in what order, and those tell nothing: digits are drawn alike and independently of
each other and of the names, and a name stands once in a sequence. So a right answer comes from the weights, and a fact
that was not learned, in no part, is answered no better than chance. (MAD asks names again, but shows no number.)

A fact is worth `number_tokens` ln `digits` nats. What the answers of a level lack of ln `digits` each, times the digits
in its part of the book, is what the weights hold of it. All that they can is about 2 bits a parameter, after a thousand
readings of each fact (2404.05405).

A model that holds the numbers of a part, and not whose they are, strikes out those that came, names the commonest
beginning of the others, and then what goes on so most often: that guess is chance. So that there is little to strike
out, a sequence asks a quarter of its part at most; chance is of one that asks so much, where a guess has most.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, distinct

FIRST = 1
ASKED = 4
"""Of a part a sequence asks one fact in so many, at most."""
STRUCK = 16
"""Chance is an average over so many places of a sequence, and over the facts of a part in some random orders ..."""
SHUFFLED = 1024
"""... of so many facts in all. Large parts take fewer. Others come within 0.001 of it."""


@dataclass(frozen=True)
class Phonebook:
    """The book has a part for each number of `often`, all of one size; a sequence asks names of one part."""

    level: ClassVar[str] = "often"
    ceiling: ClassVar[float] = 1.0

    facts: Annotated[int, AtLeast(1), AtMost(100_000)] = 1024
    """Names with a number; a few thousand are more than a small model learns in a short training."""
    often: Annotated[list[Annotated[int, AtLeast(1), AtMost(1_000_000)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [1, 2, 4, 8]
    )
    """How often a fact of each part comes, in training and test, relative to those of the others."""
    letters: Annotated[int, AtLeast(2), AtMost(1000)] = 64
    name_tokens: Annotated[int, AtLeast(1), AtMost(4)] = 2
    """Different tokens of names, and how many make one."""
    digits: Annotated[int, AtLeast(2), AtMost(1000)] = 16
    number_tokens: Annotated[int, AtLeast(1), AtMost(6)] = 2
    """Different tokens of numbers, and how many make one."""
    book: Annotated[int, AtLeast(0)] = 0
    """Which book: its seed."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, *(f"n{i}" for i in range(self.letters)), *(f"d{i}" for i in range(self.digits))]

    @cached_property
    def chance(self) -> float:
        rng = np.random.default_rng(0)
        shares = [_struck_out(part[:, self.name_tokens :], self.most_asked, rng) for part in self._parts]
        return float(np.average(shares, weights=self._weights))

    @property
    def most_asked(self) -> int:
        """Facts of a sequence, however long it is."""
        return max(1, self.facts // len(self.often) // ASKED)

    def check(self, seq_len: int) -> None:
        names = self.letters**self.name_tokens
        if self.facts > names:
            raise ConfigError(
                f"data.settings.facts={self.facts}: {self.name_tokens} of {self.letters} letters make {names} names; "
                f"lower it, or raise letters or name_tokens"
            )
        # One fact alone would be a sequence, and such as are held out would never be taught.
        if self.facts < (least := 2 * ASKED * len(self.often)):
            raise ConfigError(
                f"data.settings.facts={self.facts}: a part for each of often={self.often} needs {2 * ASKED}, so that a "
                f"sequence asks two; at least {least}"
            )
        if 2 * (self.name_tokens + self.number_tokens) > seq_len + 1:
            raise ConfigError(
                f"data.settings.name_tokens={self.name_tokens}: with number_tokens={self.number_tokens} not two facts "
                f"fit into data.seq_len={seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        part_of = rng.choice(len(self.often), count, p=self._weights)
        size = self.name_tokens + self.number_tokens
        asked = min((seq_len + 1) // size, self.most_asked)
        tokens = np.full((count, seq_len + 1), END)
        for i, part in enumerate(self._parts):
            rows = np.flatnonzero(part_of == i)
            chosen = distinct(rng, len(rows), len(part), asked)
            tokens[rows, : asked * size] = part[chosen].reshape(len(rows), asked * size)
        answers = np.zeros((count, seq_len), dtype=bool)
        for i in range(self.number_tokens):
            answers[:, self.name_tokens - 1 + i : asked * size - 1 : size] = True
        return Items(tokens, answers, np.array(self.often)[part_of])

    @cached_property
    def _parts(self) -> list[NDArray[np.int64]]:
        """The book as tokens, a fact a row: names all different, numbers any."""
        rng = np.random.Generator(np.random.Philox(self.book))
        names = rng.choice(self.letters**self.name_tokens, self.facts, replace=False)
        letters = names[:, None] // self.letters ** np.arange(self.name_tokens) % self.letters
        digits = self.letters + rng.integers(0, self.digits, (self.facts, self.number_tokens))
        return np.array_split(FIRST + np.concatenate([letters, digits], axis=1), len(self.often))

    @property
    def _weights(self) -> NDArray[np.float64]:
        """Share of the sequences that ask names of each part."""
        weights = np.array([often * len(part) for often, part in zip(self.often, self._parts, strict=True)], float)
        return weights / weights.sum()


def _struck_out(numbers_ND: NDArray[np.int64], asked: int, rng: np.random.Generator) -> float:
    """`_of_numbers` of what is left when some of `asked` came, on average."""
    places = min(STRUCK, max(2, STRUCK * SHUFFLED // len(numbers_ND)))
    came = np.unique(np.linspace(0, asked - 1, places).round().astype(int))
    orders = [rng.permutation(numbers_ND) for _ in range(max(1, SHUFFLED // len(numbers_ND)))]
    return float(np.mean([_of_numbers(order[n:]) for order in orders for n in came]))


def _of_numbers(numbers_ND: NDArray[np.int64]) -> float:
    """Share of their digits that is right where each is the commonest behind those before it."""
    right = 0
    for end in range(1, numbers_ND.shape[1] + 1):
        found, times = np.unique(numbers_ND[:, :end], axis=0, return_counts=True)
        begins = np.flatnonzero(np.append(True, (found[1:, :-1] != found[:-1, :-1]).any(axis=1)))
        right += int(np.maximum.reduceat(times, begins).sum())
    return right / numbers_ND.size
