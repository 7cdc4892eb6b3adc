"""Code of another commit of this checkout: whether it is here, what it trains by, and a worktree of it."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ablations.home import ROOT
from models.base.typed import ConfigError


def is_here(commit: str) -> bool:
    words = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(words, capture_output=True).returncode == 0


def is_before(commit: str) -> bool:
    """Whether HEAD has come of it."""
    words = ["git", "-C", str(ROOT), "merge-base", "--is-ancestor", commit, "HEAD"]
    return subprocess.run(words, capture_output=True).returncode == 0


def code_of(environment: Mapping[str, str]) -> str:
    """The hash of what trains, of the tree in `environment`'s path."""
    script = "from ablations.trial.identity import code_hash; print(code_hash())"
    done = subprocess.run([sys.executable, "-P", "-c", script], env=environment, capture_output=True, text=True)
    return done.stdout.strip() or "not to be had"


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[Path]:
    inert = ["-c", f"core.hooksPath={os.devnull}", "-c", "submodule.recurse=false"]  # nothing of the commit runs yet
    git = ["git", *inert, "-C", str(ROOT), "worktree"]
    _remove_left_trees(git)
    with tempfile.TemporaryDirectory(prefix=f"reproduce-{os.getpid()}-") as scratch:
        tree = Path(scratch) / "tree"
        done = subprocess.run([*git, "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if done.returncode:
            raise ConfigError(f"git worktree: {' '.join(done.stderr.split())}")
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True)


def _remove_left_trees(git: Sequence[str]) -> None:
    """Those of processes that were killed before they could."""
    listed = subprocess.run([*git, "list", "--porcelain"], capture_output=True, text=True).stdout
    for tree in (Path(line.removeprefix("worktree ")) for line in listed.splitlines() if line.startswith("worktree ")):
        owner = re.fullmatch(r"reproduce-(\d+)-\w+", tree.parent.name)
        if owner and not _lives(int(owner[1])):
            subprocess.run([*git, "remove", "--force", str(tree)], capture_output=True)
            shutil.rmtree(tree.parent, ignore_errors=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
