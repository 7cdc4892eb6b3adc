"""Where a published result comes from: the commands that repeat it, the commit, the versions, every file's hash."""

import platform
import shlex
import subprocess
from importlib import metadata
from pathlib import Path

from ablations.home import ROOT
from ablations.judge.result import Result
from ablations.record.manifest import Commit, Manifest, hashes

PACKAGES = (
    "torch", "lightning", "numpy", "scipy", "statsmodels", "optuna", "lm-eval", "tokenizers", "transformers", "wandb",
    "hydra-core", "matplotlib",
)  # fmt: skip


def commands(result: Result, published: bool = False) -> list[str]:
    """What repeats this result: the plan's own command, or one that names arms and seeds; then the report; and what
    runs a `published` one again and compares."""
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
    how = "" if result.plan.sweep_file else " tables_only=true"  # plans of before do not hold what they were made of
    again = [f"python -m ablations.reproduce results/{result.sweep}/{result.run}{how}"] if published else []
    return [result.plan.command or " ".join(built), f"python -m ablations.report sweep={result.sweep} {which}", *again]


def manifest(result: Result, folder: Path, made_by: Commit) -> Manifest:
    """Everything that repeating the result needs, and the hash of every file beside it."""
    records = result.all_records
    environments = [record.environment for record in records]
    counts = {status: sum(r.status == status for r in records) for status in ("complete", "diverged", "failed")}
    return Manifest(
        commit=made_by.commit,
        dirty=made_by.dirty,
        commit_unknown=made_by.commit_unknown,
        sweep=result.sweep,
        scale=result.scale,
        partial=bool(result.missing),
        trials={"planned": result.planned, "missing": len(result.missing), **counts},
        search_trials=len(result.search),
        commands=commands(result, published=True),
        sweep_file=result.plan.sweep_file or None,
        plan_sha256=result.plan_sha,
        code=result.plan.code,
        data=result.plan.data,
        chosen={name: arm.chosen for name, arm in result.arms.items()},
        verdicts=[
            {"arm": v.arm, "against": v.against, "metric": v.metric, "kind": v.kind, "outcome": v.outcome}
            for v in result.verdicts
        ],
        environments=[e for i, e in enumerate(environments) if e not in environments[:i]],
        versions={"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        files=hashes(folder),
    )


def commit() -> Commit:
    """Of the checkout; where git does not say, why not."""
    try:
        top = Path(_git("rev-parse", "--show-toplevel"))
        if top.resolve() != ROOT:
            raise LookupError(f"{ROOT} is no repository of its own, but lies in that of {top}")
        head = _git("rev-parse", "--verify", "HEAD")
        return Commit(head, bool(_git("status", "--porcelain", "--", ".", ":!results")))
    except FileNotFoundError:
        why = "there is no git here"
    except LookupError as error:
        why = str(error)
    except subprocess.CalledProcessError as error:
        why = next(iter(error.stderr.splitlines()), f"git ended with exit code {error.returncode}")
    return Commit(commit_unknown=why)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
