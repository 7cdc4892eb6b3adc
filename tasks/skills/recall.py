"""Multi-query associative recall (zoology, 2312.04927): keys with their values, then keys whose values are asked.

    k3 v7 k9 v2 k1 v5   .  .  k9 [v2] .  .  k3 [v7] k1 [v5]
    `---- pairs ----'   `---- each key again, once -------'

How far behind the pairs a key comes again follows a power law, as in text: sooner is likelier. A model that holds the
values, and not whose they are, can still strike out those that were asked: that guess is chance. Two things are not as
in zoology. There the first pair draws its place first, and so is asked first more often: who reads no key, and names
the earliest pair that is left, is right 0.43 of the time with 8 pairs in 32 tokens, and not 0.34. And behind the last
answer blanks go on there; nothing is left here, so that an item is the same however much room it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import Above, AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, distinct
from tasks.skills.skill import mask_at

BLANK = 1
FIRST = 2


@dataclass(frozen=True)
class Recall:
    """A sequence has one of the numbers of `pairs`, all of them equally often."""

    level: ClassVar[str] = "pairs"
    ceiling: ClassVar[float] = 1.0

    pairs: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [4, 8, 16, 32])
    keys: Annotated[int, AtLeast(2), AtMost(10_000)] = 63
    """Different keys, and as many values."""
    power: Annotated[float, Above(0), AtMost(1)] = 0.01
    """Of the law of distances: d^(power - 1)."""
    noise: bool = False
    """Whether any token may stand between the queries, and not a blank alone."""

    @property
    def words(self) -> Sequence[str]:
        numbers = range(self.keys)
        return [END_WORD, ".", *(f"k{i}" for i in numbers), *(f"v{i}" for i in numbers)]

    @property
    def chance(self) -> float:
        right = sum(sum(1 / left for left in range(1, pairs + 1)) for pairs in self.pairs)
        return right / sum(self.pairs)

    def check(self, seq_len: int) -> None:
        least, most = min(self.pairs), max(self.pairs)
        if least < 1:
            raise ConfigError(f"data.settings.pairs={self.pairs}: {least} pairs leave nothing to ask; at least 1")
        if most > self.keys:
            raise ConfigError(
                f"data.settings.pairs={self.pairs}: {most} pairs have more keys than there are (keys={self.keys}); "
                "ask for fewer pairs, or for more keys"
            )
        if 4 * most > seq_len:
            raise ConfigError(
                f"data.settings.pairs={self.pairs}: {most} pairs and their queries take {4 * most} tokens of "
                f"data.seq_len={seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.pairs), count)
        tokens = np.full((count, seq_len + 1), BLANK)
        answers = np.zeros((count, seq_len), dtype=bool)
        for pairs in self.pairs:
            rows = np.flatnonzero(levels == pairs)
            tokens[rows], answers[rows] = self._of(rng, len(rows), pairs, seq_len)
        return Items(tokens, answers, levels)

    def _of(self, rng: np.random.Generator, rows: int, pairs: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences (rows, seq_len + 1) of as many pairs each, and which targets are answers."""
        keys = FIRST + distinct(rng, rows, self.keys, pairs)
        values = FIRST + self.keys + distinct(rng, rows, self.keys, pairs)
        tokens = np.full((rows, seq_len + 1), BLANK)
        if self.noise:
            tokens = rng.integers(BLANK, FIRST + 2 * self.keys, (rows, seq_len + 1))
        tokens[:, 0 : 2 * pairs : 2], tokens[:, 1 : 2 * pairs : 2] = keys, values
        slots = (seq_len - 2 * pairs) // 2
        law = (self.power - 1) * np.log(np.arange(1, slots + 1))
        # Without replacement, each next one by what is left of the law (Gumbel's maximum).
        taken = np.argsort(-(law + rng.gumbel(size=(rows, slots))), axis=1)[:, :pairs]
        taken = rng.permuted(taken, axis=1)  # or a pair's place would tell when it is asked
        asked = 2 * pairs + 2 * taken
        np.put_along_axis(tokens, asked, keys, axis=1)
        np.put_along_axis(tokens, asked + 1, values, axis=1)
        tokens[np.arange(seq_len + 1) > asked.max(axis=1, keepdims=True) + 1] = END
        return tokens, mask_at(asked, seq_len)
