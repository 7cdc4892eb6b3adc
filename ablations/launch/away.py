"""A worker on a machine that may not see the runs folder: it then has a folder of its own in its place.

The folder is the same for all workers of a machine and for all commands on one runs folder, so that what was sent once
is there, and a trial that was stopped goes on. It ends with the last command that ended by itself.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ablations.launch.freight import Shipment, Store
from ablations.launch.host import Host, Message, Order
from ablations.launch.job import Job
from ablations.launch.parcels import pack, unpack
from ablations.launch.space import full_place
from models.base.files import (
    move,
    passing_folder,
    remove,
    remove_left,
    remove_unfinished,
    whole_folder,
    write_atomically,
)
from models.base.locks import hold

USED = ".used"
"""Locked by every worker that uses the folder."""
ENDS = ("result", "error", "died")
TOLD = ("error", "died", "broken")
"""Messages that name the worker's log."""
LOG_BYTES = 1 << 18
"""Of a log, the last."""


class AwayHost(Host):
    """As Host; what a job needs is sent to it where the machine does not see the runs folder, and `runs` is its own."""

    def __init__(self, order: Order, name: str, store: Store) -> None:
        self._store = store
        self._own = None if order.is_seen else own_folder(order.runs)
        self._used = None if self._own is None else _use(self._own)
        self._job: Job | None = None
        self._comes: tuple[str, ...] = ()
        self._alone = contextlib.ExitStack()
        """Nobody else on this machine is at what the job leaves."""
        self._left: list[contextlib.ExitStack] = []
        if self._own is not None:
            remove_left(self._own)
            order = order.at(self._own)
        log = Path(order.logs) / f"{name}.log"
        self._logged = log.stat().st_size if log.is_file() else 0
        """Bytes of the worker's log that the scheduler has, or that were there before."""
        super().__init__(order, name)

    def take(self, job: Job, shipment: Shipment | None = None) -> None:
        if self._own is not None and shipment is not None:
            self.cleared()
            try:
                if shipment.comes:
                    self._alone.enter_context(hold(self._own / "jobs" / f"{job.key}.lock", self._waiting(job)))
                self._unload(shipment, self._own)
            except Exception as error:  # nobody waits for what this returns
                said = f"node {platform.node()}, {self._own}: {error}"
                self._alone.close()
                self._unsaid.append({"type": "error", "key": job.key, "error": said, "full": full_place(error)})
                return
            self._job, self._comes = job, shipment.comes  # before, what is there is not what it has left
        super().take(job)

    def messages(self) -> list[Message]:
        """As Host's. With what a job leaves go the names of its pieces; it stays here until it is `cleared`, but for
        what one has left that is tried again. A job that never began leaves nothing."""
        said = super().messages()
        for message in said:
            if self._own is not None and message["type"] in TOLD:
                message["log"] = self._log_since()
            if self._own is not None and self._job is not None and message["type"] in ENDS:
                message["home"] = self._packed()
                self._job = None
                self._left.append(self._alone.pop_all())
                if message["type"] == "died":
                    self.cleared()
        return said

    def _log_since(self) -> str:
        """What the worker has logged that the scheduler has not got, as much of it as tells."""
        with self._worker.log.open("rb") as log:
            log.seek(self._logged)
            said = log.read()
        self._logged += len(said)
        return said[-LOG_BYTES:].decode(errors="replace")

    def cleared(self) -> None:
        """What jobs had left is home. Where the scheduler did not come to it, the next one does."""
        with contextlib.suppress(IndexError):
            while True:
                self._left.pop().close()

    def leave(self) -> bool:
        """End the worker, and the folder where nobody else uses it; whether it is gone."""
        self.cleared()
        self._job, process = None, self._worker.process
        if process is not None:
            process.kill()
            process.wait()  # what else there is to its end is heard in `messages`
        if self._own is None or self._used is None:
            return False
        for _ in range(50):  # those that were ended a moment ago let go of it in a moment
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(self._used, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(self._own)
                return True
            time.sleep(0.1)
        return False

    def _waiting(self, job: Job) -> Callable[[str], None]:
        """As the job says it where it is another's: a trial that two commands ask for."""

        def say(owner: str) -> None:
            event = {"event": "waiting", "owner": f"{owner} on node {platform.node()}"}
            self._unsaid.append({"type": "event", "key": job.key, "event": event})

        return say

    def _unload(self, shipment: Shipment, own: Path) -> None:
        """What is given is unpacked once for all workers of this machine."""
        for name, given in shipment.given.items():
            place, version = own / name, own / name.replace("/", "--")
            with hold(version.with_suffix(".lock"), waiting=lambda owner: None):
                if not (place.is_dir() and version.is_file() and version.read_text() == given.version):
                    version.unlink(missing_ok=True)
                    remove_unfinished(place)
                    with whole_folder(place) as fresh:
                        unpack(map(self._store.get, given.pieces), fresh)
                    write_atomically(version, given.version)
        if shipment.goes:
            with passing_folder(own / "goes") as arrived:
                unpack(map(self._store.get, shipment.goes), arrived)
                for path in sorted(path for path in arrived.rglob("*") if path.is_file()):
                    move(path, own / path.relative_to(arrived))

    def _packed(self) -> list[object]:
        own, pieces = self._own, list[object]()
        assert own is not None
        found = sorted(path for pattern in self._comes for path in own.glob(pattern))
        pack(own, [str(path.relative_to(own)) for path in found], lambda piece: pieces.append(self._store.put(piece)))
        for path in found:
            self._alone.callback(remove, path)
        return pieces


def own_folder(runs: str) -> Path:
    """Of this machine and user, in the place of a runs folder that another machine has. Raises PermissionError where
    its place is somebody else's."""
    above = Path(tempfile.gettempdir()) / f"v3-ablations-{os.getuid()}"
    above.mkdir(mode=0o700, exist_ok=True)
    if above.is_symlink() or above.stat().st_uid != os.getuid():
        raise PermissionError(f"{above} is not this user's; remove it, or set TMPDIR for this machine's Ray")
    return above / hashlib.sha256(runs.encode()).hexdigest()[:16]


def _use(folder: Path) -> int:
    """Lock it as one of its users, to the end of this process; a descriptor."""
    while True:
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # its last user removes it just now
            descriptor = os.open(folder / USED, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if (folder / USED).exists() and os.fstat(descriptor).st_ino == (folder / USED).stat().st_ino:
                return descriptor
            os.close(descriptor)
