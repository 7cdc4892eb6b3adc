"""Files and folders that are either whole or absent, whoever else writes them and whenever a kill comes.

What is written gets a temporary name of its own beside its place, reaches the disk, and is then renamed. Permissions
are those of any program's files, 0666 (folders 0777) less the umask: the kernel gives them when a temporary is made,
and what a library made in its own way gets them too.
"""

import contextlib
import errno
import hashlib
import itertools
import os
import re
import shutil
import socket
import uuid
from collections.abc import Iterator
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
    temporary = beside(path)
    with _named(path):
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
    fresh = beside(path)
    with _named(path):
        fresh.mkdir()
    try:
        mode = fresh.stat().st_mode & 0o777
        yield fresh
        for inside in sorted((path for path in fresh.rglob("*") if not path.is_symlink()), reverse=True):
            if inside.is_dir() or inside.stat().st_nlink == 1:  # others' files that are linked here stay theirs
                _settle(inside, mode if inside.is_dir() else mode & 0o666)
        _settle(fresh, mode)
        _step_in(fresh, path)
        _sync(path.parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextlib.contextmanager
def passing_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` for what is on its way into others; it ends with the context, and `remove_left` finds
    it after a kill."""
    fresh = beside(path)
    with _named(path):
        fresh.mkdir()
    try:
        yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def move(path: Path, to: Path) -> None:
    """Give a file another place, once it is on the disk, in place of what is there."""
    to.parent.mkdir(parents=True, exist_ok=True)
    _sync(path)
    try:
        os.replace(path, to)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a folder above it may be a link to another disk
            raise
        with whole_file(to) as temporary:
            shutil.copyfile(path, temporary)
        path.unlink()
    _sync(to.parent)


def _step_in(fresh: Path, path: Path) -> None:
    """A folder that is not empty cannot be replaced in one step: the old one steps aside first."""
    if not path.exists():
        os.rename(fresh, path)
        return
    old = beside(path)
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
        remove(left)


def unfinished_in(folder: Path) -> list[Path]:
    """All temporaries in a folder, and in those below it."""
    names = [Path(above, name) for above, folders, files in os.walk(folder) for name in (*folders, *files)]
    return [path for path in names if path.name.startswith(".") and path.name.endswith(UNFINISHED)]


def remove_left(folder: Path) -> None:
    """Remove what dead processes of this machine left unfinished directly in `folder`, whoever else writes there."""
    for left in folder.glob(f".*{UNFINISHED}"):
        if _is_left(left):
            remove(left)


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it, where there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Give a damaged file or folder another name, `NAME.damaged`, `NAME.damaged2`, ..., which is returned."""
    names = (
        path.with_name(f"{path.name}.damaged{number or ''}") for number in itertools.chain([0], itertools.count(2))
    )
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path, aside)
    return aside


def beside(path: Path) -> Path:
    """The name of a temporary that is to become `path`; it says which process's it is."""
    return path.parent / f".{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{UNFINISHED}"


def _machine() -> str:
    """Where process ids mean the same: one machine, or one container of it."""
    space = os.readlink("/proc/self/ns/pid") if os.path.islink("/proc/self/ns/pid") else ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _is_left(temporary: Path) -> bool:
    """Whether the process that made it is known to be no more."""
    found = re.search(r"\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.part$", temporary.name)
    if found is None or found[1] != _machine():
        return False
    try:
        os.kill(int(found[2]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error says what was to be written, and not what its temporary is called."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # says of a file where a folder should be only that it exists
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), error.filename) from None


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
