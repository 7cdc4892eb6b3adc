"""What the harness costs: beside a bare loop of PyTorch, beside a trial's training and scoring, and beside no work.

    python -m benchmarks.harness [rounds=9] [steps=40] [trials=1000] [scale=cpu] [KEY=VALUE ...]

Prints one JSON object. `harness_over_bare`: training through the harness (Trainer, step log, watcher) over a loop of
PyTorch on the same model, data and steps, in turns within this process; each round gives the ratio of their median
steps, and their median counts. `fixed_s`: what a trial takes but for the time between its first and last step and its
scoring (building, opening, checkpoints, the record), in a process that has run one; the smallest of all rounds.
`trials_per_second`: trials of no work, with their ids, requests, records and progress, over this machine's workers.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from ablations.config.compose import compose
from ablations.config.trialkeys import TrialKeys
from ablations.home import ROOT
from ablations.launch.environment import thread_environment
from ablations.launch.pool import Pool
from ablations.launch.progress import Progress
from ablations.sweep.plan import Plan
from ablations.sweep.planning import make_plan
from ablations.sweep.trials import Trials
from ablations.trial.fitting import build_model, open_data
from ablations.trial.job import TrialJob
from ablations.trial.recorder import Unwatched
from ablations.trial.train import run_trial
from models.base.command import parse, parted
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast
from models.training.batch import Batch
from models.training.executor import aux_loss
from models.training.optim import adamw, lr_ratio

CACHE = str(ROOT / "runs/data")
SETTLE = 5
"""Steps of each side that are not counted: the first ones fill caches and allocators."""
PLAIN = ["eval.items=1", "eval.tokens=4096", "train.microbatches=1"]
"""Next to nothing is scored: what that takes is not asked."""


@dataclass(frozen=True)
class Asked:
    """Words of its own; all others are those of `ablations.run`."""

    rounds: Annotated[int, AtLeast(1)] = 9
    steps: Annotated[int, AtLeast(SETTLE + 2)] = 40
    """At least one interval between two that count."""
    trials: Annotated[int, AtLeast(1)] = 1000


class Clock(Unwatched):
    """Looks on, and notes when."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.end = 0.0

    def replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None:
        self.at.append(time.perf_counter())

    def step(self, row: Mapping[str, Any]) -> None:
        self.at.append(time.perf_counter())

    def validation(self, step: int, tokens: float, loss: float, max_vio: float) -> None:
        self.end = time.perf_counter()  # the last step's is scoring as well


def bare(keys: TrialKeys, seed: int) -> Iterator[float]:
    """The same training as a person would write it down in PyTorch; yields each step's loss."""
    model, data = build_model(keys, seed).transformer, open_data(keys, CACHE)
    optimizer = adamw(model, keys.optim, keys.model.precision.moments)
    routers = model.routers()
    for step in range(keys.steps):
        tokens, mask = Batch.of(data.train_batch(seed, step))
        assert mask is None and keys.microbatches == 1
        for group in optimizer.param_groups:
            group["lr"] = keys.optim.lr * lr_ratio(step, keys.steps, keys.optim)
        optimizer.zero_grad(set_to_none=True)
        output = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(output.logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        balance = aux_loss(routers, output.routings)
        (loss if balance is None else loss + balance).backward()
        nn.utils.clip_grad_norm_(model.parameters(), keys.optim.clip_norm)
        optimizer.step()
        for router, routing in zip(routers, output.routings, strict=True):
            router.update(routing.load_E, routing.load_E, step / keys.steps)
        yield loss.item()


def intervals(times: Sequence[float]) -> list[float]:
    return [after - before for before, after in zip(times[SETTLE:], times[SETTLE + 1 :], strict=False)]


def bare_steps(keys: TrialKeys, seed: int) -> list[float]:
    return intervals([time.perf_counter(), *(time.perf_counter() for _ in bare(keys, seed))])


def harness_steps(keys: TrialKeys, seed: int) -> tuple[list[float], float]:
    """Seconds of each step of a whole trial, and what the trial took beside its steps and its scoring."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        record = run_trial(TrialJob("harness", keys, seed, folder, CACHE), lambda event: None, lambda: clock)
        whole = time.perf_counter() - started
    return intervals(clock.at), whole - (clock.end - clock.at[0]) - record.timings["eval_s"]


def scheduled(plan: Plan, count: int, folder: Path) -> float:
    """Trials a second, of trials that do nothing."""
    variables = thread_environment(1) | {"PYTHONPATH": str(ROOT)}
    with (
        Progress("none", "harness") as progress,
        Pool(plan.workers, folder / "logs", variables, kinds_module="benchmarks.idle_kinds") as pool,
    ):
        trials = Trials(plan, folder, "harness", lambda stage: {}, pool, progress)
        trials.run("start", [trials.of(plan.baseline, "confirm", -1 - n, {}) for n in range(plan.workers)])
        seeds = -(-count // len(plan.arms))
        started = time.perf_counter()
        wanted = [trials.of(arm, "confirm", seed, {}) for seed in range(seeds) for arm in plan.arms.values()][:count]
        records = trials.run("harness", wanted)
        taken = time.perf_counter() - started
    assert len(records) == count and all(record.status == "complete" for record in records.values())
    return count / taken


def measured(keys: TrialKeys, rounds: int) -> dict[str, float]:
    harness_steps(keys, 0)  # imports, caches
    ratios, fixed, steps = [], [], []
    for done in range(rounds):
        ours = theirs = 0.0
        for side in ("harness", "bare") if done % 2 else ("bare", "harness"):
            if side == "bare":
                theirs = statistics.median(bare_steps(keys, done))
            else:
                taken, beside = harness_steps(keys, done)
                ours = statistics.median(taken)
                fixed.append(beside)
        ratios.append(theirs / ours)
        steps.append(ours)
        print(f"round {done + 1} of {rounds}: {ratios[-1]:.3f}", file=sys.stderr)
    return {
        "harness_over_bare": round(statistics.median(ratios), 4),
        "least": round(min(ratios), 4),
        "most": round(max(ratios), 4),
        "step_ms": round(1000 * min(steps), 2),
        "fixed_s": round(min(fixed), 3),
    }


def found(words: Sequence[str]) -> dict[str, Any]:
    """What the command prints. Raises ConfigError, before anything is timed, for words that cannot be obeyed."""
    own, keys = parted(Asked, words)
    asked = parse(Asked, own)
    scale = [] if any(word.startswith("scale=") for word in keys) else ["scale=cpu"]
    plan = make_plan(compose(["sweep=gating", *scale, *keys]))
    tokens = asked.steps * plan.baseline.keys.tokens_per_step
    plan = make_plan(compose(["sweep=gating", *scale, *keys, f"train.tokens={tokens}", *PLAIN]))
    torch.set_num_threads(1)
    made: dict[str, Any] = {"benchmark": "harness", "scale": plan.config.scale, "steps": asked.steps}
    made |= measured(plan.baseline.keys, asked.rounds)
    with tempfile.TemporaryDirectory() as folder:
        made["trials_per_second"] = round(scheduled(plan, asked.trials, Path(folder)), 1)
    return made | {"trials": asked.trials, "workers": plan.workers, "cores": len(os.sched_getaffinity(0))}


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(__doc__)
        return 0

    def work() -> int:
        print(json.dumps(found(words)))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
