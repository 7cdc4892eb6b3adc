"""A whole sweep on a Ray cluster of two nodes, one of which is killed, and a trial as a job of submitit, which is: what
comes of them is what comes of one machine."""

import contextlib
import dataclasses
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablations.config.schema import TrackConfig
from ablations.files import read_json
from ablations.home import ROOT
from ablations.launch.host import Order
from ablations.launch.slurm_pool import SlurmPool
from ablations.record.documents import PLAN
from ablations.record.record import RECORD, read_record
from ablations.trial.recorder import RESUME
from ablations.trial.requests import Labels, TrialRequest
from ablations.trial.requests import job as request_job
from ablations.trial.train import run_trial

HERE = Path(__file__).parent
TESTS = HERE.parent
PATHS = os.pathsep.join([str(ROOT), str(TESTS)])
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("submitit") is None, reason="needs .[cluster]"
)
QUICK = """
import functools, sys
import ablations.show.figures.every, ablations.sweep.conductor, ablations.sweep.workplace
from ablations.run import main
ablations.show.figures.every.draw_figures = lambda result: []
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
    (folder / "runs").mkdir(parents=True, exist_ok=True)
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


def session(process: "subprocess.Popen[Any]") -> list[int]:
    """The processes of its session that live."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, leader = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(leader) == process.pid and state != "Z":
                found.append(int(place.name))
    return found


def kill_session(process: "subprocess.Popen[Any]") -> None:
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
def cluster(tmp_path: Path) -> Iterator[Callable[..., tuple["subprocess.Popen[str]", str, dict[str, str]]]]:
    """`cluster(*words)`: `ray_cluster.py`, its address, and the environment of who joins it."""
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    own |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": PATHS}
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple["subprocess.Popen[str]", str, dict[str, str]]:
        with (tmp_path / "ray.txt").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, str(HERE / "ray_cluster.py"), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **own},
                start_new_session=True,
            )
        started.append(process)
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, (tmp_path / "ray.txt").read_text()
        return process, address, own

    yield start
    for process in started:
        kill_session(process)


@contextlib.contextmanager
def apart(folder: Path, runs: Path, address: str, environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A node of one CPU that sees an empty folder in the place of `runs`, and has its temporary files in `folder`."""
    folder.mkdir()
    with (folder / "ray.txt").open("w") as log:
        process = subprocess.Popen(
            ["bwrap", "--dev-bind", "/", "/", "--tmpfs", str(runs), sys.executable, str(HERE / "ray_node.py"), address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment, "TMPDIR": str(folder)},
            start_new_session=True,
        )
    try:
        assert process.stdout is not None and process.stdout.readline() == "up\n", (folder / "ray.txt").read_text()
        yield process
    finally:
        kill_session(process)


def test_a_node_that_dies_changes_nothing(cluster: Any, plain: Any, data_cache: Path, tmp_path: Path) -> None:
    nodes, address, environment = cluster()
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


def hides_folders() -> bool:
    command = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", "/mnt", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.skipif(not hides_folders(), reason="needs bubblewrap")
def test_nodes_that_do_not_see_the_runs_are_sent_what_they_need(
    cluster: Any, plain: Any, data_cache: Path, tmp_path: Path
) -> None:
    """Each of two nodes has a disk of its own. One is killed amid a trial, and the other makes that too."""
    head, address, environment = cluster("head")
    folder, one, other = tmp_path / "sweep", tmp_path / "one", tmp_path / "other"
    own = ["launch=ray", f"launch.address={address}", "launch.workers=2"]
    (folder / "runs").mkdir(parents=True)

    def away(node: Path, what: str) -> list[Path]:
        return list(node.glob(f"v3-ablations-*/*/{what}"))

    with (
        apart(one, folder / "runs", address, environment),
        apart(other, folder / "runs", address, environment) as second,
        started(folder, data_cache, *own, **environment) as process,
    ):
        wait_until(
            lambda: all(away(node, "trials/*/steps.jsonl") for node in (one, other)) or process.poll() is not None
        )
        kill_session(second)
        texts = [len(away(node, "data/given-*")) for node in (one, other)]
        assert process.wait() == 0, (folder / "out.txt").read_text()
    assert texts == [1, 1]
    assert "was lost on node" in (folder / "out.txt").read_text()
    assert result_of(folder) == plain
    assert not away(one, "*") and away(other, "*"), "what was sent ends with the sweep, but on a node that is gone"
    assert head.poll() is None, "the cluster is the user's"


def test_a_job_that_dies_goes_on_from_its_checkpoint(job: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial as a job of submitit, killed once it has a checkpoint, after 3 of its 12 steps."""
    monkeypatch.setenv("PYTHONPATH", PATHS)
    whole, killed = job("whole"), job("killed")
    run_trial(whole, lambda event: None)
    asked = TrialRequest(killed, Labels("toy", "smoke", "bias", 1, "confirm"), TrackConfig("disabled"))
    events: list[dict[str, Any]] = []

    def kill() -> None:
        wait_until((Path(killed.folder) / RESUME).is_file)
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (place / "cmdline").read_bytes()
                if b"submitit.core._submit" in command and str(tmp_path).encode() in command:
                    os.kill(int(place.name), signal.SIGKILL)

    order = Order(str(tmp_path / "logs"), {"OMP_NUM_THREADS": "1"}, "ablations.sweep.jobs")
    with SlurmPool(order, 1, "local", poll=0.05) as slurm:
        killer = threading.Thread(target=kill)
        killer.start()
        outcomes = slurm.run([request_job(killed.id, "trial", asked)], lambda key, event: events.append(event))
        killer.join()
    assert outcomes[killed.id].error is None
    names = [event["event"] for event in events]
    assert (names.count("started"), names.count("retry"), names.count("done")) == (2, 1, 1)
    again = next(event for event in events[names.index("retry") :] if event["event"] == "step")
    assert again["step"] > 3, "it goes on"
    one, other = (dataclasses.replace(read_record(Path(t.folder) / RECORD), timings={}) for t in (whole, killed))
    assert one == other
