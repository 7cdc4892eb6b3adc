"""Skills as what a model learns from. Sequence i of a seed is a pure function of (seed, i), as with text.

Which items are for training, for validation and for the test is a property of the item: of its hash. No item is on two
sides, however few a skill has. Items are drawn by the block and kept for a while; none is ever stored.
"""

import functools
import hashlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks.config import DataConfig
from tasks.drawn import DRAWS, HELD_OUT, Items, dice, hashes, is_of
from tasks.skills.chosen import check_skill, settings_of, skill_of
from tasks.skills.skill import InAnyOrder, Skill, WrittenOut
from tasks.text.splits import Document
from tasks.words import text_of, word_bytes, word_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 256
"""Sequences that are drawn at once."""
SAMPLE = 4096
"""Items of a split that are looked through for those of another, and that lm-eval's tasks are made of, at most."""


class SkillData:
    """Has what `tasks.text.batches.PackedData` has, of a skill."""

    def __init__(self, config: DataConfig, vocab_size: int) -> None:
        """Raises ConfigError where the skill cannot be made so, or has no item for one of the splits."""
        check_skill(config, vocab_size)
        self.skill: Skill = skill_of(config)
        self.config, self.vocab_size = config, vocab_size
        self.seq_len, self.batch_size = config.seq_len, config.batch_size
        self.epoch = 2**62
        self._block = functools.lru_cache(maxsize=8)(self._drawn)
        self.tokenizer: Tokenizer = word_tokenizer(self.skill.words, vocab_size)
        self.token_bytes = word_bytes(self.skill.words, vocab_size)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on: skill, settings, and hashes of each split's beginning, which numpy draws."""
        hashes = {split: _hash(self._block(split, 0, 0)) for split in ("train", *HELD_OUT)}
        return {
            "source": "skill",
            "skill": self.config.skill,
            "settings": settings_of(self.skill),
            "seq_len": self.seq_len,
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(),
            "text_sha256": {**hashes, "by_file": ""},
            "tokens_sha256": {**hashes, "by_file": ""},
        }

    def windows(self, split: str) -> int:
        """As many as anyone asks for; there is no second test set."""
        return 0 if split == "by_file" else self.epoch

    def train_batch(self, seed: int, step: int) -> Batch:
        """Batch `step` (from 0) of a training without a ramp."""
        return self.train_sequences(seed, step * self.batch_size, self.batch_size)

    def train_sequences(self, seed: int, first: int, count: int) -> Batch:
        """Training sequences `first` .. `first + count - 1` of a seed."""
        return self._batch(self.items("train", seed, first, count))

    def train_levels(self, seed: int, first: int, count: int) -> NDArray[np.int64]:
        """Of the same sequences, how hard each is."""
        return self.items("train", seed, first, count).levels_N

    def evaluation_batches(self, split: str, tokens: int, rows: int = 32) -> Iterator[Batch]:
        """Fixed sequences with about `tokens` targets in all, at most `rows` at once."""
        return (self._batch(items) for items in self.evaluation_items(split, tokens, rows))

    def evaluation_items(self, split: str, tokens: int, rows: int = 32) -> Iterator[Items]:
        """The items of `evaluation_batches`."""
        count = max(1, tokens // self.seq_len)
        for start in range(0, count, rows):
            yield self.items(split, 0, start, min(rows, count - start))

    def documents(self, split: str) -> list[Document]:
        """Items as text, a blank before each word."""
        items = self.items(split, 0, 0, BLOCK)
        texts = (self.text(row) for row in items.tokens_NT1)
        return [Document(f"{self.config.skill}/{split}/{i}", text) for i, text in enumerate(texts)]

    def questions(self, split: str) -> list[dict[str, Any]]:
        """Of each item one answer, a run of targets, and all that stands before it."""
        found, items = list[dict[str, Any]](), self.items(split, 0, 0, SAMPLE // 4)
        for i, (row, mask, level) in enumerate(zip(*items, strict=True)):
            edges = np.flatnonzero(np.diff(np.concatenate(([0], mask, [0]))))
            begin, end = edges.reshape(-1, 2)[i % (len(edges) // 2)] + 1  # target t is token t + 1
            words = {"context": self.text(row[:begin]), "answer": self.text(row[begin:end])}
            found.append({**words, "level": int(level), "document": f"{self.config.skill}/{split}/{i}"})
        return found

    def text(self, tokens: NDArray[np.int64]) -> str:
        """Of a sequence, without what is left behind its item."""
        return text_of(tokens, self.skill.words)

    def shared(self, split: str) -> float:
        """Share of a split's first items that are among the first of the training."""
        learned = set(self._hashes(self.items("train", 0, 0, SAMPLE)).tolist())
        held = self._hashes(self.items(split, 0, 0, SAMPLE)).tolist()
        return sum(item in learned for item in held) / len(held)

    def _batch(self, items: Items) -> Batch:
        import torch

        tokens = torch.from_numpy(items.tokens_NT1)
        if not self.config.answers_only:
            return Batch(tokens)
        learned = self.skill.learned(items) if isinstance(self.skill, WrittenOut) else items.answers_NT
        return Batch(tokens, torch.from_numpy(learned))

    def items(self, split: str, seed: int, first: int, count: int) -> Items:
        """Items `first` .. `first + count - 1` of a seed."""
        blocks = range(first // BLOCK, (first + count - 1) // BLOCK + 1)
        begin = first - blocks[0] * BLOCK
        return Items.joined([self._block(split, seed, block) for block in blocks]).rows(slice(begin, begin + count))

    def _drawn(self, split: str, seed: int, block: int) -> Items:
        """BLOCK items of the split. Others are drawn too, and thrown away."""
        rng = dice(split, seed, block)
        kept, there = list[Items](), 0
        for _ in range(DRAWS):
            items = self.skill.draw(rng, BLOCK if split == "train" else 4 * BLOCK, self.seq_len)
            own = np.flatnonzero(is_of(split, self._hashes(items)))
            kept.append(items.rows(own))
            there += len(own)
            if there >= BLOCK:
                return Items.joined(kept).rows(slice(0, BLOCK))
        raise ConfigError(
            f"data.settings={self.config.settings}: data.skill={self.config.skill} has too few items so for a "
            f"{split} split of its own; widen what is drawn from"
        )

    def _hashes(self, items: Items) -> NDArray[np.uint64]:
        """By which their side is decided."""
        return hashes(self.skill.same(items) if isinstance(self.skill, InAnyOrder) else items.tokens_NT1)


def _hash(items: Items) -> str:
    digest = hashlib.sha256(json.dumps([list(column.shape) for column in items]).encode())
    for column in items:
        digest.update(np.ascontiguousarray(column.astype("<i8")).tobytes())
    return digest.hexdigest()
