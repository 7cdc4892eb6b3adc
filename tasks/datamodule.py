"""The training batches as Lightning takes them: a stateful stream, so that a resumed trial gets its next one."""

from collections.abc import Iterator, Sequence
from typing import Any

import lightning
import torch

from models.post_training.config import GRPOConfig
from models.training.batch import Batch, Questions, Reward
from tasks.config import Order
from tasks.drawn import END
from tasks.order import Repeated, Sequences, in_order
from tasks.prepared import Data
from tasks.problems.data import ProblemData


class BatchStream:
    """The (first sequence, sequences) of `batches` in turn: one pass that is the whole training.

    It has a length, so Lightning fetches no batch ahead, and `state_dict` names the batch after the last one taken.
    """

    def __init__(self, data: Sequences, seed: int, batches: Sequence[tuple[int, int]]) -> None:
        self.data, self.seed, self.batches = data, seed, batches
        self.step = 0
        """The next batch."""

    def __len__(self) -> int:
        """Batches of the whole training, not of its remainder: Lightning counts the resumed ones itself."""
        return len(self.batches)

    def __iter__(self) -> Iterator[torch.Tensor | Batch]:
        while self.step < len(self.batches):
            self.step += 1
            yield self.data.train_sequences(self.seed, *self.batches[self.step - 1])

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = int(state["step"])


class QuestionStream(BatchStream):
    """Of every batch's answers, the questions: of all steps at once that learn from the same draw."""

    def __init__(
        self, data: ProblemData, seed: int, batches: Sequence[tuple[int, int]], group: int, updates: int
    ) -> None:
        super().__init__(data, seed, batches)
        self.problem, self.group, self.updates = data, group, updates

    def __iter__(self) -> Iterator[Questions]:  # type: ignore[override]
        while self.step < len(self.batches):
            begin = self.step // self.updates * self.updates
            drawn = self.batches[begin : begin + self.updates]
            self.step += 1
            yield self._asked(drawn[0][0] // self.group, sum(count for _, count in drawn) // self.group)

    def _asked(self, first: int, count: int) -> Questions:
        prompts = self.problem.prompts("train", self.seed, first, count)
        rows = [torch.from_numpy(row[:n]) for row, n in zip(prompts.tokens_NP, prompts.lengths_N, strict=True)]

        def judge(number: int, answer: torch.Tensor) -> Reward:
            question = prompts.questions.rows(slice(number, number + 1))
            found = self.problem.judge(question, [[*answer.tolist(), END]])
            return Reward(float(found.right_N[0]), float(found.formatted_N[0]))

        return Questions(rows, judge)


class QuestionModule(lightning.LightningDataModule):
    """The questions that a policy answers."""

    def __init__(self, data: ProblemData, seed: int, batches: Sequence[tuple[int, int]], config: GRPOConfig) -> None:
        super().__init__()
        self.data, self.seed, self.batches, self.config = data, seed, batches, config

    def train_dataloader(self) -> QuestionStream:
        return QuestionStream(self.data, self.seed, self.batches, self.config.group, self.config.updates)


class TextDataModule(lightning.LightningDataModule):
    """Training batches (batch_size, seq_len + 1) of one trial. Validation is the trial's own, on a fixed set."""

    def __init__(
        self, data: Data, seed: int, batches: Sequence[tuple[int, int]], order: Order = "mixed", epochs: int = 1
    ) -> None:
        """No batch is of two of the `epochs`."""
        super().__init__()
        self.data, self.seed, self.batches, self.order, self.epochs = data, seed, batches, order, epochs

    def train_dataloader(self) -> BatchStream:
        last, count = self.batches[-1]
        period = (last + count) // self.epochs
        data = in_order(self.data, self.seed, period, self.order)
        return BatchStream(data if self.epochs == 1 else Repeated(data, period), self.seed, self.batches)
