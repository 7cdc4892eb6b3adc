"""The pool: jobs spread over persistent worker processes of this machine, seen from the scheduler.

One scheduler owns the plan; workers (`worker.py`) know nothing but the job at hand. Imports are paid once per worker
and begin with the pool, beside the scheduler's own work. A worker that dies is replaced and its job tried again; an
exception inside a job is deterministic and ends that job only; a full disk ends all (DiskFull). Workers never outlive
the scheduler: they leave when the pipe from it closes, which the operating system does even after `kill -9`.
"""

import collections
import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self

from ablations.home import ROOT
from ablations.launch.environment import worker_environment
from ablations.launch.space import DiskFull, is_full
from models.typed import ConfigError


@dataclass(frozen=True)
class Job:
    """One call in a worker."""

    key: str
    """Unique; shown in progress and logs (a trial's id, or `guards:bias`)."""
    kind: str
    """Name in the worker's fixed table of functions, never an import path."""
    arguments: dict[str, Any]
    """JSON."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: a result or an error, never both."""

    key: str
    result: dict[str, Any] | None = None
    """JSON that the function returned."""
    error: str | None = None
    """Last line of the traceback, or how the worker died, with the path of the worker's log."""


class Pool:
    """Persistent worker processes, as a context manager.

    workers: how many processes. log_dir: takes `worker-<i>.log`, one per process, appended to. environment: laid over
    what this process's own holds for a worker (environment.py; see `thread_environment`). retries: how often a job is
    tried again after its worker died. kinds_module: module with the table `KINDS` of functions. on_workers: hears
    how many have imported everything, and of how many, whenever that changes.
    """

    def __init__(
        self,
        workers: int,
        log_dir: Path,
        environment: dict[str, str] | None = None,
        retries: int = 1,
        kinds_module: str = "ablations.sweep.jobs",
        on_workers: Callable[[int, int], None] = lambda ready, of: None,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"launch.workers={workers}: must be at least 1")
        self.retries = retries
        variables = worker_environment(os.environ, environment or {})
        # -P keeps the working directory off the path, so a worker loads the same packages as the scheduler did.
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), variables.get("PYTHONPATH")]))
        command = [sys.executable, "-P", "-m", "ablations.launch.worker", kinds_module]
        self._workers = [_Worker(command, variables, log_dir / f"worker-{i}.log") for i in range(workers)]
        self._folder, self._on_workers, self._told = log_dir, on_workers, -1
        self._selector = selectors.DefaultSelector()
        self._closed = False

    def __enter__(self) -> Self:
        try:
            for worker in self._workers:
                self._start(worker)
            self._tell()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all workers now, whatever they are doing. Nothing is left behind."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.reap()
        self._selector.close()

    def run(
        self,
        jobs: Sequence[Job],
        on_event: Callable[[str, dict[str, Any]], None],
        limit: int | None = None,
    ) -> dict[str, Outcome]:
        """Run all jobs, in order as workers become free, and return their outcomes by key.

        on_event(key, event) hears `{"event": "started", "attempt"}`, whatever the job reports, `{"event": "retry",
        "reason"}` and `{"event": "done", "seconds", "error"}`. limit: at most this many workers are used at once, and
        only while none is still importing, so that speed is measured on a quiet machine. Any exception here, Ctrl-C
        included, stops the workers and is passed on.
        """
        if self._closed:
            raise RuntimeError("the pool is closed")
        if len({job.key for job in jobs}) < len(jobs):
            raise ValueError("two jobs share a key")
        try:
            turn = _Turn(jobs, on_event, limit)
            for worker in self._workers:
                worker.failed_starts, worker.failure = 0, ""
                if worker.process is None:
                    self._start(worker)
            while len(turn.outcomes) < len(jobs):
                self._look_after(turn)
                self._hand_out(turn)
                for key, _ in self._selector.select(timeout=0.5):
                    worker, process, serve = key.data
                    if worker.process is process:  # else it was buried a moment ago
                        serve(worker, turn)
            return {job.key: turn.outcomes[job.key] for job in jobs}
        except BaseException:
            self.close()
            raise

    def _start(self, worker: "_Worker") -> None:
        stdout = worker.start().stdout
        self._selector.register(stdout, selectors.EVENT_READ, (worker, worker.process, self._listen))

    def _tell(self) -> None:
        ready = sum(worker.ready for worker in self._workers)
        if ready != self._told:
            self._told = ready
            self._on_workers(ready, len(self._workers))

    def _look_after(self, turn: "_Turn") -> None:
        """Bury the dead whose pipe has not ended: a grandchild can hold it open."""
        for worker in self._workers:
            process = worker.process
            if process is not None and process.poll() is not None:
                self._listen(worker, turn)
                if worker.process is process:
                    self._bury(worker, turn)

    def _hand_out(self, turn: "_Turn") -> None:
        """Give waiting jobs to free workers; end them where no worker can start."""
        alive = [worker for worker in self._workers if worker.process is not None]
        if not alive:
            for job in turn.waiting:
                turn.finish(job, Outcome(job.key, error=f"no worker could start: {self._workers[0].failure}"), 0.0)
            turn.waiting.clear()
        if turn.limit is not None and any(not worker.ready for worker in alive):
            return
        busy = sum(worker.job is not None for worker in alive)
        for worker in alive:
            if not turn.waiting or busy >= (turn.limit or len(alive)):
                return
            if worker.ready and worker.job is None:
                job = turn.waiting.popleft()
                worker.take(job, turn.lines[job.key])
                stdin = worker.pipes().stdin
                self._selector.register(stdin, selectors.EVENT_WRITE, (worker, worker.process, self._feed))
                busy += 1
                turn.on_event(job.key, {"event": "started", "attempt": turn.deaths[job.key] + 1})

    def _feed(self, worker: "_Worker", turn: "_Turn") -> None:
        """Write as much of the job as the pipe takes; a dead worker's job is dealt with when it is buried."""
        stdin = worker.pipes().stdin
        try:
            del worker.outbox[: os.write(stdin.fileno(), worker.outbox)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            worker.outbox.clear()
        if not worker.outbox:
            self._selector.unregister(stdin)

    def _listen(self, worker: "_Worker", turn: "_Turn") -> None:
        """Take in what a worker sent; at the end of its pipe, bury it."""
        lines, ended = worker.read()
        for line in lines:
            message = json.loads(line)
            kind, job = message["type"], worker.job
            if kind == "ready":
                worker.ready, worker.failed_starts, worker.failure = True, 0, ""
                self._tell()
            elif kind == "broken":  # an import that fails will fail again
                worker.failed_starts, worker.failure = self.retries, worker.at_log(message["error"])
            elif job is not None and message["key"] == job.key:
                if kind == "event":
                    turn.on_event(job.key, message["event"])
                    continue
                error = worker.at_log(message["error"]) if kind == "error" else None
                if kind == "error":
                    self._check_space(message["full"])
                worker.job = None
                turn.finish(job, Outcome(job.key, message.get("result"), error), time.monotonic() - worker.since)
        if ended:
            self._bury(worker, turn)

    def _check_space(self, place: str | None) -> None:
        """End everything where a disk is full: `place` could not be written, or the logs' own cannot."""
        if place is not None:
            raise DiskFull(Path(place).parent if place else self._folder)
        if is_full(self._folder):
            raise DiskFull(self._folder)

    def _bury(self, worker: "_Worker", turn: "_Turn") -> None:
        """Replace a dead worker, and put its job back in front or end it."""
        for pipe in (worker.pipes().stdin, worker.pipes().stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
        job, ready, reason = worker.job, worker.ready, worker.at_log(worker.reap())
        self._check_space(None)
        if not ready:
            worker.failed_starts += 1
            worker.failure = worker.failure or reason
        if job is not None:
            turn.deaths[job.key] += 1
            if turn.deaths[job.key] <= self.retries:
                turn.waiting.appendleft(job)
                turn.on_event(job.key, {"event": "retry", "reason": reason})
            else:
                turn.finish(job, Outcome(job.key, error=reason), time.monotonic() - worker.since)
        if worker.failed_starts <= self.retries:
            self._start(worker)
        self._tell()


def thread_environment(threads: int) -> dict[str, str]:
    """What numerical libraries read, once, when they are loaded: threads per worker."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


class _Turn:
    """The state of one `Pool.run`."""

    def __init__(self, jobs: Sequence[Job], on_event: Callable[[str, dict[str, Any]], None], limit: int | None) -> None:
        self.on_event, self.limit = on_event, limit
        self.waiting = collections.deque(jobs)
        self.lines = {job.key: json.dumps(vars(job)).encode() + b"\n" for job in jobs}
        self.deaths: collections.Counter[str] = collections.Counter()
        self.outcomes: dict[str, Outcome] = {}

    def finish(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self.outcomes[job.key] = outcome
        self.on_event(job.key, {"event": "done", "seconds": seconds, "error": outcome.error})


class _Pipes(NamedTuple):
    stdin: IO[bytes]
    stdout: IO[bytes]


class _Worker:
    """One place in the pool: the process that holds it now, its pipes, its log, and its job."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.command, self.environment, self.log = command, environment, log
        self.process: subprocess.Popen[bytes] | None = None
        self.failed_starts = 0
        self.failure = ""
        self.ready = False
        self.job: Job | None = None
        self.since = 0.0
        self.outbox, self._inbox = bytearray(), bytearray()

    def start(self) -> "_Pipes":
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

    def pipes(self) -> "_Pipes":
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        return _Pipes(self.process.stdin, self.process.stdout)

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
        return f"{text} (log: {self.log})"
