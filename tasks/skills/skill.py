"""What a skill is: something to be learned whose items are drawn, without end, from a rule.

A sequence of T inputs and their targets is one item, or several one after the other. Some targets are *answers*: what
the skill decides. All else is there to be read. Chance and ceiling of an answer are known, and how hard an item is, by
a measure of the skill's own (its level), so that scores can be read against both.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import END_OF_TEXT

END, END_WORD = 0, END_OF_TEXT
"""The token that stands for the end of a text, and for what is left of a sequence behind an item."""


class Items(NamedTuple):
    """Sequences, with what is asked in them."""

    tokens_NT1: NDArray[np.int64]
    answers_NT: NDArray[np.bool_]
    """Which of the targets, `tokens_NT1[:, 1:]`, are answers: at least one in each sequence."""
    levels_N: NDArray[np.int64]
    """How hard each is."""

    def rows(self, chosen: "NDArray[np.int64] | slice") -> "Items":
        """Some of the sequences."""
        return Items(self.tokens_NT1[chosen], self.answers_NT[chosen], self.levels_N[chosen])

    @staticmethod
    def joined(parts: "Sequence[Items]") -> "Items":
        """One behind the other."""
        return Items(
            np.concatenate([part.tokens_NT1 for part in parts]),
            np.concatenate([part.answers_NT for part in parts]),
            np.concatenate([part.levels_N for part in parts]),
        )


class Skill(Protocol):
    """A rule that items are drawn from, as its settings say. A frozen dataclass whose fields are the settings."""

    level: ClassVar[str]
    """What a level counts: `pairs`."""

    @property
    def words(self) -> Sequence[str]:
        """How each token is written, by its id, all different and without blanks. The first is END_WORD."""

    @property
    def chance(self) -> float:
        """Share of answers that the best guess without the skill gets right, over all levels together."""

    @property
    def ceiling(self) -> float:
        """Share of answers that a model which has learned the rule gets right: below 1 where chance has a part in
        them."""

    def check(self, seq_len: int) -> None:
        """Raise ConfigError, naming `data.settings.<key>`, where no item can be made so, or none fits into `seq_len`
        inputs."""

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        """`count` sequences. Everything random comes from `rng`."""


@runtime_checkable
class WrittenOut(Protocol):
    """A skill that writes more than its answers, on the way to them: `data.answers_only` learns that too."""

    def learned(self, items: Items) -> NDArray[np.bool_]:
        """(N, T): the targets to learn, the answers among them."""


def distinct(rng: np.random.Generator, rows: int, of: int, count: int) -> NDArray[np.int64]:
    """`count` different numbers below `of` in each row, in random order; shape (rows, count)."""
    return np.argsort(rng.random((rows, of)), axis=1)[:, :count]


def mask_at(places: NDArray[np.int64], seq_len: int) -> NDArray[np.bool_]:
    """The targets at `places` (N, K) of the inputs that they follow: input t has target t."""
    mask = np.zeros((len(places), seq_len), dtype=bool)
    np.put_along_axis(mask, places, True, axis=1)
    return mask


GAP = -1
"""Where a token may stand and none does."""


def packed(values_NW: NDArray[np.int64], there_NW: NDArray[np.bool_], length: int) -> NDArray[np.int64]:
    """Of each row what is there, without gaps from its beginning on, and END behind it; shape (N, length). No row has
    more than fits."""
    out = np.full((len(values_NW), length), END)
    rows, _ = np.nonzero(there_NW)
    out[rows, (np.cumsum(there_NW, axis=1) - 1)[there_NW]] = values_NW[there_NW]
    return out


def behind(word: int, tokens_NT1: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The targets that come behind the first `word` of each sequence, up to the end of its item."""
    passed_NT = np.cumsum(tokens_NT1[:, :-1] == word, axis=1) > 0
    within: NDArray[np.bool_] = passed_NT & (tokens_NT1[:, 1:] != END)
    return within
