"""Problems as what a model learns from, and as what it is rewarded for. Sequence i of a seed is a pure function of
(seed, i), as with text, and so is question i.

On which side a question stands is decided by its hash, whatever is answered, however it is written (`data.template`),
and with whichever other settings: what one stage of a training has learned no later one is tested on.

A sequence is filled with whole instances, one behind the other, each with its end, at which `data.mask_documents` keeps
them apart (sample masking, V3 5.1). What is left of it is no target.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks.config import DataConfig
from tasks.drawn import DRAWS, END, HELD_OUT, Asked, Items, dice, hashes, is_of
from tasks.problems.chosen import check_problem, problem_of, settings_of
from tasks.problems.filling import Filled, fill
from tasks.problems.problem import SPECIAL, Answers, Problem, Questions, Style, judgement
from tasks.problems.template import Instances, instances_of, prompted
from tasks.text.splits import Document
from tasks.words import text_of, word_bytes, word_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 256
"""Questions that are drawn at once."""
PACKED = 64
"""Sequences that are filled at once."""
SAMPLE = 4096
"""Questions of a split that are looked through for those of another, and that chance is measured on."""
GIVEN = 1024
"""Questions of a split that lm-eval's tasks are made of, at most."""


class Prompts(NamedTuple):
    """What a model is asked with."""

    tokens_NP: NDArray[np.int64]
    """END behind each."""
    questions: Questions

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = (self.tokens_NP != END).sum(axis=1)
        return found

    def rows(self, chosen: "NDArray[np.int64] | slice") -> "Prompts":
        """Some of them, in this order; a number may come several times, as in a group of answers to one question."""
        return Prompts(self.tokens_NP[chosen], self.questions.rows(chosen))


class Rewards(NamedTuple):
    """Of a batch of answers, 1.0 or 0.0 each."""

    right_N: NDArray[np.float64]
    formatted_N: NDArray[np.float64]
    """Finished, and with a result that could be one."""


class ProblemData:
    """Has what `tasks.text.batches.PackedData` has, of a problem, and prompts and rewards besides."""

    def __init__(self, config: DataConfig, vocab_size: int) -> None:
        """Raises ConfigError where the problem cannot be made so, or has no question for one of the splits."""
        check_problem(config, vocab_size)
        self.problem: Problem = problem_of(config)
        self.config, self.vocab_size = config, vocab_size
        self.seq_len, self.batch_size = config.seq_len, config.batch_size
        self.epoch = 2**62
        self._questions = functools.lru_cache(maxsize=32)(self._drawn)
        self._block = functools.lru_cache(maxsize=8)(self._filled)
        self.tokenizer: Tokenizer = word_tokenizer(self.problem.words, vocab_size, SPECIAL)
        self.token_bytes = word_bytes(self.problem.words, vocab_size)
        self.held_out_style: Style = "short" if self.problem.short == 1 else "steps"

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What the numbers depend on: problem, settings, and hashes of each split's beginning, which numpy draws."""
        hashes = {split: _hash(self._block(split, 0, 0)) for split in ("train", *HELD_OUT)}
        return {
            "source": "problem",
            "problem": self.config.problem,
            "settings": settings_of(self.problem),
            "template": self.config.template,
            "seq_len": self.seq_len,
            "vocab_size": self.vocab_size,
            "tokenizer_sha256": hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest(),
            "text_sha256": {**hashes, "by_file": ""},
            "tokens_sha256": {**hashes, "by_file": ""},
        }

    @functools.cached_property
    def skill(self) -> Asked:
        """Between what the share of right tokens lies, of those that a solution decides."""
        return Decided(self.problem.words, self._chance())

    def windows(self, split: str) -> int:
        """As many as anyone asks for; there is no second test set."""
        return 0 if split == "by_file" else self.epoch

    def train_batch(self, seed: int, step: int) -> Batch:
        """Batch `step` (from 0) of a training without a ramp."""
        return self.train_sequences(seed, step * self.batch_size, self.batch_size)

    def train_sequences(self, seed: int, first: int, count: int) -> Batch:
        """Training sequences `first` .. `first + count - 1` of a seed."""
        return self._batch("train", seed, first, count)

    def train_levels(self, seed: int, first: int, count: int) -> NDArray[np.float64]:
        """Of the same sequences, how hard their questions are on average."""
        return np.concatenate([part.levels_N for part in self._parts("train", seed, first, count)])

    def evaluation_batches(self, split: str, tokens: int, rows: int = 32) -> Iterator[Batch]:
        """Fixed sequences with about `tokens` targets in all, counted or not, at most `rows` at once."""
        count = max(1, tokens // self.seq_len)
        for start in range(0, count, rows):
            yield self._batch(split, 0, start, min(rows, count - start))

    def evaluation_items(self, split: str, tokens: int, rows: int = 32) -> Iterator[Items]:
        """One right solution to a row, in as many rows as `evaluation_batches` has; answers are what it decides. So an
        item is right whose solution the model would write by itself."""
        count = max(1, tokens // self.seq_len)
        for start in range(0, count, rows):
            found = self._instances(split, start, min(rows, count - start))
            yield Items(found.tokens_NW, found.decided_NW[:, 1:], found.levels_N)

    def documents(self, split: str) -> list[Document]:
        """Questions with their answers as text, a blank before each word."""
        texts = (self.text(row) for row in self._instances(split, 0, BLOCK).tokens_NW)
        return [Document(f"{self.config.problem}/{split}/{i}", text) for i, text in enumerate(texts)]

    def questions(self, split: str) -> list[dict[str, Any]]:
        """Prompts, with the right answer that held-out sequences have, and what judges any other."""
        questions = self._asked(split, 0, 0, GIVEN)
        rule: dict[str, Any] = {
            "problem": self.config.problem,
            "settings": json.dumps(self.config.settings or {}, sort_keys=True),
            "room": self.longest_answer,
            "chance": self.problem.chance,
        }
        prompts, answers = prompted(questions, self.config.template), self._held_out(split, 0, GIVEN).tokens_NA
        return [
            {
                "context": self.text(prompt),
                "question": self.text(asked),
                "answer": self.text(answer),
                "level": int(level),
                "document": f"{self.config.problem}/{split}/{i}",
                **rule,
            }
            for i, (prompt, asked, answer, level) in enumerate(
                zip(prompts, questions.tokens_NQ, answers, questions.levels_N, strict=True)
            )
        ]

    def text(self, tokens: NDArray[np.int64]) -> str:
        """Without what is left behind it."""
        return text_of(tokens, self.problem.words)

    def shared(self, split: str) -> float:
        """Share of a split's first questions that are among the first of the training."""
        learned = set(self._hashes(self._asked("train", 0, 0, SAMPLE)).tolist())
        held = self._hashes(self._asked(split, 0, 0, SAMPLE)).tolist()
        return sum(question in learned for question in held) / len(held)

    def prompts(self, split: str, seed: int, first: int, count: int) -> Prompts:
        """Questions `first` .. `first + count - 1` of a seed, to be answered."""
        questions = self._asked(split, seed, first, count)
        return Prompts(prompted(questions, self.config.template), questions)

    @property
    def longest_answer(self) -> int:
        """Tokens of an answer at most, its end included: what need be generated."""
        return self.problem.longest[1] + 1

    def judge(self, questions: Questions, answers: Sequence[ArrayLike]) -> Rewards:
        """Rewards of one answer to each question: vectors of any lengths, or the rows of an array. What stands behind
        an answer's end is not read, and without an end it is neither right nor formatted."""
        right, formatted = (np.zeros(len(answers)) for _ in range(2))
        lengths = questions.lengths_N
        for i, (row, answer) in enumerate(zip(questions.tokens_NQ, answers, strict=True)):
            right[i], formatted[i] = judgement(self.problem, row[: lengths[i]].tolist(), np.asarray(answer).tolist())
        return Rewards(right, formatted)

    def _batch(self, split: str, seed: int, first: int, count: int) -> Batch:
        import torch

        parts = list(self._parts(split, seed, first, count))
        tokens, counted = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return Batch(torch.from_numpy(tokens), torch.from_numpy(counted))

    def _parts(self, split: str, seed: int, first: int, count: int) -> Iterator[Filled]:
        for block, rows in in_blocks(first, count, PACKED):
            yield self._block(split, seed, block).rows(rows)

    def _asked(self, split: str, seed: int, first: int, count: int) -> Questions:
        blocks = in_blocks(first, count, BLOCK)
        return Questions.joined([self._questions(split, seed, block).rows(rows) for block, rows in blocks])

    def _held_out(self, split: str, first: int, count: int) -> Answers:
        """To the split's first questions, the same whenever they are asked."""
        parts = []
        for block, rows in in_blocks(first, count, BLOCK):
            rng, questions = dice("solved", split, block), self._questions(split, 0, block)
            found = self.problem.solved(rng, questions, self.held_out_style)
            parts.append(Answers(found.tokens_NA[rows], found.decided_NA[rows]))
        return Answers(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _instances(self, split: str, first: int, count: int) -> Instances:
        answers = self._held_out(split, first, count)
        return instances_of(self._asked(split, 0, first, count), answers, self.config.template)

    def _drawn(self, split: str, seed: int, block: int) -> Questions:
        """BLOCK questions of the split. Others are drawn too, and thrown away."""
        rng, kept, there = dice("questions", split, seed, block), list[Questions](), 0
        for _ in range(DRAWS):
            questions = self._own(rng, split)
            kept.append(questions)
            there += len(questions.levels_N)
            if there >= BLOCK:
                return Questions.joined(kept).rows(slice(0, BLOCK))
        raise self._too_few(split)

    def _too_few(self, split: str) -> ConfigError:
        return ConfigError(
            f"data.settings={self.config.settings}: data.problem={self.config.problem} has too few questions so for a "
            f"{split} split of its own; widen what is drawn from"
        )

    def _own(self, rng: np.random.Generator, split: str) -> Questions:
        """Some questions of the split."""
        questions = self.problem.draw(rng, BLOCK if split == "train" else 4 * BLOCK)
        return questions.rows(np.flatnonzero(is_of(split, self._hashes(questions))))

    def _hashes(self, questions: Questions) -> NDArray[np.uint64]:
        return hashes(self.problem.same(questions))

    def _filled(self, split: str, seed: int, block: int) -> Filled:
        """PACKED sequences. Those of a held-out split have right answers, and they alone count, whatever is learned."""
        rng = dice("sequences", split, seed, block)

        def parts() -> Iterator[Instances]:
            misses = 0
            while misses < DRAWS:
                questions = self._own(rng, split)
                misses = 0 if len(questions.levels_N) else misses + 1
                yield self._answered(rng, questions, split)
            raise self._too_few(split)

        return fill(parts(), PACKED, self.seq_len, self.config.answers_only or split != "train")

    def _answered(self, rng: np.random.Generator, questions: Questions, split: str) -> Instances:
        """The questions, or some of them, with what is learned behind each."""
        return instances_of(questions, self._answers(rng, questions, split), self.config.template)

    def _answers(self, rng: np.random.Generator, questions: Questions, split: str) -> Answers:
        """In the styles that the settings say."""
        if split != "train":
            return self.problem.solved(rng, questions, self.held_out_style)
        lot = rng.random(len(questions.levels_N))
        wrong, short = self.problem.wrong, self.problem.short
        shape = (len(lot), self.problem.longest[1])
        tokens, decided = np.full(shape, END), np.zeros(shape, dtype=bool)
        styles: tuple[tuple[Style, float, float], ...] = (
            ("wrong", 0, wrong), ("short", wrong, wrong + short), ("steps", wrong + short, 1.0),
        )  # fmt: skip
        for style, begin, end in styles:
            rows = np.flatnonzero((lot >= begin) & (lot < end))
            if len(rows):
                tokens[rows], decided[rows] = self.problem.solved(rng, questions.rows(rows), style)
        return Answers(tokens, decided)

    def _chance(self) -> float:
        """Of saying in each place what is decided there most often, at this level: seen in one half of a sample, right
        in the other."""
        found = self._instances("train", 0, SAMPLE)
        places = np.cumsum(found.decided_NW, axis=1) - 1
        rows, columns = np.nonzero(found.decided_NW)
        said = found.tokens_NW[rows, columns]
        kinds = np.stack([found.levels_N[rows], places[rows, columns]], axis=1)
        _, kind = np.unique(kinds, axis=0, return_inverse=True)
        counts = np.zeros((int(kind.max()) + 1, len(self.problem.words)), dtype=np.int64)
        seen = rows < SAMPLE // 2
        np.add.at(counts, (kind[seen], said[seen]), 1)
        return float((counts.argmax(axis=1)[kind[~seen]] == said[~seen]).mean())


class Decided(NamedTuple):
    words: Sequence[str]
    chance: float
    ceiling: float = 1.0


def in_blocks(first: int, count: int, size: int) -> Iterator[tuple[int, slice]]:
    """Blocks, with the rows of each, that hold numbers `first` .. `first + count - 1`."""
    for block in range(first // size, (first + count - 1) // size + 1):
        yield block, slice(max(0, first - block * size), min(size, first + count - block * size))


def _hash(filled: Filled) -> str:
    digest = hashlib.sha256(str([column.shape for column in filled]).encode())
    for column, kind in zip(filled, ("<i8", "<i8", "<f8"), strict=True):
        digest.update(np.ascontiguousarray(column.astype(kind)).tobytes())
    return digest.hexdigest()
