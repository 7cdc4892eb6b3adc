"""One process of `worker.py`, seen from whoever started it: its pipes, its log, its job, and how it ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

from ablations.home import ROOT
from ablations.launch.environment import worker_environment
from ablations.launch.job import Job


class Pipes(NamedTuple):
    stdin: IO[bytes]
    stdout: IO[bytes]


class WorkerProcess:
    """A place for a worker: the process that holds it now, its pipes, its log, and its job.

    kinds_module: module with the table `KINDS` of functions. environment: laid over what this process's own holds for a
    worker. told: where who reads of the log finds it, if not at `log`.
    """

    def __init__(self, kinds_module: str, environment: Mapping[str, str], log: Path, told: Path | None = None) -> None:
        self.log, self.told = log, told or log
        self.environment = worker_environment(os.environ, environment)
        # -P keeps the working directory off the path, so a worker loads the same packages as the scheduler did.
        paths = [str(ROOT), self.environment.get("PYTHONPATH")]
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        self.command = [sys.executable, "-P", "-m", "ablations.launch.worker", kinds_module]
        self.process: subprocess.Popen[bytes] | None = None
        self.failed_starts = 0
        self.failure = ""
        self.ready = False
        self.job: Job | None = None
        self.since = 0.0
        self.outbox, self._inbox = bytearray(), bytearray()

    def start(self) -> Pipes:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment,
                bufsize=0,
            )
        self.ready, self.job = False, None
        self.outbox, self._inbox = bytearray(), bytearray()
        pipes = self.pipes()
        os.set_blocking(pipes.stdin.fileno(), False)
        os.set_blocking(pipes.stdout.fileno(), False)
        return pipes

    def pipes(self) -> Pipes:
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        return Pipes(self.process.stdin, self.process.stdout)

    def take(self, job: Job, line: bytes) -> None:
        self.job, self.since, self.outbox = job, time.monotonic(), bytearray(line)

    def read(self) -> tuple[list[bytes], bool]:
        """Whole lines that have arrived, and whether the pipe has ended."""
        try:
            chunk = os.read(self.pipes().stdout.fileno(), 1 << 20)  # more than a pipe holds
        except BlockingIOError:
            return [], False
        self._inbox += chunk
        if b"\n" not in chunk:
            return [], not chunk
        *lines, rest = bytes(self._inbox).split(b"\n")
        self._inbox = bytearray(rest)
        return lines, False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def reap(self) -> str:
        """Wait for the process's end and say how it ended."""
        if self.process is None:
            return ""
        ended_itself = True
        try:
            code = self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:  # it closed its pipe but lives
            ended_itself = False
            self.process.kill()
            code = self.process.wait()
        for pipe in self.pipes():
            pipe.close()
        self.process, self.job, self.ready = None, None, False
        if not ended_itself:
            return "the worker stopped without ending, and was ended"
        if code >= 0:
            return f"the worker exited with code {code}"
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            return f"the worker died of {name}" + (" (killed, or out of memory)" if name == "SIGKILL" else "")
        return f"the worker died of signal {-code}"

    def at_log(self, text: str) -> str:
        return f"{text} (log: {self.told})"
