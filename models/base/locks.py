"""Locks that say whose they are, and end with their owner, on whatever machine that was.

On one machine the kernel ends a lock with its process, `kill -9` included, and the file that is left means nothing.
Between machines that share a file system this is not enough: whether one sees the other's locks depends on how it is
mounted. So the file also holds the owner's machine and process, and the owner renews it every `BEAT` seconds. Who finds
another machine's name in a lock that is free for all he can see looks on for `SILENCE` seconds: one that is renewed is
held, one that is not has lost its owner, and is taken over.
"""

import contextlib
import errno
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from models.base.files import beside

BEAT = 5.0
"""Seconds between two renewals."""
SILENCE = 30.0
"""Seconds without one after which an owner on another machine is taken for dead. By the watcher's own clock: those of
two machines are never compared."""
WITHOUT_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Owner:
    """A process on a machine."""

    host: str
    pid: int

    @classmethod
    def here(cls) -> Self:
        return cls(socket.gethostname(), os.getpid())

    @classmethod
    def of(cls, descriptor: int) -> Self | None:
        """Who has signed the open lock; None where nobody has, or with a process alone."""
        found = re.fullmatch(r"(\d+) (\S+)", os.pread(descriptor, 512, 0).decode(errors="replace").strip())
        return cls(found[2], int(found[1])) if found else None

    @property
    def is_here(self) -> bool:
        return self.host == socket.gethostname()

    def sign(self, descriptor: int) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{self.pid} {self.host}\n".encode(), 0)

    def __str__(self) -> str:
        return f"{self.pid}" if self.is_here else f"{self.pid} on {self.host}"


class Held(Exception):
    """Another process holds the lock."""

    def __init__(self, owner: Owner | None) -> None:
        super().__init__(f"process {owner or '?'} holds it")
        self.owner = owner


@contextlib.contextmanager
def hold(lock: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the file `lock` for this process alone.

    Where another process has it, `waiting` hears whose it is (`4711`, or `4711 on node7`), and it is waited for;
    without `waiting`, raises Held. To break one by hand, remove the file. Raises OSError where it cannot be written.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _held(lock, waiting)
    try:
        with _renewed(descriptor):
            yield
    finally:
        if _is_at(lock, descriptor):  # else somebody has broken it, and it is another's
            lock.unlink(missing_ok=True)
        os.close(descriptor)


def _held(lock: Path, waiting: Callable[[str], None] | None) -> int:
    """A descriptor of `lock`, held and signed: of the file that is there, not one that its last owner has removed."""
    own = Owner.here()
    while True:
        descriptor = _created(lock, own)
        if descriptor is not None:
            return descriptor
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _refuse(Owner.of(descriptor), waiting)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = Owner.of(descriptor)
            if _is_at(lock, descriptor) and _is_free(lock, before, waiting):
                own.sign(descriptor)
                if before is None or before.is_here or _stays(lock, own):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _refuse(owner: Owner | None, waiting: Callable[[str], None] | None) -> None:
    if waiting is None:
        raise Held(owner)
    waiting(str(owner or "?"))


def _created(lock: Path, own: Owner) -> int | None:
    """A new lock, held and signed from the moment on that it is there; None where there is one already."""
    signed = beside(lock)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(signed, flags, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        own.sign(descriptor)
        os.link(signed, lock)
        return descriptor
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, FileExistsError | FileNotFoundError):  # the owner may have cleared up what is unfinished
            return None
        if error.errno not in WITHOUT_LINKS:
            raise
    finally:
        signed.unlink(missing_ok=True)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(lock, flags, 0o666)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        own.sign(descriptor)
        return descriptor
    return None


def _is_free(lock: Path, owner: Owner | None, waiting: Callable[[str], None] | None) -> bool:
    """Of a lock that this machine's kernel has given us: whether its owner is not one at work on another machine."""
    if owner is None or owner.is_here:
        return True
    if not _is_renewed(lock):
        return lock.exists()
    _refuse(owner, waiting)
    while _is_renewed(lock):
        pass
    return lock.exists()


def _is_renewed(lock: Path) -> bool:
    """Whether its owner renews it while one looks on; not where it is gone."""
    before, end = _renewal(lock), time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(SILENCE / 60)
        if (now := _renewal(lock)) != before:
            return now is not None
    return False


def _renewal(lock: Path) -> tuple[int, int] | None:
    """Opened for it, since a network's file system asks its server only then."""
    try:
        with lock.open("rb") as file:
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _stays(lock: Path, own: Owner) -> bool:
    """Whether it is still ours in a moment: two machines may have taken over the same one."""
    time.sleep(SILENCE / 30)
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        return Owner.of(file.fileno()) == own
    return False


@contextlib.contextmanager
def _renewed(descriptor: int) -> Iterator[None]:
    """Renewed by a thread until the end."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(descriptor)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
