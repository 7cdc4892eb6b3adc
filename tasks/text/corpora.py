"""Where text comes from, and which part of it is learned from, searched on, and reported on.

The default corpus is the source code of two installed packages, sympy and networkx: everyone who installed the lock
file has the same bytes, nothing is downloaded, and subtrees of a package share little text (1 % of 13-word windows).
A split is a property of a document, never of how much is kept: `max_bytes` thins every split by the same factor.
"""

import hashlib
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.progress import Progress, Report
from tasks.text.division import HELD_OUT, HELD_OUT_BYTES, Division, allowance, divide, thin, thinned
from tasks.text.files import SourceFile, decode, read
from tasks.text.hub import stream
from tasks.text.reading import Rows, domain_texts, read_texts
from tasks.text.sources import (
    PACKAGES,
    domains_of,
    left_out,
    of_a_package,
    package_files,
    package_versions,
    stdlib_files,
    weights_of,
)
from tasks.text.splits import (
    DIVIDED,
    MAX_SHARED,
    SPLITS,
    Document,
    Documents,
    Joined,
    Splits,
    cut,
    drop_near_copies,
    size_of,
)
from tasks.text.spool import Spool, rank

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


def load_splits(config: DataConfig, report: Report | None = None, cache: Path | None = None) -> Splits:
    """Read the corpus that `config` names, divide it, thin it, and drop held-out near-copies of training text.

    Rows of a streamed dataset are kept under `cache`, and texts that memory need not hold lie on its disk meanwhile.
    Raises ConfigError where a source is missing, unreadable, undecodable, or leaves a split without text.
    """
    if config.max_bytes is not None and config.max_bytes < 1:
        raise ConfigError(f"data.max_bytes={config.max_bytes}: must be at least 1; null keeps everything")
    say = report or (lambda _: None)
    scratch, alone = cache if cache is not None and cache.is_dir() else None, set[str]()
    match config.source:
        case "python_packages":
            say("reading sympy and networkx")
            splits = _python_packages(config.max_bytes)
        case "stdlib":
            say("reading the standard library")
            splits = _stdlib(config.max_bytes)
        case "text":
            say(f"reading {config.path}{left_out(config)}")
            rows = Rows(_source_key(config))
            spool = _spooled(read_texts(config, rows), rows, scratch, say)
            alone |= {spool.domain} if len(spool) == 1 else set()
            splits = _divided(spool, {"source": "text", "versions": {}}, rows, config, say)
        case "hf":
            if cache is None:
                raise ValueError("data.source=hf: rows are kept in a cache folder, and none is given")
            rows = Rows(_source_key(config))
            texts, origin = stream(config, cache, rows, say)
            say(f"reading {origin['name']}")
            spool = _spooled(texts, rows, cache, say)
            alone |= {spool.domain} if len(spool) == 1 else set()
            splits = _divided(spool, {"source": "hf", **origin}, rows, config, say)
        case "domains":
            say(f"reading {', '.join(domains_of(config))}")
            splits, alone = _domains(config, scratch, say)
        case _:
            raise AssertionError(config.source)
    whole = splits
    _require_text(splits, config, whole, "")
    if alone and config.source != "domains":  # its parts are no copies of each other, however much it repeats itself
        return splits
    say("comparing the splits")
    splits = drop_near_copies(splits, say, alone)
    _require_text(
        splits, config, whole, f" that shares at most {MAX_SHARED:.0%} of its 13-grams with the training part"
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


def _domains(config: DataConfig, scratch: Path | None, say: Report) -> tuple[Splits, set[str]]:
    """Each domain divided by itself, and of every split of it as much as the weights allow for the scarcest one, in the
    order of names; and which domains are one text each."""
    where, divided, left_out, weights = domains_of(config), dict[str, Division](), 0, weights_of(config)
    alone = set[str]()
    for name, place in where.items():
        rows = Rows(f"data.domains={{{name}: {place}}}")
        spool = _spooled(domain_texts(config, name, rows), rows, scratch, say, name)
        if not len(spool):
            raise ConfigError(f"{rows.key}: holds no text; name other files, or leave it out")
        divided[name], left_out = divide(spool, HELD_OUT_OF_DOMAINS), left_out + rows.malformed
        alone |= {name} if len(spool) == 1 else set()
    sizes = {s: min(division.size(s) / weights[name] for name, division in divided.items()) for s in SPLITS}
    whole = len(where) * sum(sizes.values())
    share = 1.0 if config.max_bytes is None else min(1.0, config.max_bytes / whole)
    wanted = {split: round(share * size) for split, size in sizes.items()}
    capped = {s: len(where) * wanted[s] for s in SPLITS[1:] if len(where) * wanted[s] > HELD_OUT_BYTES}
    wanted |= dict.fromkeys(capped, HELD_OUT_BYTES // len(where))
    for name, weight in weights.items():
        if not round(wanted["train"] * weight):
            raise ConfigError(f"data.weights.{name}={weight:.2g} of the mean: leaves it no text; raise it")
    parts = {
        s: Joined(
            [d.keep(s, allowance(d.size(s), d.size(s), round(wanted[s] * weights[n]))) for n, d in divided.items()]
        )
        for s in SPLITS
    }
    origin = {
        "source": "domains",
        "versions": {},
        "pinned": None,
        "sha256": None,
        "domains": {name: place if of_a_package(place) else None for name, place in where.items()},  # no local paths
        "split": {name: division.rule for name, division in divided.items()},
        **({} if config.weights is None else {"weights": weights}),
    }
    return _splits(parts, origin, left_out, capped, say), alone


def _spooled(
    texts: Iterable[tuple[str, str]], rows: Rows, scratch: Path | None, say: Report, domain: str = ""
) -> Spool:
    """The documents that are not blank."""
    progress = Progress(say, "reading")
    try:
        spool = Spool(scratch, domain)
        for name, text in progress.through(texts, lambda document: len(document[1])):
            if text.strip():
                spool.add(name, text)
    except OSError as error:  # of the spool: those of the source are ConfigErrors
        raise ConfigError(
            f"{rows.key}: the text cannot be laid down in {scratch or 'the folder for temporary files'} "
            f"({error.strerror or error}); free as much room there as the text takes"
        ) from None
    if left_out := rows.check():
        say(left_out)
    return spool


def _divided(spool: Spool, origin: dict[str, Any], rows: Rows, config: DataConfig, say: Report) -> Splits:
    if not len(spool):
        raise ConfigError(f"{_source_key(config)}: holds no text; name other files")
    division = divide(spool)
    kept, capped = thinned(division, config.max_bytes)
    origin = {**origin, "pinned": None, "sha256": None, "split": division.rule}
    return _splits(kept, origin, rows.malformed, capped, say)


def _splits(
    parts: Mapping[str, Documents], origin: dict[str, Any], malformed: int, capped: dict[str, int], say: Report
) -> Splits:
    """The held-out parts are read into memory. What was left out is in the origin where there is any."""
    for split, size in capped.items():
        say(f"{split}: {HELD_OUT_BYTES / 1e6:.0f} MB are kept of {size / 1e6:,.0f} MB")
    origin |= ({"malformed": malformed} if malformed else {}) | ({"held_out_before": capped} if capped else {})
    return Splits(parts["train"], **{split: list(parts[split]) for split in SPLITS[1:]}, origin=origin)


_CUT = 16
"""Bytes that thinning to `max_bytes` may fall short by: four in each split, a character being cut nowhere."""


def _require_text(splits: Splits, config: DataConfig, whole: Splits, which: str) -> None:
    """`whole`: the splits as thinned to `max_bytes`, which may be why one of them is empty."""
    for split in DIVIDED:
        if any(document.text for document in splits[split]):
            continue
        key, more = _source_key(config), "other text" if which else "text"
        fix = f"add {more}, or choose another source"
        if config.max_bytes is not None and size_of(whole) + _CUT >= config.max_bytes:
            key, fix = f"data.max_bytes={config.max_bytes}", "raise it"
        raise ConfigError(f"{key}: the {split} split is left without text{which}; {fix}")
    if config.source != "domains":
        return
    for name, place in domains_of(config).items():
        for split in DIVIDED[1:]:
            if any(document.text for document in splits[split] if document.domain == name):
                continue
            more = "add other text" + ("" if config.weights is None else ", raise its data.weights")
            if config.max_bytes is not None:
                more += f", raise data.max_bytes={config.max_bytes}"
            key = f"data.domains={{{name}: {place}}}"
            raise ConfigError(f"{key}: its {split} split is left without text{which}; {more}, or leave it out")


def _source_key(config: DataConfig) -> str:
    """The key that chose the corpus, and its value."""
    if config.source == "text":
        return f"data.path={config.path}"
    return f"data.name={config.name}" if config.source == "hf" else f"data.source={config.source}"
