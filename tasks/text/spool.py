"""Documents on disk in the order in which they came; memory holds a few numbers of each.

A corpus is divided and thinned by these numbers alone, and its texts are read back one by one: as often as they are
wanted, without decompressing or parsing anything again.
"""

import hashlib
import os
import tempfile
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Spool:
    """Filled by `add`, then read in any order. Its file has no name, so that a kill leaves nothing behind."""

    def __init__(self, folder: Path | None = None, domain: str = "") -> None:
        """The file lies on the disk of `folder`, else where temporary files do. `domain`: what all documents are of."""
        self.folder, self.domain = folder, domain
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (it lives as long as the spool)
        self._begins, self._end = array("Q"), 0
        self._name_sizes, self._sizes, self._characters = array("I"), array("I"), array("I")
        self._name_ranks, self._text_ranks = array("Q"), array("Q")

    def add(self, name: str, text: str) -> None:
        """Raises OSError where the disk is full."""
        name_data, data = name.encode(), text.encode()
        self._file.write(name_data + data)
        self._begins.append(self._end)
        self._end += len(name_data) + len(data)
        self._name_sizes.append(len(name_data))
        self._sizes.append(len(data))
        self._characters.append(len(text))
        self._name_ranks.append(rank_of(name_data))
        self._text_ranks.append(rank_of(data))

    def read(self, place: int) -> tuple[str, bytes]:
        """Name and UTF-8 text of the document at `place` (from 0)."""
        self._file.flush()
        begin, name_size = self._begins[place], self._name_sizes[place]
        data = os.pread(self._file.fileno(), name_size + self._sizes[place], begin)
        return data[:name_size].decode(), data[name_size:]

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def sizes(self) -> NDArray[np.uint32]:
        """Bytes of each text, shape (documents,)."""
        return np.array(self._sizes, dtype=np.uint32)

    @property
    def characters(self) -> NDArray[np.uint32]:
        """Characters of each text, shape (documents,)."""
        return np.array(self._characters, dtype=np.uint32)

    @property
    def name_ranks(self) -> NDArray[np.uint64]:
        """`rank` of each name, shape (documents,)."""
        return np.array(self._name_ranks, dtype=np.uint64)

    @property
    def text_ranks(self) -> NDArray[np.uint64]:
        """`rank` of each text, shape (documents,)."""
        return np.array(self._text_ranks, dtype=np.uint64)


def rank(text: str) -> int:
    """A 64-bit hash that is the same everywhere: the order and the lots of documents."""
    return rank_of(text.encode(errors="surrogateescape"))


def rank_of(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
