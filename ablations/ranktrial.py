"""A trial whose pipeline runs on several ranks, one process each. The record and the checkpoint are as of any trial."""

import dataclasses
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from ablations.identity import environment, trial_id
from ablations.launch.ranks import device_of
from ablations.launch.strategy import PipelineStrategy
from ablations.records import Record
from ablations.tracking import Mirror, StepLog
from ablations.trial import Recorder, build_model, finish, open_data, quiet_lightning, trainer_of
from ablations.trialkeys import typed_trial
from models.module import Diverged
from models.pipeline.ranks import Ranked, whole_state
from models.transformer import Transformer
from tasks.batches import prepare
from tasks.datamodule import TextDataModule


class RankRecorder(Recorder):
    """Rank 0's log of steps. It holds a part of the model only: nothing is validated on the way, and a training that
    was interrupted starts over."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._validate_steps, self._checkpoint_steps = set(), set()


def prepared(arguments: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """With the corpus in the cache, and the trial's id and folder, which need its fingerprint."""
    keys, runs = typed_trial(arguments["keys"]), Path(arguments["runs"])
    say = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr, flush=True))
    data = prepare(keys.data, keys.model.vocab_size, Path(arguments["cache_dir"]), say)
    identity = trial_id(arguments["keys"], int(arguments["seed"]), data.fingerprint)
    folder = runs / "ranks" / identity
    folder.mkdir(parents=True, exist_ok=True)
    return {**arguments, "id": identity, "trial_dir": str(folder)}


def train_rank(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    """`arguments` as `ablations.trial.run_trial` takes them. Rank 0 writes record and checkpoint into `trial_dir`."""
    keys, seed, folder = typed_trial(arguments["keys"]), int(arguments["seed"]), Path(arguments["trial_dir"])
    quiet_lightning()
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    module = build_model(keys, seed, rank)
    callbacks: list[Any] = []
    if rank == 0:
        steps = StepLog(folder / "steps.jsonl", 0)
        callbacks = [RankRecorder(keys, data, folder, steps, Mirror(None), _Printer())]
    started = time.monotonic()
    device = device_of(rank, arguments)
    trainer = trainer_of(keys, folder, callbacks, PipelineStrategy(rank, ranks, device))
    base = Record(
        id=arguments["id"],
        seed=seed,
        status="complete",
        config=dict(arguments["keys"]),
        data=data.fingerprint,
        environment={**environment(arguments["keys"]), "ranks": ranks},
    )
    try:
        trainer.fit(module, TextDataModule(data, seed, keys.batches))
    except Diverged as diverged:  # on all ranks alike: they know the same loss
        if rank == 0:
            history = callbacks[0].history()
            found = dataclasses.replace(base, status="diverged", reason=str(diverged), history=history)
            found.write(folder / "record.json")
            print(f"diverged: {diverged}", file=sys.stderr, flush=True)
        return
    train_s = time.monotonic() - started
    whole = whole_state(cast(Ranked, module.executor))
    if whole is None:
        return
    callbacks[0].steps.close()
    model = Transformer(keys.model).to(device)
    model.load_state_dict(whole)
    finish(base, keys, data, model, callbacks[0], arguments, folder, train_s).write(folder / "record.json")


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
