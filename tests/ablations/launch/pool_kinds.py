"""Kinds of jobs that behave well and badly, for the pool's tests."""

import contextlib
import errno
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ablations.launch.job import RankKilled

Report = Callable[[dict[str, Any]], None]


def echo(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    report({"event": "step", "step": 1, "steps": 1, "loss": float("nan")})
    return {"value": arguments["value"], "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def chatter(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Prints on every stream, from Python and from below it, between events."""
    for step in range(20):
        print('{"type": "result", "key": "chatter", "result": {}}')
        os.write(1, b"from C\n")
        print("warning", file=sys.stderr)
        report({"event": "step", "step": step})
    return {"stdin": sys.stdin.read()}


def large(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    return {"length": len(arguments["text"]), "text": "y" * arguments["answer"]}


def fail(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    _count(arguments)
    raise ValueError("two\nlines")


def unserialisable(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    return {"value": object()}


def die(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Dies of a signal for the first `times` calls."""
    if _count(arguments) <= arguments["times"]:
        os.kill(os.getpid(), arguments.get("signal", signal.SIGKILL))
        time.sleep(5)
    return {"calls": _count(arguments) - 1}


def lose(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Another process of its own is killed, in the first call."""
    if _count(arguments) == 1:
        raise RankKilled("rank 1 was ended with exit code -9", signal.SIGKILL)
    return {"calls": _count(arguments) - 1}


def busy(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Computes without a pause and holds a lock on a file for as long as it lives."""
    with open(arguments["lock"], "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        report({"event": "locked"})
        while True:
            sum(range(10_000))


def interrupt(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """As a terminal's Ctrl-C would."""
    os.kill(os.getpid(), signal.SIGINT)
    return {}


def nap(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    start = time.monotonic()
    time.sleep(arguments["seconds"])
    return {"start": start, "end": time.monotonic(), "pid": os.getpid()}


def fill(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Fills the disk that its log is on too."""
    try:
        with (Path(arguments["folder"]) / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
    except OSError:
        if arguments["how"] == "dies":
            os.kill(os.getpid(), signal.SIGBUS)
        raise


def full(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    raise OSError(errno.ENOSPC, "No space left on device", arguments["path"])


def hungry(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Wants more memory than it may have."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, limits[1]))
    try:
        return {"length": len(bytearray(arguments["bytes"]))}
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def closes_its_pipe(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """The one that it answers by: where it hears no more, it leaves."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
                os.close(descriptor)
    time.sleep(60)
    return {}


def _count(arguments: dict[str, Any]) -> int:
    """How often this has been called with the same file, this call included."""
    with Path(arguments["calls"]).open("a+") as file:
        file.write("x")
        file.flush()
        return file.tell()


FUNCTIONS = (
    echo,
    chatter,
    large,
    fail,
    unserialisable,
    die,
    lose,
    busy,
    interrupt,
    nap,
    fill,
    full,
    hungry,
    closes_its_pipe,
)
KINDS = {f.__name__: f for f in FUNCTIONS}

# The second worker to come here imports slowly, if a test asks for it.
if marker := os.environ.get("SLOW_IMPORT"):
    try:
        Path(marker).touch(exist_ok=False)
    except FileExistsError:
        time.sleep(0.4)
        Path(marker).write_text("imported")
