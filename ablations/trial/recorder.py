"""What is written down while a trial trains: every step, the progress, validation, and where to go on from."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning as L

from ablations.config.trialkeys import TrialKeys
from ablations.record.record import Record
from ablations.record.steplog import COLUMNS, StepLog
from ablations.record.trialdir import RESUME
from ablations.trial.measures import answers_of
from ablations.trial.stages import unrewarded
from models.balance import max_vio
from models.base.files import whole_file
from models.measure.evaluation import evaluate, mean_max_vio
from models.module import LanguageModel, Taken
from models.post_training.config import OF_ANSWERS
from models.training.batch import Batch
from models.transformer import Transformer
from tasks.config import END_OF_TEXT_ID
from tasks.prepared import Data
from tasks.problems.taught import TaughtData

Report = Callable[[dict[str, Any]], None]
REPORT_SECONDS = 0.5
HISTORY_POINTS = 200

Columns = dict[str, list[float]]


class Watcher(Protocol):
    """Somebody who looks on (Weights & Biases): nothing of a trial depends on it."""

    def replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None: ...
    def step(self, row: Mapping[str, Any]) -> None: ...
    def validation(self, step: int, tokens: float, loss: float, max_vio: float) -> None: ...
    def finish(self, record: Record | None) -> None: ...


class Unwatched:
    """The watcher that looks away."""

    def replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None: ...

    def step(self, row: Mapping[str, Any]) -> None: ...

    def validation(self, step: int, tokens: float, loss: float, max_vio: float) -> None: ...

    def finish(self, record: Record | None) -> None: ...


class Notes:
    """What is written down of a whole trial, whatever stage it is at."""

    def __init__(self, keys: TrialKeys, steps: StepLog, watcher: Watcher, report: Report) -> None:
        self.keys, self.steps, self.watcher, self.report = keys, steps, watcher, report
        self.resumed_at = len(steps.rows)
        self.validation: Columns = {"step": [], "tokens": [], "loss": [], "max_vio_global": []}
        self._reported = self._started = time.monotonic()

    def take(self, row: dict[str, Any]) -> None:
        """A row of the step log."""
        self.steps.add(row)
        if text := unrewarded(self.steps.rows):
            self.report({"event": "note", "text": text})
        total = self.keys.trained_steps
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS or row["step"] == total:
            self._reported = now
            self.report(
                {
                    "event": "step",
                    "step": row["step"],
                    "steps": total,
                    "begun": self.resumed_at,
                    "loss": row["loss"],
                    "max_vio": row["max_vio"],
                    "tokens_per_second": self.tokens_here / max(1e-9, now - self._started),
                }
            )
        self.watcher.step(row)

    @property
    def tokens_here(self) -> int:
        """Trained on by this process."""
        rows = self.steps.rows
        before = rows[self.resumed_at - 1]["tokens"] if self.resumed_at else 0
        return int(rows[-1]["tokens"] - before) if rows else 0

    def validated(self, step: int, tokens: int, loss: float, max_vio: float) -> None:
        for name, value in (("step", step), ("tokens", tokens), ("loss", loss), ("max_vio_global", max_vio)):
            self.validation[name].append(value)
        self.watcher.validation(step, tokens, loss, max_vio)

    def history(self) -> Columns:
        """The step log's columns, thinned evenly to HISTORY_POINTS and the last step."""
        rows = self.steps.rows
        stride = max(1, math.ceil(len(rows) / HISTORY_POINTS))
        kept = [row for i, row in enumerate(rows) if i % stride == 0 or i == len(rows) - 1]
        kept = [row for row in kept if all(math.isfinite(row[name]) for name in COLUMNS)]
        return {name: [row[name] for row in kept] for name in COLUMNS} if kept else {}

    def answering(self) -> Columns:
        """Of the steps that learned from rewards, what they say of the answers, thinned as the history is."""
        rows = [row for row in self.steps.rows if all(name in row for name in OF_ANSWERS)]
        stride = max(1, math.ceil(len(rows) / HISTORY_POINTS))
        kept = [row for i, row in enumerate(rows) if i % stride == 0 or i == len(rows) - 1]
        return {name: [row[name] for row in kept] for name in ("step", *OF_ANSWERS)} if kept else {}


class Recorder(L.Callback):
    """Notes every step of one stage, validates on a fixed set, and writes the resumable checkpoint."""

    def __init__(self, notes: Notes, number: int, data: Data, folder: Path, seed: int, kept: bool = False) -> None:
        """`number`: of the stage, from 0. Steps and tokens are counted on from the stages before it. `seed`: the
        trial's. `kept`: a checkpoint is written at the stage's end too."""
        self.notes, self.number, self.data, self.folder, self.seed = notes, number, data, folder, seed
        self.stage = notes.keys.stages[number]
        self.steps_before, self.tokens_before = notes.keys.done_before(number)
        self._validate_steps = fractions_of(self.stage.steps, self.stage.train.validate_every)
        self._checkpoint_steps = fractions_of(self.stage.steps, self.stage.train.checkpoint_every) - {self.stage.steps}
        if kept or self.stage.until < 1:
            self._checkpoint_steps.add(self.stage.stop)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.notes.resumed_at >= self.steps_before:  # it goes on here; else there is nothing yet, or all is known
            self.notes.watcher.replay(self.notes.steps.rows, self.notes.validation)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, LanguageModel)
        step = trainer.global_step
        if module.due(step) or step in self._validate_steps | self._checkpoint_steps:
            for taken in module.read():
                self.notes.take(self._row(taken, module.learning_rate(taken.step - 1)))
        if step in self._validate_steps:
            self._validate(module.transformer, step)
        if step in self._checkpoint_steps:
            self.save(trainer)

    def save(self, trainer: L.Trainer) -> None:
        with whole_file(self.folder / RESUME) as temporary:
            trainer.save_checkpoint(temporary)

    def _row(self, taken: Taken, lr: float) -> dict[str, Any]:
        """Waits for the device."""
        step, result = taken.step, taken.result
        main = result.load_LE[: self.stage.model.moe_layers].cpu()  # MTP modules have no place in MaxVio
        return {
            "step": self.steps_before + step,
            "tokens": self.tokens_before + self.stage.tokens_after(step),
            "loss": taken.loss,
            "aux_loss": float(result.losses["aux_loss"]),
            "max_vio": mean_max_vio(main),
            "max_vio_layers": max_vio(main).tolist() if len(main) else [],
            "lr": lr,
            "gradient_norm": None if taken.gradient_norm is None else float(taken.gradient_norm),
            **result.measures,
            **self._written(step),
        }

    def _written(self, step: int) -> dict[str, float]:
        """Tokens that a teacher wrote for the step; what comes a second time counts once."""
        if not isinstance(self.data, TaughtData):
            return {}
        first, count = self.stage.batches[step - 1]
        return {"drawn": self.data.written(self.seed, first, count) if first < self.stage.period else 0.0}

    def _validate(self, model: Transformer, step: int) -> None:
        """On the validation split, whatever `eval.split` says, a quarter of `eval.tokens`."""
        scored, device = self.notes.keys.eval, self.stage.train.device
        tokens = max(self.stage.data.seq_len, scored.tokens // 4)
        batches = (Batch.of(batch).to(device) for batch in self.data.evaluation_batches("validation", tokens))
        found = evaluate(model, batches, END_OF_TEXT_ID if scored.mask_documents else None)
        seen = self.tokens_before + self.stage.tokens_after(step)
        self.notes.validated(self.steps_before + step, seen, found.loss, mean_max_vio(found.load_LE))
        answered = answers_of(self.data, model, "validation", tokens, device)
        if answered is not None:
            self.notes.validation.setdefault("answer_accuracy", []).append(answered.right[None])

    def state_dict(self) -> dict[str, Any]:
        columns = {name: list(column) for name, column in self.notes.validation.items()}
        return {"stage": self.number, "seed": self.seed, "validation": columns}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.notes.validation = state_dict["validation"]


def fractions_of(steps: int, every: float) -> set[int]:
    """Steps at each multiple of `every` of the run; the last step always."""
    count = math.floor(1 / every + 1e-9)
    return {min(steps, max(1, round(i * every * steps))) for i in range(1, count + 1)} | {steps}
