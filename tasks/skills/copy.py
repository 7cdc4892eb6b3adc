"""Selective copying (MAD, 2403.17844): tokens strewn among blanks, then all of them in their order, without the blanks.

    .  .  a3 .  a9 .  .  .  a3 a1 ? [a3 a9 a3 a1]
    `----- copied, any of them again -----' `-- in order --'

A blank stands before any of the tokens with the same probability, and none behind the last, as in MAD. Unlike there,
what has been copied so far can be read: the next token is what is learned. A model that holds which tokens there are,
and not their order, can still strike out those that came and name the commonest that is left: that guess is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END_WORD, Items
from tasks.skills.guess import commonest

BLANK, ASK = 1, 2
FIRST = 3


@dataclass(frozen=True)
class Copy:
    """A sequence has one of the numbers of `copied`, all of them equally often."""

    level: ClassVar[str] = "copied"
    ceiling: ClassVar[float] = 1.0

    copied: Annotated[list[Annotated[int, AtLeast(1), AtMost(512)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [4, 8, 16, 32]
    )
    """Tokens to be copied (MAD: 16 to 96 of 256)."""
    symbols: Annotated[int, AtLeast(2), AtMost(10_000)] = 14
    """Different tokens that may be copied; with blank and question they are MAD's vocabulary of 16."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, ".", "?", *(f"a{i}" for i in range(self.symbols))]

    @property
    def chance(self) -> float:
        shares = commonest(self.symbols, max(self.copied))
        return float(sum(shares[1 : copied + 1].sum() for copied in self.copied) / sum(self.copied))

    def check(self, seq_len: int) -> None:
        most = max(self.copied)
        if 2 * most + 1 > seq_len:
            raise ConfigError(
                f"data.settings.copied={self.copied}: {most} tokens, a blank among them, and their copies take "
                f"{2 * most + 1} inputs of data.seq_len={seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.copied), count)
        tokens = np.full((count, seq_len + 1), BLANK)
        answers = np.zeros((count, seq_len), dtype=bool)
        for copied in self.copied:
            rows = np.flatnonzero(levels == copied)
            drawn = rng.integers(FIRST, FIRST + self.symbols, (len(rows), copied))
            blanks = rng.multinomial(seq_len - 2 * copied, np.full(copied, 1 / copied), len(rows))
            tokens[rows[:, None], np.cumsum(blanks + 1, axis=1) - 1] = drawn
            tokens[rows, -copied - 1] = ASK
            tokens[rows, -copied:] = drawn
            answers[rows, -copied:] = True
        return Items(tokens, answers, levels)
