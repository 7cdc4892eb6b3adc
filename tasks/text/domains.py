"""Which domain a window of packed text is of, and batches of one domain each.

What a router specialises in is told apart only where kinds of text differ, and over what a balancing loss counts
matters only where that is of one kind: a loss over each sequence spreads the tokens of one domain over all experts
(V3 4.5.3; 2501.11873). So documents are packed domain by domain, and a window is of one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def domain_of_windows(tokens: Sequence[int], seq_len: int, windows: int) -> NDArray[np.int64]:
    """The domain of each window of a stream in which domain i has `tokens[i]` tokens, in order; shape (windows,).

    A window over a border counts to the domain that it begins in.
    """
    return np.searchsorted(np.cumsum(tokens), np.arange(windows) * seq_len, side="right")


def one_domain_a_batch(order: NDArray[np.int64], domain: NDArray[np.int64], batch: int) -> NDArray[np.int64]:
    """An epoch's `order` of windows, rearranged so that every `batch` windows in turn are of one domain.

    Each domain keeps its windows' order; batches come in the order in which their first windows did. What is left of a
    domain when no whole batch is, the epoch leaves out.
    """
    batches: list[NDArray[np.int64]] = []
    for one in np.unique(domain):
        places = np.flatnonzero(domain[order] == one)
        batches += list(places[: len(places) // batch * batch].reshape(-1, batch))
    return order[np.concatenate(sorted(batches, key=lambda places: int(places[0])))]
