"""A trial's folder while it is at work: whose it is, what it goes on from, and that nothing of this stays."""

import contextlib
import errno
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ablations.record.record import RECORD, Record, finished
from models.base.files import remove, set_aside, unfinished_in
from models.base.locks import Held, hold
from models.base.typed import ConfigError

OWNER = ".owner"
STATE = "state.ckpt"
"""What a trial leaves for others to go on from."""
RESUME = "resume.ckpt"
"""Where an interrupted training goes on from."""
TRAINED = "trained.json"
"""The record before scoring: with the checkpoint beside it, what a finished training left."""
TEACHER = "teacher"
"""The folder, in a trial's own, of a teacher that nobody else has trained."""
PASSING = (RESUME, TRAINED, TEACHER)
"""What is of no use once there is a record."""

_FOLDER = 0x10
"""Of an entry's attributes, as DOS has them."""


@contextlib.contextmanager
def owned(trial_dir: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold a trial's folder: sweeps share trials, and whoever writes into one does it alone. `waiting` hears whose it
    is, and the owner's end is then waited for."""
    with hold(trial_dir / OWNER, waiting):
        yield


def finished_in(trial_dir: Path, said: Callable[[str], None]) -> Record | None:
    """The record, where the trial has finished. A damaged one is set aside, which is `said`, and the trial runs again.
    Only for the owner."""
    try:
        return finished(trial_dir / RECORD)
    except ConfigError as error:
        aside = set_aside(trial_dir / RECORD)
        said(f"damaged, set aside as {aside.name}, and its trial runs again: {error}")
        return None


def give_up_torn(trial_dir: Path, said: Callable[[str], None]) -> None:
    """Where what others go on from is damaged, it is set aside and the record goes, so that its trial runs again. Only
    for the owner."""
    if not whole(trial_dir / STATE):
        aside = set_aside(trial_dir / STATE)
        remove(trial_dir / RECORD)
        said(f"{trial_dir / STATE}: damaged, set aside as {aside.name}; its trial runs again")


def whole(path: Path) -> bool:
    """Whether a checkpoint is as it was written, by the sums in it. One that is not there, or that the system does not
    let us read, is not damaged: who needs it finds out."""
    try:
        with zipfile.ZipFile(path) as entries:  # torch does not look at the sums that it writes
            folders = any(entry.external_attr & _FOLDER for entry in entries.infolist())  # which torch reads as nothing
            return entries.testzip() is None and not folders
    except OSError as error:  # the system's, but for a place before the file's beginning, and bytes that bz2 refuses
        return error.errno not in (None, errno.EINVAL, errno.EISDIR)  # a folder would stand in a new one's way, too
    except (ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError):  # wrong bytes
        return False


def clear(trial_dir: Path) -> None:
    """Remove what a finished trial needed on its way. Only for the owner."""
    for path in (*(trial_dir / name for name in PASSING), *unfinished_in(trial_dir)):
        remove(path)


def clear_after_a_kill(trial_dir: Path) -> None:
    """The same for a trial that is on record, where a kill came between the record and the end. Left to its owner where
    it has one."""
    there = {path.name for path in trial_dir.glob("*")}
    if there & {*PASSING, OWNER} or unfinished_in(trial_dir):
        with contextlib.suppress(Held, OSError), hold(trial_dir / OWNER):
            clear(trial_dir)
