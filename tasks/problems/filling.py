"""Sequences that are filled with whole instances, one behind the other."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.drawn import END
from tasks.problems.template import Instances


class Filled(NamedTuple):
    tokens_NT1: NDArray[np.int64]
    """END behind the last instance that fitted."""
    counted_NT: NDArray[np.bool_]
    """The targets that count."""
    levels_N: NDArray[np.float64]
    """How hard its questions are on average."""

    def rows(self, chosen: slice) -> "Filled":
        """Some of the sequences."""
        return Filled(self.tokens_NT1[chosen], self.counted_NT[chosen], self.levels_N[chosen])


def fill(parts: Iterator[Instances], rows: int, seq_len: int, answers_only: bool) -> Filled:
    """`rows` sequences of `seq_len` targets, of instances in their order; as many parts are taken as it needs. Targets
    are the answers with their ends, or all but what is left behind the last instance."""
    tokens = np.full((rows, seq_len + 1), END)
    counted = np.zeros(tokens.shape, dtype=bool)
    levels, row, used = np.zeros((rows, 2)), 0, 0
    for part in parts:
        for i, length in enumerate(part.lengths_N.tolist()):
            if used + length > seq_len + 1:
                row, used = row + 1, 0
            if row == rows:
                return Filled(tokens, counted[:, 1:], levels[:, 0] / levels[:, 1])
            place = row, slice(used, used + length)
            tokens[place] = part.tokens_NW[i, :length]
            counted[place] = part.answered_NW[i, :length] if answers_only else True
            levels[row] += int(part.levels_N[i]), 1
            used += length
    raise ValueError(f"too few instances for {rows} sequences")
