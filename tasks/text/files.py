"""Files of text on this machine: what lies under a folder, and what of it is read."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from models.base.typed import ConfigError

TEXT_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz", ".txt.zst", ".jsonl.zst", ".parquet")
ENDING = "a file is read by its ending, so give one of these to files of text"


@dataclass(frozen=True)
class SourceFile:
    """A file on this machine, under the name that it has on every machine."""

    name: str
    path: Path
    size: int
    changed_ns: tuple[int, int]
    """When its content was, as it says, and when anything of it was, which nobody can set back."""
    inode: tuple[int, int]
    """Device and number: what all names of one file have in common."""

    @classmethod
    def at(cls, name: str, path: Path, status: os.stat_result) -> "SourceFile":
        return cls(name, path, status.st_size, (status.st_mtime_ns, status.st_ctime_ns), _inode(status))


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def files_at(where: str, key: str) -> list[SourceFile]:
    """The file, or the text files of the folder, that `key` names. Raises ConfigError where there are none."""
    if not where:  # which would be the working directory
        raise ConfigError(f"{key}: is empty; name a file or a folder of text")
    path = Path(os.path.expanduser(where))
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{key}: cannot be read ({error.strerror}); name a file or a folder of text") from None
    if stat.S_ISDIR(status.st_mode):
        folder = folder_at(path, key)
        if not folder.text:
            raise ConfigError(f"{key}: the folder holds no {', '.join(TEXT_SUFFIXES)} file{folder.left_out}; {ENDING}")
        return folder.text
    if not is_text(path.name):
        raise ConfigError(f"{key}: expected a file ending in {', '.join(TEXT_SUFFIXES)}, or a folder of them")
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(f"{key}: is no file but a pipe or a device, which may have no end; name a file or a folder")
    return [SourceFile.at(_readable(path.name), path.resolve(), status)]


class Folder(NamedTuple):
    """What is read of a folder, and how much in it is not."""

    text: list[SourceFile]
    hidden: int
    """Text files whose name begins with a dot, or that of a folder above them: so an editor, a notebook or another
    system marks its own copies."""
    twice: int
    """Further names of a file that is read under another: no text may be learned from under one and held out under the
    other."""
    others: int
    """Files that have another ending."""

    @property
    def left_out(self) -> str:
        """In brackets, or nothing."""
        counts = ("hidden text files", self.hidden), ("links to text that is there", self.twice)
        said = [f"{what}: {count:,}" for what, count in (*counts, ("files of other kinds", self.others)) if count]
        return f" (left out: {', '.join(said)})" if said else ""


def folder_at(place: Path, key: str) -> Folder:
    """Of a folder that is there."""
    others = list[str]()
    shown = list_files(place, lambda name: is_text(name) and not _hidden(name), "", _hidden, key, True, others)
    first = {file.inode: file.name for file in reversed(shown)}
    text = [file for file in shown if file.name == first[file.inode]]
    within = (name for folder, _, names in os.walk(place) if _below_hidden(folder, place) for name in names)
    hidden = sum(map(is_text, within)) + sum(is_text(name) and _hidden(name) for name in others)
    return Folder(text, hidden, len(shown) - len(text), sum(not _hidden(name) for name in others))


def is_text(name: str) -> bool:
    """Whether a file of this name is read as text."""
    return name.lower().endswith(TEXT_SUFFIXES)


def _hidden(name: str) -> bool:
    return name.startswith(".")


def _below_hidden(folder: str, root: Path) -> bool:
    return any(map(_hidden, Path(folder).relative_to(root).parts))


def list_files(
    root: Path,
    wanted: Callable[[str], bool],
    prefix: str,
    skip: Callable[[str], bool],
    key: str,
    links: bool = False,
    others: list[str] | None = None,
    fix: str = "; move it away",
) -> list[SourceFile]:
    """All files under `root` whose names are wanted, sorted by name; folders whose names are to skip are not entered,
    and those that are links only with `links`, each folder once. `key` opens an error's line, and `fix` ends it.
    `others` takes the names of the other files in the folders that are entered."""

    def unreadable(error: OSError) -> None:
        raise ConfigError(f"{key}: {_readable(str(error.filename))} cannot be read ({error.strerror}){fix}")

    files = []
    entered = set[tuple[int, int]]()
    place = root.absolute()
    for folder, folders, names in os.walk(root, onerror=unreadable, followlinks=links):
        inside = Path(folder).relative_to(root)  # once a folder: thousands of paths take longer than their files
        before, parent = prefix + _readable("" if inside == Path() else f"{inside.as_posix()}/"), place / inside
        if links:
            inode = _inode(os.stat(folder))
            if inode in entered:
                folders.clear()
                continue
            entered.add(inode)
        folders[:] = sorted(name for name in folders if not skip(name))
        for name in names:
            if not wanted(name):
                if others is not None:
                    others.append(name)
                continue
            try:
                status = os.stat(f"{folder}/{name}")
            except OSError as error:
                shown = _readable(str(Path(folder, name)))
                raise ConfigError(f"{key}: {shown} cannot be read ({error.strerror}){fix}") from None
            if not stat.S_ISREG(status.st_mode):
                shown = _readable(str(Path(folder, name)))
                raise ConfigError(f"{key}: {shown} is no file but a pipe or a device, which may have no end{fix}")
            files.append(SourceFile.at(before + _readable(name), parent / name, status))
    return sorted(files, key=lambda file: file.name)


def _readable(name: str) -> str:
    """A file's name as text on one line: bytes that are not UTF-8, and what would break the line, are spelled out."""
    if name.isprintable():
        return name
    text = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def read(file: SourceFile, key: str) -> bytes:
    """The file's bytes; `key` opens the error's line."""
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {file.name} cannot be read ({error.strerror})") from None


def decode(data: bytes, name: str, key: str, begin: int = 0) -> str:
    """UTF-8, strictly: replaced characters would change the bytes that a score is divided by. `begin`: of the data in
    the file."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {name} is not UTF-8 text (byte {begin + error.start}); convert it") from None
