"""The pool as jobs of Slurm, through submitit: an array for each phase, a job of it for each of the sweep's.

A Slurm job holds one worker (host.py) for one job of the sweep and writes what it says into a file of the shared
folder, which the scheduler reads. One that is preempted or has used up its time is queued again by submitit, and one
whose node is lost by Slurm: it is then told the same once more, and a trial goes on from where it was. What dies
otherwise is submitted again from here.
"""

import contextlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.home import ROOT
from ablations.launch.host import LAST, Host, Message, Order
from ablations.launch.job import Job, OnEvent, Opened, Outcome, Turn
from ablations.launch.space import check_space
from models.base.typed import ConfigError

MINUTES = 240
"""Of a Slurm job, unless `launch.slurm` says otherwise. One that needs more is queued again."""
TIMES = 100
"""How often."""
ASK_EVERY = 60.0
"""Seconds between two questions to Slurm's accounting."""
LATE = 20.0
"""Seconds that what a node has written may need to be seen here, after its job has ended."""


class Errand:
    """What a Slurm job does. submitit keeps it beside the job, and calls it again when that is queued again."""

    def __init__(self, order: Order, job: Job, told: Path) -> None:
        """`told`: takes the worker's messages, one JSON line each."""
        self.order, self.job, self.told = order, job, told

    def __call__(self) -> None:
        host = Host(self.order, self.told.stem)
        with self.told.open("ab", buffering=0) as file:
            file.write(b"\n")  # whoever was here before may have been stopped within a line
            for message in host.until_done(self.job):
                file.write(json.dumps(message).encode() + b"\n")
        host.stop()

    def checkpoint(self) -> Any:
        """The same again: what is done of it is on disk already."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class SlurmPool(Opened):
    """Workers in jobs of Slurm, as a context manager; see `Launcher`.

    order: how a worker is started. workers: how many jobs run at once. address: None is this machine's Slurm; `local`
    runs the same jobs as processes of this machine, for trying out. cpus, gpus: what one job needs. options: further
    ones of `sbatch`, by their long names. retries: as for `Pool`. poll: seconds between two looks.
    """

    def __init__(
        self,
        order: Order,
        workers: int,
        address: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        options: Mapping[str, Any] | None = None,
        retries: int = 1,
        poll: float = 0.5,
    ) -> None:
        super().__init__()
        self.order, self.workers, self.local, self.retries, self.poll = (
            order,
            workers,
            address == "local",
            retries,
            poll,
        )
        self.cpus, self.gpus, self.options = cpus, gpus, dict(options or {})
        self._folder = Path(order.logs) / "slurm"
        self._numbers = itertools.count()
        self._sent: list[_Sent] = []
        self._executor: Any = None
        self._asked = time.monotonic()

    def open(self) -> None:
        import submitit

        self._folder.mkdir(parents=True, exist_ok=True)
        # Jobs begin with this process's environment, and unpickle what is defined here.
        paths = [str(ROOT), os.environ.get("PYTHONPATH")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        minutes = self.options.pop("time", MINUTES)
        if self.local:
            self._executor = submitit.LocalExecutor(self._folder, max_num_timeout=TIMES)
            self._executor.update_parameters(timeout_min=minutes)
            return
        try:
            self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=TIMES)
        except RuntimeError as error:
            raise ConfigError(
                f"launch.kind=slurm: {error} Run the command where sbatch and srun are, or try it out on this machine "
                "with launch.address=local"
            ) from None
        gpus = (
            {"gpus_per_node": self.gpus}
            if self.gpus and not {"gres", "gpus", "gpus-per-node"} & {*self.options}
            else {}
        )
        self._executor.update_parameters(
            job_name="ablations",
            time=minutes,
            cpus_per_task=self.cpus,
            additional_parameters={"requeue": True, **self.options},
            **gpus,
        )

    def close(self) -> None:
        """Cancel all jobs that have not ended."""
        sent, self._sent = self._sent, []
        self._cancel(sent)

    def run(self, jobs: Sequence[Job], on_event: OnEvent, limit: int | None = None) -> dict[str, Outcome]:
        """As `Launcher.run` says."""
        turn = Turn(jobs, on_event, limit)
        at_once = min(limit or self.workers, self.workers)
        try:
            while len(turn.outcomes) < len(jobs):
                self._submit(turn, at_once)
                self._look_up()
                for one in list(self._sent):
                    self._follow(one, turn)
                if len(turn.outcomes) < len(jobs):
                    time.sleep(self.poll)
            return {job.key: turn.outcomes[job.key] for job in jobs}
        except BaseException:
            self.close()
            raise

    def _cancel(self, sent: Sequence["_Sent"]) -> None:
        if not self.local and sent:
            subprocess.run(["scancel", *(one.handle.job_id for one in sent)], check=False)
        elif self.local:
            for one in sent:
                one.handle.cancel()
            for one in sent:
                one.handle._process.wait()

    def _submit(self, turn: Turn, at_once: int) -> None:
        """All that wait, as an array of which Slurm runs so many at once; where nobody queues them, as many as there is
        room for."""
        room = at_once - len(self._sent) if self.local else len(turn.waiting)
        jobs = [turn.waiting.popleft() for _ in range(min(room, len(turn.waiting)))]
        if not jobs:
            return
        files = [self._folder / f"{os.getpid()}-{next(self._numbers)}.told" for _ in jobs]
        errands = [Errand(self.order, job, file) for job, file in zip(jobs, files, strict=True)]
        if not self.local:
            self._executor.update_parameters(array_parallelism=at_once)
        try:
            with self._executor.batch():
                handles = [self._executor.submit(errand) for errand in errands]
        except Exception as error:  # submitit raises a kind of its own for each way in which sbatch refuses
            raise ConfigError(f"launch.slurm={self.options}: sbatch refuses: {' '.join(str(error).split())}") from None
        self._sent += [_Sent(*each) for each in zip(jobs, files, handles, strict=True)]

    def _look_up(self) -> None:
        """Ask Slurm now and then what became of its jobs, for those that end without a word."""
        if not self.local and self._sent and time.monotonic() - self._asked > ASK_EVERY:
            self._asked = time.monotonic()
            self._sent[0].handle.watcher.update()

    def _follow(self, one: "_Sent", turn: Turn) -> None:
        """Take in what a job has said; one that has ended without a last word has died."""
        ended = one.handle.done()  # before it is read: what it has said comes first
        for message in one.read():
            self._take_in(message, one, turn)
            if message["type"] in LAST:
                self._sent.remove(one)
                return
        if not ended:
            one.ended = None
            return
        one.ended = one.ended or time.monotonic()
        if self.local or time.monotonic() - one.ended > LATE:
            self._sent.remove(one)
            self._cancel([one])  # nor may Slurm queue it again, beside the one that is sent for it
            reason = f"job {one.handle.job_id} ended as {one.handle.state} (log: {one.handle.paths.stderr})"
            self._lose(one, reason, turn)

    def _take_in(self, message: Message, one: "_Sent", turn: Turn) -> None:
        kind, key = message["type"], one.job.key
        if kind == "here":
            if one.begun:
                turn.on_event(key, {"event": "retry", "reason": f"job {one.handle.job_id} was queued again"})
            one.begun += 1
            one.since = time.monotonic()
            turn.on_event(key, {"event": "started", "attempt": turn.deaths[key] + one.begun})
        elif kind == "event":
            turn.on_event(key, message["event"])
        elif kind == "died":
            self._lose(one, message["reason"], turn)
        elif kind in LAST:
            if kind == "error":
                check_space(self._folder, message["full"])
            turn.finish(one.job, Outcome(key, message.get("result"), message.get("error")), one.seconds)

    def _lose(self, one: "_Sent", reason: str, turn: Turn) -> None:
        check_space(self._folder)
        turn.lose(one.job, reason, self.retries, one.seconds)


class _Sent:
    """A job that was submitted, and how far its messages have been read."""

    def __init__(self, job: Job, file: Path, handle: Any) -> None:
        self.job, self.file, self.handle = job, file, handle
        self.begun = 0
        self.since = time.monotonic()
        self.ended: float | None = None
        self._at = 0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def read(self) -> list[Message]:
        """The whole lines that have come."""
        with contextlib.suppress(FileNotFoundError), self.file.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
            self._at += len(whole) + len(newline)
            return [message for line in whole.split(b"\n") if (message := _parsed(line)) is not None]
        return []


def _parsed(line: bytes) -> Message | None:
    """None for what a job that was stopped has left of a line."""
    with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
        message: Message = json.loads(line)
        return message
    return None
