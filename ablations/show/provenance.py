"""Where a published result comes from: the commands that repeat it, the commit, the versions, every file's hash."""

import hashlib
import platform
import shlex
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from ablations.home import ROOT
from ablations.judge.result import Result

PACKAGES = (
    "torch", "lightning", "numpy", "scipy", "statsmodels", "optuna", "lm-eval", "tokenizers", "transformers", "wandb",
    "hydra-core", "matplotlib",
)  # fmt: skip

WHY_UNKNOWN = "commit_unknown"
"""What a manifest without a commit has in its place."""


def commands(result: Result) -> list[str]:
    """What repeats this result: the plan's own command, or one that names arms and seeds; then the report."""
    own = [name for name, arm in result.arms.items() if arm.kind == "arm"]
    built = [
        "python -m ablations.run",
        f"sweep={result.sweep}",
        f"scale={result.scale}",
        f"search={result.plan.search}",
        shlex.quote(f"arms=[{','.join(own)}]"),
        "seeds=auto" if result.plan.looks else shlex.quote(f"seeds=[{','.join(map(str, result.seeds))}]"),
    ]
    which = f"scale={result.scale}" if result.run == result.scale else f"run={result.run}"
    return [result.plan.command or " ".join(built), f"python -m ablations.report sweep={result.sweep} {which}"]


def manifest(result: Result, folder: Path) -> dict[str, Any]:
    """Everything that repeating the result needs, and the hash of every file beside it."""
    records = result.all_records
    environments = [record.environment for record in records]
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts = {status: sum(r.status == status for r in records) for status in ("complete", "diverged", "failed")}
    return {
        "format": 1,
        "sweep": result.sweep,
        "scale": result.scale,
        "partial": bool(result.missing),
        "trials": {"planned": result.planned, "missing": len(result.missing), **counts},
        "search_trials": len(result.search),
        "commands": commands(result),
        "sweep_file": result.plan.sweep_file or None,
        "plan_sha256": result.plan_sha,
        "code": result.plan.code,
        "data": result.plan.data,
        "chosen": {name: arm.chosen for name, arm in result.arms.items()},
        "verdicts": [
            {"arm": v.arm, "against": v.against, "metric": v.metric, "kind": v.kind, "outcome": v.outcome}
            for v in result.verdicts
        ],
        "environments": [e for i, e in enumerate(environments) if e not in environments[:i]],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "files": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
    }


def commit() -> dict[str, Any]:
    """The checkout's commit and whether the tree (results/ aside) differs from it; where git does not say, why not."""
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        if top.resolve() != ROOT:
            raise LookupError(f"{ROOT} is no repository of its own, but lies in that of {top}")
        commit = _git("rev-parse", "--verify", "HEAD")
        return {"commit": commit, "dirty": bool(_git("status", "--porcelain", "--", ".", ":!results"))}
    except FileNotFoundError:
        why = "there is no git here"
    except LookupError as error:
        why = str(error)
    except subprocess.CalledProcessError as error:
        why = next(iter(error.stderr.splitlines()), f"git ended with exit code {error.returncode}")
    return {"commit": None, "dirty": None, WHY_UNKNOWN: why}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
