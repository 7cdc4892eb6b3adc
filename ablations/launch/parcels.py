"""Files of a runs folder, packed in pieces to be sent to a machine that does not see it, and unpacked there.

A piece is of a size that any memory holds; what is packed may be larger than that. Of a stranger's parcel nothing is
written outside of the folder that it is unpacked into.
"""

import contextlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from models.base.files import UNFINISHED

PIECE = 64 << 20
"""Bytes."""
NOT_SENT = (".owner", UNFINISHED, ".lock")
"""How names end that mean something on their own machine alone."""


def pack(folder: Path, names: Iterable[str], put: Callable[[bytes], None]) -> bool:
    """Give `put` these files and folders below `folder`, with all that is in them, piece by piece; whether there were
    any. They are packed in the order of their names, and unpacked so. What goes meanwhile, since others work on it, is
    left out, and each file is one that was there."""
    places = [folder / name for name in names if (folder / name).exists()]
    if not places:
        return False
    pieces = _Pieces(put)
    with tarfile.open(fileobj=pieces, mode="w|", bufsize=1 << 20) as tar:
        for place in places:
            for path in sorted([place, *place.rglob("*")]):
                if is_sent(path.relative_to(folder)) and not _leads_away(path):
                    with contextlib.suppress(FileNotFoundError):
                        _add(tar, path, str(path.relative_to(folder)))
    pieces.close()
    return True


def unpack(pieces: Iterable[bytes], folder: Path) -> None:
    """Into a folder that is there. Raises tarfile.TarError for what leads out of it."""
    with tarfile.open(fileobj=_Stream(pieces), mode="r|", bufsize=1 << 20) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:  # Python before 3.11.4, as Debian 12 has it
            tar.extractall(folder, members=_inside(tar, folder))


def _inside(tar: tarfile.TarFile, folder: Path) -> Iterator[tarfile.TarInfo]:
    """Its members, each as it is reached, when links before it are there. Raises TarError for one that leads out."""
    for member in tar:
        places = [folder / member.name]
        if member.issym():
            places.append(places[0].parent / member.linkname)
        elif member.islnk():
            places.append(folder / member.linkname)
        kept = member.isreg() or member.isdir() or len(places) == 2
        if not kept or not all(place.resolve().is_relative_to(folder.resolve()) for place in places):
            raise tarfile.ExtractError(f"{member.name}: would be outside of {folder}, or is no file, folder or link")
        yield member


def is_sent(name: Path) -> bool:
    """Of a name below the folder."""
    return not any(part.endswith(NOT_SENT) for part in name.parts)


def _add(tar: tarfile.TarFile, path: Path, name: str) -> None:
    """A file is opened first: by its name another one, of another size, may be found a moment later."""
    if path.is_symlink() or not path.is_file():
        tar.add(path, name, recursive=False)
        return
    with path.open("rb") as file:
        tar.addfile(tar.gettarinfo(arcname=name, fileobj=file), file)


def _leads_away(path: Path) -> bool:
    """A link to a place of its own machine, as W&B leaves some."""
    return path.is_symlink() and os.path.isabs(os.readlink(path))


class _Pieces(io.RawIOBase):
    """Cuts what is written to it into pieces."""

    def __init__(self, put: Callable[[bytes], None]) -> None:
        self._put, self._held = put, bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: bytes) -> int:  # type: ignore[override]
        self._held += content
        while len(self._held) >= PIECE:
            self._put(bytes(self._held[:PIECE]))
            del self._held[:PIECE]
        return len(content)

    def close(self) -> None:
        if self._held:
            self._put(bytes(self._held))
            self._held.clear()
        super().close()


class _Stream(io.RawIOBase):
    """Reads pieces one after the other."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces: Iterator[bytes] = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        found = self._rest[: size if size >= 0 else None]
        self._rest = self._rest[len(found) :]
        return bytes(found)
