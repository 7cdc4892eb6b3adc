"""Byte-level BPE: any text becomes tokens and comes back byte for byte, so a loss can be told in bits per byte."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError
from models.vocabulary import END_OF_TEXT as END_OF_TEXT
from tasks.text.threads import in_turn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Tokens = NDArray[np.unsignedinteger]
Segment = tuple[str, int]
"""A text and the id of the special token that stands after it."""

_BYTES = 256

_BATCH_CHARACTERS = 2_000_000
"""Text encoded at once: enough to keep all cores busy, little enough for memory, of which a token takes 100 bytes."""
_BATCHES_AT_ONCE = 2
_PIECE_CHARACTERS = 1_000_000
MAX_RUN = 4096
"""Characters without a space, or of nothing but space, that the trainer sees at once: its time is quadratic in them,
two minutes for 600,000. The longest run of the default corpus, a number, has 3,412."""
_LONG_RUN = re.compile(rf"(?:\S|[\x1c-\x1f]){{{MAX_RUN},}}|\s{{{MAX_RUN},}}")
"""What the trainer cannot divide; Python's space has four control characters more than its."""


def require_vocab(vocab_size: int, reserved: Sequence[str] = ()) -> None:
    """Raise ConfigError where the special tokens and one token per byte value do not fit."""
    least = least_vocab(reserved)
    if vocab_size < least:
        special = f"end of text, {', '.join(reserved)}" if reserved else "end of text"
        raise ConfigError(f"model.vocab_size={vocab_size}: must be at least {least} ({_BYTES} bytes and {special})")


def least_vocab(reserved: Sequence[str] = ()) -> int:
    """Tokens that any text needs: its special ones, and one per byte value."""
    return 1 + len(reserved) + _BYTES


def train_tokenizer(documents: Iterable[str], vocab_size: int, reserved: Sequence[str] = ()) -> "Tokenizer":
    """A tokenizer of exactly `vocab_size` tokens: END_OF_TEXT (id 0), `reserved`, 256 bytes, then merges by frequency.

    Equal documents in equal order give an equal tokenizer, whatever the number of threads. Special tokens inside a text
    are plain text. Raises ConfigError as `require_vocab`, or where the documents do not yield as many tokens.
    """
    require_vocab(vocab_size, reserved)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *reserved],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with _all_cores():
        pieces = (short for text in documents for piece in _pieces(text) for short in _short_runs(piece))
        tokenizer.train_from_iterator(pieces, trainer=trainer)
    tokenizer.encode_special_tokens = True
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size}: the training text only yields {size} tokens; "
            f"lower model.vocab_size or add text"
        )
    return tokenizer


def load_tokenizer(serialized: str) -> "Tokenizer":
    """The tokenizer from its own `to_str()`, which forgets that special tokens inside a text are text."""
    from tokenizers import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_str(serialized)
    tokenizer.encode_special_tokens = True
    return tokenizer


def token_bytes(tokenizer: "Tokenizer") -> NDArray[np.int32]:
    """Bytes of text that each token stands for, shape (vocab_size,); 0 for special tokens.

    Over the encoding of a text they sum to the length of its UTF-8: the byte-level alphabet writes each byte of a token
    as one character.
    """
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int32)
    special = tokenizer.get_added_tokens_decoder()
    for token, index in tokenizer.get_vocab().items():
        sizes[index] = 0 if index in special else len(token)
    return sizes


def token_dtype(vocab_size: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest stored integer, little-endian, so that hashes of arrays agree between machines."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def encode_packed(tokenizer: "Tokenizer", segments: Iterable[Segment]) -> Tokens:
    """All segments in one array, each text followed by its special token; shape (tokens,), dtype `token_dtype`."""
    blocks = list(encode_blocks(tokenizer, segments))
    return np.concatenate(blocks) if blocks else np.empty(0, dtype=token_dtype(tokenizer.get_vocab_size()))


def encode_blocks(tokenizer: "Tokenizer", segments: Iterable[Segment]) -> Iterator[Tokens]:
    """What `encode_packed` has, in turn, in blocks of bounded size.

    All cores encode one batch, while the next is read and the last is made an array.
    """
    dtype = token_dtype(tokenizer.get_vocab_size())

    def encode(batch: list[tuple[str, list[int]]]) -> Tokens:
        encodings = tokenizer.encode_batch_fast([text for text, _ in batch])
        arrays = [np.array(e.ids + after, dtype=dtype) for e, (_, after) in zip(encodings, batch, strict=True)]
        return np.concatenate(arrays)

    with _all_cores():
        yield from in_turn(encode, _batches(segments), _BATCHES_AT_ONCE)


def _batches(segments: Iterable[Segment]) -> Iterator[list[tuple[str, list[int]]]]:
    """Texts, and the tokens after each."""
    batch: list[tuple[str, list[int]]] = []
    waiting = 0
    for text, special in segments:
        left = len(text)
        for piece in _pieces(text):
            left -= len(piece)
            batch.append((piece, [] if left else [special]))
            waiting += len(piece)
            if waiting > _BATCH_CHARACTERS:
                yield batch
                batch, waiting = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """A long text in parts that end at line ends where there are any: BPE's memory grows with what it sees at once."""
    start = 0
    while len(text) - start > _PIECE_CHARACTERS:
        end = text.rfind("\n", start, start + _PIECE_CHARACTERS) + 1
        end = end if end > start else start + _PIECE_CHARACTERS
        yield text[start:end]
        start = end
    yield text[start:]


def _short_runs(text: str) -> Iterator[str]:
    """The text, cut within runs that are longer than MAX_RUN."""
    start = 0
    for run in _LONG_RUN.finditer(text):
        for end in range(run.start() + MAX_RUN, run.end(), MAX_RUN):
            yield text[start:end]
            start = end
    yield text[start:]


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let `tokenizers` use its threads, and forget so afterwards: a process forked later must not inherit them."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
