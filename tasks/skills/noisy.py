"""Noisy in-context recall (MAD, 2403.17844): pairs of key and value, and between them tokens that mean nothing.

    k3 v7 n2 n9 k1 v7 k3 [v7] n4 n4 n0 n2 k5 v2 k1 [v7]

A slot of two tokens is noise with a probability, or else a pair of any key; a key that comes again has its value, which
is then asked. The last slot asks one of the different keys seen. The more noise, the fewer pairs, as in MAD.
A model that holds the values, and not whose they are, names the commonest: that guess is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items
from tasks.skills.guess import asked_when_seen, commonest
from tasks.skills.stream import first_of, with_a_last

FIRST = 1


@dataclass(frozen=True)
class Noisy:
    """A sequence has one of the shares of `noise`, all of them equally often."""

    level: ClassVar[str] = "noise"
    ceiling: ClassVar[float] = 1.0

    noise: Annotated[list[Annotated[int, AtLeast(0), AtMost(99)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [20, 40, 60, 80]
    )
    """Of the slots, in per cent; 0 is MAD's in-context recall without noise."""
    keys: Annotated[int, AtLeast(1), AtMost(512)] = 8
    values: Annotated[int, AtLeast(2), AtMost(10_000)] = 8
    """Different keys, and values that each has one of, anew in each sequence; two keys may have the same."""
    others: Annotated[int, AtLeast(1), AtMost(10_000)] = 16
    """Different tokens of noise."""
    slots: Annotated[int, AtLeast(2), AtMost(10_000)] = 64
    """Of two tokens each, the last question included; what is left of a sequence behind them is empty."""

    @property
    def words(self) -> Sequence[str]:
        letters = (("k", self.keys), ("v", self.values), ("n", self.others))
        return [END_WORD, *(f"{letter}{i}" for letter, many in letters for i in range(many))]

    @property
    def chance(self) -> float:
        # One slot is always a pair, the others are by chance.
        asked_LM = np.array([asked_when_seen(self.keys, self.slots - 2, 1 - noise / 100) for noise in self.noise])
        shares_M = commonest(self.values, asked_LM.shape[1] - 1)
        return float((asked_LM * shares_M).sum() / asked_LM.sum())

    def check(self, seq_len: int) -> None:
        if 2 * self.slots > seq_len + 1:
            raise ConfigError(
                f"data.settings.slots={self.slots}: as many slots of two tokens take data.seq_len={2 * self.slots - 1} "
                f"at least, not {seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels, slots = rng.choice(np.array(self.noise), count), self.slots - 1
        noise_NP = rng.random((count, slots)) < levels[:, None] / 100
        # MAD keeps a slot free too, but may choose the last one, and then has nothing to ask where all are noise.
        np.put_along_axis(noise_NP, rng.integers(0, slots, (count, 1)), False, axis=1)
        keys_NP = rng.integers(0, self.keys, (count, slots))
        values_NP = rng.integers(0, self.values, (count, slots))
        first_NP = first_of(np.where(noise_NP, -1 - np.arange(slots), keys_NP))
        shown_NQ = with_a_last(rng, first_NP, ~noise_NP)
        slots_NQ2 = FIRST + np.stack(
            [
                np.take_along_axis(keys_NP, shown_NQ, axis=1),
                self.keys + np.take_along_axis(values_NP, shown_NQ, axis=1),
            ],
            axis=2,
        )
        others_NP2 = rng.integers(0, self.others, (count, slots, 2)) + FIRST + self.keys + self.values
        slots_NQ2[:, :-1][noise_NP] = others_NP2[noise_NP]
        tokens = np.full((count, seq_len + 1), END)
        tokens[:, : 2 * self.slots] = slots_NQ2.reshape(count, -1)
        answers = np.zeros((count, seq_len), dtype=bool)
        answers[:, : 2 * self.slots : 2] = shown_NQ != np.arange(self.slots)
        return Items(tokens, answers, levels)
