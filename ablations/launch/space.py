"""A disk that is full: recognised wherever it shows, and said in one line with its folder.

A full disk shows in many ways: an error of Python's, one of a library's, a worker that cannot write its log and dies.
None of them is worth trying again.
"""

import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
NOTHING = 1 << 20
"""With fewer bytes free than this, whatever has just failed has failed for want of space."""


class DiskFull(OSError):
    """`filename` is the folder; `strerror` says what to do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            errno.ENOSPC,
            "the disk is full; nothing finished is lost: free some space and run the same command again",
            str(folder),
        )


def check_space(folder: Path, place: str | None = None) -> None:
    """Raise DiskFull where `place`, a file, could not be written ("" where it has no name), or nothing more can be
    written to `folder`."""
    if place is not None:
        raise DiskFull(Path(place).parent if place else folder)
    if is_full(folder):
        raise DiskFull(folder)


def full_place(error: BaseException | None) -> str | None:
    """The file that could not be written for want of space ("" where none is named), or None for another error.

    Looks into what the exception was raised from as well. Libraries that write in other languages raise their own kinds
    with the system's words in them.
    """
    words = [os.strerror(code) for code in FULL]
    seen = set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in FULL:
            return str(error.filename or "")
        if any(text in str(error) for text in words):
            return ""
        error = error.__cause__ or error.__context__
    return None


def is_full(folder: Path) -> bool:
    """Whether nothing more can be written there."""
    return free_bytes(folder) < NOTHING


def free_bytes(folder: Path) -> int:
    """Of the disk that holds `folder`, or will."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def size(count: float) -> str:
    """`3.2 GB`, `41 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count:.0f} B"
