"""A trial whose pipeline runs on several ranks, one process each. The record and the checkpoint are as of any trial."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Any, cast

from ablations.config.trialkeys import Stage, TrialKeys
from ablations.launch.ranks import Hardware
from ablations.launch.strategy import PipelineStrategy
from ablations.record.steplog import STEPS, StepLog
from ablations.trial.fitting import build_model, open_data, quiet_lightning, trainer_of
from ablations.trial.identity import RANKED_TRIAL, trial_id
from ablations.trial.job import TrialJob
from ablations.trial.recorder import Notes, Recorder, Unwatched
from ablations.trial.train import begun, finish, put_on_record
from models.module import Diverged
from models.pipeline.ranks import Ranked, whole_state
from models.transformer import Transformer
from tasks.datamodule import TextDataModule
from tasks.evals.prepare import prepare_tasks
from tasks.prepared import prepare_data


class RankRecorder(Recorder):
    """Rank 0's log of steps. It holds a part of the model only: nothing is validated on the way, and a training that
    was interrupted starts over."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._validate_steps, self._checkpoint_steps = set(), set()


def prepared(keys: TrialKeys, seed: int, runs: Path, quiet: bool = False) -> TrialJob:
    """The job, with the corpus in the cache: id and folder need its fingerprint."""
    say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    cache = runs / "data"
    data = prepare_data(keys.data, keys.model.vocab_size, cache, say)
    prepare_tasks(data, keys.eval, cache, say)
    identity = trial_id(keys, seed, [data.fingerprint], RANKED_TRIAL)
    folder = runs / "ranks" / identity
    folder.mkdir(parents=True, exist_ok=True)
    return TrialJob(identity, keys, seed, str(folder), str(cache))


def hardware_of(stage: Stage) -> Hardware:
    return Hardware(stage.train.threads, stage.train.device)


def train_rank(rank: int, ranks: int, job: TrialJob) -> None:
    """Rank 0 writes record and checkpoint into the job's folder. One stage alone: ranks take over no earlier state."""
    (stage,), folder = job.keys.stages, Path(job.folder)
    quiet_lightning()
    data = open_data(stage, job.cache)
    module = build_model(stage, job.seed, rank)
    notes = Notes(job.keys, StepLog(folder / STEPS), Unwatched(), _Printer()) if rank == 0 else None
    callbacks: list[Any] = [RankRecorder(notes, 0, data, folder, job.seed)] if notes is not None else []
    started = time.monotonic()
    device = hardware_of(stage).of(rank)
    trainer = trainer_of(stage, folder, callbacks, PipelineStrategy(rank, ranks, device))
    try:
        trainer.fit(module, TextDataModule(data, job.seed, stage.batches, stage.data.order, stage.data.epochs))
    except Diverged as diverged:  # on all ranks alike: they know the same loss
        if notes is not None:
            base = begun(job, RANKED_TRIAL, ranks=ranks)
            found = dataclasses.replace(base, status="diverged", reason=str(diverged), history=notes.history())
            put_on_record(found, folder)
            print(f"diverged: {diverged}", file=sys.stderr, flush=True)
        return
    train_s = time.monotonic() - started
    whole = whole_state(cast(Ranked, module.executor))
    if notes is None or whole is None:
        return
    notes.steps.close()
    model = Transformer(stage.model).to(device)
    model.load_state_dict(whole)
    put_on_record(finish(begun(job, RANKED_TRIAL, ranks=ranks), job, model, notes, train_s), folder)


class _Printer:
    """A line every few seconds, on stderr."""

    def __init__(self, seconds: float = 2.0) -> None:
        self.seconds, self.last = seconds, 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        now = time.monotonic()
        if event.get("event") == "step" and (now - self.last > self.seconds or event["step"] == event["steps"]):
            self.last = now
            print(f"step {event['step']}/{event['steps']}  loss {event['loss']:.3f}", file=sys.stderr, flush=True)
        elif event.get("event") == "evaluating":
            print("evaluating", file=sys.stderr, flush=True)
