"""One scheduler at a time."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from models.typed import ConfigError


@contextlib.contextmanager
def single_owner(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process alone, so that two schedulers never write the same trials.

    The lock belongs to the process, not to the file: it ends with the process, `kill -9` included, and a file that is
    left behind means nothing. Raises ConfigError where another process holds it, or where it cannot be written.
    """
    path = directory / ".owner"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"{directory}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise ConfigError(f"{directory}: cannot be locked ({error.strerror}); choose another folder") from None
            owner = os.pread(descriptor, 32, 0).decode().strip()
            raise ConfigError(
                f"{directory}: process {owner} is already at work here; wait for it, stop it (kill {owner}), or choose "
                "another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
