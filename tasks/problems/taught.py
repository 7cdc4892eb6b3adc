"""A problem whose training answers another model writes (sequence-level distillation; V3 5.1). Questions are drawn as
ever, and held-out sequences stay as they are.

Sequence i of a seed is a pure function of (seed, i) and of the model that writes: nothing is kept on disk, and a
training that goes on has its answers written anew.
"""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.drawn import END
from tasks.problems.data import PACKED, ProblemData, in_blocks
from tasks.problems.filling import Filled
from tasks.problems.problem import Answers, Questions
from tasks.problems.template import Instances, instances_of, prompted

UNANSWERED = 16
"""Draws of some 200 questions, none of whose answers can be learned from, after which the teacher is given up."""


class Writer(Protocol):
    """Answers each of some prompts, rows of token ids, with at most `room` tokens: (N, room), END from an answer's end
    on; a row without END is not finished. A function of its arguments."""

    def __call__(self, prompts: list[NDArray[np.int64]], room: int, seed: int) -> NDArray[np.int64]: ...


class TaughtData(ProblemData):
    """What a student learns from. `chosen`: right answers alone, or all that are finished."""

    def __init__(
        self, config: DataConfig, vocab_size: int, writer: Writer, chosen: Literal["right", "finished"]
    ) -> None:
        super().__init__(config, vocab_size)
        self.writer, self.chosen = writer, chosen
        self._written_in: dict[tuple[int, int], int] = {}
        """Tokens that were written for a block of a seed, those of answers that were thrown away too."""

    def written(self, seed: int, first: int, count: int) -> float:
        """Tokens that were written for training sequences `first` .. `first + count - 1`: each has an equal part of
        what its block took."""
        tokens = 0.0
        for block, rows in in_blocks(first, count, PACKED):
            self._block("train", seed, block)
            tokens += self._written_in[seed, block] * (rows.stop - rows.start) / PACKED
        return tokens

    def _filled(self, split: str, seed: int, block: int) -> Filled:
        self._tokens = self._misses = 0
        filled = super()._filled(split, seed, block)
        if split == "train":
            self._written_in[seed, block] = self._tokens
        return filled

    def _answered(self, rng: np.random.Generator, questions: Questions, split: str) -> Instances:
        if split != "train":
            return super()._answered(rng, questions, split)
        prompts, lengths = prompted(questions, self.config.template), questions.lengths_N
        rows = [row[row != END] for row in prompts]
        tokens_NA = self.writer(rows, self.longest_answer, int(rng.integers(2**62)))
        finished_N = (tokens_NA == END).any(axis=1)
        self._tokens += int((tokens_NA != END).sum() + finished_N.sum())
        kept_N = finished_N
        if self.chosen == "right":
            kept_N = self.judge(questions, list(tokens_NA)).right_N > 0
        self._misses = 0 if kept_N.any() else self._misses + 1
        if self._misses == UNANSWERED:
            raise ConfigError(
                f"distil.chosen={self.chosen}: of the teacher's last {UNANSWERED * len(lengths):,} answers or so none "
                "is; train it longer, or ask easier questions"
            )
        kept = np.flatnonzero(kept_N)
        answers = Answers(tokens_NA[kept, :-1], np.zeros((len(kept), tokens_NA.shape[1] - 1), dtype=bool))
        return instances_of(questions.rows(kept), answers, self.config.template)
