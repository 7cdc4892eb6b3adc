"""What makes a trial the same trial: its id, and the environment that its bits depend on.

The id hashes whatever can change the numbers: the resolved keys and the seed, the code that a trial imports (as syntax
trees, so that comments and layout do not matter), the data, the files of scored tasks, the versions, the data type, the
threads and the instruction set. The same id is never run twice.
"""

import ast
import dataclasses
import functools
import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import TrialKeys
from ablations.files import sha
from ablations.home import ROOT
from ablations.trial.closure import import_closure
from tasks.evals.fingerprint import task_fingerprint

TRIAL, RANKED_TRIAL = "ablations.trial.train", "ablations.trial.ranked"
"""The modules that train and record: whatever they import enters the id, and nothing else."""
UNCOUNTED = ("data_dir", "run_model_code")
"""Keys of `eval` that say where data lie, whose contents count, and what is allowed: no number comes of them."""
VERSIONS = ("torch", "lightning", "tokenizers", "lm_eval", "numpy")


@functools.cache
def code_hash(entry: str = TRIAL) -> str:
    """sha256 over the syntax trees of everything that computes and records a trial's numbers, docstrings left out."""
    digest = hashlib.sha256()
    files = import_closure(entry, ROOT)
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode())
        digest.update(_meaning(file.read_text(encoding="utf-8")))
    for file in sorted({yaml for module in files for yaml in module.parent.glob("*.yaml")}):  # our own tasks
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _meaning(text: str) -> bytes:
    """sha256 of a file's syntax tree; kept, since the entries share most files."""
    return hashlib.sha256(ast.dump(_without_docstrings(ast.parse(text))).encode()).digest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    """Bare strings are documentation; they change nothing."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
            ]
    return tree


@functools.cache
def bits() -> dict[str, Any]:
    """Versions and instruction set: what moves the bits of a trial whose keys are the same."""
    import torch

    return {
        **{name: _version(name) for name in VERSIONS},
        "python": platform.python_version(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }


def environment(keys: TrialKeys, entry: str = TRIAL) -> dict[str, Any]:
    """For the record: what the bits depend on, and the processor's name, which no id holds."""
    task_files = task_fingerprint(keys.eval.tasks, keys.eval.data_dir)
    return {
        **bits(),
        "code": code_hash(entry),
        "dtype": keys.model.dtype,
        "threads": keys.train.threads,
        "device": keys.train.device,
        **({"compiled": "blocks"} if keys.train.compile else {}),
        "processor": processor_name(),
        **({"task_files": task_files} if task_files else {}),
    }


def trial_id(keys: TrialKeys, seed: int, texts: Sequence[Mapping[str, Any]], entry: str = TRIAL) -> str:
    """16 hexadecimal digits. `keys` are resolved: no `auto` left in them. `texts`: the data fingerprint of each
    of `keys.all_stages`."""
    stages = keys.all_stages
    if len(texts) != len(stages):
        raise ValueError(f"{len(texts)} texts of {len(stages)} stages: an id holds what every stage learns from")
    if any(stage.model.dtype == "auto" for stage in stages):
        raise ValueError("model.dtype=auto must be resolved before a trial gets its id")
    if any(stage.train.compile == "auto" for stage in stages):
        raise ValueError("train.compile=auto must be resolved before a trial gets its id")
    content = {
        "stages": [_without_places(dataclasses.asdict(stage)) for stage in keys.stages],
        "eval": {key: value for key, value in dataclasses.asdict(keys.eval).items() if key not in UNCOUNTED},
        "seed": seed,
        "texts": texts,
        "task_files": task_fingerprint(keys.eval.tasks, keys.eval.data_dir),
        "code": code_hash(entry),
        "bits": bits(),
    }
    return sha(content)[:16]


def _without_places(stage: dict[str, Any]) -> dict[str, Any]:
    """Where the text lies does not matter, what it says does: the fingerprint has its hash, and the domains' names. And
    where nothing is compiled, or comes a second time, nothing is said of it."""
    places = ("path", "name", "text_field", "domains")
    data = {key: value for key, value in stage["data"].items() if key not in places and (key, value) != ("epochs", 1)}
    train = {key: value for key, value in stage["train"].items() if key != "compile" or value}
    return {**stage, "data": data, "train": train, "teacher": [_without_places(each) for each in stage["teacher"]]}


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
