"""Does the held-out text stand apart from the training text? Counted in windows that both contain.

A loss on text that training has seen measures memory. Two counts guard against it: word n-grams while the corpus is
split (GPT-3's 13-gram rule, 2005.14165 appendix C, softened to a share), and token n-grams of what is trained on.
Both compare 64-bit hashes of windows, so a chance match among 10^7 windows has a probability of about 10^-5.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.text.threads import cores, in_turn

Hashes = NDArray[np.uint64]

_ROOT = 0x9E3779B97F4A7C13
"""Base of the window polynomial modulo 2^64: odd and 3 modulo 8, so that its powers repeat as late as they can."""
_MAX_WORD = 64
"""Letters of a word beyond this one are hashed without their order."""
_TABLE_BITS = 24
_SHIFT = np.uint64(64 - _TABLE_BITS)
_BLOCK = 1 << 18
"""Bytes, or tokens, that are hashed at once."""
_BORDER = b" \xff "


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


class Sought:
    """Which of some hashes occur among others that pass by in blocks: a table over their leading bits sheds nearly all
    of the (far more numerous) others, and only the sought ones are sorted."""

    def __init__(self, needles: Hashes) -> None:
        self._sorted = np.unique(needles)
        self._seen = np.zeros(len(self._sorted), dtype=np.bool_)
        self._table = np.zeros(1 << _TABLE_BITS, dtype=np.bool_)
        self._table[self._sorted >> _SHIFT] = True

    def look(self, block: Hashes) -> None:
        """Find the sought ones in one block of the others."""
        if not len(self._sorted):
            return
        candidates = block[self._table[block >> _SHIFT]]
        place = self._places(candidates)
        self._seen[place[self._sorted[place] == candidates]] = True

    def found(self, needles: Hashes) -> NDArray[np.bool_]:
        """Which of these, all of them sought, were found; shape of `needles`."""
        return self._seen[self._places(needles)]

    def _places(self, hashes: Hashes) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)


def shared_ngrams(train: NDArray[np.unsignedinteger], held_out: NDArray[np.unsignedinteger], n: int = 32) -> float:
    """Share (0 to 1) of the held-out part's windows of `n` tokens that occur anywhere in the training tokens.

    0.0 where the held-out part is shorter than one window. The training tokens, which may be mapped from a file larger
    than memory, are hashed block by block.
    """
    needles = window_hashes(held_out, n)
    if not len(needles):
        return 0.0
    sought = Sought(needles)
    for begin in range(0, len(train), _BLOCK):
        sought.look(window_hashes(train[begin : begin + _BLOCK + n - 1], n))
    return float(sought.found(needles).mean())


def word_ngrams(text: str, n: int) -> Hashes:
    """Hashes of every window of `n` consecutive words; shape (words - n + 1,), empty for shorter text.

    A word is a run of letters, digits, underscores and non-ASCII bytes; everything else only separates. Where scripts
    put no blanks between words, each kana and ideograph (up to U+9FFF) is one.
    """
    return window_hashes(np.concatenate([_words(block) for block in _blocks(text.encode())]), n)


def word_ngram_blocks(texts: Iterable[str], n: int) -> Iterator[Hashes]:
    """The hashes that `word_ngrams` has of all texts, in blocks of bounded size.

    Also those of windows across two texts, which no text can hold: between two stands a byte, as a word of its own,
    that UTF-8 does not have.
    """
    before = np.empty(0, dtype=np.uint64)
    for words in in_turn(_words, (block for data in _joined(texts) for block in _blocks(data)), cores()):
        words = np.concatenate([before, words])
        yield window_hashes(words, n)
        before = words[max(0, len(words) - (n - 1)) :]


def _joined(texts: Iterable[str]) -> Iterator[bytes]:
    """Many short texts as one, or every array operation would be over a few words."""
    waiting = bytearray()
    for text in texts:
        waiting += text.encode() + _BORDER
        if len(waiting) >= _BLOCK:
            yield bytes(waiting)
            waiting.clear()
    yield bytes(waiting)


def _blocks(data: bytes) -> Iterator[bytes]:
    """Parts of a long text that end between words: hashing takes 60 times the memory of what it sees."""
    begin = 0
    while len(data) - begin > 2 * _BLOCK:
        end = begin + _BLOCK
        between = max(data.rfind(space, begin, end) for space in (b" ", b"\n"))
        end = between if between > begin else end  # a word as long as that may be cut
        yield data[begin:end]
        begin = end
    yield data[begin:]


def _words(data: bytes) -> Hashes:
    """A hash of every word."""
    letters_of = np.frombuffer(data, dtype=np.uint8)
    letters = np.flatnonzero(_IS_WORD[letters_of])
    if not len(letters):
        return np.empty(0, dtype=np.uint64)
    begins = np.diff(letters, prepend=-2) > 1
    alone = _IS_ALONE[letters_of[letters]]
    if alone.any():
        begins |= alone
        begins[3:] |= alone[:-3]  # such a character has three bytes
    opens = np.flatnonzero(begins)
    lengths = np.diff(opens, append=len(letters))
    offset = np.arange(len(letters)) - np.repeat(opens, lengths)
    values = _LETTER[letters_of[letters]] * _POWERS[np.minimum(offset, _MAX_WORD - 1)]
    return np.add.reduceat(values, opens)


_IS_WORD = np.array([chr(b).isalnum() or b == ord("_") or b >= 128 for b in range(256)], dtype=np.bool_)
_IS_ALONE = np.array([0xE3 <= b <= 0xE9 for b in range(256)], dtype=np.bool_)
"""First bytes of U+3000 to U+9FFF: kana, and the ideographs in use."""
_LETTER = mix(np.arange(256, dtype=np.uint64))
_POWERS = np.array([pow(_ROOT, i, 2**64) for i in range(_MAX_WORD)], dtype=np.uint64)
