"""Where text comes from, and which part of it is learned from, searched on, and reported on.

The default corpus is the source code of two installed packages, sympy and networkx: everyone who installed the lock
file has the same bytes, nothing is downloaded, and subtrees of a package share little text (1 % of 13-word windows).
A split is a property of a document, never of how much is kept: `max_bytes` thins every split by the same factor.
"""

import hashlib
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from models.typed import ConfigError
from tasks.config import DataConfig
from tasks.separation import contained, word_ngrams
from tasks.sources import (
    PACKAGES,
    SourceFile,
    decode,
    domain_texts,
    domains_of,
    hidden_files,
    package_files,
    package_versions,
    read,
    read_texts,
    stdlib_files,
    stream,
)

SPLITS = ("train", "validation", "test", "by_file")
"""`by_file` is a second test set, of files from the very packages or modules that are learned from. It is empty where
documents are divided without regard to where they stand, which makes `test` itself such a one."""
Report = Callable[[str], None]

PACKAGES_SHA256 = "49b0bd0ef0cd08e5619b9d53b57b7925030d9dd6b90b8d8a4b6064290310b80b"
"""Over names and bytes of all .py files of the two packages, in `PACKAGES`' versions: 2,112 files, 32,639,577 bytes."""

VALIDATION_SUBTREES = (  # 2.29 MB in 159 files, of which networkx 0.78 MB; tests (0.81 MB) stay with what they test
    "sympy/stats/",  # 739 kB
    "sympy/geometry/",  # 484 kB
    "sympy/logic/",  # 281 kB
    "networkx/readwrite/",  # 452 kB
    "networkx/algorithms/centrality/",  # 330 kB
)
TEST_SUBTREES = (  # 2.20 MB in 135 files, of which networkx 0.61 MB; tests 0.72 MB
    "sympy/combinatorics/",  # 855 kB
    "sympy/tensor/",  # 739 kB
    "networkx/algorithms/isomorphism/",  # 401 kB
    "networkx/algorithms/flow/",  # 204 kB
)

NGRAM = 13
MAX_SHARED = 0.2
"""A held-out document with a larger share of its 13-word windows in the training part is dropped."""
HELD_OUT = 0.05
"""Share of validation, and of test, where documents or positions are divided."""
HELD_OUT_OF_DOMAINS = 0.15
"""The same where several small corpora are mixed, so that 262,144 tokens can be scored on."""
BY_FILE = 0.04
"""Share of the files of what is learned from that the second test set takes."""


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


def load_splits(config: DataConfig, report: Report | None = None) -> Splits:
    """Read the corpus that `config` names, divide it, thin it, and drop held-out near-copies of training text.

    Raises ConfigError where a source is missing, unreadable, undecodable, or leaves a split without text.
    """
    if config.max_bytes is not None and config.max_bytes < 1:
        raise ConfigError(f"data.max_bytes={config.max_bytes}: must be at least 1; null keeps everything")
    say = report or (lambda _: None)
    match config.source:
        case "python_packages":
            say("reading sympy and networkx")
            splits = _python_packages(config.max_bytes)
        case "stdlib":
            say("reading the standard library")
            splits = _stdlib(config.max_bytes)
        case "text":
            hidden = len(hidden_files(config))
            say(f"reading {config.path}" + (f" (hidden text files left out: {hidden})" if hidden else ""))
            documents = [Document(name, text) for name, text in read_texts(config)]
            splits = _divide(documents, {"source": "text", "versions": {}}, config)
        case "hf":
            say(f"streaming {config.name}")
            rows, versions = stream(config)
            documents = [Document(name, text) for name, text in rows]
            splits = _divide(documents, {"source": "hf", "name": config.name, "versions": versions}, config)
        case "domains":
            say(f"reading {', '.join(domains_of(config))}")
            splits = _domains(config)
        case _:
            raise AssertionError(config.source)
    thinned = config.max_bytes is not None and _bytes(splits) + _CUT >= config.max_bytes
    _require_text(splits, config, thinned, "")
    if splits.origin["split"] != "position":
        say("comparing the splits")
        splits = _drop_near_copies(splits)
        _require_text(
            splits, config, thinned, f" that shares at most {MAX_SHARED:.0%} of its 13-grams with the training part"
        )
    return splits


def _python_packages(max_bytes: int | None) -> Splits:
    files = sorted((file for package in PACKAGES for file in package_files(package)), key=lambda file: file.name)
    # All of them, whatever is kept: the hash covers all.
    contents = {file.name: read(file, "data.source=python_packages") for file in files}
    digest = hashlib.sha256()
    for name, data in contents.items():
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    versions = package_versions()
    parts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in contents:
        other = "test" if name.startswith(TEST_SUBTREES) else _learned_or_not(name)
        parts["validation" if name.startswith(VALIDATION_SUBTREES) else other].append(name)
    sizes = {split: [(name, len(contents[name])) for name in names] for split, names in parts.items()}
    kept = thin(sizes, max_bytes)
    documents = {
        split: [
            Document(name, decode(_cut(contents[name], size), name, "data.source=python_packages"))
            for name, size in kept[split].items()
        ]
        for split in SPLITS
    }
    origin = {
        "source": "python_packages",
        "versions": versions,
        "pinned": versions == PACKAGES and digest.hexdigest() == PACKAGES_SHA256,
        "sha256": digest.hexdigest(),
        "split": "subtree",
    }
    return Splits(**documents, origin=origin)


def _stdlib(max_bytes: int | None) -> Splits:
    """The standard library, divided by top-level module or package. Its own tests are left out."""
    files = {file.name: file for file in stdlib_files()}
    trees: dict[str, list[SourceFile]] = {}
    for file in files.values():
        trees.setdefault(file.name.split("/")[0], []).append(file)
    part = HELD_OUT * sum(file.size for file in files.values())
    parts: dict[str, list[SourceFile]] = {split: [] for split in SPLITS}
    # Held-out parts are filled in hashed order; what does not fit is learned.
    for tree in sorted(trees, key=_rank):
        size = sum(file.size for file in trees[tree])
        fits = (s for s in ("validation", "test") if sum(file.size for file in parts[s]) + size <= part)
        split = next(fits, "train")
        for file in trees[tree]:
            parts[_learned_or_not(file.name) if split == "train" else split].append(file)
    kept = thin({split: sorted((file.name, file.size) for file in parts[split]) for split in SPLITS}, max_bytes)
    documents: dict[str, list[Document]] = {split: [] for split in SPLITS}
    undecodable = []
    for split in SPLITS:
        for name, size in kept[split].items():
            try:
                text = _cut(read(files[name], "data.source=stdlib"), size).decode()
            except UnicodeDecodeError:  # a few modules of some versions are written in other encodings
                undecodable.append(name)
            else:
                documents[split].append(Document(name, text))
    versions = {"python": platform.python_version()}
    origin = {"source": "stdlib", "versions": versions, "pinned": None, "sha256": None, "split": "module"}
    return Splits(**documents, origin={**origin, "undecodable": undecodable})


def _learned_or_not(name: str) -> str:
    """A few files of what is learned from are held out, whatever else there is."""
    return "by_file" if _rank(f"by file: {name}") < BY_FILE * 2**64 else "train"


def _domains(config: DataConfig) -> Splits:
    """Each domain divided by itself, all of them as large as the smallest, in the order of their names."""
    where = domains_of(config)
    documents = {name: [Document(*text, domain=name) for text in domain_texts(config, name)] for name in where}
    sizes = {name: sum(len(document.text.encode()) for document in documents[name]) for name in where}
    smallest = min(sizes, key=lambda name: sizes[name])
    if not sizes[smallest]:
        raise ConfigError(
            f"data.domains.{smallest}={where[smallest]}: holds no text; name other files, or leave it out"
        )
    share = sizes[smallest] if config.max_bytes is None else min(sizes[smallest], -(-config.max_bytes // len(where)))
    parts = [_divide(documents[name], {}, replace(config, max_bytes=share), HELD_OUT_OF_DOMAINS) for name in where]
    origin = {"source": "domains", "versions": {}, "pinned": None, "sha256": None, "domains": where}
    rule = {"split": "document hash, domain by domain"}
    return Splits(**{s: [d for part in parts for d in part[s]] for s in SPLITS}, origin={**origin, **rule})


_DIVIDED = ("train", "validation", "test")


def _divide(
    documents: list[Document], origin: dict[str, Any], config: DataConfig, held_out: float = HELD_OUT
) -> Splits:
    """By the hash of each document's text, so that equal documents stay together and more data moves none; by position
    (the last 5 % test, the 5 % before it validation) where there are too few documents for that."""
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise ConfigError(f"{_source_key(config)}: holds no text")
    parts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    for document in documents:
        place = _rank(document.text) / 2**64
        validation = "validation" if place < 2 * held_out else "train"
        parts["test" if place < held_out else validation].append(document)
    rule = "document hash"
    if not all(parts[split] for split in _DIVIDED):
        rule, parts = "position", _by_position(documents, held_out)
    kept = thin({s: [(d.name, len(d.text.encode())) for d in parts[s]] for s in SPLITS}, config.max_bytes)
    texts = {s: {d.name: d for d in parts[s]} for s in SPLITS}
    thinned = {
        s: [replace(texts[s][n], text=_cut(texts[s][n].text.encode(), size).decode()) for n, size in kept[s].items()]
        for s in SPLITS
    }
    return Splits(**thinned, origin={**origin, "pinned": None, "sha256": None, "split": rule})


def _by_position(documents: list[Document], held_out: float) -> dict[str, list[Document]]:
    """The documents end to end, cut after a line end (else anywhere), the last parts of them held out."""
    total = sum(len(document.text) for document in documents)
    ends = {"train": (1 - 2 * held_out) * total, "validation": (1 - held_out) * total, "test": float(total)}
    parts: dict[str, list[Document]] = {split: [] for split in SPLITS}
    before = 0
    for document in documents:
        start = 0
        for split in _DIVIDED:
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
        for name, size in sorted(entries, key=lambda entry: _rank(entry[0])):
            taken[name] = min(size, left)
            left -= taken[name]
        kept[split] = {name: taken[name] for name, _ in entries if taken[name]}
    return kept


def _cut(data: bytes, size: int) -> bytes:
    """The first `size` bytes, shortened to whole lines, or to whole characters where there is no line end."""
    if size >= len(data):
        return data
    lines = data[: data.rfind(b"\n", 0, size) + 1]
    return lines or data[:size].decode(errors="ignore").encode()


def _drop_near_copies(splits: Splits) -> Splits:
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


_CUT = 16
"""Bytes that thinning to `max_bytes` may fall short by: four in each split, a character being cut nowhere."""


def _bytes(splits: Splits) -> int:
    return sum(len(document.text.encode()) for split in SPLITS for document in splits[split])


def _require_text(splits: Splits, config: DataConfig, thinned: bool, which: str) -> None:
    """`thinned`: `max_bytes` has taken text away, so that a split may be empty for that."""
    for split in _DIVIDED:
        if any(document.text for document in splits[split]):
            continue
        key, fix = _source_key(config), "add text, or choose another source"
        if thinned:
            key, fix = f"data.max_bytes={config.max_bytes}", "raise it"
        raise ConfigError(f"{key}: the {split} split is left without text{which}; {fix}")


def _source_key(config: DataConfig) -> str:
    """The key that chose the corpus, and its value."""
    if config.source == "text":
        return f"data.path={config.path}"
    return f"data.name={config.name}" if config.source == "hf" else f"data.source={config.source}"


def _rank(text: str) -> int:
    """A 64-bit hash that is the same everywhere: the order and the lots of documents."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big")
