"""One trial: a pure function of its resolved keys, its seed and the data. It leaves one directory with one record.

A trial that was killed goes on from its last resumable checkpoint with exactly the bits that it would have had: batch t
depends on (seed, t) alone, and the checkpoint holds weights, optimizer, schedule and the place in the data.
"""

import dataclasses
import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import Strategy

from ablations.files import write_atomically
from ablations.identity import environment
from ablations.measures import batch_metrics, precision_metrics, test_metrics
from ablations.records import Record, read_record
from ablations.tracking import Mirror, StepLog, open_mirror
from ablations.trialkeys import TrialKeys, typed_trial
from models.balance import max_vio
from models.checkpoint import save_checkpoint
from models.evaluation import evaluate, mean_max_vio
from models.layers import inferring
from models.module import Diverged, LanguageModel
from models.transformer import Transformer
from tasks.batches import PackedData, prepare
from tasks.config import END_OF_TEXT_ID, DataConfig
from tasks.datamodule import TextDataModule

Report = Callable[[dict[str, Any]], None]
REPORT_SECONDS = 0.5
HISTORY_POINTS = 200
RESUME = "resume.ckpt"

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
    record_path = folder / "record.json"
    if not record_path.is_file():
        mirror = open_mirror(arguments, typed_trial(arguments["keys"]).steps, report)
        try:
            record = _train(arguments, folder, mirror, report)
        except BaseException:
            mirror.finish(None)
            raise
        record.write(record_path)
        (folder / RESUME).unlink(missing_ok=True)
        mirror.finish(record)
    record = read_record(record_path)
    return {"status": record.status, "loss": record.metrics.get("loss"), "reason": record.reason}


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
    folder.mkdir(parents=True, exist_ok=True)
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
    """Evaluate; score and keep the checkpoint where tasks are named (a search trial leaves neither)."""
    started = time.monotonic()
    metrics, load = test_metrics(keys, data, model)
    if not math.isfinite(metrics["loss"]):  # the last step's harm shows only here
        reason = f"loss on the {keys.eval.split} split is not finite after the last step"
        return dataclasses.replace(base, status="diverged", reason=reason, history=recorder.history())
    metrics |= batch_metrics(keys, recorder.steps.rows)
    metrics |= precision_metrics(keys, data, model)
    scores = {}
    if keys.eval.tasks:
        from tasks.evals.score import score

        with inferring(model):
            scores = score(
                lambda tokens: model(tokens).logits,
                data,
                keys.eval,
                Path(arguments["cache_dir"]),
                keys.train.device,
            )
        write_atomically(folder / "checkpoint" / "tokenizer.json", data.tokenizer.to_str())
        save_checkpoint(folder / "checkpoint", model, {"data": arguments["keys"]["data"], "trial": arguments["id"]})
    trained_here = keys.tokens_after(keys.steps) - keys.tokens_after(recorder.resumed_at)
    timings = {
        "train_s": train_s,
        "eval_s": time.monotonic() - started,
        "tokens_per_second": trained_here / train_s,
    }
    return dataclasses.replace(
        base,
        metrics=metrics,
        load=load,
        history=recorder.history(),
        validation=recorder.validation,
        scores=scores,
        timings=timings,
    )


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
            temporary = self.folder / f".{RESUME}"
            trainer.save_checkpoint(temporary)
            os.replace(temporary, self.folder / RESUME)

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
