"""Pairs of a key and a value in a row, each asked whenever its key comes again: what MAD's recalls have in common."""

import numpy as np
from numpy.typing import NDArray


def first_of(keys_NP: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in its row each key came first."""
    order_NP = np.argsort(keys_NP, axis=1, kind="stable")
    sorted_NP = np.take_along_axis(keys_NP, order_NP, axis=1)
    places_P = np.arange(keys_NP.shape[1])
    begins_NP = np.zeros_like(order_NP)
    begins_NP[:, 1:] = np.where(sorted_NP[:, 1:] != sorted_NP[:, :-1], places_P[1:], 0)
    firsts_NP = np.take_along_axis(order_NP, np.maximum.accumulate(begins_NP, axis=1), axis=1)
    found_NP = np.empty_like(order_NP)
    np.put_along_axis(found_NP, order_NP, firsts_NP, axis=1)
    return found_NP


def with_a_last(
    rng: np.random.Generator, first_NP: NDArray[np.int64], pairs_NP: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Which pair stands at each place, by where it stood first, with a last one behind: any of the different keys
    seen. `pairs_NP`: whether there is a pair at a place."""
    new_NP = pairs_NP & (first_NP == np.arange(first_NP.shape[1]))
    last_N1 = np.argmax(np.where(new_NP, rng.random(new_NP.shape), -1), axis=1, keepdims=True)
    return np.concatenate([first_NP, last_N1], axis=1)
