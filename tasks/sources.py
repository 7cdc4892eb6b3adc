"""Files and streams that text is read from: installed packages, the standard library, local files, datasets.

Nothing here decides what is learned from and what is held out. Whatever a user can get wrong ends in a ConfigError.
"""

import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.typed import ConfigError
from tasks.config import DataConfig

PACKAGES = {"networkx": "3.6.1", "sympy": "1.14.0"}
"""The distributions of the default corpus, in the versions that its published hash was taken of."""
HF_BYTES = 50_000_000
"""How much of a streamed dataset is taken without `max_bytes`."""

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_TEXT_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")


@dataclass(frozen=True)
class SourceFile:
    """A file on this machine, under the name that it has on every machine."""

    name: str
    path: Path
    size: int
    mtime_ns: int


def source_state(config: DataConfig) -> dict[str, Any]:
    """What the corpus depends on, from file listings alone: equal states mean equal text."""
    match config.source:
        case "python_packages":
            files = [file for package in PACKAGES for file in package_files(package)]
            versions = package_versions()
        case "stdlib":
            files, versions = stdlib_files(), {"python": platform.python_version()}
        case "text":
            files, versions = text_files(config), {}
        case "hf":  # a stream shows no state; its cached copy stands for it
            files, versions = [], {}
        case _:
            raise AssertionError(config.source)
    listing = "".join(f"{file.path}\0{file.size}\0{file.mtime_ns}\0" for file in files)
    return {"versions": versions, "listing": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()}


def package_files(package: str) -> list[SourceFile]:
    """All .py files of an installed package, named from the package's parent folder. Imports nothing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"data.source=python_packages: {package} is not installed; "
            f"pip install -r requirements.lock, or choose data.source=stdlib"
        )
    return _list(Path(next(iter(spec.submodule_search_locations))), (".py",), package + "/", {"__pycache__"})


def package_versions() -> dict[str, str]:
    """The installed versions of the default corpus's distributions."""
    try:
        return {package: importlib.metadata.version(package) for package in PACKAGES}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"data.source=python_packages: {error.name} is not installed as a distribution; "
            f"pip install -r requirements.lock, or choose data.source=stdlib"
        ) from None


def stdlib_files() -> list[SourceFile]:
    """This Python's own modules, without its tests and without installed packages."""
    return _list(Path(sysconfig.get_path("stdlib")), (".py",), "", _NOT_LIBRARY)


def text_files(config: DataConfig) -> list[SourceFile]:
    """The file at `data.path`, or the text files under it, sorted by name."""
    if config.path is None:
        raise ConfigError("data.path=null: data.source=text needs a .txt or .jsonl file (or .gz), or a folder of them")
    path, key = Path(config.path).expanduser(), f"data.path={config.path}"
    if path.is_dir():
        files = _list(path, _TEXT_SUFFIXES, "", set())
        if not files:
            raise ConfigError(f"{key}: the folder holds no {', '.join(_TEXT_SUFFIXES)} file")
        return files
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"{key}: cannot be read ({error.strerror}); name a file or a folder of text") from None
    if not path.name.endswith(_TEXT_SUFFIXES):
        raise ConfigError(f"{key}: expected a file ending in {', '.join(_TEXT_SUFFIXES)}, or a folder of them")
    return [SourceFile(path.name, path.resolve(), stat.st_size, stat.st_mtime_ns)]


def read_texts(config: DataConfig) -> Iterator[tuple[str, str]]:
    """(name, text) of every document at `data.path`: a .txt file is one, a .jsonl file holds one per line."""
    key = f"data.path={config.path}"
    for file in text_files(config):
        data = read(file, key)
        if file.name.endswith(".gz"):
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise ConfigError(f"{key}: {file.name} is not a whole gzip file ({error})") from None
        text = decode(data, file.name, key)
        if not file.name.removesuffix(".gz").endswith(".jsonl"):
            yield file.name, text
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield (f"{file.name}:{number}", _json_text(line, f"{key}: {file.name} line {number}"))


def _json_text(line: str, where: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} is not JSON; every line holds one object with a field `text`") from None
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise ConfigError(f"{where} has no string in a field `text`; every line holds one object with it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} escapes half a character (a lone surrogate), which is no text") from None
    return text


def stream(config: DataConfig) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """The first `max_bytes` (default 50 MB) of a dataset's `train` split. `name` may carry a subset: `owner/set:en`."""
    if config.name is None:
        raise ConfigError("data.name=null: data.source=hf needs the name of a dataset")
    try:
        import datasets
    except ImportError:
        raise ConfigError("data.source=hf: needs the package datasets; pip install datasets") from None
    name, _, subset = config.name.partition(":")
    budget = config.max_bytes or HF_BYTES
    documents: list[tuple[str, str]] = []
    try:
        for row in datasets.load_dataset(name, subset or None, split="train", streaming=True):
            if not isinstance(row.get("text"), str):
                raise ConfigError(f"data.name={config.name}: rows have no field `text` (fields: {', '.join(row)})")
            documents.append((f"{config.name}:{len(documents)}", row["text"]))
            budget -= len(row["text"].encode())
            if budget <= 0:
                break
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(
            f"data.name={config.name}: the dataset cannot be streamed ({type(error).__name__}: {reason}); "
            f"check the name and the network, or use data.source=text"
        ) from None
    return documents, {"datasets": datasets.__version__}


def _list(root: Path, suffixes: tuple[str, ...], prefix: str, skip: Iterable[str]) -> list[SourceFile]:
    """All files under `root` with one of the suffixes, sorted by name; folders named in `skip` are not entered."""
    files = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in skip]
        for name in names:
            if name.endswith(suffixes):
                path = Path(folder, name)
                try:
                    stat = path.stat()
                except OSError as error:
                    raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
                relative = prefix + path.relative_to(root).as_posix()
                files.append(SourceFile(relative, path.absolute(), stat.st_size, stat.st_mtime_ns))
    return sorted(files, key=lambda file: file.name)


def read(file: SourceFile, key: str) -> bytes:
    """The file's bytes; `key` opens the error's line."""
    try:
        return file.path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key}: {file.name} cannot be read ({error.strerror})") from None


def decode(data: bytes, name: str, key: str) -> str:
    """UTF-8, strictly: replaced characters would change the bytes that a score is divided by."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{key}: {name} is not UTF-8 text (byte {error.start}); convert it") from None
