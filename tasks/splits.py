"""The parts of a corpus: what is learned from, searched on, and reported on.

A split is a property of a document, never of how much is kept: thinning takes the same share of every split.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tasks.separation import contained, word_ngrams

SPLITS = ("train", "validation", "test", "by_file")
"""`by_file` is a second test set, of files from the very packages or modules that are learned from. It is empty where
documents are divided without regard to where they stand, which makes `test` itself such a one."""
DIVIDED = ("train", "validation", "test")
"""Those that a corpus must have."""

NGRAM = 13
MAX_SHARED = 0.2
"""A held-out document with a larger share of its 13-word windows in the training part is dropped."""
HELD_OUT = 0.05
"""Share of validation, and of test, where documents or positions are divided."""


@dataclass(frozen=True)
class Document:
    """A text and where it is from: a path inside its corpus, with a line or a span where a file holds several."""

    name: str
    text: str
    domain: str = ""
    """Where the corpus is a mix: which of its kinds this is of."""


@dataclass(frozen=True)
class Splits:
    """The parts, each in a fixed order, and what is known of their origin (JSON-able, free of local paths)."""

    train: list[Document]
    validation: list[Document]
    test: list[Document]
    by_file: list[Document]
    origin: dict[str, Any]
    """`source`, `versions`, `pinned` (whether the bytes are the published ones; null where none are), `sha256` of the
    whole corpus or null, `split` (the rule), `dropped` (names per held-out split)."""

    def __getitem__(self, split: str) -> list[Document]:
        return {"train": self.train, "validation": self.validation, "test": self.test, "by_file": self.by_file}[split]


def divide(
    documents: list[Document], max_bytes: int | None, held_out: float = HELD_OUT
) -> tuple[dict[str, list[Document]], str]:
    """Split -> its documents, and the rule that they were divided by: the hash of each document's text, so that equal
    documents stay together and more data moves none; or by position (the last part test, the one before it validation)
    where there are too few documents for that."""
    parts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        place = rank(document.text) / 2**64
        validation = "validation" if place < 2 * held_out else "train"
        parts["test" if place < held_out else validation].append(document)
    rule = "document hash"
    if not all(parts[split] for split in DIVIDED):
        rule, parts = "position", _by_position(documents, held_out)
    return thinned(parts, max_bytes), rule


def thinned(parts: dict[str, list[Document]], max_bytes: int | None) -> dict[str, list[Document]]:
    """About `max_bytes` of the documents, by `thin`."""
    kept = thin({s: [(d.name, len(d.text.encode())) for d in documents] for s, documents in parts.items()}, max_bytes)
    texts = {s: {d.name: d for d in documents} for s, documents in parts.items()}
    return {
        s: [replace(texts[s][n], text=cut(texts[s][n].text.encode(), size).decode()) for n, size in kept[s].items()]
        for s in parts
    }


def _by_position(documents: list[Document], held_out: float) -> dict[str, list[Document]]:
    """The documents end to end, cut after a line end (else anywhere), the last parts of them held out."""
    total = sum(len(document.text) for document in documents)
    ends = {"train": (1 - 2 * held_out) * total, "validation": (1 - held_out) * total, "test": float(total)}
    parts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    before = 0
    for document in documents:
        start = 0
        for split in DIVIDED:
            end = min(len(document.text), max(start, round(ends[split]) - before))
            if end < len(document.text):
                line_end = document.text.rfind("\n", start, end) + 1
                end = line_end if line_end > start else end
            if end > start:
                name, text = f"{document.name}[{start}:{end}]", document.text[start:end]
                parts[split].append(replace(document, name=name, text=text))
            start = end
        before += len(document.text)
    return parts


def thin(sizes: dict[str, list[tuple[str, int]]], max_bytes: int | None) -> dict[str, dict[str, int]]:
    """How many leading bytes of which document to keep, so that each split shrinks by the same factor.

    `sizes` has (name, bytes) of all documents per split; the result keeps their order. Documents are taken in the order
    of their names' hashes, and the last one is cut to measure.
    """
    total = sum(size for entries in sizes.values() for _, size in entries)
    factor = min(1.0, max_bytes / total) if max_bytes is not None and total else 1.0
    kept: dict[str, dict[str, int]] = {}
    for split, entries in sizes.items():
        if factor == 1.0:
            kept[split] = {name: size for name, size in entries if size}
            continue
        left = int(factor * sum(size for _, size in entries))
        taken = {}
        for name, size in sorted(entries, key=lambda entry: rank(entry[0])):
            taken[name] = min(size, left)
            left -= taken[name]
        kept[split] = {name: taken[name] for name, _ in entries if taken[name]}
    return kept


def cut(data: bytes, size: int) -> bytes:
    """The first `size` bytes, shortened to whole lines, or to whole characters where there is no line end."""
    if size >= len(data):
        return data
    lines = data[: data.rfind(b"\n", 0, size) + 1]
    return lines or data[:size].decode(errors="ignore").encode()


def drop_near_copies(splits: Splits) -> Splits:
    """Without the held-out documents of whose 13-word windows more than 20 % occur in the training part."""
    train = np.concatenate([word_ngrams(document.text, NGRAM) for document in splits.train])
    kept: dict[str, list[Document]] = {}
    dropped: dict[str, list[str]] = {}
    for split in SPLITS[1:]:
        windows = [word_ngrams(document.text, NGRAM) for document in splits[split]]
        if not windows:
            continue
        owner = np.repeat(np.arange(len(windows)), [len(w) for w in windows])
        hits = np.bincount(owner, weights=contained(np.concatenate(windows), train), minlength=len(windows))
        copied = [hit > MAX_SHARED * len(w) for hit, w in zip(hits, windows, strict=True)]
        kept[split] = [d for d, copy in zip(splits[split], copied, strict=True) if not copy]
        dropped[split] = [d.name for d, copy in zip(splits[split], copied, strict=True) if copy]
    return replace(splits, **kept, origin={**splits.origin, "dropped": dropped})


def size_of(splits: Splits) -> int:
    return sum(len(document.text.encode()) for split in SPLITS for document in splits[split])


def rank(text: str) -> int:
    """A 64-bit hash that is the same everywhere: the order and the lots of documents."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big")
