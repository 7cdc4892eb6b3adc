"""One trial: a pure function of its resolved keys, its seed and the data. It leaves one directory with one record.

A trial that was killed goes on from its last resumable checkpoint with exactly the bits that it would have had: batch t
depends on (seed, t) alone, and the checkpoint holds weights, optimizer, schedule and the place in the data. One whose
training is done keeps weights and metrics before it is scored: where scoring fails, the next run scores and no more.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import Strategy

from ablations.identity import environment
from ablations.measures import batch_metrics, precision_metrics, test_metrics
from ablations.records import RECORD, Record, finished, owned, read_record
from ablations.tracking import Mirror, StepLog, open_mirror, read_steps
from ablations.trialkeys import TrialKeys, typed_trial
from models.balance import max_vio
from models.checkpoint import load_checkpoint, save_checkpoint
from models.evaluation import evaluate, mean_max_vio
from models.files import remove_unfinished, whole_file, write_atomically
from models.layers import inferring
from models.module import Diverged, LanguageModel
from models.transformer import Transformer
from models.typed import ConfigError
from tasks.batches import PackedData, prepare
from tasks.config import END_OF_TEXT_ID, DataConfig
from tasks.datamodule import TextDataModule

Report = Callable[[dict[str, Any]], None]
REPORT_SECONDS = 0.5
HISTORY_POINTS = 200
RESUME = "resume.ckpt"
TRAINED = "trained.json"
"""The record before scoring: with the checkpoint beside it, what a finished training left."""

log = logging.getLogger(__name__)


@functools.lru_cache(maxsize=4)
def open_data(config: DataConfig, vocab_size: int, cache_dir: str) -> PackedData:
    """The packed corpus; kept, since a worker runs many trials on it."""
    return prepare(config, vocab_size, Path(cache_dir))


def run_trial(arguments: Mapping[str, Any], report: Report) -> dict[str, Any]:
    """Train, evaluate and record one trial; returns {"status", "loss", "max_vio_global"}.

    `arguments`: id, keys (resolved), seed, trial_dir, cache_dir, labels (sweep, scale, arm, seed, phase), track.
    """
    folder = Path(arguments["trial_dir"])
    with owned(folder, lambda owner: report({"event": "waiting", "owner": owner})):
        record = finished(folder / RECORD)
        if record is None:
            mirror = open_mirror(arguments, typed_trial(arguments["keys"]).steps, report)
            try:
                record = _score_kept(arguments, folder, mirror, report) or _train(arguments, folder, mirror, report)
                put_on_record(record, folder)
            except BaseException:
                mirror.finish(None)
                raise
            mirror.finish(record)
    return {"status": record.status, "loss": record.metrics.get("loss"), "reason": record.reason}


def put_on_record(record: Record, folder: Path) -> None:
    """Write it; what was kept to go on from is then of no use."""
    record.write(folder / RECORD)
    for name in (RESUME, TRAINED):
        (folder / name).unlink(missing_ok=True)


def build_model(keys: TrialKeys, seed: int, rank: int | None = None) -> LanguageModel:
    """The module of a trial, initialised from its seed; with a `rank`, that rank's part of a pipeline."""
    return LanguageModel(
        keys.model,
        keys.optim,
        keys.full_batches,
        seed,
        microbatches=keys.microbatches,
        perturb=keys.train.perturb,
        spike_nats=keys.train.spike_nats,
        places=keys.places,
        document_end=keys.document_end,
        rank=rank,
    )


def trainer_of(
    keys: TrialKeys, folder: Path, callbacks: list[L.Callback], strategy: Strategy | str = "auto"
) -> L.Trainer:
    """Lightning's, for one training and nothing beside it."""
    return L.Trainer(
        max_steps=keys.steps,
        max_epochs=1,
        accelerator="gpu" if keys.train.device == "cuda" else "cpu",
        devices=1,
        strategy=strategy,
        plugins=[LightningEnvironment()],  # else it looks for a cluster to be a part of
        gradient_clip_val=keys.optim.clip_norm,
        gradient_clip_algorithm="norm",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=str(folder),
    )


def _train(arguments: Mapping[str, Any], folder: Path, mirror: Mirror, report: Report) -> Record:
    keys, seed = typed_trial(arguments["keys"]), int(arguments["seed"])
    quiet_lightning()
    remove_unfinished(folder / RESUME)
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    module = build_model(keys, seed)
    resume, done = _resumable(folder)
    recorder = Recorder(keys, data, folder, StepLog(folder / "steps.jsonl", done), mirror, report)
    base = Record(
        id=arguments["id"],
        seed=seed,
        status="complete",
        config=dict(arguments["keys"]),
        data=data.fingerprint,
        environment=environment(arguments["keys"]),
    )
    trainer = trainer_of(keys, folder, [recorder])
    started = time.monotonic()
    try:
        trainer.fit(module, TextDataModule(data, seed, keys.batches), ckpt_path=resume, weights_only=True)
    except Diverged as diverged:
        return dataclasses.replace(base, status="diverged", reason=str(diverged), history=recorder.history())
    finally:
        recorder.steps.close()
    train_s = time.monotonic() - started
    report({"event": "evaluating"})
    return finish(base, keys, data, module.transformer, recorder, arguments, folder, train_s)


def finish(
    base: Record,
    keys: TrialKeys,
    data: PackedData,
    model: Transformer,
    recorder: "Recorder",
    arguments: Mapping[str, Any],
    folder: Path,
    train_s: float,
) -> Record:
    """Evaluate; where tasks are named keep the checkpoint, and score (a search trial does neither).

    Raises ScoringFailed, where checkpoint and metrics are kept.
    """
    record = _measured(base, keys, data, model, recorder, train_s)
    if record.status == "complete" and keys.eval.tasks:
        write_atomically(folder / "checkpoint" / "tokenizer.json", data.tokenizer.to_str())
        save_checkpoint(folder / "checkpoint", model, {"data": arguments["keys"]["data"], "trial": arguments["id"]})
        record.write(folder / TRAINED)
        record = _scored(record, keys, data, model, Path(arguments["cache_dir"]))
    return record


def _measured(
    base: Record, keys: TrialKeys, data: PackedData, model: Transformer, recorder: "Recorder", train_s: float
) -> Record:
    """The record of a finished training, without scores."""
    started = time.monotonic()
    metrics, load = test_metrics(keys, data, model)
    if not math.isfinite(metrics["loss"]):  # the last step's harm shows only here
        reason = f"loss on the {keys.eval.split} split is not finite after the last step"
        return dataclasses.replace(base, status="diverged", reason=reason, history=recorder.history())
    metrics |= batch_metrics(keys, recorder.steps.rows)
    metrics |= precision_metrics(keys, data, model)
    trained_here = keys.tokens_after(keys.steps) - keys.tokens_after(recorder.resumed_at)
    return dataclasses.replace(
        base,
        metrics=metrics,
        load=load,
        history=recorder.history(),
        validation=recorder.validation,
        timings={
            "train_s": train_s,
            "eval_s": time.monotonic() - started,
            "tokens_per_second": trained_here / train_s,
        },
    )


class ScoringFailed(Exception):
    """The lm-eval tasks could not be scored; the training is kept."""


def _scored(record: Record, keys: TrialKeys, data: PackedData, model: Transformer, cache_dir: Path) -> Record:
    from tasks.evals.score import score

    started = time.monotonic()
    try:
        with inferring(model):
            scores = score(
                lambda tokens: model(tokens, document_end=keys.document_end).logits,
                data,
                keys.eval,
                cache_dir,
                keys.train.device,
            )
    except Exception as error:  # whatever a task's data or lm-eval raises
        raise ScoringFailed(
            f"the training is kept, and the same command scores it again: {type(error).__name__}: {error}"
        ) from error
    eval_s = record.timings["eval_s"] + time.monotonic() - started
    return dataclasses.replace(record, scores=scores, timings={**record.timings, "eval_s": eval_s})


def _score_kept(arguments: Mapping[str, Any], folder: Path, mirror: Mirror, report: Report) -> Record | None:
    """The record of a training that was kept and is only to be scored; None where there is none."""
    if not (folder / TRAINED).is_file():
        return None
    keys = typed_trial(arguments["keys"])
    try:
        record = read_record(folder / TRAINED)
        model, _ = load_checkpoint(folder / "checkpoint", keys.train.device)
    except ConfigError as error:
        log.warning("what was kept of a training cannot be read (%s); the trial trains again", error)
        return None
    report({"event": "evaluating"})
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    mirror.replay(read_steps(folder / "steps.jsonl"), record.validation)
    return _scored(record, keys, data, model, Path(arguments["cache_dir"]))


class Recorder(L.Callback):
    """Logs every step, reports progress, validates on a fixed set, and writes the resumable checkpoint."""

    def __init__(
        self, keys: TrialKeys, data: PackedData, folder: Path, steps: StepLog, mirror: Mirror, report: Report
    ) -> None:
        self.keys, self.data, self.folder = keys, data, folder
        self.steps, self.mirror, self.report = steps, mirror, report
        self.resumed_at = len(steps.rows)
        self.validation: dict[str, list[float]] = {"step": [], "tokens": [], "loss": [], "max_vio_global": []}
        self._validate_steps = fractions_of(keys.steps, keys.train.validate_every)
        self._checkpoint_steps = fractions_of(keys.steps, keys.train.checkpoint_every) - {keys.steps}
        self._reported = self._started = time.monotonic()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.mirror.replay(self.steps.rows, self.validation)  # of a trial that goes on; else there is nothing yet

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        assert isinstance(module, LanguageModel) and module.result is not None
        step, result = trainer.global_step, module.result
        main = result.load_LE[: self.keys.model.moe_layers]  # MTP modules have no place in MaxVio
        layers = max_vio(main).tolist() if len(main) else []
        row: dict[str, Any] = {
            "step": step,
            "tokens": self.keys.tokens_after(step),
            "loss": float(result.losses["loss"]),
            "aux_loss": float(result.losses["aux_loss"]),
            "max_vio": mean_max_vio(main),
            "max_vio_layers": layers,
            "lr": module.learning_rate(step - 1),
        }
        self.steps.add(row)
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS or step == self.keys.steps:
            self._reported = now
            seen = row["tokens"] - self.keys.tokens_after(self.resumed_at)
            speed = seen / max(1e-9, now - self._started)
            self.report(
                {
                    "event": "step",
                    "step": step,
                    "steps": self.keys.steps,
                    "loss": row["loss"],
                    "max_vio": row["max_vio"],
                    "tokens_per_second": speed,
                }
            )
        self.mirror.step(row)
        if step in self._validate_steps:
            self._validate(module.transformer, step)
        if step in self._checkpoint_steps:
            with whole_file(self.folder / RESUME) as temporary:
                trainer.save_checkpoint(temporary)

    def _validate(self, model: Transformer, step: int) -> None:
        """On the validation split, whatever `eval.split` says, a quarter of `eval.tokens`."""
        tokens = max(self.keys.data.seq_len, self.keys.eval.tokens // 4)
        batches = (b.to(self.keys.train.device) for b in self.data.evaluation_batches("validation", tokens))
        found = evaluate(model, batches, END_OF_TEXT_ID if self.keys.eval.mask_documents else None)
        vio = mean_max_vio(found.load_LE)
        seen = self.keys.tokens_after(step)
        for name, value in (("step", step), ("tokens", seen), ("loss", found.loss), ("max_vio_global", vio)):
            self.validation[name].append(value)
        self.mirror.validation(step, found.loss, vio)

    def state_dict(self) -> dict[str, Any]:
        return {"validation": {name: list(column) for name, column in self.validation.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validation = state_dict["validation"]

    def history(self) -> dict[str, list[float]]:
        """The step log's columns, thinned evenly to HISTORY_POINTS and the last step."""
        rows = self.steps.rows
        stride = max(1, math.ceil(len(rows) / HISTORY_POINTS))
        kept = [row for i, row in enumerate(rows) if i % stride == 0 or i == len(rows) - 1]
        names = ("step", "tokens", "loss", "aux_loss", "max_vio", "lr")
        kept = [row for row in kept if all(math.isfinite(row[name]) for name in names)]
        return {name: [row[name] for row in kept] for name in names} if kept else {}


def fractions_of(steps: int, every: float) -> set[int]:
    """Steps at each multiple of `every` of the run; the last step always."""
    count = math.floor(1 / every + 1e-9)
    return {min(steps, max(1, round(i * every * steps))) for i in range(1, count + 1)} | {steps}


def _resumable(folder: Path) -> tuple[Path | None, int]:
    """The resumable checkpoint and its step, where there is a readable one with its step log."""
    from ablations.tracking import read_steps

    path = folder / RESUME
    if not path.is_file():
        return None, 0
    try:
        step = int(torch.load(path, weights_only=True, map_location="cpu")["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged file; the trial then starts over
        log.warning("%s is not readable (%s); the trial starts over", path, error)
        return None, 0
    logged = sum(1 for row in read_steps(folder / "steps.jsonl") if row["step"] <= step)
    return (path, step) if logged == step else (None, 0)


def quiet_lightning() -> None:
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
