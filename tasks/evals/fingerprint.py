"""What a task file's scores depend on: its content and that of every file that it leads to.

A score is kept under its trial's id, so the id must change when somebody edits a task. Our own tasks and lm-eval's are
left to the hash of our code and to lm-eval's version, but not the data that `eval.data_dir` gives them. Files are read
as text alone: neither lm-eval nor what a task would call is imported.
"""

import ast
import functools
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tasks.evals.local import existing_files

NO_DATA = (".py", ".pyc", ".yaml", ".yml", ".md")
MOST_BESIDE = 1000
"""Entries of a task's folder that are looked through; of a larger one the files that strings spell out count alone."""

Kind = Literal["yaml", "module", "data"]
Reference = tuple[Kind, Path]


def is_task_file(name: str) -> bool:
    """Whether an entry of `eval.tasks` is the path of a task's YAML file."""
    return name.endswith((".yaml", ".yml"))


def task_fingerprint(names: Sequence[str], data_dir: str | None = None) -> dict[str, str]:
    """sha256 per entry of `names` that is a file, over that file and those it leads to, wherever they lie; and, where
    `eval.data_dir` is given, per standard task over its data there.

    Followed are `include`, the files and folders that the data set's keys and its metadata name, the modules of
    `!function` with whatever data lie in the task's folder, and of a module: what it imports from its own folder, and
    the files there whose names its strings spell out. An absent file has no content; a file that cannot be parsed leads
    nowhere (whoever loads the task says what is wrong with it).
    """
    files = {name: _closure_hash(Path(os.path.expanduser(name))) for name in names if is_task_file(name)}
    return files | ({} if data_dir is None else _copies(names, data_dir))


def _copies(names: Sequence[str], data_dir: str) -> dict[str, str]:
    found = {}
    for name in names:
        if copies := existing_files(name, data_dir):
            stats = ((path, path.stat()) for path in copies)
            contents = [_content_hash(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
            found[name] = hashlib.sha256("\0".join(contents).encode()).hexdigest()
    return found


def _closure_hash(start: Path) -> str:
    digest, seen = hashlib.sha256(), set[Reference]()  # what lies there as data may lead further as what it is
    waiting: list[Reference] = [("yaml", start)]
    while waiting:
        kind, path = waiting.pop(0)
        path = path.resolve()
        if (kind, path) in seen or not path.is_file():
            continue
        seen.add((kind, path))
        stat = path.stat()
        digest.update(f"{path.name}\0{_content_hash(path, stat.st_size, stat.st_mtime_ns)}\0".encode(errors="replace"))
        try:
            waiting += {"yaml": _of_yaml, "module": _of_module, "data": lambda _: iter(())}[kind](path)
        except (ValueError, SyntaxError, RecursionError):
            continue
    return digest.hexdigest()


@functools.lru_cache(maxsize=4096)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """Of the file in this state: a sweep asks for it once per trial, and data may be large."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Function(str):
    """The dotted name behind `!function`."""


def _of_yaml(path: Path) -> Iterator[Reference]:
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: _Function(node.value))
    try:
        config = yaml.load(path.read_bytes(), Loader=Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    for keys, value in _strings(config):
        if isinstance(value, _Function):
            yield from _module(value.rpartition(".")[0], path.parent)
            yield from (("data", file) for file in _beside(path.parent))  # whose names a function may compute
        elif "include" in keys:
            yield "yaml", path.parent / value
        elif keys & {"dataset_path", "dataset_kwargs", "metadata"}:
            for place in (Path(os.path.expanduser(value)), path.parent / value):  # `datasets` starts from the first
                yield from (("data", file) for file in _files_at(place))


def _beside(folder: Path) -> list[Path]:
    """The data in a task's folder and below, of a folder that holds tasks and their data and not a whole disk."""
    found = []
    for file in folder.rglob("*"):
        if file.suffix not in NO_DATA and not any(part.startswith(".") for part in file.relative_to(folder).parts):
            found.append(file)
        if len(found) > MOST_BESIDE:
            return []
    return sorted(file for file in found if file.is_file())


def _strings(value: Any, keys: frozenset[str] = frozenset()) -> Iterator[tuple[frozenset[str], str]]:
    """Every non-empty string of a YAML document, with the keys above it."""
    if isinstance(value, str) and value:
        yield keys, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(inner, keys | {str(key)})
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, keys)


def _module(name: str, folder: Path) -> Iterator[Reference]:
    """As lm-eval looks for it: beside the YAML file, then wherever Python finds it."""
    beside = [file for file in _modules_at(folder, name) if file.is_file()]
    if beside:
        yield from (("module", file) for file in beside)
        return
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return
    if spec is not None and spec.has_location and spec.origin is not None:
        yield "module", Path(spec.origin)


def _modules_at(folder: Path, name: str) -> Iterator[Path]:
    """Files that importing the dotted name there may run: each package on its way, and the module."""
    parts = name.split(".")
    yield from (folder.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1))
    yield folder.joinpath(*parts).with_suffix(".py")


def _files_at(place: Path) -> list[Path]:
    """The file, the files of the folder, or those that the pattern matches."""
    if place.is_file():
        return [place]
    if place.is_dir():
        return sorted(file for file in place.rglob("*") if file.is_file())
    if any(mark in str(place) for mark in "*?["):
        root = Path(place.anchor)
        return sorted(root.glob(str(place.relative_to(root))))
    return []


def _of_module(path: Path) -> Iterator[Reference]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and 0 < len(node.value) < 256:
            beside = path.parent / node.value.replace("\0", "")
            below = (
                beside.is_dir() and path.parent.resolve() in beside.resolve().parents
            )  # not `..` and all that is there
            if below or beside.is_file():
                yield from (("data", file) for file in _files_at(beside) if file.suffix != ".pyc")
        yield from (("module", file) for name in names if name for file in _modules_at(path.parent, name))
