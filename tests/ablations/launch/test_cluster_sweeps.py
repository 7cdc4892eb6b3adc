"""Whole sweeps on a Ray cluster of two nodes, one of which is killed, and in jobs of submitit, one of which is: the
tables are those of a run on one machine."""

import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json
from ablations.home import ROOT
from ablations.record.documents import PLAN

TESTS = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(ROOT), str(TESTS)])
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("submitit") is None, reason="needs .[cluster]"
)
QUICK = """
import functools, sys
import ablations.show.figures, ablations.sweep.conductor, ablations.sweep.workplace
from ablations.run import main
ablations.show.figures.draw_figures = lambda result: []
ablations.sweep.conductor.Conductor._speed = lambda *_: None
ablations.sweep.workplace.KINDS_MODULE = "quick_kinds"
ablations.sweep.workplace.Pool = functools.partial(ablations.sweep.workplace.Pool, kinds_module="quick_kinds")
sys.exit(main(sys.argv[1:]))
"""
"""The command with real trials, guards that pass, and neither times nor figures."""
WORDS = {
    "sweep": "toy", "sweeps_dir": str(TESTS / "sweeps"), "scale": "smoke", "arms": "bias", "eval.tasks": "[]",
    "track.mode": "disabled", "launch.progress": "plain", "seeds": "2", "train.tokens": "2048", "optim.lr": "0.005",
    "train.checkpoint_every": "0.25", "model.moe.balance.alpha": "0.01", "model.moe.balance.update_speed": "0.01",
}  # fmt: skip
"""4 arms x 2 seeds of 8 steps; nothing is searched."""


@contextlib.contextmanager
def started(folder: Path, cache: Path, *own: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """The command, at work in `folder`."""
    (folder / "runs").mkdir(parents=True)
    (folder / "runs/data").symlink_to(cache)
    words = [f"{key}={value}" for key, value in WORDS.items()]
    words += [f"runs_dir={folder / 'runs'}", f"results_dir={folder / 'results'}", *own]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS, **environment}
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", QUICK, *words], stdout=out, stderr=out, env=variables, start_new_session=True
        )
    try:
        yield process
    finally:
        kill_session(process)


def session(process: "subprocess.Popen[bytes]") -> list[int]:
    """The processes of its session that live."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, leader = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(leader) == process.pid and state != "Z":
                found.append(int(place.name))
    return found


def kill_session(process: "subprocess.Popen[bytes]") -> None:
    for pid in session(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def wait_until(condition: Callable[[], Any], seconds: float = 180.0) -> Any:
    end = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return met


def training_now(folder: Path) -> list[str]:
    """Trials that have begun to train and are not on record."""
    return [
        p.parent.name
        for p in folder.glob("runs/trials/*/steps.jsonl")
        if p.stat().st_size > 200 and not (p.parent / "record.json").exists()
    ]


def result_of(folder: Path) -> tuple[bytes, bytes, dict[str, Any]]:
    rows = [read_json(path) for path in folder.glob("runs/trials/*/record.json")]
    numbers = {row["id"]: {key: value for key, value in row.items() if key != "timings"} for row in rows}
    table, plan = (
        (folder / "runs/toy/smoke" / name).read_bytes().replace(str(folder).encode(), b"")
        for name in ("table.csv", PLAN)
    )
    return table, plan, numbers


@pytest.fixture(scope="module")
def plain(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, dict[str, Any]]:
    """What one machine makes of it."""
    folder = tmp_path_factory.mktemp("plain")
    with started(folder, data_cache, "launch.workers=1") as process:
        assert process.wait() == 0, (folder / "out.txt").read_text()
    return result_of(folder)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, str]]]:
    """`ray_cluster.py`, and the environment of who joins it."""
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS}
    with (tmp_path / "ray.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ray_cluster.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **own},
            start_new_session=True,
        )
    try:
        yield process, own
    finally:
        kill_session(process)


def test_a_node_that_dies_changes_nothing(cluster: Any, plain: Any, data_cache: Path, tmp_path: Path) -> None:
    nodes, environment = cluster
    address = nodes.stdout.readline().strip()
    assert address, (tmp_path / "ray.txt").read_text()
    folder = tmp_path / "sweep"
    own = ["launch=ray", f"launch.address={address}", "launch.workers=2"]
    with started(folder, data_cache, *own, **environment) as process:
        wait_until(lambda: len(training_now(folder)) == 2 or process.poll() is not None)
        print("now", file=nodes.stdin, flush=True)
        assert nodes.stdout.readline() == "killed\n"
        assert process.wait() == 0, (folder / "out.txt").read_text()
    assert "was lost on node" in (folder / "out.txt").read_text()
    assert result_of(folder) == plain
    assert nodes.poll() is None, "the cluster is the user's"


def test_a_job_that_dies_changes_nothing(plain: Any, data_cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with started(folder, data_cache, "launch=slurm", "launch.address=local", "launch.workers=1") as process:
        (victim,) = wait_until(lambda: training_now(folder))
        (errand,) = [
            pid for pid in session(process) if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(errand, signal.SIGKILL)
        assert process.wait() == 0, (folder / "out.txt").read_text()
    assert f"retry  {victim[:8]}" in (folder / "out.txt").read_text()
    assert result_of(folder) == plain
