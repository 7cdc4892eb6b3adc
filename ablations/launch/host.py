"""A worker process on a node of a cluster, spoken to from elsewhere: what a Ray actor holds, and what a Slurm job runs.

The worker is the pool's own (worker.py), with the same environment; before it gets a job it is greeted, so that a node
that cannot do what is asked says so instead of doing something else.
"""

import json
import platform
import select
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ablations.launch.job import Job
from ablations.launch.process import WorkerProcess

Message = dict[str, Any]
"""What worker.py says, errors with the path of its log; besides `{"type": "here", "node", "runs"}` first of all, and
`{"type": "died", "reason"}` at the end. `ready` comes after the greeting; where that fails, `broken`."""
LAST = ("result", "error", "broken", "died")
"""Types of messages after which a job has nothing more to say."""


@dataclass(frozen=True)
class Order:
    """How a worker is started, on whatever node."""

    logs: str
    environment: dict[str, str]
    """Laid over what the node's own environment holds for a worker."""
    kinds_module: str
    greeting: Job | None = None
    """A worker whose first job, this one, ends with an error is not used."""
    runs: str = ""
    """The runs folder; `logs` is below it."""
    mark: str = ""
    """The name of a file in it, by which a node knows that it sees this very folder."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Further variables of the environment, that name folders below `runs`."""
    told: str = ""
    """Where logs are for who reads of them, if not in `logs`."""

    @property
    def is_seen(self) -> bool:
        """Whether this node sees the runs folder."""
        return not self.mark or (Path(self.runs) / self.mark).is_file()

    def at(self, runs: Path) -> "Order":
        """The same on a node that has a runs folder of its own."""
        logs = str(runs / Path(self.logs).relative_to(self.runs))
        return replace(self, logs=logs, runs=str(runs), mark="", told=self.logs)


class Host:
    """One worker process on this node. `take` and `messages` may be called from two threads."""

    def __init__(self, order: Order, name: str) -> None:
        self._greeting = order.greeting
        environment = dict(order.environment)
        environment |= {variable: str(Path(order.runs) / place) for variable, place in order.places.items()}
        log, told = (Path(logs) / f"{name}.log" for logs in (order.logs, order.told or order.logs))
        self._worker = WorkerProcess(order.kinds_module, environment, log, told)
        self._unsaid: list[Message] = [{"type": "here", "node": platform.node(), "runs": order.runs}]
        self._stdin, self._stdout = self._worker.start()

    def take(self, job: Job) -> None:
        """Hand the worker a job. Where it has died meanwhile, `messages` says so."""
        rest = json.dumps(vars(job)).encode() + b"\n"
        try:
            while rest:
                select.select([], [self._stdin], [])
                rest = rest[self._stdin.write(rest) or 0 :]
        except (BrokenPipeError, ValueError):  # ValueError: closed when it was reaped
            pass

    def messages(self) -> list[Message]:
        """What the worker has said since the last call; waits until there is something."""
        while not self._unsaid:
            select.select([self._stdout], [], [], 1.0)
            lines, ended = self._worker.read()
            self._unsaid += [heard for line in lines if (heard := self._greeted(json.loads(line))) is not None]
            process = self._worker.process
            if ended or (process is not None and process.poll() is not None and not lines):
                self._unsaid.append({"type": "died", "reason": self._worker.at_log(self._worker.reap())})
        said, self._unsaid = self._unsaid, []
        return said

    def until_done(self, job: Job) -> Iterator[Message]:
        """Everything that is said from now to the end of this job, which the worker gets as soon as it is ready."""
        while True:
            for message in self.messages():
                yield message
                if message["type"] == "ready":
                    self.take(job)
                elif message["type"] in LAST:
                    return

    def stop(self) -> None:
        """End the worker now, whatever it is doing."""
        self._worker.kill()
        self._worker.reap()

    def _greeted(self, message: Message) -> Message | None:
        """The message as the scheduler is to hear it; None for what passes between this and the worker alone."""
        greeting = self._greeting
        if message["type"] == "ready" and greeting is not None:
            self.take(greeting)
            return None
        if greeting is not None and message.get("key") == greeting.key:
            if message["type"] == "event":
                return None
            self._greeting = None
            message = (
                {"type": "ready"} if message["type"] == "result" else {"type": "broken", "error": message["error"]}
            )
        if "error" in message:
            message["error"] = self._worker.at_log(message["error"])
        return message
