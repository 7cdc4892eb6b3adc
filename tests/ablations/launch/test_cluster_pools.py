"""Jobs on a Ray of this machine, and as submitit's local jobs: as in the pool, and nothing is left behind."""

import contextlib
import fcntl
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ablations.home import ROOT
from ablations.launch.host import Order
from ablations.launch.ray_pool import RayPool
from models.base.typed import ConfigError

HERE = Path(__file__).parent
LAUNCHERS = [
    pytest.param(name, marks=pytest.mark.skipif(importlib.util.find_spec(package) is None, reason="needs .[cluster]"))
    for name, package in (("ray", "ray"), ("slurm", "submitit"))
]
ON_SLURM = LAUNCHERS[1]


class Driver:
    """`cluster_driver.py` in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, launcher: str, *rounds: dict[str, Any]) -> None:
        (folder / "jobs.json").write_text(json.dumps(rounds))
        command = [sys.executable, str(HERE / "cluster_driver.py"), str(folder), launcher, str(folder / "jobs.json")]
        self.process = subprocess.Popen(
            command + ["local"] * (launcher == "slurm"),
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> dict[str, Any]:
        said = self.process.stdout.readline()
        assert said, self.process.stderr.read()
        return json.loads(said)

    def until(self, event: str) -> dict[str, Any]:
        while (line := self.line()).get("event") != event:
            pass
        return line

    def rest(self) -> list[dict[str, Any]]:
        """What else it says, to its end."""
        said = [json.loads(line) for line in self.process.stdout]
        assert self.process.wait(60) == 0, self.process.stderr.read()
        return said

    def alive(self) -> dict[int, str]:
        """The processes of its session, and their names."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                name, _, rest = (place / "stat").read_text().partition("(")[2].rpartition(")")
            except OSError:
                continue
            state, _, _, session = rest.split()[:4]
            if int(session) == self.process.pid and state != "Z":
                found[int(place.name)] = name
        return found


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(launcher: str, *rounds: dict[str, Any]) -> Driver:
        drivers.append(Driver(tmp_path, launcher, *rounds))
        return drivers[-1]

    yield start
    for one in drivers:
        for pid in one.alive():
            os.kill(pid, signal.SIGKILL)
        one.process.wait()


def job(key: str, kind: str, **arguments: Any) -> dict[str, Any]:
    return {"key": key, "kind": kind, "arguments": arguments}


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while not (met := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return met


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def listeners(pids: set[int]) -> set[str]:
    """Addresses, in the kernel's hexadecimal words, on which these processes listen for TCP."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            for place in list(Path(f"/proc/{pid}/fd").iterdir()):
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(place))
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_jobs_are_as_in_the_pool(launcher: str, driver: Callable[..., Driver], tmp_path: Path) -> None:
    first = [
        job("good", "echo", value=1),
        job("bad", "fail", calls=str(tmp_path / "bad")),
        job("victim", "die", calls=str(tmp_path / "victim"), times=1),
        job("lost", "die", calls=str(tmp_path / "lost"), times=9),
    ]
    naps = [job(f"nap{i}", "nap", seconds=0.3) for i in range(2)]
    running = driver(launcher, {"jobs": first}, {"jobs": naps, "limit": 1})
    said = [running.until("started")]
    if launcher == "ray":
        addresses = listeners(set(running.alive()))
        assert addresses and addresses <= LOOPBACK
    said += running.rest()
    outcomes, napped = (line for line in said if "event" not in line)
    assert outcomes["good"]["result"]["value"] == 1 and outcomes["good"]["result"]["threads"] == "3"
    assert outcomes["bad"]["error"].startswith("ValueError: two lines (log: ") and (tmp_path / "bad").read_text() == "x"
    assert outcomes["victim"] == {"key": "victim", "result": {"calls": 2}, "error": None}
    assert "SIGKILL" in outcomes["lost"]["error"] and (tmp_path / "lost").read_text() == "xx"
    heard = [line["event"] for line in said if line.get("key") == "victim" and "event" in line]
    assert heard == ["started", "retry", "started", "done"]
    log = Path(outcomes["bad"]["error"].rpartition("log: ")[2].rstrip(")"))
    assert log.parent == tmp_path / "logs" and "Traceback" in log.read_text()
    one_nap, other_nap = sorted((nap["result"] for nap in napped.values()), key=lambda nap: nap["start"])
    assert one_nap["end"] <= other_nap["start"], "the limit holds"
    assert wait_until(lambda: not running.alive())


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_leaves_nothing(launcher: str, driver: Callable[..., Driver], tmp_path: Path) -> None:
    """SIGINT goes to the whole process group, as a terminal's does."""
    locks = [tmp_path / "lock0", tmp_path / "lock1"]
    running = driver(launcher, {"jobs": [job(lock.name, "busy", lock=str(lock)) for lock in locks]})
    assert {running.until("locked")["key"], running.until("locked")["key"]} == {"lock0", "lock1"}
    assert not any(map(is_free, locks))
    os.killpg(running.process.pid, signal.SIGINT)
    _, errors = running.process.communicate(timeout=60)
    assert errors.strip().endswith("KeyboardInterrupt")
    assert all(map(is_free, locks))
    assert wait_until(lambda: not running.alive(), 10)


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs .[cluster]")
def test_an_address_without_a_cluster_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"  # bound, and nobody listens
        pool = RayPool(Order(str(tmp_path), {}, "pool_kinds"), 1, address)
        with pytest.raises(ConfigError, match=f"^launch.address={address}: nobody answers there"), pool:
            pass


@pytest.mark.parametrize("launcher", [ON_SLURM])
def test_a_preempted_job_is_queued_again(launcher: str, driver: Callable[..., Driver], tmp_path: Path) -> None:
    """As Slurm does it: by the signal that submitit asks it for."""
    running = driver(launcher, {"jobs": [job("long", "die", calls=str(tmp_path / "calls"), times=1, signal=0)]})
    running.until("started")
    wait_until((tmp_path / "calls").exists)
    (errand,) = [
        pid for pid in running.alive() if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    os.kill(errand, signal.SIGUSR2)
    *events, outcomes = running.rest()
    assert [event["event"] for event in events] == ["retry", "started", "done"]
    assert "was queued again" in events[0]["reason"] and events[1]["attempt"] == 2
    assert outcomes["long"]["result"] == {"calls": 2}
