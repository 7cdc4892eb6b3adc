"""The pool on a Ray cluster: each worker is a process beside an actor, wherever Ray has the room for it.

An actor holds a worker (host.py) and passes on what it says, so that a job runs as it does in a pool of one machine:
same process, same environment, same bits. A worker or a node that is lost is replaced where there is room, and its job
tried again. Nothing outlives the scheduler: Ray ends a driver's actors with it, and a worker leaves with its actor.
A node that does not see the runs folder is sent what its jobs need, and what they leave comes back (freight.py).
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ablations.launch.away import AwayHost
from ablations.launch.freight import Freight, Sender
from ablations.launch.host import Message, Order
from ablations.launch.job import Job, OnEvent, Opened, Outcome, Turn
from ablations.launch.ray_driver import RayStore, connect, first_line
from ablations.launch.space import check_space
from models.base.typed import ConfigError

LEAVING_SECONDS = 60.0
"""How long a node may take to remove what was sent to it."""


class RayPool(Opened):
    """Workers on a Ray cluster, as a context manager; see `Launcher`.

    order: how a worker is started. workers: how many at once. address: of a running cluster (`auto`: the one that this
    machine is in); None starts one of this machine, which ends with it. cpus, gpus: what one worker needs. freight:
    what is sent to nodes that do not see `order.runs`; without it all must. retries, on_workers: as for `Pool`.
    """

    def __init__(
        self,
        order: Order,
        workers: int,
        address: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        freight: Freight | None = None,
        retries: int = 1,
        on_workers: Callable[[int, int], None] = lambda ready, of: None,
    ) -> None:
        super().__init__(on_workers)
        self.order, self.address, self.cpus, self.gpus, self.retries = order, address, cpus, gpus, retries
        self._workers = [_Worker(f"worker-{i}") for i in range(workers)]
        self._sender = None if freight is None else Sender(freight, RayStore())
        self._folder = Path(order.logs)
        self._closed = False

    def open(self) -> None:
        connect(self.address, self.cpus * len(self._workers))
        self._check_room()
        for worker in self._workers:
            self._start(worker)
        self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._clear_nodes()
        self.close()

    def _clear_nodes(self) -> None:
        """Remove what was sent, where nobody else uses it; what is interrupted finds it when it goes on."""
        import ray

        left = [worker.actor.leave.remote() for worker in self._workers if worker.actor is not None and worker.runs]
        if left:
            ray.wait(left, num_returns=len(left), timeout=LEAVING_SECONDS)

    def close(self) -> None:
        """End all workers now, and the cluster too where it is this machine's own."""
        import ray

        if self._closed:
            return
        self._closed = True
        for worker in self._workers:
            self._end(worker)
        ray.shutdown()

    def run(self, jobs: Sequence[Job], on_event: OnEvent, limit: int | None = None) -> dict[str, Outcome]:
        """As `Launcher.run` says. With a `limit` jobs wait until no worker is importing any more; those that Ray has no
        room for yet are not waited for."""
        import ray

        if self._closed:
            raise RuntimeError("the pool is closed")
        turn = Turn(jobs, on_event, limit)
        try:
            for worker in self._workers:
                worker.failed_starts, worker.failure = 0, ""
                if worker.actor is None:
                    self._start(worker)
            while len(turn.outcomes) < len(jobs):
                self._hand_out(turn)
                of = {worker.heard: worker for worker in self._workers if worker.actor is not None}
                if of:
                    for heard in ray.wait(list(of), num_returns=1, timeout=0.5)[0]:
                        self._listen(of[heard], turn)
            return {job.key: turn.outcomes[job.key] for job in jobs}
        except BaseException:
            self.close()
            raise

    def _check_room(self) -> None:
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            raise ConfigError(
                f"launch.kind=ray: no node of the cluster has what one trial needs ({_needs(self.cpus, self.gpus)}); "
                "start one that has, or ask for less (train.threads)"
            )

    def _start(self, worker: "_Worker") -> None:
        """Ask for an actor; it begins where and when Ray has room."""
        import ray

        actor = ray.remote(AwayHost).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,  # a new one is asked for here, with the job's own count of attempts
            max_concurrency=2,  # it takes a job while it listens
            scheduling_strategy="SPREAD",
        )
        worker.actor = actor.remote(self.order, worker.name, RayStore())
        worker.heard = worker.actor.messages.remote()
        worker.node, worker.runs, worker.ready, worker.job = "", "", False, None

    def _end(self, worker: "_Worker") -> None:
        import ray

        if worker.actor is not None and ray.is_initialized():
            ray.kill(worker.actor)
        worker.actor, worker.heard, worker.ready, worker.job = None, None, False, None

    def _tell(self) -> None:
        self.tell(sum(worker.ready for worker in self._workers), len(self._workers))

    def _hand_out(self, turn: Turn) -> None:
        """Give waiting jobs to free workers; end them where no worker can start."""
        alive = [worker for worker in self._workers if worker.actor is not None]
        if not alive:
            for job in turn.waiting:
                turn.finish(job, Outcome(job.key, error=f"no worker could start: {self._workers[0].failure}"), 0.0)
            turn.waiting.clear()
        if turn.limit is not None and any(worker.node and not worker.ready for worker in alive):
            return
        room = (turn.limit or len(alive)) - sum(worker.job is not None for worker in alive)
        free = [worker for worker in alive if worker.ready and worker.job is None]
        for worker in free[: max(room, 0)]:
            if not turn.waiting:
                return
            job = turn.waiting.popleft()
            worker.job, worker.since = job, time.monotonic()
            assert worker.actor is not None
            if worker.runs and self._sender is not None:
                worker.actor.take.remote(*self._sender.send(job, worker.runs))
            else:
                worker.actor.take.remote(job)
            turn.on_event(job.key, {"event": "started", "attempt": turn.deaths[job.key] + 1})

    def _listen(self, worker: "_Worker", turn: Turn) -> None:
        """Take in what a worker has said; one that says nothing more is lost, with its node perhaps."""
        import ray

        try:
            messages: list[Message] = ray.get(worker.heard)
        except ray.exceptions.RayError as error:
            messages = [{"type": "died", "reason": _lost(worker, error)}]
        else:
            assert worker.actor is not None
            worker.heard = worker.actor.messages.remote()
        for message in messages:
            self._take_in(message, worker, turn)
        self._tell()

    def _take_in(self, message: Message, worker: "_Worker", turn: Turn) -> None:
        import ray

        kind, job = message["type"], worker.job
        if message.get("log"):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{worker.name}.log").open("a", encoding="utf-8") as log:
                log.write(message["log"])
        if "home" in message and job is not None and self._sender is not None:
            try:
                self._sender.take_home(job, message["home"], ended=kind != "died")
            except ray.exceptions.RayError as error:
                self._bury(worker, _lost(worker, error), turn)
                return
            assert worker.actor is not None
            worker.actor.cleared.remote()
        if kind == "here":
            worker.node = message["node"]
            worker.runs = "" if message["runs"] == self.order.runs else message["runs"]
        elif kind == "ready":
            worker.ready, worker.failed_starts, worker.failure = True, 0, ""
        elif kind == "broken":
            worker.failed_starts, worker.failure = self.retries, message["error"]
            some_key = next(iter(turn.lines))
            turn.on_event(some_key, {"event": "note", "text": f"node {worker.node} is left out: {message['error']}"})
        elif kind == "died":
            self._bury(worker, message["reason"], turn)
        elif job is not None and message["key"] == job.key:
            if kind == "event":
                turn.on_event(job.key, message["event"])
                return
            if kind == "error":
                check_space(self._folder, message["full"])
            worker.job = None
            turn.finish(job, Outcome(job.key, message.get("result"), message.get("error")), worker.seconds)

    def _bury(self, worker: "_Worker", reason: str, turn: Turn) -> None:
        """Replace a lost worker, and put its job back in front or end it."""
        job, ready = worker.job, worker.ready
        self._end(worker)  # one that is out of reach must not go on once it is back
        check_space(self._folder)
        if not ready:
            worker.failed_starts += 1
            worker.failure = worker.failure or reason
        if job is not None:
            turn.lose(job, reason, self.retries, worker.seconds)
        if worker.failed_starts <= self.retries:
            self._start(worker)


class _Worker:
    """One place in the pool: the actor that holds it now, and its job."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.actor: Any = None
        self.heard: Any = None
        """What the actor will say next."""
        self.node = ""
        """Where it is; empty until it is placed."""
        self.runs = ""
        """Its runs folder, where that is not the scheduler's."""
        self.ready = False
        self.failed_starts = 0
        self.failure = ""
        self.job: Job | None = None
        self.since = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def _lost(worker: _Worker, error: BaseException) -> str:
    where = f" on node {worker.node}" if worker.node else ""
    return f"the worker was lost{where} ({first_line(error)})"


def _needs(cpus: int, gpus: int) -> str:
    return f"{cpus} CPU{'s' * (cpus != 1)}" + (f", {gpus} GPU" if gpus else "")
