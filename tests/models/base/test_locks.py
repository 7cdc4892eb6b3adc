"""A lock says whose it is and ends with its owner, also where another machine's locks are not seen."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from models.base import locks
from models.base.locks import Held, Owner, hold

Start = Callable[[str], "subprocess.Popen[str]"]

HOLDER = """
import fcntl, socket, sys, time
from pathlib import Path
from models.base import locks
host, lock, locks.BEAT, locks.SILENCE = sys.argv[1], Path(sys.argv[2]), 0.05, 1.5
if host != "here":
    socket.gethostname = lambda: host
    fcntl.flock = lambda *_: None
with locks.hold(lock, lambda owner: print("waits for", owner, flush=True)):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Start]:
    """A process that holds `tmp_path/lock`, on this machine (`here`) or on another, whose locks nobody else sees."""
    others: list[subprocess.Popen[str]] = []

    def start(host: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", HOLDER, host, str(tmp_path / "lock")]
        others.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return others[-1]

    yield start
    for other in others:
        other.kill()
        other.communicate()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SILENCE", 1.5)


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("host", ["here", "node7"])
def test_another_at_work_is_named_and_its_end_is_waited_for(holder: Start,
                                                             tmp_path: Path, host: str) -> None:  # fmt: skip
    other, lock, heard = holder(host), tmp_path / "lock", list[str]()
    assert said(other) == "held"
    name = f"{other.pid}" + (" on node7" if host == "node7" else "")
    assert lock.read_text() == f"{other.pid} {Owner.here().host if host == 'here' else host}\n"
    with pytest.raises(Held) as caught, hold(lock):
        pytest.fail("two hold it")
    assert str(caught.value.owner) == name

    def waiting(owner: str) -> None:
        heard.append(owner)
        other.send_signal(signal.SIGKILL)

    with hold(lock, waiting):
        assert heard == [name] and lock.read_text().startswith(f"{os.getpid()} ")
    assert list(tmp_path.iterdir()) == [], "a lock leaves nothing behind"


def test_what_a_dead_owner_left_is_taken_over(tmp_path: Path, holder: Start) -> None:
    lock = tmp_path / "lock"
    for text, seconds in (("", 0.0), ("4711\n", 0.0), (f"4711 {Owner.here().host}\n", 0.0), ("4711 node7\n", 1.5)):
        lock.write_text(text)
        before = time.monotonic()
        with hold(lock):
            assert lock.read_text() == f"{os.getpid()} {Owner.here().host}\n"
        assert seconds <= time.monotonic() - before < seconds + 1.2, text


def test_a_lock_that_is_removed_is_broken(tmp_path: Path, holder: Start) -> None:
    """By hand, as the line says: who had it leaves another's alone."""
    lock = tmp_path / "lock"
    with hold(lock):
        lock.unlink()
        other = holder("here")
        assert said(other) == "held"
    assert lock.read_text().startswith(f"{other.pid} ")


def test_of_two_machines_that_take_over_one_has_it(tmp_path: Path, holder: Start) -> None:
    (tmp_path / "lock").write_text("4711 node7\n")
    others = [holder("node8"), holder("node9")]
    first: list[str] = []
    readers = [threading.Thread(target=lambda other=other: first.append(said(other))) for other in others]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(30)
    assert sorted(line.split()[0] for line in first) == ["held", "waits"]


def test_who_is_overtaken_while_taking_over_does_not_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, renewed = tmp_path / "lock", iter([False, True])
    lock.write_text("4711 node7\n")
    monkeypatch.setattr(locks, "_is_renewed", lambda lock: next(renewed))
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: lock.write_text("12 node9\n"))
    with pytest.raises(Held) as caught, hold(lock):
        pytest.fail("two hold it")
    assert str(caught.value.owner) == "12 on node9"


def test_without_hard_links_it_is_a_lock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with hold(tmp_path / "lock"):
        with pytest.raises(Held), hold(tmp_path / "lock"):
            pytest.fail("two hold it")
        assert (tmp_path / "lock").read_text().startswith(f"{os.getpid()} ")
    assert list(tmp_path.iterdir()) == []


def test_of_many_one_at_a_time_holds_a_lock_though_its_file_goes_each_time(tmp_path: Path) -> None:
    within, most, times = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            with hold(tmp_path / "lock", lambda owner: None):
                within[0] += 1
                most[0] = max(most[0], within[0])
                times[0] += 1
                time.sleep(0.0002)
                within[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], times[0]) == (1, 300)
