"""What a guess gets right that holds the values and not whose they are: the chance of skills that recall."""

import numpy as np
from numpy.typing import NDArray


def commonest(of: int, draws: int) -> NDArray[np.float64]:
    """Share that the commonest of m draws among `of` alike has in them, on average, for m = 0 .. draws: whoever knows
    all m, and is asked one of them, is right so often. Exact; 0 for m = 0."""
    one_CM = np.tri(draws + 1)
    """Probability that none of the `of` came more than c times in m draws: here of a single one."""
    within_CM, among = one_CM, 1
    for bit in bin(of)[3:]:
        within_CM, among = _together(within_CM, within_CM, 1 / 2), 2 * among
        if bit == "1":
            within_CM, among = _together(within_CM, one_CM, among / (among + 1)), among + 1
    most_M = (1 - within_CM).sum(axis=0)
    return most_M / np.maximum(np.arange(draws + 1), 1)


def _together(first_CM: NDArray[np.float64], second_CM: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Of two groups what `commonest` has of each, where a draw falls into the first with probability `share`."""
    draws = first_CM.shape[1] - 1
    split_MI = binomial(draws, share)
    both_CM = np.zeros_like(first_CM)
    for i in range(draws + 1):
        both_CM[:, i:] += split_MI[i:, i] * first_CM[:, i : i + 1] * second_CM[:, : draws + 1 - i]
    return both_CM


def binomial(most: int, share: float) -> NDArray[np.float64]:
    """Probability of i successes in m trials, for both 0 .. most; shape (m, i)."""
    found_MI = np.eye(1, most + 1).repeat(most + 1, axis=0)
    for m in range(1, most + 1):
        found_MI[m] = (1 - share) * found_MI[m - 1]
        found_MI[m, 1:] += share * found_MI[m - 1, :-1]
    return found_MI


def asked_when_seen(keys: int, slots: int, share: float = 1.0) -> NDArray[np.float64]:
    """How often a value is asked when m different keys have been seen, on average, for m = 0 .. as many as can be.

    A pair, then `slots`, each with probability `share` a pair too, of any of the `keys` alike: a key that comes again
    is asked. In the end one of the seen keys is.
    """
    seen_M = np.zeros(min(keys, slots + 1) + 1)
    seen_M[1] = 1
    again_M = np.arange(len(seen_M)) / keys
    asked_M = np.zeros_like(seen_M)
    for _ in range(slots):
        asked_M += share * again_M * seen_M
        new_M = share * (1 - again_M) * seen_M
        seen_M -= new_M
        seen_M[1:] += new_M[:-1]
    asked_M += seen_M
    return asked_M
