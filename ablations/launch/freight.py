"""What a job needs of the runs folder and leaves in it, sent to a machine that does not see that folder and back.

What does not change any more (a text, a trunk, a checkpoint) is sent once to a machine, however many of its workers
need it. What a job goes on with is sent with it, and what it leaves comes home with its end.
"""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ablations.launch.job import Job
from ablations.launch.parcels import is_sent, pack, unpack
from models.base.files import passing_folder


@dataclass(frozen=True)
class Cargo:
    """Names below the runs folder."""

    given: Mapping[str, str] = field(default_factory=dict)
    """{folder there: folder here}, of those that are here and do not change while jobs need them."""
    goes: tuple[str, ...] = ()
    """Files and folders that are sent as they are now, where they are."""
    comes: tuple[str, ...] = ()
    """Patterns (`pathlib.Path.glob`) of what comes home."""


class Store(Protocol):
    """Where pieces lie between two machines."""

    def put(self, piece: bytes) -> Any:
        """Keep it; what is returned names it on any machine."""

    def get(self, name: Any) -> bytes: ...


class Freight(Protocol):
    """What jobs are about, which launchers do not know."""

    runs: Path

    def cargo(self, job: Job) -> Cargo: ...

    def moved(self, job: Job, runs: str) -> Job:
        """The same job, for a machine that has its runs folder there."""

    def settle(self, job: Job, arrived: Path, ended: bool) -> None:
        """Take over what came home, which lies below `arrived` as it is to lie below the runs folder. A job that has
        not `ended` is tried again."""


class Given(NamedTuple):
    """A folder that is sent once."""

    version: str
    """Of what is in it: a machine that has another one of that name is sent this one."""
    pieces: list[Any]


@dataclass(frozen=True)
class Shipment:
    """Of one job to one machine: the pieces, by their names in the store."""

    given: dict[str, Given]
    goes: list[Any]
    comes: tuple[str, ...]


class Sender:
    """The scheduler's side. What is given is put into the store once, for all machines."""

    def __init__(self, freight: Freight, store: Store) -> None:
        self._freight, self._store = freight, store
        self._put: dict[tuple[str, str], Given] = {}

    def send(self, job: Job, runs: str) -> tuple[Job, Shipment]:
        """The job as a machine is to do it whose runs folder is `runs`, and what goes with it."""
        cargo = self._freight.cargo(job)
        folders = {there: self._freight.runs / here for there, here in cargo.given.items()}
        given = {there: self._given(there, folder) for there, folder in folders.items() if any(folder.glob("*"))}
        goes: list[Any] = []
        pack(self._freight.runs, cargo.goes, lambda piece: goes.append(self._store.put(piece)))
        return self._freight.moved(job, runs), Shipment(given, goes, cargo.comes)

    def _given(self, there: str, folder: Path) -> Given:
        version = _version(folder)
        if (there, version) not in self._put:
            pieces: list[Any] = []
            inside = sorted(path.name for path in folder.iterdir())
            pack(folder, inside, lambda piece: pieces.append(self._store.put(piece)))
            self._put[there, version] = Given(version, pieces)
        return self._put[there, version]

    def take_home(self, job: Job, pieces: Sequence[Any], ended: bool) -> None:
        """What a machine has packed after the job, if it left anything."""
        if not pieces:
            return
        with passing_folder(self._freight.runs / "arrived") as arrived:
            unpack(map(self._store.get, pieces), arrived)
            self._freight.settle(job, arrived, ended)


def _version(folder: Path) -> str:
    files = list[tuple[str, int, int]]()
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # others work on it
            if is_sent(path.relative_to(folder)) and path.is_file():
                files.append((str(path.relative_to(folder)), (at := path.stat()).st_size, at.st_mtime_ns))
    return hashlib.sha256(repr(files).encode()).hexdigest()
