"""What is drawn, without end, from a rule: sequences, what is asked in them, and on which side each stands.

Skills and problems share it. Which of them are for training, for validation and for the test is a property of what is
drawn: of its hash. So nothing is on two sides, however little there is to draw.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import END_OF_TEXT
from tasks.text.separation import mix

END, END_WORD = 0, END_OF_TEXT
"""The token that stands for the end of a text, and for what is left of a sequence behind an item."""
GAP = -1
"""Where a token may stand and none does."""
HELD_OUT = {"test": (0, 2), "validation": (2, 4)}
"""Sixteenths of what is drawn, by their hash."""
SIXTEENTHS = 16
DRAWS = 64
"""Times that a block is drawn again before there is too little for a split."""


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


class Asked(Protocol):
    """Between what the share of right answers lies."""

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


def distinct(rng: np.random.Generator, rows: int, of: int, count: int) -> NDArray[np.int64]:
    """`count` different numbers below `of` in each row, in random order; shape (rows, count)."""
    return np.argsort(rng.random((rows, of)), axis=1)[:, :count]


def factors(modulus: int) -> NDArray[np.int64]:
    """Those but 1 that leave a product modulo `modulus` one-to-one."""
    return np.array([i for i in range(2, modulus) if math.gcd(i, modulus) == 1])


def packed(values_NW: NDArray[np.int64], there_NW: NDArray[np.bool_], length: int) -> NDArray[np.int64]:
    """Of each row what is there, without gaps from its beginning on, and END behind it; shape (N, length). No row has
    more than fits."""
    out = np.full((len(values_NW), length), END)
    rows, _ = np.nonzero(there_NW)
    out[rows, (np.cumsum(there_NW, axis=1) - 1)[there_NW]] = values_NW[there_NW]
    return out


def dice(*place: object) -> np.random.Generator:
    """Random numbers that are a function of the place alone, `split, seed, block`."""
    digest = hashlib.sha256("/".join(map(str, place)).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "little")))


def is_of(split: str, hashes_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which of what is hashed belongs to the split."""
    lot = hashes_N % np.uint64(SIXTEENTHS)
    if split == "train":
        held: NDArray[np.bool_] = lot >= max(end for _, end in HELD_OUT.values())
        return held
    begin, end = HELD_OUT[split]
    within: NDArray[np.bool_] = (lot >= begin) & (lot < end)
    return within


def hashes(tokens_NT: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Of each sequence, the same on every machine. END is no part of it: what is drawn stands on one side, however much
    room it is given."""
    weights = mix(np.arange(1, tokens_NT.shape[1] + 1, dtype=np.uint64)) | np.uint64(1)
    with np.errstate(over="ignore"):
        parts_NT = mix(tokens_NT.astype(np.uint64) + np.uint64(1)) * weights
        parts_NT[tokens_NT == END] = 0
        found: NDArray[np.uint64] = mix(parts_NT.sum(axis=1))
    return found
