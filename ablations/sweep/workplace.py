"""What trials need before they can run: a folder that can be written, the prepared texts, and workers."""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import Stage
from ablations.files import sha
from ablations.launch.pool import Pool, thread_environment
from ablations.launch.progress import Progress
from ablations.sweep.plan import Plan
from ablations.trial.uploads import wandb_places
from models.typed import ConfigError
from tasks.evals.prepare import OUR_TASKS, prepare_tasks
from tasks.prepared import Data, prepare_data, require_contexts

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
"""glibc returns large buffers to the kernel after every use; keeping them saves 7,000 page faults per training step."""
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
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
def started_pool(plan: Plan, runs: Path, logs: Path, progress: Progress) -> Iterator[Pool]:
    variables = {**thread_environment(plan.config.train.threads), **MALLOC, **QUIET}
    variables |= wandb_places(runs)
    # Where the user has not said otherwise: no look-ups at a hub for tasks that need none.
    if set(plan.config.eval.tasks) <= set(OUR_TASKS):
        variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    with Pool(plan.workers, logs, variables, on_workers=progress.workers) as pool:
        yield pool


def _text_key(stage: Stage) -> str:
    return sha([asdict(stage.data), stage.model.vocab_size])
