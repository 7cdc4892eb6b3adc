"""Everything that scoring needs, had and tried before a model is trained.

Tasks are found and loaded with their data, the items of our own are made, and whatever else a task does between its
data and its metrics is done once, with a stand-in for the model. Our own tasks touch neither the network nor the caches
of Hugging Face, and do not pay for lm-eval's index of all standard tasks (3 s).
"""

import contextlib
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.evals.fingerprint import task_fingerprint
from tasks.evals.harness import evaluate, hugging_face_caches, quiet, seeded
from tasks.evals.known import (
    ANSWERED,
    ASKED,
    GIVEN,
    ON_STANDARD,
    OUR_TASKS,
    check_tasks,
    first_line,
    is_standard,
    manager_of,
    refuse_twins,
)
from tasks.evals.local import local_datasets
from tasks.evals.problems import QUESTIONS, SAMPLES
from tasks.evals.programs import PROGRAMS, refusal

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tasks.text.splits import Document

HERE = Path(__file__).parent
Report = Callable[[str], None]


class HeldOut(Protocol):
    """What is needed of the data: `tasks.text.batches.PackedData` has it."""

    @property
    def tokenizer(self) -> "Tokenizer": ...
    @property
    def seq_len(self) -> int: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    def documents(self, split: Literal["validation", "test"]) -> "Sequence[Document]": ...
    def questions(self, split: Literal["validation", "test"]) -> Sequence[dict[str, Any]]: ...


def prepare_tasks(data: HeldOut, config: EvalConfig, cache_dir: Path, report: Report | None = None) -> None:
    """Load the tasks of `config` and go through all their items once, without a model.

    What is downloaded or made stays under `cache_dir`, where scoring finds it. `report` hears what is being done.
    Raises ConfigError for a task that does not exist, cannot be loaded, has no item, asks for what our model does not
    answer (`tasks.evals.lm`), or fails on the way from its data to its metrics.
    """
    if not config.tasks:
        return
    (report or (lambda _: None))(f"trying the tasks {', '.join(config.tasks)}")
    check_tasks(config.tasks, config.data_dir, config.run_model_code)
    load_tasks(data, config, cache_dir)
    for name in config.tasks:
        if name not in OUR_TASKS:  # once they have an item, nothing else of ours can fail
            items = 1 if name in PROGRAMS else config.items  # each is a process
            _rehearse(name, load_tasks(data, replace(config, tasks=[name]), cache_dir), items)


def load_tasks(data: HeldOut, config: EvalConfig, cache_dir: Path) -> dict[str, Any]:
    """lm-eval's task objects, as its `evaluate` takes them. Raises ConfigError where one or its items cannot be had."""
    if config.items is not None and config.items < 1:
        raise ConfigError(f"eval.items={config.items}: must be at least 1, or null for all")
    names = tuple(dict.fromkeys(config.tasks))
    item_files = _item_files(names, data, config, cache_dir)
    contents = task_fingerprint(names, config.data_dir)
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    origin: dict[str, str] = {}
    for name in names:
        part = _load(name, item_files, cache_dir, contents.get(name), config.data_dir if is_standard(name) else None)
        for member in (*part["tasks"], *part["groups"]):
            refuse_twins(origin, member, name)
        for kind, members in loaded.items():
            members.update(part[kind])
    for name in ANSWERED:
        if name in loaded["tasks"]:
            _allow(loaded["tasks"][name], config.samples if name == SAMPLES else 1)
    return loaded


def _allow(task: Any, answers: int) -> None:
    """So many answers to each question, and the tokens that the longest one takes."""
    task.set_config("repeats", answers)
    task.set_config("generation_kwargs", {"max_gen_toks": task.eval_docs[0]["room"]}, update=True)


def _rehearse(name: str, tasks: dict[str, Any], items: int | None) -> None:
    """From the task's data to its metrics, with a stand-in for the model's answers."""
    from tasks.evals.lm import StandIn

    try:
        rows = evaluate(StandIn(), tasks, items, bootstrap_draws=0)["results"]
    except ConfigError as error:
        raise ConfigError(f"eval.tasks={name}: {error}") from error
    except Exception as error:  # whatever a task's own code raises
        raise ConfigError(
            f"eval.tasks={name}: cannot be scored ({_told(error)}); mend the task, or leave it out"
        ) from error
    for task, made in tasks["tasks"].items():
        scored = {key.split(",")[0] for key in rows.get(task, {}) if "," in key}
        asked = [entry["metric"] for entry in made.config.metric_list or () if isinstance(entry.get("metric"), str)]
        if lost := [metric for metric in asked if metric not in scored]:  # lm-eval warns, and goes on without it
            raise ConfigError(
                f"eval.tasks={name}: the task {task} names the metric {lost[0]}, of which no score comes (it gives "
                f"{', '.join(sorted(m for m in scored if not m.endswith('_stderr'))) or 'none'}); mend the task"
            )


def _item_files(
    names: Sequence[str], data: HeldOut, config: EvalConfig, cache_dir: Path
) -> tuple[tuple[str, str], ...]:
    """(task, path of its items) for those of our tasks that are named."""
    ours = [name for name in names if name in OUR_TASKS]
    if not ours:
        return ()
    fingerprint = json.dumps(data.fingerprint, sort_keys=True, default=str)
    key = (fingerprint, config.split, str(cache_dir))
    files = _WRITTEN.setdefault(key, {})
    missing = [name for name in ours if name not in files or not files[name].exists()]
    if missing:
        from tasks.evals.items import write_given, write_items

        for name in [name for name in missing if name in GIVEN]:
            given = [row for row in data.questions(config.split) if name == ASKED or "problem" in row]
            given = given[:QUESTIONS] if name == SAMPLES else given
            files[name] = write_given(name, given, cache_dir / "evals")
        made = [name for name in missing if name not in GIVEN]
        documents = data.documents(config.split) if made else []
        files.update({name: write_items(name, documents, cache_dir / "evals") for name in made})
    for name in ours:
        if not files[name].stat().st_size:
            files.pop(name).unlink(missing_ok=True)
            raise ConfigError(_no_item(name, data, config.split))
    return tuple((name, str(files[name].resolve())) for name in ours)


_WRITTEN: dict[tuple[str, str, str], dict[str, Path]] = {}
"""Item files by (data fingerprint, split, cache folder): reading and hashing a split once per process is enough."""


def _no_item(name: str, data: HeldOut, split: Literal["validation", "test"]) -> str:
    from tasks.evals.items import WANTED

    documents = data.documents(split)
    sizes = sorted(len(line.encode()) for document in documents for line in document.text.split("\n") if line.strip())
    found = f"{len(sizes):,} lines of {sizes[0]:,} to {sizes[-1]:,} bytes" if sizes else "no line"
    return (
        f"eval.tasks={name}: no item can be made of the {split} split ({found}): one takes {WANTED[name]}; "
        "choose other eval.tasks ([] for none) or other text (data.path, data.max_bytes)"
    )


@functools.lru_cache(maxsize=64)
def _load(
    name: str, item_files: tuple[tuple[str, str], ...], cache_dir: Path, content: str | None, data_dir: str | None
) -> dict[str, Any]:
    """The task or group of one entry of eval.tasks, with its data, which are in `data_dir` if one is given. `content`:
    of the file that it is, or of those data."""
    from lm_eval.tasks import TaskManager

    ours = TaskManager(include_path=HERE, include_defaults=False, metadata={"item_files": dict(item_files)})
    copies = contextlib.nullcontext() if data_dir is None else local_datasets(name, data_dir)
    with quiet(), seeded(), hugging_face_caches(cache_dir / "huggingface"), copies:
        manager = manager_of(name) if is_standard(name) and name not in ON_STANDARD else ours
        try:
            part: Any = manager.load([name])
        except ConfigError:
            raise
        except Exception as error:  # whatever a data set's loader, the network or a task's own code raises
            fix = "see to the network and the files that it names" if isinstance(error, OSError) else "mend the task"
            raise ConfigError(
                f"eval.tasks={name}: cannot be loaded with its data ({_told(error)}); {fix}, or leave the task out"
            ) from error
    unsafe = [task for task, object in part["tasks"].items() if getattr(object, "UNSAFE_CODE", False)]
    if unsafe:
        raise ConfigError(refusal(unsafe[0]))
    return {kind: part.get(kind) or {} for kind in ("tasks", "groups", "group_map")}


def _told(error: Exception) -> str:
    """The kind and the first line of the error, and of the one that it was raised from, shortened."""
    chain = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    return "; ".join(f"{type(link).__name__}: {first_line(link)[:150]}" for link in chain)
