"""The parts of a corpus: what is learned from, searched on, and reported on.

The training part may be larger than memory: it is read anew each time it is gone through. The held-out parts are lists.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.progress import Progress, Report
from tasks.text.separation import Hashes, Sought, same_words, word_ngram_blocks, word_ngrams
from tasks.text.spool import Spool

SPLITS = ("train", "validation", "test", "by_file")
"""`by_file` is a second test set, of files from the very packages or modules that are learned from. It is empty where
documents are divided without regard to where they stand, which makes `test` itself such a one."""
DIVIDED = ("train", "validation", "test")
"""Those that a corpus must have."""

NGRAM = 13
MAX_SHARED = 0.2
"""A held-out document with a larger share of its 13-word windows in the training part is dropped. One that is too short
to have any is dropped where a training document has the same words."""


@dataclass(frozen=True)
class Document:
    """A text and where it is from: a path inside its corpus, with a line or a span where a file holds several."""

    name: str
    text: str
    domain: str = ""
    """Where the corpus is a mix: which of its kinds this is of."""


class Documents(Protocol):
    """In a fixed order, and as often as wanted. A list is one."""

    def __iter__(self) -> Iterator[Document]: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Kept:
    """Of a spool the documents at `places`, of each the `sizes` leading bytes, in whole lines where it has any."""

    spool: Spool
    places: NDArray[np.unsignedinteger]
    sizes: NDArray[np.unsignedinteger]

    def __iter__(self) -> Iterator[Document]:
        for place, size in zip(self.places, self.sizes, strict=True):
            name, data = self.spool.read(int(place))
            yield Document(name, cut(data, int(size)).decode(), self.spool.domain)

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class Joined:
    """One after the other."""

    parts: list[Documents]

    def __iter__(self) -> Iterator[Document]:
        return itertools.chain.from_iterable(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))


@dataclass(frozen=True)
class Splits:
    """The parts, each in a fixed order, and what is known of their origin (JSON-able, free of local paths)."""

    train: Documents
    validation: list[Document]
    test: list[Document]
    by_file: list[Document]
    origin: dict[str, Any]
    """`source`, `versions`, `pinned` (whether the bytes are the published ones; null where none are), `sha256` of the
    whole corpus or null, `split` (the rule), `dropped` (names per held-out split); what was left out, if anything."""

    def __getitem__(self, split: str) -> Documents:
        return self.train if split == "train" else self.held_out(split)

    def held_out(self, split: str) -> list[Document]:
        return {"validation": self.validation, "test": self.test, "by_file": self.by_file}[split]


def cut(data: bytes, size: int) -> bytes:
    """The first `size` bytes, shortened to whole lines, or to whole characters where there is no line end."""
    if size >= len(data):
        return data
    lines = data[: data.rfind(b"\n", 0, size) + 1]
    return lines or data[:size].decode(errors="ignore").encode()


def drop_near_copies(splits: Splits, report: Report | None = None, alone: Collection[str] = ()) -> Splits:
    """Without the held-out documents of whose 13-word windows more than 20 % occur in the training part, and without
    shorter ones whose words are all those of a training document.

    Held-out windows are kept in memory, and those of the training part pass by. What is of the domains `alone`, which
    are one text each, stays: its parts are no copies of each other, however much it repeats itself.
    """
    windows = {s: [word_ngrams(d.text, NGRAM) for d in splits.held_out(s)] for s in SPLITS[1:] if splits.held_out(s)}
    sought = Sought(np.concatenate([w for found in windows.values() for w in found] or [np.empty(0, np.uint64)]))
    few = [d.text for s, found in windows.items() for d, w in _both(splits, s, found) if not len(w)]
    short = dict.fromkeys(map(same_words, few), False)
    longest = 2 * max(map(len, few), default=0)  # however far apart the words stand
    progress = Progress(report, "comparing the splits")
    texts = (document.text for document in splits.train)
    for block in word_ngram_blocks(_seen(progress.through(texts, len), short, longest), NGRAM):
        sought.look(block)
    kept: dict[str, list[Document]] = {}
    dropped: dict[str, list[str]] = {}
    for split, found in windows.items():
        copied = [
            int(sought.found(w).sum()) > MAX_SHARED * len(w) if len(w) else short[same_words(d.text)]
            for d, w in _both(splits, split, found)
        ]
        copied = [copy and d.domain not in alone for d, copy in zip(splits.held_out(split), copied, strict=True)]
        kept[split] = [d for d, copy in zip(splits.held_out(split), copied, strict=True) if not copy]
        dropped[split] = [d.name for d, copy in zip(splits.held_out(split), copied, strict=True) if copy]
    return replace(splits, **kept, origin={**splits.origin, "dropped": dropped})


def _both(splits: Splits, split: str, windows: list[Hashes]) -> Iterator[tuple[Document, Hashes]]:
    return zip(splits.held_out(split), windows, strict=True)


def _seen(texts: Iterable[str], short: dict[str, bool], longest: int) -> Iterator[str]:
    """The texts as they pass by; of which of the `short` ones the words are all those of one is written down."""
    for text in texts:
        if len(text) <= longest and (words := same_words(text)) in short:
            short[words] = True
        yield text


def size_of(splits: Splits) -> int:
    return sum(len(document.text.encode()) for split in SPLITS for document in splits[split])
