"""The pool: jobs spread over persistent worker processes of this machine, seen from the scheduler.

One scheduler owns the plan; workers (`worker.py`) know nothing but the job at hand. Imports are paid once per worker
and begin with the pool, beside the scheduler's own work. A worker that dies is replaced and its job tried again; an
exception inside a job is deterministic and ends that job only; a full disk ends all (DiskFull). Workers never outlive
the scheduler: they leave when the pipe from it closes, which the operating system does even after `kill -9`.
"""

import contextlib
import json
import os
import selectors
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ablations.launch.job import Job, OnEvent, Opened, Outcome, Turn
from ablations.launch.process import WorkerProcess
from ablations.launch.space import check_space
from models.base.typed import ConfigError


class Pool(Opened):
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
        super().__init__(on_workers)
        self.retries = retries
        own = environment or {}
        self._workers = [WorkerProcess(kinds_module, own, log_dir / f"worker-{i}.log") for i in range(workers)]
        self._folder = log_dir
        self._selector = selectors.DefaultSelector()
        self._closed = False

    def open(self) -> None:
        for worker in self._workers:
            self._start(worker)
        self._tell()

    def close(self) -> None:
        """Stop all workers now, whatever they are doing. Nothing is left behind."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.reap()
        self._selector.close()

    def run(self, jobs: Sequence[Job], on_event: OnEvent, limit: int | None = None) -> dict[str, Outcome]:
        """As `Launcher.run` says. With a `limit` jobs wait until no worker is importing any more, so that speed is
        measured on a quiet machine."""
        if self._closed:
            raise RuntimeError("the pool is closed")
        turn = Turn(jobs, on_event, limit)
        try:
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

    def _start(self, worker: WorkerProcess) -> None:
        stdout = worker.start().stdout
        self._selector.register(stdout, selectors.EVENT_READ, (worker, worker.process, self._listen))

    def _tell(self) -> None:
        self.tell(sum(worker.ready for worker in self._workers), len(self._workers))

    def _look_after(self, turn: Turn) -> None:
        """Bury the dead whose pipe has not ended: a grandchild can hold it open."""
        for worker in self._workers:
            process = worker.process
            if process is not None and process.poll() is not None:
                self._listen(worker, turn)
                if worker.process is process:
                    self._bury(worker, turn)

    def _hand_out(self, turn: Turn) -> None:
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

    def _feed(self, worker: WorkerProcess, turn: Turn) -> None:
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

    def _listen(self, worker: WorkerProcess, turn: Turn) -> None:
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
                    check_space(self._folder, message["full"])
                worker.job = None
                turn.finish(job, Outcome(job.key, message.get("result"), error), time.monotonic() - worker.since)
        if ended:
            self._bury(worker, turn)

    def _bury(self, worker: WorkerProcess, turn: Turn) -> None:
        """Replace a dead worker, and put its job back in front or end it."""
        for pipe in (worker.pipes().stdin, worker.pipes().stdout):
            with contextlib.suppress(KeyError):
                self._selector.unregister(pipe)
        job, ready, reason = worker.job, worker.ready, worker.at_log(worker.reap())
        check_space(self._folder)
        if not ready:
            worker.failed_starts += 1
            worker.failure = worker.failure or reason
        if job is not None:
            turn.lose(job, reason, self.retries, time.monotonic() - worker.since)
        if worker.failed_starts <= self.retries:
            self._start(worker)
        self._tell()
