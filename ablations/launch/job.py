"""Jobs, what becomes of them, and the contract of whatever runs them: a pool of this machine's processes (pool.py), a
Ray cluster (ray_pool.py) or a Slurm one (slurm_pool.py)."""

import abc
import collections
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

OnEvent = Callable[[str, dict[str, Any]], None]
"""Hears (a job's key, event): `{"event": "started", "attempt"}`, whatever the job reports, `{"event": "retry",
"reason"}` and `{"event": "done", "seconds", "error"}`."""


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


class RankKilled(Exception):
    """A process that a job's worker had started, and cannot do without, was ended by a signal. What is done about it is
    what is done about the worker's own end."""

    def __init__(self, said: str, signal: int) -> None:
        super().__init__(said)
        self.signal = signal


class Launcher(Protocol):
    """What runs jobs, as a context manager: nothing that it has started is left behind it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def run(self, jobs: Sequence[Job], on_event: OnEvent, limit: int | None = None) -> dict[str, Outcome]:
        """Run all jobs, in order as there is room, and return their outcomes by key.

        limit: at most so many at once. A job whose worker dies is tried again; an exception inside a job is
        deterministic and ends that job only. Raises DiskFull. Any exception here, Ctrl-C included, stops all jobs and
        is passed on.
        """
        ...


class Opened(abc.ABC):
    """What launchers of every kind share: they are closed whatever happens, and tell how many workers are ready."""

    def __init__(self, on_workers: Callable[[int, int], None] = lambda ready, of: None) -> None:
        """on_workers: hears how many have imported everything, and of how many, whenever that changes."""
        self._on_workers, self._told = on_workers, -1

    @abc.abstractmethod
    def open(self) -> None:
        """Start what runs jobs."""

    @abc.abstractmethod
    def close(self) -> None:
        """End all of it now, whatever it is doing."""

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def tell(self, ready: int, of: int) -> None:
        if ready != self._told:
            self._told = ready
            self._on_workers(ready, of)


class Turn:
    """The state of one `Launcher.run`."""

    def __init__(self, jobs: Sequence[Job], on_event: OnEvent, limit: int | None) -> None:
        if len({job.key for job in jobs}) < len(jobs):
            raise ValueError("two jobs share a key")
        self.on_event, self.limit = on_event, limit
        self.waiting = collections.deque(jobs)
        self.lines = {job.key: json.dumps(vars(job)).encode() + b"\n" for job in jobs}
        self.deaths: collections.Counter[str] = collections.Counter()
        self.outcomes: dict[str, Outcome] = {}

    def finish(self, job: Job, outcome: Outcome, seconds: float) -> None:
        self.outcomes[job.key] = outcome
        self.on_event(job.key, {"event": "done", "seconds": seconds, "error": outcome.error})

    def lose(self, job: Job, reason: str, retries: int, seconds: float) -> None:
        """Its worker has died: it is the next to be tried again, or has ended."""
        self.deaths[job.key] += 1
        if self.deaths[job.key] <= retries:
            self.waiting.appendleft(job)
            self.on_event(job.key, {"event": "retry", "reason": reason})
        else:
            self.finish(job, Outcome(job.key, error=reason), seconds)
