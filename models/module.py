"""The LightningModule: the only file of models/ that knows Lightning."""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from models.base.typed import check_fields
from models.config import ModelConfig
from models.pipeline.chosen import executor_of
from models.pipeline.parts import partial_model
from models.training.batch import Batch
from models.training.config import OptimConfig
from models.training.executor import StepResult, update_routers
from models.training.optim import adamw, lr_ratio
from models.training.parallel import Parallel
from models.transformer import Transformer, initialise, perturbed

SPIKE_STEPS = 3
"""A loss this many steps in a row above the limit is a spike, and what it has kept below for as many is its minimum. A
single batch is neither: of one or two sequences it may be a file that repeats itself, two nats below its kind."""


class Diverged(Exception):
    """Training left the finite or sensible range. A result, not a crash: `step` says when."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step = step


@dataclass(frozen=True)
class Taken:
    """An optimizer step that has been taken."""

    step: int
    """From 1."""
    result: StepResult
    gradient_norm: Tensor | None
    """Before it was clipped; None where nothing is clipped."""

    @property
    def loss(self) -> float:
        """Waits for the device."""
        return float(self.result.losses["loss"])


@dataclass(frozen=True)
class Course:
    """How a training goes on, its model and optimizer apart."""

    length: int
    """In full batches, which are steps where nothing is ramped."""
    microbatches: int = 1
    starts: Sequence[float] | None = None
    """Where each step begins, in full batches: a batch-size ramp makes them fractions (see `lr_ratio`). None: step t
    begins at t."""
    perturb: float = 0.0
    """Relative size of a random change of the initial weights."""
    spike_nats: float = math.inf
    """A loss this far above its minimum, each over SPIKE_STEPS in a row, is a divergence."""
    document_end: int | None = None
    """The token that attention stops at."""
    read_every: int = 1
    """Steps between two times that the host asks the device for losses, and waits for it. No number depends on it."""
    parallel: Parallel = "none"
    """How several processes share the batch."""

    def start(self, step: int) -> float:
        """The learning-rate scheduler asks for one step more than there are."""
        if self.starts is None:
            return step
        return self.starts[step] if step < len(self.starts) else self.length


class LanguageModel(L.LightningModule):
    """Trains a Transformer. Automatic optimisation is kept: forward and backward run in the executor, called from
    `backward`, so the Trainer's clipping and checkpoints work as they are.

    What a step finds stays on the device. Whoever wants to know takes it by `read`; what nobody has taken when it is
    `due` is read all the same, for a divergence that it may tell of."""

    def __init__(
        self, model: ModelConfig, optim: OptimConfig, course: Course, seed: int, rank: int | None = None
    ) -> None:
        """With a `rank`, this process holds that rank's part of a pipeline (models/pipeline/ranks.py)."""
        super().__init__()
        check_fields(optim, "optim")
        self.transformer = Transformer(model) if rank is None else partial_model(model, course.microbatches, rank)
        initialise(self.transformer, seed, model.std, course.perturb)
        self.executor = executor_of(self.transformer, course.microbatches, rank, course.document_end, course.parallel)
        self.optim, self.course, self._seed = optim, course, seed
        self.result: StepResult | None = None
        self._gradient_norm: Tensor | None = None
        self._unread: list[Taken] = []
        self._batch: Batch | None = None
        self._recent: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._lowest = math.log(model.vocab_size)  # what one loses that knows nothing

    def begin(self, weights: dict[str, Tensor]) -> None:
        """From what an earlier training has left; where the course says so, perturbed."""
        self.transformer.load_state_dict(weights)
        if self.course.perturb:
            perturbed(self.transformer, self._seed, self.course.perturb)

    def training_step(self, batch: Tensor | Batch, batch_idx: int) -> Tensor:
        """The executor works in `backward`; Lightning only needs a scalar to hand over."""
        self._batch = Batch.of(batch)
        return torch.zeros((), device=self._batch.tokens_BT1.device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        assert self._batch is not None
        tokens, mask = self._batch
        self.result = self.executor.step(tokens, self.progress(self.global_step), mask)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        step = self.global_step + 1
        progress = self.progress(step - 1)
        super().optimizer_step(*args, **kwargs)
        assert self.result is not None
        update_routers(self.transformer, self.result, progress)
        self._unread.append(Taken(step, self.result, self._gradient_norm))

    def on_train_batch_end(self, *args: Any) -> None:
        """Callbacks come before this."""
        if self.due(self.global_step):
            self._read_rest()

    def due(self, step: int) -> bool:
        """Whether the steps up to this one are read now."""
        return step % self.course.read_every == 0 or step == self.trainer.max_steps

    def read(self) -> Iterator[Taken]:
        """The steps that nobody has read yet, in order. Raises Diverged at the one where training left the range."""
        while self._unread:
            taken = self._unread.pop(0)
            self._check(taken.step, taken.loss)
            yield taken

    def _read_rest(self) -> None:
        for _ in self.read():
            pass

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val is not None:
            groups = optimizer.param_groups  # the norm's bits depend on the order
            self._gradient_norm = self.executor.clip([p for g in groups for p in g["params"]], gradient_clip_val)

    def progress(self, step: int) -> float:
        """The share of the training that is done before `step`."""
        return self.course.start(step) / self.course.length

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.transformer, self.optim, self.transformer.config.precision.moments)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_ratio(self.course.start(step), self.course.length, self.optim)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def learning_rate(self, step: int) -> float:
        """The learning rate that `step` is taken with."""
        return self.optim.lr * lr_ratio(self.course.start(step), self.course.length, self.optim)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._read_rest()
        checkpoint["spike_watch"] = {"recent": list(self._recent), "lowest": self._lowest}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        watch = checkpoint["spike_watch"]
        self._recent.extend(watch["recent"])
        self._lowest = watch["lowest"]

    def _check(self, step: int, loss: float) -> None:
        """Raise Diverged on a loss that is not finite, or a spike after the warmup."""
        if not math.isfinite(loss):
            raise Diverged(step, "loss is not finite")
        self._recent.append(loss)
        if len(self._recent) < SPIKE_STEPS:
            return
        self._lowest = min(self._lowest, max(self._recent))
        past_warmup = self.course.start(step) > self.optim.warmup_fraction * self.course.length
        if past_warmup and min(self._recent) > self._lowest + self.course.spike_nats:
            raise Diverged(
                step,
                f"loss {loss:.2f} is more than {self.course.spike_nats:g} nats above its minimum {self._lowest:.2f} "
                f"(at first ln(V)), each over {SPIKE_STEPS} steps,",
            )
