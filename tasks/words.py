"""A tokenizer of whole words, for what is drawn from a rule."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasks.drawn import END

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def word_tokenizer(words: Sequence[str], vocab_size: int, special: int = 1) -> "Tokenizer":
    """A token for each word and the blank before it, but the first, which has no blank; the first `special` words are
    special tokens. What the words leave of the vocabulary has names of its own."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    named = [words[0], *(f" {word}" for word in words[1:])]
    named += [f" <{i}>" for i in range(len(named), vocab_size)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(named)}, unk_token=words[0]))
    word, end = r" \S+", re.escape(words[0])
    if special > 1:  # a template writes the first word, right behind another
        word = rf" (?:(?!{end})\S)+|{end}"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(word), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(named[:special])
    tokenizer.encode_special_tokens = True
    return tokenizer


def word_bytes(words: Sequence[str], vocab_size: int) -> NDArray[np.int32]:
    """Bytes of text that each token stands for; 0 for the first word."""
    sizes = np.array([0, *(len(f" {word}".encode()) for word in words[1:])], dtype=np.int32)
    return np.pad(sizes, (0, vocab_size - len(words)))


def text_of(tokens: NDArray[np.int64], words: Sequence[str]) -> str:
    """A blank before each word, without what is left behind the last one."""
    ends = np.flatnonzero(tokens != END)
    return "".join(f" {words[token]}" for token in tokens[: ends[-1] + 1]) if len(ends) else ""
