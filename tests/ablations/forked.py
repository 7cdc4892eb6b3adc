"""The command and its workers as forks of a process that has imported everything: what is killed often starts at once.

Nothing else differs: a worker is a process of its own that serves its pipes, and the scheduler its parent.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from ablations.launch.lean import lean

with lean():
    import ledger_kinds

import ablations.show.figures.every
import ablations.sweep.conductor
import ablations.sweep.workplace
from ablations.home import ROOT
from ablations.launch import process, worker
from ablations.run import main
from ablations.trial.identity import bits, code_hash

code_hash(), bits()  # known to all forks: two thirds of a start
OF_POPEN = SimpleNamespace(PIPE=subprocess.PIPE, TimeoutExpired=subprocess.TimeoutExpired)


def start(words: list[str], folder: Path, ledger: Path) -> BaseProcess:
    """The command in `folder`, which its whole family has for its working directory."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    started = context.Process(target=_command, args=(words, str(folder), str(ledger)))
    places = [str(ROOT), str(Path(__file__).parent)]  # or the server, which ignores sys.path, imports nothing
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(places)):
        started.start()
    return started


def _command(words: list[str], folder: str, ledger: str) -> None:
    os.chdir(folder)
    os.environ["LEDGER"] = ledger
    for stream, name in ((1, "out.txt"), (2, "err.txt")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    ledger_kinds.keep()
    process.subprocess = SimpleNamespace(Popen=Fork, **vars(OF_POPEN))  # type: ignore[assignment]
    ablations.show.figures.every.draw_figures = lambda result: []
    ablations.sweep.conductor.Conductor._speed = lambda *_: None  # type: ignore[method-assign]
    sys.exit(main(words))


class Fork:
    """Of `subprocess.Popen` what the pool uses."""

    def __init__(self, command: list[str], *, stderr: IO[bytes], env: dict[str, str], **_: Any) -> None:
        (jobs, own_jobs), (own_replies, replies) = os.pipe(), os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _serve((jobs, replies, stderr.fileno()), env)
        os.close(jobs)
        os.close(replies)
        self.stdin, self.stdout = os.fdopen(own_jobs, "wb", 0), os.fdopen(own_replies, "rb", 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or 1e9)
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Served:
    """The same, forked from the server that tests begin with (tests/conftest.py), for a test that starts a worker."""

    def __init__(self, command: list[str], *, stderr: IO[bytes], env: dict[str, str], **_: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        (jobs, own_jobs), (own_replies, replies) = context.Pipe(duplex=False), context.Pipe(duplex=False)
        given = (jobs, replies, stderr.name, env, command[-1])
        self.process = context.Process(target=_serve_pipes, args=given, daemon=True)
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill
        jobs.close()
        replies.close()
        self.stdin, self.stdout = (
            os.fdopen(os.dup(end.fileno()), mode, 0) for end, mode in ((own_jobs, "wb"), (own_replies, "rb"))
        )
        own_jobs.close()
        own_replies.close()

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return self.process.exitcode


def _serve_pipes(jobs: Connection, replies: Connection, log: str, env: dict[str, str], module: str) -> None:
    os.environ.clear()
    with open(log, "ab") as written:
        _serve((jobs.fileno(), replies.fileno(), written.fileno()), env, module)


def _serve(streams: tuple[int, int, int], env: dict[str, str], module: str = "ledger_kinds") -> None:
    """The rest of a worker's life; of the scheduler's files it has none."""
    try:
        for place, stream in enumerate(streams):
            os.dup2(stream, place)
        os.closerange(3, 1024)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.environ |= env
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        worker.main(module)
    finally:
        os._exit(1)
