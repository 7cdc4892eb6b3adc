"""Agreement across nested clauses (Linzen et al. 1611.01368; nested: Lakretz et al. 2006.11098), by a grammar.

    a3 that c1 by b0 that a7 V5 [-a] V2 [-c] V9 [-a] .
    |       |             `-------'      |       |
    |       `----------------------------'       |
    `--------------------------------------------'

    sentence -> clause(depth) .
    clause(d) -> noun_X (by noun_Y)? that clause(d - 1) verb -X      for d > 0
    clause(0) -> noun_X (by noun_Y)? verb -X

Nouns are of classes X, as those of many languages are, and the ending of a verb is that of its subject's class. A noun
behind `by` is nobody's subject. Who counts nouns and verbs, and does not see which nouns stand behind `by`, can name
for each verb the noun that is most often its subject in a sentence of so many nouns: that guess is chance. (All
sentences of a sequence have as many verbs. The first noun is the last verb's subject, always.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_lowercase
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, packed

STOP, THAT, BY = 1, 2, 3
FIRST = 4
CLAUSE = 6
"""Tokens of a clause at most: noun, by, noun, verb, ending, and what joins it to the next (that, a full stop)."""


@dataclass(frozen=True)
class Grammar:
    """All sentences of a sequence have one of the `depths`, all of them equally often."""

    level: ClassVar[str] = "depth"
    ceiling: ClassVar[float] = 1.0

    depths: Annotated[list[Annotated[int, AtLeast(0)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [1, 2, 3, 4]
    )
    """Clauses within clauses of a sentence: what lies between the first noun and the last verb."""
    clauses: Annotated[int, AtLeast(1), AtMost(100_000)] = 20
    """Of a sequence, at most: as many as make whole sentences."""
    classes: Annotated[int, AtLeast(2), AtMost(26)] = 8
    nouns: Annotated[int, AtLeast(1), AtMost(1000)] = 8
    """Of each class."""
    verbs: Annotated[int, AtLeast(1), AtMost(1000)] = 32
    by: Annotated[float, AtLeast(0), AtMost(1)] = 0.5
    """Share of the subjects that have a noun behind them that is nobody's subject."""

    @property
    def words(self) -> Sequence[str]:
        letters = ascii_lowercase[: self.classes]
        nouns = [f"{letter}{i}" for letter in letters for i in range(self.nouns)]
        return [END_WORD, ".", "that", "by", *nouns, *(f"V{i}" for i in range(self.verbs)), *(f"-{x}" for x in letters)]

    @property
    def chance(self) -> float:
        """Over depths, each as often as a sequence of it has endings."""
        ends = {depth: self.sentences(depth) * (depth + 1) for depth in self.depths}
        placed = {depth: _placed(depth + 1, self.by) for depth in self.depths}
        share = sum(ends[depth] * placed[depth] for depth in self.depths) / sum(ends.values())
        return share + (1 - share) / self.classes

    def sentences(self, depth: int) -> int:
        """Of a sequence."""
        return self.clauses // (depth + 1)

    def check(self, seq_len: int) -> None:
        most = max(self.depths)
        if most >= self.clauses:
            raise ConfigError(
                f"data.settings.depths={self.depths}: {most} takes {most + 1} clauses a sentence; "
                f"a sequence has clauses={self.clauses}; lower depths, or raise clauses"
            )
        tokens = CLAUSE * max(self.sentences(depth) * (depth + 1) for depth in self.depths)
        if tokens > seq_len + 1:
            raise ConfigError(
                f"data.settings.clauses={self.clauses}: up to {tokens} tokens do not fit into data.seq_len={seq_len}; "
                f"at most {(seq_len + 1) // CLAUSE}"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.depths), count)
        tokens = np.full((count, seq_len + 1), END)
        for depth in self.depths:
            rows = np.flatnonzero(levels == depth)
            tokens[rows] = self._of(rng, len(rows), depth, seq_len)
        ending = FIRST + self.classes * self.nouns + self.verbs
        return Items(tokens, tokens[:, 1:] >= ending, levels)

    def _of(self, rng: np.random.Generator, rows: int, depth: int, seq_len: int) -> NDArray[np.int64]:
        """Sequences (rows, seq_len + 1) whose sentences are all of one depth."""
        clauses, nouns = depth + 1, self.classes * self.nouns
        shape = (rows, self.sentences(depth), clauses)
        subject, other = rng.integers(0, nouns, (2, *shape))
        verb, by = rng.integers(0, self.verbs, shape), rng.random(shape) < self.by
        # Of each sentence the clauses' beginnings, the outermost first, and then their ends, the innermost first.
        tokens = np.full((*shape[:2], CLAUSE * clauses + 1), STOP)
        there = np.ones(tokens.shape, dtype=bool)
        begin, end = 4 * clauses, CLAUSE * clauses
        tokens[..., 0:begin:4] = FIRST + subject
        tokens[..., 1:begin:4] = BY
        tokens[..., 2:begin:4] = FIRST + other
        tokens[..., 3:begin:4] = THAT
        tokens[..., begin:end:2] = FIRST + nouns + verb
        tokens[..., begin + 1 : end : 2] = FIRST + nouns + self.verbs + subject[..., ::-1] // self.nouns
        there[..., 1:begin:4] = there[..., 2:begin:4] = by
        there[..., begin - 1] = False  # nothing is in the innermost
        return packed(tokens.reshape(rows, -1), there.reshape(rows, -1), seq_len + 1)


def _placed(clauses: int, by: float) -> float:
    """How often the likeliest of a sentence's nouns is a verb's subject, where only the number of nouns is known: which
    of the subjects have a noun behind them is then any choice of so many of them."""
    right = 0.0
    for others in range(clauses + 1):
        there = math.comb(clauses, others) * by**others * (1 - by) ** (clauses - others)
        for before in range(clauses):
            near = range(min(before, others) + 1)
            ways = [math.comb(before, n) * math.comb(clauses - before, others - n) for n in near]
            right += there * max(ways) / sum(ways)
    return right / clauses
