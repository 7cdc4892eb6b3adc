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
DOMAINS = {
    "algebra": "sympy/*.py",
    "stubs": "mypy/*.pyi",
    "prose": "lm_eval/*.md",
    "headers": "pyarrow/*.h",
    "tables": "statsmodels/*.csv",
    "fonts": "matplotlib/*.afm",
}
"""Where `data.domains` is null: kinds of text that come with what the lock installs."""
LONGEST_OF_A_PACKAGE = 20_000
"""Characters of a document in a domain of a package's files: one long table must not be all of it."""
HF_BYTES = 50_000_000
"""How much of a streamed dataset is taken without `max_bytes`."""

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
_TEXT_SUFFIXES = (".txt", ".jsonl", ".txt.gz", ".jsonl.gz")
_BYTE_ORDER_MARK = "\ufeff"
"""Some editors begin a UTF-8 file with it; it is no part of the text."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


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
        case "domains":
            files = [file for name in domains_of(config) for file in domain_files(config, name)]
            versions = {}
        case "skill":  # its code stands for it
            files, versions = [], {}
        case "hf":  # a stream shows no state; its cached copy stands for it
            files, versions = [], {}
        case _:
            raise AssertionError(config.source)
    listing = "".join(f"{file.path}\0{file.size}\0{file.mtime_ns}\0" for file in files)
    return {"versions": versions, "listing": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()}


def package_files(package: str) -> list[SourceFile]:
    """All .py files of one of `PACKAGES`."""
    return installed_files(package, ".py", "data.source=python_packages")


def installed_files(package: str, suffix: str, key: str) -> list[SourceFile]:
    """An installed package's files, named from the package's parent folder. Imports nothing; `key` opens the error."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{key}: {package} is not an installed package; pip install -r requirements.lock, or choose "
            "data.source=stdlib"
        )
    return _list(Path(next(iter(spec.submodule_search_locations))), (suffix,), package + "/", {"__pycache__"})


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
    """The file at `data.path`, or the text files under it that are not hidden, sorted by name."""
    return _files_at(_path(config), f"data.path={config.path}")


def _path(config: DataConfig) -> str:
    if config.path is None:
        raise ConfigError("data.path=null: data.source=text needs a .txt or .jsonl file (or .gz), or a folder of them")
    return config.path


def _files_at(where: str, key: str) -> list[SourceFile]:
    path = Path(where).expanduser()
    if path.is_dir():
        shown, hidden = _shown_and_hidden(path)
        if not shown:
            but = f" ({len(hidden)} hidden ones are left out)" if hidden else ""
            raise ConfigError(f"{key}: the folder holds no {', '.join(_TEXT_SUFFIXES)} file{but}")
        return shown
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigError(f"{key}: cannot be read ({error.strerror}); name a file or a folder of text") from None
    if not path.name.endswith(_TEXT_SUFFIXES):
        raise ConfigError(f"{key}: expected a file ending in {', '.join(_TEXT_SUFFIXES)}, or a folder of them")
    return [SourceFile(_readable(path.name), path.resolve(), stat.st_size, stat.st_mtime_ns)]


def hidden_files(config: DataConfig) -> list[SourceFile]:
    """Text files in the folder `data.path` that are left out: a name that begins with a dot, of a file or of a folder
    above it, is how an editor, a notebook or another system marks its own copies."""
    path = Path(config.path or "").expanduser()
    return _shown_and_hidden(path)[1] if config.path and path.is_dir() else []


def _shown_and_hidden(folder: Path) -> tuple[list[SourceFile], list[SourceFile]]:
    parts: tuple[list[SourceFile], list[SourceFile]] = ([], [])
    for file in _list(folder, _TEXT_SUFFIXES, "", set()):
        parts[any(part.startswith(".") for part in file.name.split("/"))].append(file)
    return parts


def domains_of(config: DataConfig) -> dict[str, str]:
    """Name -> where its text is: `PACKAGE/*.SUFFIX` for files of an installed package, else as in `data.path`. By name,
    so that the order in which they were written does not matter."""
    return dict(sorted((DOMAINS if config.domains is None else config.domains).items()))


def of_a_package(where: str) -> bool:
    """Whether a domain's text is named by a package and a suffix."""
    return "/*." in where


def domain_files(config: DataConfig, name: str) -> list[SourceFile]:
    """The files of a domain, sorted by name. Raises ConfigError where there are none."""
    where = domains_of(config)[name]
    key = f"data.domains={{{name}: {where}}}"
    if not of_a_package(where):
        return _files_at(where, key)
    package, _, suffix = where.partition("/*.")
    if not package.isidentifier() or not suffix.isalnum():
        raise ConfigError(f"{key}: expected PACKAGE/*.SUFFIX of an installed package, or a file or folder of text")
    if not (files := installed_files(package, f".{suffix}", key)):
        raise ConfigError(f"{key}: {package} is installed, but has no such file; name a suffix that it has")
    return files


def domain_texts(config: DataConfig, name: str) -> Iterator[tuple[str, str]]:
    """(name, text) of a domain's documents, the long ones of a package cut after a line end."""
    where = domains_of(config)[name]
    key = f"data.domains={{{name}: {where}}}"
    if not of_a_package(where):
        yield from ((f"{name}/{document}", text) for document, text in _texts_at(where, key))
        return
    for file in domain_files(config, name):
        text = decode(read(file, key), file.name, key)
        begin = text[:LONGEST_OF_A_PACKAGE]
        yield f"{name}/{file.name}", text if begin == text else begin[: begin.rfind("\n") + 1] or begin


def read_texts(config: DataConfig) -> Iterator[tuple[str, str]]:
    """(name, text) of every document at `data.path`: a .txt file is one, a .jsonl file holds one per line."""
    yield from _texts_at(_path(config), f"data.path={config.path}")


def _texts_at(where: str, key: str) -> Iterator[tuple[str, str]]:
    for file in _files_at(where, key):
        data = read(file, key)
        if file.name.endswith(".gz"):
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError, zlib.error) as error:
                raise ConfigError(f"{key}: {file.name} is not a whole gzip file ({error})") from None
        if data.startswith(_UTF_16) or b"\0" in data:
            raise ConfigError(
                f"{key}: {file.name} is not UTF-8 text, but UTF-16 or no text at all (it holds zero bytes, or begins "
                "as UTF-16 does); convert it, as with `iconv -f UTF-16 -t UTF-8`, or leave it out"
            )
        text = decode(data, file.name, key).removeprefix(_BYTE_ORDER_MARK)
        if not file.name.removesuffix(".gz").endswith(".jsonl"):
            yield file.name, text
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield (f"{file.name}:{number}", _json_text(line, f"{key}: {file.name} line {number}"))


def _json_text(line: str, where: str) -> str:
    try:
        row = json.loads(line.removeprefix(_BYTE_ORDER_MARK))  # one may stand where files were joined, too
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} is not JSON; every line holds one object with a field `text`") from None
    return _text_of(row, where)


def _text_of(row: Any, where: str) -> str:
    """The field `text` of a data set's row; ConfigError says what stands there instead."""
    if not isinstance(row, dict):
        raise ConfigError(f"{where} is no object; every line holds one with a string in a field `text`")
    if "text" not in row:
        fields = ", ".join(map(str, row)) or "none"
        raise ConfigError(f"{where} has no field `text` (fields: {fields}); name the field that is learned from so")
    text = row["text"]
    if not isinstance(text, str):
        found = "null" if text is None else f"of type {type(text).__name__}"
        raise ConfigError(f"{where}: the field `text` is {found}, expected a string; leave such rows out, or fill them")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} escapes half a character (a lone surrogate), which is no text") from None
    return text.removeprefix(_BYTE_ORDER_MARK)


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
            text = _text_of(row, f"data.name={config.name}: row {len(documents)}")
            documents.append((f"{config.name}:{len(documents)}", text))
            budget -= len(text.encode())
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
                relative = prefix + _readable(path.relative_to(root).as_posix())
                files.append(SourceFile(relative, path.absolute(), stat.st_size, stat.st_mtime_ns))
    return sorted(files, key=lambda file: file.name)


def _readable(name: str) -> str:
    """A file's name as text: bytes that are not UTF-8 are spelled out."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


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
