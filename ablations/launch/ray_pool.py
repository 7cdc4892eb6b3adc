"""The pool on a Ray cluster: each worker is a process beside an actor, wherever Ray has the room for it.

An actor holds a worker (host.py) and passes on what it says, so that a job runs as it does in a pool of one machine:
same process, same environment, same bits. A worker or a node that is lost is replaced where there is room, and its job
tried again. Nothing outlives the scheduler: Ray ends a driver's actors with it, and a worker leaves with its actor.
"""

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ablations.home import ROOT
from ablations.launch.host import Host, Message, Order
from ablations.launch.job import Job, OnEvent, Opened, Outcome, Turn
from ablations.launch.space import check_space
from models.typed import ConfigError

OF_A_LOCAL_RAY = {
    # Without it Ray takes the machine's outward address, and its services listen on all interfaces.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
}
"""What a Ray of this machine alone is started with: it listens on the loopback interface, for who knows its token."""


class RayPool(Opened):
    """Workers on a Ray cluster, as a context manager; see `Launcher`.

    order: how a worker is started. workers: how many at once. address: of a running cluster (`auto`: the one that this
    machine is in); None starts one of this machine, which ends with it. cpus, gpus: what one worker needs. retries,
    on_workers: as for `Pool`.
    """

    def __init__(
        self,
        order: Order,
        workers: int,
        address: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        retries: int = 1,
        on_workers: Callable[[int, int], None] = lambda ready, of: None,
    ) -> None:
        super().__init__(on_workers)
        self.order, self.address, self.cpus, self.gpus, self.retries = order, address, cpus, gpus, retries
        self._workers = [_Worker(f"worker-{i}") for i in range(workers)]
        self._folder = Path(order.logs)
        self._closed = False

    def open(self) -> None:
        _connect(self.address, self.cpus * len(self._workers))
        self._check_room()
        for worker in self._workers:
            self._start(worker)
        self._tell()

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

        actor = ray.remote(Host).options(
            num_cpus=self.cpus,
            num_gpus=self.gpus,
            max_restarts=0,  # a new one is asked for here, with the job's own count of attempts
            max_concurrency=2,  # it takes a job while it listens
            scheduling_strategy="SPREAD",
        )
        worker.actor = actor.remote(self.order, worker.name)
        worker.heard = worker.actor.messages.remote()
        worker.node, worker.ready, worker.job = "", False, None

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
            worker.actor.take.remote(job)
            turn.on_event(job.key, {"event": "started", "attempt": turn.deaths[job.key] + 1})

    def _listen(self, worker: "_Worker", turn: Turn) -> None:
        """Take in what a worker has said; one that says nothing more is lost, with its node perhaps."""
        import ray

        try:
            messages: list[Message] = ray.get(worker.heard)
        except ray.exceptions.RayError as error:
            where = f" on node {worker.node}" if worker.node else ""
            messages = [{"type": "died", "reason": f"the worker was lost{where} ({_first_line(error)})"}]
        else:
            assert worker.actor is not None
            worker.heard = worker.actor.messages.remote()
        for message in messages:
            self._take_in(message, worker, turn)
        self._tell()

    def _take_in(self, message: Message, worker: "_Worker", turn: Turn) -> None:
        kind, job = message["type"], worker.job
        if kind == "here":
            worker.node = message["node"]
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
        self.ready = False
        self.failed_starts = 0
        self.failure = ""
        self.job: Job | None = None
        self.since = 0.0

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since


def _connect(address: str | None, cpus: int) -> None:
    """Become a driver of that cluster, or of a new one of this machine with as many CPUs. Raises ConfigError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_answers(address)
    if address is None:
        os.environ |= OF_A_LOCAL_RAY | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray  # reads them

    # It writes pages on a lost raylet, into whatever is displayed; what was lost is said here.
    ray._private.worker._worker_logs_enabled = False
    own: dict[str, Any] = {"address": address}
    if address is None:
        own = {"address": "local", "num_cpus": cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            **own,
            job_config=ray.job_config.JobConfig(code_search_path=[str(ROOT)]),
            log_to_driver=False,
            configure_logging=False,
            logging_level="ERROR",
        )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"launch.address={address}: no Ray cluster can be joined there ({_first_line(error)}); start one (ray "
            "start --head) and name its address, or leave launch.address out for one of this machine"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there


def _check_answers(address: str | None) -> None:
    """Raise ConfigError where nobody listens at `HOST:PORT`: Ray would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"launch.address={address}: nobody answers there ({error}); start one (ray start --head) and name its "
            "address, or leave launch.address out for one of this machine"
        ) from None


def _needs(cpus: int, gpus: int) -> str:
    return f"{cpus} CPU{'s' * (cpus != 1)}" + (f", {gpus} GPU" if gpus else "")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
