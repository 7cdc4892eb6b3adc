"""What trials need before they can run: a folder that can be written, the prepared texts, and workers."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import Stage
from ablations.files import sha
from ablations.launch.environment import thread_environment
from ablations.launch.host import Order
from ablations.launch.job import Launcher
from ablations.launch.pool import Pool
from ablations.launch.progress import Progress
from ablations.sweep.freight import OfTrials
from ablations.sweep.plan import Plan
from ablations.trial.identity import bits, code_hash
from ablations.trial.requests import PlaceRequest, job
from ablations.trial.uploads import wandb_places
from models.base.files import write_atomically
from models.base.typed import ConfigError
from tasks.evals.known import OUR_TASKS
from tasks.evals.prepare import prepare_tasks
from tasks.prepared import Data, prepare_data, require_contexts

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
"""glibc returns large buffers to the kernel after every use; keeping them saves 7,000 page faults per training step."""
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
KINDS_MODULE = "ablations.sweep.jobs"
"""What workers on other machines can do."""
TextOf = Callable[[Stage], dict[str, Any]]
"""The fingerprint of the data that a stage learns from."""


def check_writable(folder: Path) -> None:
    """Raise ConfigError where `folder` cannot be made or written, without making it."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"runs_dir={folder}: {place} is not a folder that can be written; choose another runs_dir")


def prepared_texts(plan: Plan, cache: Path, note: Callable[[str], None]) -> TextOf:
    """Prepare the corpora, and the tasks that trials are scored on: what cannot be had shows before anything is
    trained."""
    texts, tried = dict[str, Data](), set[str]()
    for arm in plan.arms.values():
        for stage in arm.keys.all_stages:
            if _text_key(stage) not in texts:
                texts[_text_key(stage)] = _prepared(stage, cache, note)
        scored = texts[_text_key(arm.keys)]
        wanted = sha([_text_key(arm.keys), asdict(arm.keys.eval)])
        if wanted not in tried:
            require_contexts(scored, arm.keys.eval.lengths)
            prepare_tasks(scored, arm.keys.eval, cache, note)
        tried.add(wanted)
    found = {key: data.fingerprint for key, data in texts.items()}
    return lambda stage: found[_text_key(stage)]


def _prepared(stage: Stage, cache: Path, note: Callable[[str], None]) -> Data:
    data = prepare_data(stage.data, stage.model.vocab_size, cache, note)
    if data.skill is not None:
        name = f"{stage.data.source}: {getattr(stage.data, stage.data.source)}"
        note(f"data {name}, {len(data.skill.words)} words, chance {data.skill.chance:.3f}")
        return data
    tokens = data.fingerprint["tokens"]
    other = data.fingerprint.get("pinned") is False  # null where no bytes are published
    pinned = " (not the pinned versions: other bytes)" if other else ""
    note(
        f"data {stage.data.source}{pinned}: {tokens['train']:,} training, {tokens['validation']:,} validation, "
        f"{tokens['test']:,} test tokens"
    )
    return data


@contextlib.contextmanager
def started_pool(plan: Plan, runs: Path, logs: Path, progress: Progress) -> Iterator[Launcher]:
    """What runs the plan's jobs, wherever `launch` says."""
    variables = {**thread_environment(plan.config.train.threads), **MALLOC, **QUIET}
    # Where the user has not said otherwise: no look-ups at a hub for tasks that need none.
    if set(plan.config.eval.tasks) <= set(OUR_TASKS):
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with _launcher(plan, runs, logs, variables, progress) as launcher:
        yield launcher


@contextlib.contextmanager
def _launcher(plan: Plan, runs: Path, logs: Path, variables: dict[str, str], progress: Progress) -> Iterator[Launcher]:
    launch, cpus, gpus = plan.config.launch, plan.config.train.threads * plan.devices, plan.devices * plan.on_gpu
    match launch.kind:
        case "local":
            variables |= wandb_places(runs)
            with Pool(plan.workers, logs, variables, on_workers=progress.workers) as pool:
                yield pool
        case "ray":
            from ablations.launch.ray_pool import RayPool

            with (
                _order(plan, runs, logs, variables) as order,
                RayPool(
                    order, plan.workers, launch.address, cpus, gpus, freight=OfTrials(runs), on_workers=progress.workers
                ) as on_ray,
            ):
                yield on_ray
        case "slurm":
            from ablations.launch.slurm_pool import SlurmPool

            with (
                _order(plan, runs, logs, variables) as order,
                SlurmPool(order, plan.workers, launch.address, cpus, gpus, launch.slurm) as on_slurm,
            ):
                yield on_slurm
        case _:
            raise ConfigError(f"launch.kind={launch.kind}: no such way")


@contextlib.contextmanager
def _order(plan: Plan, runs: Path, logs: Path, variables: dict[str, str]) -> Iterator[Order]:
    """How workers begin on other machines: only on such as this one."""
    mark = runs / f".launched-{uuid.uuid4().hex}"
    write_atomically(mark, "")
    device = "cuda" if plan.on_gpu else "cpu"
    greeting = job("place", "place", PlaceRequest({**bits(), "code": code_hash()}, device))
    places = {variable: str(Path(place).relative_to(runs)) for variable, place in wandb_places(runs).items()}
    try:
        yield Order(str(logs), variables, KINDS_MODULE, greeting, str(runs), mark.name, places)
    finally:
        mark.unlink(missing_ok=True)


def _text_key(stage: Stage) -> str:
    return sha([asdict(stage.data), stage.model.vocab_size])
