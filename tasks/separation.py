"""Does the held-out text stand apart from the training text? Counted in windows that both contain.

A loss on text that training has seen measures memory. Two counts guard against it: word n-grams while the corpus is
split (GPT-3's 13-gram rule, 2005.14165 appendix C, softened to a share), and token n-grams of what is trained on.
Both compare 64-bit hashes of windows, so a chance match among 10^7 windows has a probability of about 10^-5.
"""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

_ROOT = 0x9E3779B97F4A7C13
"""Base of the window polynomial modulo 2^64: odd and 3 modulo 8, so that its powers repeat as late as they can."""
_MAX_WORD = 64
"""Letters of a word beyond this one are hashed without their order."""
_TABLE_BITS = 24


def mix(values: NDArray[np.unsignedinteger]) -> Hashes:
    """SplitMix64's finaliser: a bijection of the 64-bit integers in which every input bit moves every output bit."""
    z = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def window_hashes(items: NDArray[np.unsignedinteger], n: int) -> Hashes:
    """Hash every window of `n` consecutive items; shape (len(items) - n + 1,), empty when there are too few items.

    Longer windows are put together from shorter ones, h_ab = h_a * root^|b| + h_b, in log2(n) passes.
    """
    if len(items) < n:
        return np.empty(0, dtype=np.uint64)
    power, length = mix(items), 1
    window: Hashes | None = None
    done = 0
    remaining = n
    while True:
        if remaining & 1:
            window = power if window is None else _join(window, done, power, length)
            done += length
        remaining >>= 1
        if not remaining:
            break
        power, length = _join(power, length, power, length), 2 * length
    assert window is not None
    return mix(window)


def _join(first: Hashes, n_first: int, second: Hashes, n_second: int) -> Hashes:
    """Hashes of windows of n_first + n_second items from those of n_first and of n_second items."""
    count = min(len(first), len(second) - n_first)
    return first[:count] * np.uint64(pow(_ROOT, n_second, 2**64)) + second[n_first : n_first + count]


def contained(needles: Hashes, haystack: Hashes) -> NDArray[np.bool_]:
    """Which needles occur in the haystack; shape of `needles`.

    Only the needles are sorted: a table over their leading bits first sheds nearly all of the (far longer) haystack.
    """
    shift = np.uint64(64 - _TABLE_BITS)
    table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
    table[needles >> shift] = True
    candidates = np.unique(haystack[table[haystack >> shift]])
    if not len(candidates):
        return np.zeros(len(needles), dtype=np.bool_)
    place = np.minimum(np.searchsorted(candidates, needles), len(candidates) - 1)
    found: NDArray[np.bool_] = candidates[place] == needles
    return found


def shared_ngrams(train: NDArray[np.unsignedinteger], held_out: NDArray[np.unsignedinteger], n: int = 32) -> float:
    """Share (0 to 1) of the held-out part's windows of `n` tokens that occur anywhere in the training tokens.

    0.0 where the held-out part is shorter than one window.
    """
    needles = window_hashes(held_out, n)
    if not len(needles):
        return 0.0
    return float(contained(needles, window_hashes(train, n)).mean())


def word_ngrams(text: str, n: int) -> Hashes:
    """Hashes of every window of `n` consecutive words; shape (words - n + 1,), empty for shorter text.

    A word is a run of letters, digits, underscores and non-ASCII bytes; everything else only separates.
    """
    data = np.frombuffer(text.encode(), dtype=np.uint8)
    in_word = _IS_WORD[data]
    letters = np.flatnonzero(in_word)
    if not len(letters):
        return np.empty(0, dtype=np.uint64)
    opens = np.flatnonzero(np.diff(letters, prepend=-2) > 1)
    lengths = np.diff(opens, append=len(letters))
    offset = np.arange(len(letters)) - np.repeat(opens, lengths)
    values = _LETTER[data[letters]] * _POWERS[np.minimum(offset, _MAX_WORD - 1)]
    return window_hashes(np.add.reduceat(values, opens), n)


_IS_WORD = np.array([chr(b).isalnum() or b == ord("_") or b >= 128 for b in range(256)], dtype=np.bool_)
_LETTER = mix(np.arange(256, dtype=np.uint64))
_POWERS = np.array([pow(_ROOT, i, 2**64) for i in range(_MAX_WORD)], dtype=np.uint64)
