"""What a long context is asked: of held-out text and a seed, with no network.

*Passkeys* (2305.16300; the needle in a haystack): tokens drawn at random, a cue and a key, stand somewhere in real
text; at its end the cue comes again, and the key is what counts. How much the key is likelier there than other tokens
drawn in the same way says whether it was found, however sure a model is of its predictions in general.

*Recall*: the first half of a context comes a second time as its second half, which counts. A token of it has stood
exactly half a context before.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CUE, KEY = 4, 8
"""Tokens of each."""
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where in the text a passkey stands: 0 at its beginning, 1 right before the question."""
NEEDLES = 8
"""Passkeys at each depth."""
REPEATED = 8_192
"""Tokens that come a second time, of all contexts of one length together."""

Tokens = NDArray[np.int64]


class Needles(NamedTuple):
    """N contexts of T inputs, each with its target behind it."""

    tokens_NT1: Tokens
    mask_NT: NDArray[np.bool_]
    """The targets that are of a key."""
    others_NT: Tokens
    """Where they are, another token that it might have been."""


def windows(tokens: NDArray[np.integer], width: int, most: int) -> Tokens:
    """Up to `most` pieces of `width` tokens, (N, width), evenly spread over a split's. None overlaps another."""
    count = min(most, len(tokens) // width)
    begins = np.arange(count) * (len(tokens) // width) // max(1, count) * width
    return tokens[begins[:, None] + np.arange(width)].astype(np.int64)


def needles(tokens: NDArray[np.integer], words: Sequence[int], length: int, depth: float, seed: int = 0) -> Needles:
    """Contexts of `length` tokens of a split's text, each with a passkey of `words` at `depth`. The passkeys are the
    same at every depth and length, the text at every depth."""
    own = CUE + KEY
    text_NH = windows(tokens, length + 1 - 2 * own, NEEDLES)
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = np.stack([rng.permutation(np.asarray(words))[: own + KEY] for _ in range(NEEDLES)])[: len(text_NH)]
    passkey_NP, others_NK = drawn[:, :own], drawn[:, own:]
    place = round(depth * text_NH.shape[1])
    row = np.concatenate([text_NH[:, :place], passkey_NP, text_NH[:, place:], passkey_NP], axis=1)
    mask, others = np.zeros((len(row), length), dtype=bool), np.zeros((len(row), length), dtype=np.int64)
    mask[:, -KEY:], others[:, -KEY:] = True, others_NK
    return Needles(row, mask, others)


def repeated(tokens: NDArray[np.integer], length: int) -> tuple[Tokens, NDArray[np.bool_]]:
    """Contexts of `length` tokens, (N, length + 1), whose second half is the first once more; and which targets count:
    those of the second half but for its first CUE, by which it is recognised."""
    half = length // 2
    text_NH = windows(tokens, half, max(1, REPEATED // half))
    row = np.concatenate([text_NH, text_NH, text_NH[:, : length + 1 - 2 * half]], axis=1)
    mask = np.zeros((len(row), length), dtype=bool)
    mask[:, half - 1 + CUE : 2 * half - 1] = True
    return row, mask
