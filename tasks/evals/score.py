"""Scores of a model on lm-eval tasks: our own two on the held-out documents, or any other by its name.

Called once per trial in a long-lived process, so what does not depend on the model is kept: the item files on disk,
the loaded tasks in memory. Our own tasks touch neither the network nor the caches of Hugging Face, and do not pay for
lm-eval's index of all standard tasks (3 s).
"""

import contextlib
import difflib
import functools
import io
import json
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from models.typed import ConfigError, closest
from tasks.config import EvalConfig
from tasks.tokenizer import END_OF_TEXT

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from tokenizers import Tokenizer
    from torch import Tensor

    from tasks.corpora import Document

HERE = Path(__file__).parent
OUR_TASKS = tuple(sorted(path.stem for path in HERE.glob("*.yaml")))

BOOTSTRAP_DRAWS = 1000
"""For the few standard metrics whose standard error has no closed form."""
PER_ITEM = ("acc", "exact_match")
"""Metrics that are 0 or 1 per item; the first that a task has becomes its `items`."""
NOISY = ("lm_eval", "datasets", "huggingface_hub", "transformers", "httpx", "fsspec", "filelock", "evaluate")


class HeldOut(Protocol):
    """What is needed of the data: `tasks.batches.PackedData` has it."""

    @property
    def tokenizer(self) -> "Tokenizer": ...
    @property
    def seq_len(self) -> int: ...
    @property
    def fingerprint(self) -> dict[str, Any]: ...
    def documents(self, split: Literal["validation", "test"]) -> "Sequence[Document]": ...


def score(
    logits: "Callable[[Tensor], Tensor]",
    data: HeldOut,
    config: EvalConfig,
    cache_dir: Path,
    device: str = "cpu",
    end_of_text: str = END_OF_TEXT,
) -> dict[str, dict[str, Any]]:
    """Per task (and per group, where one is named): lm-eval's metrics by plain name, and what is needed to read them.

    `<metric>` is a float, or None where it is not finite; `<metric>_stderr` a float or None where lm-eval has none.
    A task with several answer filters keeps lm-eval's `metric,filter` names. Besides: `n` items scored, `chance`
    (accuracy of a uniform guess, multiple choice only), `items` (a string of 0/1 per item in document order).

    `logits` maps tokens (B, T <= data.seq_len) to logits (B, T, V); `end_of_text` is the token that ends a text. Raises
    ConfigError for a task that does not exist or whose data cannot be had.
    """
    names = tuple(dict.fromkeys(config.tasks))
    if config.items is not None and config.items < 1:
        raise ConfigError(f"eval.items={config.items}: must be at least 1, or null for all")
    if not names:
        return {}
    check_tasks(list(names))
    from lm_eval.evaluator import evaluate

    from tasks.evals.lm import HarnessLM

    tasks = _load(names, _item_files(names, data, config, cache_dir), cache_dir)
    lm = HarnessLM(logits, data.tokenizer, data.seq_len, device, end_of_text=end_of_text)
    with _quiet():
        results: Any = evaluate(lm, tasks, limit=config.items, bootstrap_iters=BOOTSTRAP_DRAWS)
    return {name: _plain(row, results["samples"].get(name, [])) for name, row in results["results"].items()}


def check_tasks(names: Sequence[str]) -> None:
    """Raise ConfigError for a task that neither we nor lm-eval have. Downloads nothing.

    A name may also be the path of a task's YAML file. Only names that are not ours cost lm-eval's index (3 s, once per
    process).
    """
    for name in names:
        if name in OUR_TASKS:
            continue
        if _is_path(name):
            _check_file(name)
            continue
        slip = difflib.get_close_matches(name, OUR_TASKS, n=1, cutoff=0.85)
        if slip:  # no need to wait for lm-eval's index
            raise ConfigError(f"eval.tasks={name}: no such task; did you mean {slip[0]}?")
        known = _standard_tasks().all_tasks
        if name not in known:
            near = closest(name, OUR_TASKS) or closest(name, known)
            raise ConfigError(f"eval.tasks={name}: lm-eval has no such task{near} (ours: {', '.join(OUR_TASKS)})")


def _is_path(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _check_file(name: str) -> None:
    import yaml
    from lm_eval.tasks._index import TaskIndex

    try:
        entry = TaskIndex.entry_from_path(Path(name))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"eval.tasks={name}: not a task of lm-eval ({_first_line(error)})") from error
    if entry is None:
        raise ConfigError(f"eval.tasks={name}: there is no such file, or it names no task")


@functools.lru_cache(maxsize=1)
def _standard_tasks() -> "TaskManager":
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager()


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
        from tasks.evals.items import write_items

        documents = data.documents(config.split)
        files.update({name: write_items(name, documents, cache_dir / "evals") for name in missing})
    for name in ours:
        if not files[name].stat().st_size:
            raise ConfigError(
                f"eval.tasks={name}: the {config.split} split is too small for a single item; "
                "give more text (data.path, data.max_bytes) or leave the task out"
            )
    return tuple((name, str(files[name].resolve())) for name in ours)


_WRITTEN: dict[tuple[str, str, str], dict[str, Path]] = {}
"""Item files by (data fingerprint, split, cache folder): reading and hashing a split once per process is enough."""


@functools.lru_cache(maxsize=4)
def _load(names: tuple[str, ...], item_files: tuple[tuple[str, str], ...], cache_dir: Path) -> Any:
    """lm-eval's task objects, as its `evaluate` takes them."""
    from lm_eval.tasks import TaskManager

    ours = TaskManager(include_path=HERE, include_defaults=False, metadata={"item_files": dict(item_files)})
    loaded: dict[str, dict[str, Any]] = {"tasks": {}, "groups": {}, "group_map": {}}
    with _quiet(), _hugging_face_caches(cache_dir / "huggingface"):
        for name in names:
            manager = ours if name in OUR_TASKS or _is_path(name) else _standard_tasks()
            try:
                part: Any = manager.load([name])
            except Exception as error:  # whatever a data set's loader or the network raises
                raise ConfigError(
                    f"eval.tasks={name}: its data could not be loaded ({type(error).__name__}: {_first_line(error)})"
                ) from error
            for kind, members in loaded.items():
                members.update(part.get(kind) or {})
    unsafe = [name for name, task in loaded["tasks"].items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe:
        raise ConfigError(f"eval.tasks={unsafe[0]}: runs code that the model writes, which is not allowed here")
    return loaded


@contextlib.contextmanager
def _hugging_face_caches(folder: Path) -> Iterator[None]:
    """Standard tasks download into our cache, unless the environment names another place."""
    import datasets
    from huggingface_hub import constants

    places: tuple[tuple[Any, str, Any], ...] = (
        (datasets.config, "HF_DATASETS_CACHE", folder / "datasets"),
        (datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "datasets" / "downloads"),
        (constants, "HF_HUB_CACHE", str(folder / "hub")),
    )
    if any(name in os.environ for name in ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE")):
        places = ()
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    try:
        for module, name, place in places:
            setattr(module, name, place)
        yield
    finally:
        for module, name, place in before:
            setattr(module, name, place)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines of lm-eval and datasets; exceptions pass.

    lm-eval's bars ask for the present sys.stderr and have no switch. Its bootstrap would start a pool of processes.
    """
    levels = {name: logging.getLogger(name).level for name in NOISY}
    multiprocessing = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        for name in NOISY:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        os.environ.pop("DISABLE_MULTIPROC")
        if multiprocessing is not None:
            os.environ["DISABLE_MULTIPROC"] = multiprocessing


def _plain(row: dict[str, Any], samples: list[dict[str, Any]]) -> dict[str, Any]:
    """One task's row of lm-eval's results as JSON values."""
    keys = [key for key in row if "," in key]
    one_filter = len({key.split(",", 1)[1] for key in keys}) == 1
    plain: dict[str, Any] = {key.split(",", 1)[0] if one_filter else key: _finite(row[key]) for key in keys}
    if "sample_len" in row:
        plain["n"] = int(row["sample_len"])
    if not one_filter or not samples:
        return plain
    samples = sorted(samples, key=lambda sample: sample["doc_id"])
    counts = [len(sample["arguments"]) for sample in samples]
    if min(counts) > 1 and "acc" in plain and "acc_mutual_info" not in plain:
        plain["chance"] = sum(1 / count for count in counts) / len(counts)
    for metric in PER_ITEM:
        values = [sample.get(metric) for sample in samples]
        if all(value in (0, 1) for value in values):
            plain["items"] = "".join(str(int(value)) for value in values if value is not None)
            break
    return plain


def _finite(value: Any) -> float | None:
    """lm-eval writes "N/A" where it has no standard error."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")
