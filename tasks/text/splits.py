"""The parts of a corpus: what is learned from, searched on, and reported on.

The training part may be larger than memory: it is read anew each time it is gone through. The held-out parts are lists.
"""

import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.progress import Progress, Report
from tasks.text.separation import Sought, word_ngram_blocks, word_ngrams
from tasks.text.spool import Spool

SPLITS = ("train", "validation", "test", "by_file")
"""`by_file` is a second test set, of files from the very packages or modules that are learned from. It is empty where
documents are divided without regard to where they stand, which makes `test` itself such a one."""
DIVIDED = ("train", "validation", "test")
"""Those that a corpus must have."""

NGRAM = 13
MAX_SHARED = 0.2
"""A held-out document with a larger share of its 13-word windows in the training part is dropped. One that is too short
to have any is dropped where a training document is the same but for blanks."""
_WORD = re.compile(r"\S+")


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
    shorter ones that are a training document but for blanks.

    Held-out windows are kept in memory, and those of the training part pass by. What is of the domains `alone`, which
    are one text each, is compared with the other domains: its parts are no copies of each other, however much it
    repeats itself.
    """
    held_out = {split: splits.held_out(split) for split in SPLITS[1:] if splits.held_out(split)}
    copies = set[int]()
    for domain in (None, *sorted(alone)):
        own = [
            d
            for d in itertools.chain.from_iterable(held_out.values())
            if (d.domain not in alone if domain is None else d.domain == domain)
        ]
        others = (d for d in splits.train if domain is None or d.domain != domain)
        copies |= {id(d) for d in _copies(own, others, report)} if own else set()
    kept = {split: [d for d in documents if id(d) not in copies] for split, documents in held_out.items()}
    dropped = {split: [d.name for d in documents if id(d) in copies] for split, documents in held_out.items()}
    return replace(splits, **kept, origin={**splits.origin, "dropped": dropped})


def _copies(held_out: Sequence[Document], train: Iterable[Document], report: Report | None) -> list[Document]:
    """Which of the held-out documents are copies of what is trained on."""
    windows = [word_ngrams(document.text, NGRAM) for document in held_out]
    sought = Sought(np.concatenate(windows))
    short = {_bare(d.text): False for d, found in zip(held_out, windows, strict=True) if not len(found)}
    progress = Progress(report, "comparing the splits")
    texts = (document.text for document in train)
    for block in word_ngram_blocks(_seen(progress.through(texts, len), short), NGRAM):
        sought.look(block)
    return [
        d
        for d, found in zip(held_out, windows, strict=True)
        if (int(sought.found(found).sum()) > MAX_SHARED * len(found) if len(found) else short[_bare(d.text)])
    ]


def _bare(text: str) -> str:
    """With one blank where there are several."""
    return " ".join(text.split())


def _is_short(text: str, longest: int) -> bool:
    """Whether its bare form has at most so many characters. It is read no further than that takes, and not copied."""
    length = -1
    for word in _WORD.finditer(text):
        length += 1 + word.end() - word.start()
        if length > longest:
            return False
    return True


def _seen(texts: Iterable[str], short: dict[str, bool]) -> Iterator[str]:
    """The texts as they pass by; which of the `short` ones are among them is written down."""
    longest = max(map(len, short), default=-1)
    for text in texts:
        if short and _is_short(text, longest) and (bare := _bare(text)) in short:
            short[bare] = True
        yield text


def size_of(splits: Splits) -> int:
    return sum(len(document.text.encode()) for split in SPLITS for document in splits[split])
