"""Where text comes from, and which part of it is learned from, searched on, and reported on.

The default corpus is the source code of two installed packages, sympy and networkx: everyone who installed the lock
file has the same bytes, nothing is downloaded, and subtrees of a package share little text (1 % of 13-word windows).
A split is a property of a document, never of how much is kept: `max_bytes` thins every split by the same factor.
"""

import hashlib
import platform
from collections.abc import Callable
from typing import Any

from models.typed import ConfigError
from tasks.config import DataConfig
from tasks.sources import (
    PACKAGES,
    SourceFile,
    decode,
    domain_texts,
    domains_of,
    hidden_files,
    of_a_package,
    package_files,
    package_versions,
    read,
    read_texts,
    stdlib_files,
    stream,
)
from tasks.splits import (
    DIVIDED,
    HELD_OUT,
    MAX_SHARED,
    SPLITS,
    Document,
    Splits,
    cut,
    divide,
    drop_near_copies,
    rank,
    size_of,
    thin,
    thinned,
)

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

HELD_OUT_OF_DOMAINS = 0.15
"""Share of validation, and of test, where several small corpora are mixed: 262,144 tokens are to be scored on."""
BY_FILE = 0.04
"""Share of the files of what is learned from that the second test set takes."""


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
            splits = _divided(documents, {"source": "text", "versions": {}}, config)
        case "hf":
            say(f"streaming {config.name}")
            rows, versions = stream(config)
            documents = [Document(name, text) for name, text in rows]
            splits = _divided(documents, {"source": "hf", "name": config.name, "versions": versions}, config)
        case "domains":
            say(f"reading {', '.join(domains_of(config))}")
            splits = _domains(config)
        case _:
            raise AssertionError(config.source)
    thinned = config.max_bytes is not None and size_of(splits) + _CUT >= config.max_bytes
    _require_text(splits, config, thinned, "")
    if splits.origin["split"] != "position":
        say("comparing the splits")
        splits = drop_near_copies(splits)
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
            Document(name, decode(cut(contents[name], size), name, "data.source=python_packages"))
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
    for tree in sorted(trees, key=rank):
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
                text = cut(read(files[name], "data.source=stdlib"), size).decode()
            except UnicodeDecodeError:  # a few modules of some versions are written in other encodings
                undecodable.append(name)
            else:
                documents[split].append(Document(name, text))
    versions = {"python": platform.python_version()}
    origin = {"source": "stdlib", "versions": versions, "pinned": None, "sha256": None, "split": "module"}
    return Splits(**documents, origin={**origin, "undecodable": undecodable})


def _learned_or_not(name: str) -> str:
    """A few files of what is learned from are held out, whatever else there is."""
    return "by_file" if rank(f"by file: {name}") < BY_FILE * 2**64 else "train"


def _domains(config: DataConfig) -> Splits:
    """Each domain divided by itself, and every split of it as large as the smallest domain's, in the order of names."""
    where, divided = domains_of(config), dict[str, tuple[dict[str, list[Document]], str]]()
    for name, place in where.items():
        documents = [Document(*t, domain=name) for t in domain_texts(config, name) if t[1].strip()]
        if not documents:
            raise ConfigError(f"data.domains={{{name}: {place}}}: holds no text; name other files, or leave it out")
        divided[name] = divide(documents, None, HELD_OUT_OF_DOMAINS)
    sizes = {s: min(_bytes_of(parts[s]) for parts, _ in divided.values()) for s in SPLITS}
    whole = len(where) * sum(sizes.values())
    share = 1.0 if config.max_bytes is None else min(1.0, config.max_bytes / whole)
    parts: dict[str, list[Document]] = {
        s: [d for found, _ in divided.values() for d in thinned({s: found[s]}, round(share * sizes[s]))[s]]
        for s in SPLITS
    }
    origin = {
        "source": "domains",
        "versions": {},
        "pinned": None,
        "sha256": None,
        "domains": {name: place if of_a_package(place) else None for name, place in where.items()},  # no local paths
        "split": {name: rule for name, (_, rule) in divided.items()},
    }
    return Splits(**parts, origin=origin)


def _bytes_of(documents: list[Document]) -> int:
    return sum(len(document.text.encode()) for document in documents)


def _divided(documents: list[Document], origin: dict[str, Any], config: DataConfig) -> Splits:
    documents = [document for document in documents if document.text.strip()]
    if not documents:
        raise ConfigError(f"{_source_key(config)}: holds no text")
    parts, rule = divide(documents, config.max_bytes)
    return Splits(**parts, origin={**origin, "pinned": None, "sha256": None, "split": rule})


_CUT = 16
"""Bytes that thinning to `max_bytes` may fall short by: four in each split, a character being cut nowhere."""


def _require_text(splits: Splits, config: DataConfig, thinned: bool, which: str) -> None:
    """`thinned`: `max_bytes` has taken text away, so that a split may be empty for that."""
    for split in DIVIDED:
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
