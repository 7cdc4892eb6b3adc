"""Files and folders that are either whole or absent, whoever else writes them and whenever a kill comes.

What is written gets a temporary name of its own beside its place, reaches the disk, and is then renamed. Permissions
are those of any program's files, 0666 (folders 0777) less the umask: the kernel gives them when a temporary is made,
and what a library made in its own way gets them too.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

UNFINISHED = ".part"
"""How temporaries end; they begin with a dot and the name of what they are to become."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new, never a part."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary that becomes `path` if all goes well, for what a library writes by itself."""
    _make_parent(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = _beside(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666))
    try:
        mode = temporary.stat().st_mode & 0o666
        yield temporary
        _settle(temporary, mode)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path`, in place of what is there, if all goes well."""
    _make_parent(path)
    fresh = _beside(path)
    fresh.mkdir()
    try:
        mode = fresh.stat().st_mode & 0o777
        yield fresh
        for inside in sorted(fresh.rglob("*"), reverse=True):
            _settle(inside, mode if inside.is_dir() else mode & 0o666)
        _settle(fresh, mode)
        _step_in(fresh, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _step_in(fresh: Path, path: Path) -> None:
    """A folder that is not empty cannot be replaced in one step: the old one steps aside first."""
    if not path.exists():
        os.rename(fresh, path)
        return
    old = _beside(path)
    os.rename(path, old)
    try:
        os.rename(fresh, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what kills left of writing `path`. Only for who knows that nobody is writing it now."""
    for left in path.parent.glob(f".{path.name}.*{UNFINISHED}"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Give a damaged file another name, `NAME.damaged`, `NAME.damaged2`, ..., which is returned."""
    taken = sum(1 for _ in path.parent.glob(f"{path.name}.damaged*"))
    aside = path.with_name(f"{path.name}.damaged{taken + 1 if taken else ''}")
    os.rename(path, aside)
    return aside


class Held(Exception):
    """Another process holds the lock; `owner` is its id."""

    def __init__(self, owner: str) -> None:
        super().__init__(f"process {owner} holds it")
        self.owner = owner


@contextlib.contextmanager
def hold(lock: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the file `lock` for this process alone.

    Where another process has it, `waiting` hears its id, and it is waited for; without `waiting`, raises Held. The lock
    belongs to the process, not to the file: it ends with the process, `kill -9` included, and a file that a kill left
    behind means nothing.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(lock, waiting)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path, waiting: Callable[[str], None] | None) -> int:
    """A descriptor of `lock`, held: the file that is there, not one that its last owner has removed meanwhile."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode().strip()
                if waiting is None:
                    raise Held(owner) from None
                waiting(owner)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(lock, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether `path` is still the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # says of a file where a folder should be only that it exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


def _beside(path: Path) -> Path:
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{UNFINISHED}"


def _settle(path: Path, mode: int) -> None:
    """Give `path` its permissions, and have what is in it on the disk."""
    path.chmod(mode)
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
