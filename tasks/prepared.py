"""What a model learns from, whatever it is drawn from: text that was packed before, or a skill without end."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks.config import DataConfig
from tasks.drawn import Asked, Items
from tasks.problems.data import ProblemData
from tasks.problems.template import CHAT_TEMPLATES
from tasks.progress import Report
from tasks.skills.data import SkillData
from tasks.skills.mixed import MixedData, text_vocab
from tasks.text.batches import PackedData, given_name, packed_name, prepare
from tasks.text.splits import Document

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Data(Protocol):
    """A training set and its held-out splits, for one length of sequence."""

    seq_len: int
    batch_size: int
    vocab_size: int
    tokenizer: "Tokenizer"
    token_bytes: NDArray[np.int32]
    """Bytes of text per token id, shape (vocab_size,)."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on."""

    @property
    def epoch(self) -> int:
        """Training sequences that are read before one is read again."""

    @property
    def skill(self) -> Asked | None:
        """Of what has answers: words, and between what the share of right ones lies."""

    def windows(self, split: str) -> int:
        """How many sequences a split holds."""

    def train_batch(self, seed: int, step: int) -> "torch.Tensor | Batch":
        """Batch `step` (from 0) of a training without a ramp."""

    def train_sequences(self, seed: int, first: int, count: int) -> "torch.Tensor | Batch":
        """Training sequences `first` .. `first + count - 1` of a seed: inputs and shifted targets."""

    def evaluation_batches(self, split: str, tokens: int, rows: int = 32) -> "Iterator[torch.Tensor | Batch]":
        """Fixed sequences with about `tokens` targets in all, at most `rows` at once."""

    def documents(self, split: str) -> list[Document]:
        """The texts of `validation` or `test`."""

    def questions(self, split: str) -> list[dict[str, Any]]:
        """Of the items of a skill or a problem: `context`, and the `answer` behind it."""

    def shared(self, split: str) -> float:
        """How much of a held-out split the training part holds, as a share."""


def prepare_data(config: DataConfig, vocab_size: int, cache_dir: Path, report: Report | None = None) -> Data:
    """As `data` says, with a vocabulary of `vocab_size` tokens. Raises ConfigError where it cannot be had."""
    if (drawn := drawn_data(config, vocab_size)) is not None:
        return drawn
    text = prepare(config, text_vocab(config, vocab_size), cache_dir, report)
    return MixedData(text, config, vocab_size) if config.skills else text


def packed_names(config: DataConfig, vocab_size: int, cache_dir: Path) -> tuple[str, str] | None:
    """Where in a cache the packed text lies on a machine that was given it, and where it lies in this one; None of what
    needs no text."""
    if drawn_data(config, vocab_size) is not None:
        return None
    text = text_vocab(config, vocab_size)
    return given_name(config, text), packed_name(config, text, cache_dir)


def drawn_data(config: DataConfig, vocab_size: int) -> "SkillData | ProblemData | None":
    """What needs no text; None where it is text that is learned from."""
    if config.source == "skill":
        return SkillData(config, vocab_size)
    return ProblemData(config, vocab_size) if config.source == "problem" else None


def tokens_of(data: Data, split: str) -> "NDArray[np.unsignedinteger[Any]] | None":
    """All tokens of a text's split, end of text after each document; None of what is drawn, which has no end."""
    return data.tokens(split) if isinstance(data, PackedData) else None


def require_contexts(data: Data, lengths: "list[int]") -> None:
    """Raise ConfigError where the test text is shorter than a context that it is to be measured at."""
    text = tokens_of(data, "test")
    if lengths and text is not None and len(text) <= max(lengths):
        raise ConfigError(
            f"eval.lengths={lengths}: a context of {max(lengths)} tokens and the next one, and the test split has "
            f"{len(text):,}; take shorter ones, or more text"
        )


def chat_template(config: DataConfig) -> str | None:
    """How a conversation is written to a model that has learned this (Jinja, as transformers takes it); None of what
    has no questions and answers in turn."""
    return CHAT_TEMPLATES[config.template] if config.source == "problem" else None


def items_of(data: Data, split: str, tokens: int) -> Iterator[Items]:
    """Of a skill or a problem, in as many rows as `evaluation_batches` has; nothing of a text."""
    return data.evaluation_items(split, tokens) if isinstance(data, SkillData | ProblemData) else iter(())
