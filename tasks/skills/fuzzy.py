"""Fuzzy in-context recall (MAD, 2403.17844): keys and values of several tokens, which mean something together only.

    k3 k1 v7 v2   k1 k3 v4   k5 k3 v2 v7 v1   k1 k3 [v4]   k2 k5 v8   k3 k1 [v7 v2]

A key is any order of so many different tokens, a value of one or more. A key that comes again has its value, all of
whose tokens are asked. Three things differ from MAD. In a sequence all keys are of one length, as in those that it
tests with; those that it trains on mix them. A sequence has so many pairs, where MAD's have so many tokens. And the
last question is any of the different keys seen, as in MAD's other recalls; in this one it is drawn before all others.

A model that holds the values, and not whose they are, names the commonest beginning, and then what goes on so most
often: that guess is chance, and high where values are long, since their beginnings tell them apart. To know a key by
its last token alone gives about half of the beginnings.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, distinct
from tasks.skills.guess import asked_when_seen, binomial, commonest
from tasks.skills.stream import first_of, with_a_last

FIRST = 1


@dataclass(frozen=True)
class Fuzzy:
    """A sequence has one of the lengths of `key_tokens`, all of them equally often."""

    level: ClassVar[str] = "key_tokens"
    ceiling: ClassVar[float] = 1.0

    key_tokens: Annotated[list[Annotated[int, AtLeast(1), AtMost(4)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [2, 3]
    )
    """Tokens of a key (MAD: 3)."""
    value_tokens: Annotated[int, AtLeast(1), AtMost(8)] = 2
    """Tokens of a value at most (MAD: 3); as many as that or fewer are equally likely."""
    keys: Annotated[int, AtLeast(2), AtMost(256)] = 5
    values: Annotated[int, AtLeast(2), AtMost(256)] = 8
    """Different tokens of keys (MAD: 7), and of values. With fewer, keys come again more often."""
    pairs: Annotated[int, AtLeast(1), AtMost(512)] = 24
    """Before the last question; what is left of a sequence behind it is empty."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, *(f"k{i}" for i in range(self.keys)), *(f"v{i}" for i in range(self.values))]

    @property
    def chance(self) -> float:
        right = total = 0.0
        for place in range(self.value_tokens):
            goes_on = 1 - place / self.value_tokens
            # Of the other values seen, those that began alike and go on too: what may be meant.
            alike_MI = binomial(self.pairs - 1, goes_on / math.perm(self.values, place))
            share_M = np.concatenate([[0.0], alike_MI @ commonest(self.values - place, self.pairs)[1:]])
            for size in self.key_tokens:
                asked_M = asked_when_seen(math.perm(self.keys, size), self.pairs - 1)
                right += goes_on * float((asked_M * share_M[: len(asked_M)]).sum())
                total += goes_on * float(asked_M.sum())
        return right / total

    def check(self, seq_len: int) -> None:
        longest = max(self.key_tokens)
        if longest > self.keys:
            raise ConfigError(
                f"data.settings.key_tokens={self.key_tokens}: a key of {longest} different tokens needs as many "
                f"(keys={self.keys}); lower them or raise keys"
            )
        if self.value_tokens > self.values:
            raise ConfigError(
                f"data.settings.value_tokens={self.value_tokens}: a value of as many different tokens needs them "
                f"(values={self.values}); lower it or raise values"
            )
        needed = (self.pairs + 1) * (longest + self.value_tokens)
        if needed > seq_len + 1:
            raise ConfigError(
                f"data.settings.pairs={self.pairs}: as many pairs and a question of {longest + self.value_tokens} "
                f"tokens each take data.seq_len={needed - 1} at most, not {seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.key_tokens), count)
        tokens = np.full((count, seq_len + 1), END)
        answers = np.zeros((count, seq_len), dtype=bool)
        for size in self.key_tokens:
            rows = np.flatnonzero(levels == size)
            tokens[rows], answers[rows] = self._of(rng, len(rows), size, seq_len)
        return Items(tokens, answers, levels)

    def _of(self, rng: np.random.Generator, rows: int, size: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences (rows, seq_len + 1) with keys of as many tokens, and which targets are answers."""
        pairs = self.pairs
        keys_NPK = distinct(rng, rows * pairs, self.keys, size).reshape(rows, pairs, size)
        values_NPV = distinct(rng, rows * pairs, self.values, self.value_tokens).reshape(rows, pairs, self.value_tokens)
        sizes_NP = rng.integers(1, self.value_tokens + 1, (rows, pairs))
        first_NP = first_of(keys_NPK @ self.keys ** np.arange(size))
        shown_NQ = with_a_last(rng, first_NP, np.ones_like(first_NP, dtype=bool))
        asked_NQ = shown_NQ != np.arange(pairs + 1)
        row_N1 = np.arange(rows)[:, None]
        sizes_NQ = sizes_NP[row_N1, shown_NQ]
        ends_NQ = np.cumsum(size + sizes_NQ, axis=1)
        begins_NQ = ends_NQ - sizes_NQ
        """Of the values."""
        tokens = np.full((rows, seq_len + 1), END)
        answers = np.zeros((rows, seq_len), dtype=bool)
        for i in range(size):
            tokens[row_N1, begins_NQ - size + i] = FIRST + keys_NPK[row_N1, shown_NQ, i]
        for i in range(self.value_tokens):
            row, place = np.nonzero(sizes_NQ > i)
            at = begins_NQ[row, place] + i
            tokens[row, at] = FIRST + self.keys + values_NPV[row, shown_NQ[row, place], i]
            answers[row, at - 1] = asked_NQ[row, place]
        return tokens, answers
