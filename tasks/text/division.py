"""How a corpus is divided into splits, and how much of each is kept.

A split is a property of a document, never of how much is kept: thinning takes the same share of every split.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.text.splits import DIVIDED, SPLITS, Kept
from tasks.text.spool import Spool, rank

HELD_OUT = 0.05
"""Share of validation, and of test, where documents or positions are divided."""
HELD_OUT_BYTES = 16_000_000
"""At most this much of a held-out split is kept, of a corpus however large: its windows are held in memory, and more
makes no number better. What is held out beyond it is not learned from either, or more data would move documents."""


@dataclass(frozen=True, eq=False)
class Division:
    """Which split of SPLITS each document of a spool is of, by its index, and the rule that says so."""

    spool: Spool
    split: NDArray[np.uint8]
    rule: str

    def size(self, split: str) -> int:
        """Bytes."""
        return int(self.spool.sizes[self.split == SPLITS.index(split)].sum(dtype=np.int64))

    def keep(self, split: str, most: int | None) -> Kept:
        """About `most` bytes of a split, by `leading_bytes`; all of it where that is null."""
        places = np.flatnonzero(self.split == SPLITS.index(split)).astype(np.uint32)
        sizes = self.spool.sizes[places]
        if most is not None:
            sizes = leading_bytes(self.spool.name_ranks[places], sizes, most)
        return Kept(self.spool, places[sizes > 0], sizes[sizes > 0])


def divide(spool: Spool, held_out: float = HELD_OUT) -> Division:
    """By the hash of each document's text, so that equal documents stay together and more data moves none; or by
    position (the last part test, the one before it validation) where there are too few documents for that."""
    place = spool.text_ranks / 2**64
    split = np.full(len(spool), SPLITS.index("train"), dtype=np.uint8)
    split[place < 2 * held_out] = SPLITS.index("validation")
    split[place < held_out] = SPLITS.index("test")
    if len(np.unique(split)) == len(DIVIDED):
        return Division(spool, split, "document hash")
    parts = Spool(spool.folder, spool.domain)
    found = []
    for name, text, index in _by_position(spool, held_out):
        parts.add(name, text)
        found.append(index)
    return Division(parts, np.array(found, dtype=np.uint8), "position")


def _by_position(spool: Spool, held_out: float) -> Iterator[tuple[str, str, int]]:
    """The documents end to end, cut after a line end (else anywhere), the last parts of them held out: name, text, and
    index of the split."""
    total = int(spool.characters.sum(dtype=np.int64))
    ends = {"train": (1 - 2 * held_out) * total, "validation": (1 - held_out) * total, "test": float(total)}
    before = 0
    for place in range(len(spool)):
        name, data = spool.read(place)
        text, start = data.decode(), 0
        for split in DIVIDED:
            end = min(len(text), max(start, round(ends[split]) - before))
            if end < len(text):
                line_end = text.rfind("\n", start, end) + 1
                end = line_end if line_end > start else end
            if end > start:
                yield f"{name}[{start}:{end}]", text[start:end], SPLITS.index(split)
            start = end
        before += len(text)


def thinned(division: Division, max_bytes: int | None) -> tuple[dict[str, Kept], dict[str, int]]:
    """About `max_bytes` of a corpus, and the bytes of the held-out splits that are more than is ever kept of one."""
    sizes = {split: division.size(split) for split in SPLITS}
    kept, capped = dict[str, Kept](), dict[str, int]()
    for split, size in sizes.items():
        most = allowance(size, sum(sizes.values()), max_bytes)
        wanted = size if most is None else most
        if split != "train" and wanted > HELD_OUT_BYTES:
            capped[split], most = wanted, HELD_OUT_BYTES
        kept[split] = division.keep(split, most)
    return kept, capped


def allowance(size: int, total: int, max_bytes: int | None) -> int | None:
    """What a split of `size` bytes may keep, if `max_bytes` of `total` are kept; null where that is all."""
    factor = min(1.0, max_bytes / total) if max_bytes is not None and total else 1.0
    return None if factor == 1.0 else int(factor * size)


def leading_bytes(
    ranks: NDArray[np.uint64], sizes: NDArray[np.unsignedinteger], most: int
) -> NDArray[np.unsignedinteger]:
    """How many leading bytes of each document to keep, `most` in all; shape and type of `sizes`. Documents are taken in
    the order of their ranks, and the last one is cut to measure."""
    order = np.argsort(ranks, kind="stable")
    sorted_sizes = sizes[order].astype(np.int64)
    left = most - (np.cumsum(sorted_sizes) - sorted_sizes)
    kept = np.empty_like(sizes)
    kept[order] = np.clip(left, 0, sorted_sizes)
    return kept


def thin(sizes: dict[str, list[tuple[str, int]]], max_bytes: int | None) -> dict[str, dict[str, int]]:
    """How many leading bytes of which document to keep, so that each split shrinks by the same factor.

    `sizes` has (name, bytes) of all documents per split; the result keeps their order. Documents are taken in the order
    of their names' hashes.
    """
    total = sum(size for entries in sizes.values() for _, size in entries)
    kept: dict[str, dict[str, int]] = {}
    for split, entries in sizes.items():
        bytes_of = np.array([size for _, size in entries], dtype=np.uint64)
        most = allowance(sum(size for _, size in entries), total, max_bytes)
        if most is not None:
            ranks = np.array([rank(name) for name, _ in entries], dtype=np.uint64)
            bytes_of = leading_bytes(ranks, bytes_of, most)
        kept[split] = {name: int(size) for (name, _), size in zip(entries, bytes_of, strict=True) if size}
    return kept
