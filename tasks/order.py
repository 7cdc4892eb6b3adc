"""In which order a training takes its sequences: a curriculum. All orders take the same sequences, each once, and so
see the same by the end.

    mixed          as they are drawn
    easy_to_hard   sorted, and its reverse, hard_to_easy
    staged         easy ones for 1/9 of the training, easy and middling ones until 7/18 of it, then all that are left:
                   the easiest third is spread evenly over the three stages, the middle one over the last two

A skill's sequence is as hard as its level, a problem's as its questions on average. One of text is as hard as its
tokens are rare: the mean of -log of their shares in this training.
"""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from models.training.batch import Batch
from tasks.config import Order

THIRDS = 3


class Sequences(Protocol):
    """What a training takes its sequences from."""

    def train_sequences(self, seed: int, first: int, count: int) -> torch.Tensor | Batch: ...


@runtime_checkable
class Levelled(Sequences, Protocol):
    """One that knows how hard each is."""

    def train_levels(self, seed: int, first: int, count: int) -> NDArray[np.int64] | NDArray[np.float64]: ...


def in_order(data: Sequences, seed: int, count: int, order: Order) -> Sequences:
    """The first `count` training sequences of a seed, in this order; they are held in memory."""
    return data if order == "mixed" else _Ordered(data, seed, count, order)


def permutation(hardness_N: NDArray[np.float64], order: Order, seed: int) -> NDArray[np.int64]:
    """Which sequence comes at each place. Those that are equally hard stay as they were drawn."""
    count = len(hardness_N)
    easiest_first = np.argsort(hardness_N, kind="stable")
    if order == "easy_to_hard":
        return easiest_first
    if order == "hard_to_easy":
        return np.argsort(-hardness_N, kind="stable")
    if order == "mixed":
        return np.arange(count)
    first = np.arange(count) * THIRDS // count / THIRDS  # the stage in which its third comes in
    when = first + (1 - first) * np.random.default_rng([seed, count]).random(count)
    return easiest_first[np.argsort(when, kind="stable")]


def rarity(tokens_NT: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean -log share of each sequence's tokens, in nats; shares are those among all of these sequences."""
    counts = np.bincount(tokens_NT.ravel())
    nats = np.log(tokens_NT.size) - np.log(np.maximum(counts, 1))
    return np.array([nats[row].mean() for row in tokens_NT])


class Repeated:
    """The first `period` sequences over and over, in the same order."""

    def __init__(self, data: Sequences, period: int) -> None:
        self.data, self.period = data, period

    def train_sequences(self, seed: int, first: int, count: int) -> torch.Tensor | Batch:
        """All of one pass."""
        return self.data.train_sequences(seed, first % self.period, count)


class _Ordered:
    def __init__(self, data: Sequences, seed: int, count: int, order: Order) -> None:
        whole = Batch.of(data.train_sequences(seed, 0, count))
        if isinstance(data, Levelled):
            hardness = data.train_levels(seed, 0, count).astype(np.float64)
        else:
            hardness = rarity(whole.tokens_BT1.numpy())
        places = torch.from_numpy(permutation(hardness, order, seed))
        self.seed = seed
        self.tokens = whole.tokens_BT1[places].to(torch.int32)
        self.mask = None if whole.mask_BT is None else whole.mask_BT[places]

    def train_sequences(self, seed: int, first: int, count: int) -> Batch:
        assert seed == self.seed, "an order is of one seed's sequences"
        here = slice(first, first + count)
        return Batch(self.tokens[here].long(), None if self.mask is None else self.mask[here])
