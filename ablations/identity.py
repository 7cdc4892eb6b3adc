"""What makes a trial the same trial: its id, and the environment that its bits depend on.

The id hashes whatever can change the numbers: the resolved keys and the seed, the code of models/, tasks/ and the trial
(as syntax trees, so that comments and layout do not matter), the data, the files of scored tasks, the versions, the
data type, the threads and the instruction set. The same id is never run twice.
"""

import ast
import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from ablations.home import ROOT
from tasks.evals.fingerprint import task_fingerprint

TRIAL_CODE = ("models", "tasks", "ablations/trial.py", "ablations/trialkeys.py", "ablations/measures.py")
"""Whose syntax trees enter a trial's id."""
VERSIONS = ("torch", "lightning", "tokenizers", "lm_eval", "numpy")


@functools.cache
def code_hash() -> str:
    """sha256 over the syntax trees of everything that computes a trial's numbers, docstrings left out."""
    digest = hashlib.sha256()
    for place in TRIAL_CODE:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(ast.dump(_without_docstrings(ast.parse(file.read_text()))).encode())
        for file in sorted(path.rglob("*.yaml")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


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


def environment(keys: Mapping[str, Any]) -> dict[str, Any]:
    """For the record: what the bits depend on, and the processor's name, which no id holds."""
    task_files = task_fingerprint(keys["eval"]["tasks"])
    return {
        **bits(),
        "code": code_hash(),
        "dtype": keys["model"]["dtype"],
        "threads": keys["train"]["threads"],
        "device": keys["train"]["device"],
        "processor": processor_name(),
        **({"task_files": task_files} if task_files else {}),
    }


def trial_id(keys: Mapping[str, Any], seed: int, data_fingerprint: Mapping[str, Any]) -> str:
    """16 hexadecimal digits. `keys` are resolved: no `auto` left in them."""
    if keys["model"]["dtype"] == "auto":
        raise ValueError("model.dtype=auto must be resolved before a trial gets its id")
    # Where the text lies does not matter, what it says does: the fingerprint has its hash.
    data = {key: value for key, value in keys["data"].items() if key not in ("path", "name")}
    content = {
        "keys": {**{group: keys[group] for group in ("model", "optim", "train", "eval")}, "data": data},
        "seed": seed,
        "data": data_fingerprint,
        "task_files": task_fingerprint(keys["eval"]["tasks"]),
        "code": code_hash(),
        "bits": bits(),
    }
    return sha(content)[:16]


def sha(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


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
