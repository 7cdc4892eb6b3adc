"""The command in processes of its own: its words, how it is started, watched and found, and what it leaves."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ablations.files import read_json
from ablations.home import ROOT

HERE = Path(__file__).parent
USUAL = {"sweep": "toy", "sweeps_dir": str(HERE / "sweeps"), "scale": "smoke", "arms": "bias", "eval.tasks": "[]"}
USUAL |= {"track.mode": "disabled", "launch.progress": "none", "launch.workers": "1"}


def words(runs: Path, *own: str) -> list[str]:
    """The usual words, and a test's own in their place."""
    changed = dict(word.split("=", 1) for word in own)
    given = USUAL | {"runs_dir": str(runs), "results_dir": str(runs.parent / "results")} | changed
    return [f"{key}={value}" for key, value in given.items()]


def wait_until(condition: Callable[[], Any], seconds: float = 60.0, every: float = 0.002) -> Any:
    end = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(every)
    return met


def is_alive(pid: int) -> bool:
    """Zombies are dead."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def workers_of(scheduler: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == scheduler and b"ablations.launch.worker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


SWEEP = (
    "optim.lr=0.005",
    "search=fresh",
    "search_points=2",
    "search_seeds=1",
    "train.tokens=6144",
    "launch.progress=plain",
)
"""4 search trials, 8 confirmation trials of 24 steps."""


@contextlib.contextmanager
def started(command: list[str], folder: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A scheduler in a process group of its own, as a terminal starts it; killed at the end where it still runs."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])}
    with (folder / "out.txt").open("ab") as out, (folder / "err.txt").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdout=out,
            stderr=err,
            env=variables | environment,
            cwd=folder,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def records(runs: Path) -> dict[Path, int]:
    """Record -> when it was written."""
    return {path: path.stat().st_mtime_ns for path in runs.glob("trials/*/record.json")}


def training_now(runs: Path) -> list[str]:
    """Trials that have begun to train and are not on record."""
    return [
        p.parent.name
        for p in runs.glob("trials/*/steps.jsonl")
        if p.stat().st_size > 200 and not (p.parent / "record.json").exists()
    ]


def numbers(runs: Path) -> dict[str, Any]:
    rows = [read_json(path) for path in records(runs)]
    return {row["id"]: {key: value for key, value in row.items() if key != "timings"} for row in rows}
