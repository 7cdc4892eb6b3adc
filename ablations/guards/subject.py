"""An arm as its guards see it: its keys, real batches, and models built from them."""

import functools
from dataclasses import dataclass, replace

from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.trial.fitting import build_model
from models.config import ModelConfig
from models.module import LanguageModel
from models.pipeline.chosen import executor_of
from models.precision.config import PrecisionConfig
from models.training.batch import Batch
from models.training.executor import Executor
from models.transformer import Transformer, initialise
from tasks.prepared import Data

SHORT, LONG = 32, 256
"""Tokens of a row, at most, where FP64 takes many passes, and where it takes a few."""


def exact_config(own: ModelConfig, precision: PrecisionConfig | None = None) -> ModelConfig:
    """In FP64. One expert after the other: the grouped product has no FP64."""
    loop = replace(own.moe, backend="loop")
    return replace(own, dtype="float64", moe=loop, precision=precision or PrecisionConfig())


@dataclass(frozen=True)
class Subject:
    keys: TrialKeys
    seed: int
    data: Data

    @functools.cached_property
    def batch(self) -> Tensor:
        """The tokens of the first of the training, (B, T + 1)."""
        return self._tokens(*self.keys.batches[0])

    @functools.cached_property
    def few(self) -> Tensor:
        """A row or two for each microbatch, in whole sequences where they are not too long for FP64."""
        rows = min(2, max(1, self.keys.data.batch_size // self.keys.microbatches)) * self.keys.microbatches
        first = self._tokens(0, max(2, rows))
        return first[:, : max(LONG, self.keys.model.mtp.depth + 2) + 1]

    def _tokens(self, first: int, count: int) -> Tensor:
        return Batch.of(self.data.train_sequences(self.seed, first, count)).tokens_BT1

    @functools.cached_property
    def short(self) -> Tensor:
        """The same rows' first tokens."""
        return self.few[:, : max(SHORT, self.keys.model.mtp.depth + 2) + 1]

    def module(self) -> LanguageModel:
        """As it is trained, on its device."""
        return build_model(self.keys, self.seed).to(self.keys.train.device)

    def exact(self, precision: PrecisionConfig | None = None) -> Transformer:
        """In FP64, where sums have no order to speak of; without low precision, if none is given."""
        config = self.exact_config(precision)
        model = Transformer(config)
        initialise(model, self.seed, config.std)
        return model

    def exact_config(self, precision: PrecisionConfig | None = None) -> ModelConfig:
        return exact_config(self.keys.model, precision)

    def executor(self, model: Transformer) -> Executor:
        return executor_of(model, self.keys.microbatches, document_end=self.keys.document_end)
