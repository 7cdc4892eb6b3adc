"""Files that text is read from: of installed packages, of the standard library, and a user's own.

Nothing here decides what is learned from and what is held out. Whatever a user can get wrong ends in a ConfigError.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import sysconfig
from pathlib import Path
from typing import Any

from models.base.typed import ConfigError, closest
from tasks.config import DataConfig
from tasks.text.files import SourceFile, files_at, folder_at, list_files
from tasks.text.named import hub_text

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

_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}


def source_state(config: DataConfig) -> dict[str, Any]:
    """What the corpus depends on, from file listings alone: equal states mean equal text."""
    listing = "".join(f"{file.path}\0{file.size}\0{file.changed_ns}\0" for _, file in _files(config))
    listed = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
    return {"versions": _versions(config), "listing": listed}


def source_content(config: DataConfig) -> dict[str, Any] | None:
    """The same from what stands in the files, whatever place and times they have: equal ones mean equal text, too. None
    where one cannot be read."""
    digest = hashlib.sha256()
    for domain, file in _files(config):
        digest.update(f"{domain}\0{file.name}\0{file.size}\0".encode())
        try:
            with file.path.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError:
            return None
    return {"versions": _versions(config), "content": digest.hexdigest()}


def _files(config: DataConfig) -> list[tuple[str, SourceFile]]:
    """All that text is read from, each with its domain, or with none."""
    match config.source:
        case "python_packages":
            files = [file for package in PACKAGES for file in package_files(package)]
        case "stdlib":
            files = stdlib_files()
        case "text":
            files = text_files(config)
        case "domains":
            return _apart(config)
        case "skill" | "problem":  # its code stands for it
            files = []
        case "hf":  # a stream shows no state; its cached copy stands for it
            local = hub_text(config).folder if config.name else None
            files = local_dataset(local, f"data.name={config.name}") if local else []
        case _:
            raise AssertionError(config.source)
    return [("", file) for file in files]


def _versions(config: DataConfig) -> dict[str, str]:
    """Of what is installed, where the text comes with it."""
    if config.source == "python_packages":
        return package_versions()
    return {"python": platform.python_version()} if config.source == "stdlib" else {}


def local_dataset(folder: Path, key: str) -> list[SourceFile]:
    """All files of a dataset that is a folder of this machine."""
    fix = "; name a folder that holds a dataset, and nothing else"
    return list_files(folder, lambda _: True, "", lambda _: False, key, links=True, fix=fix)


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
    return list_files(
        Path(next(iter(spec.submodule_search_locations))),
        lambda name: name.endswith(suffix),
        package + "/",
        lambda name: name == "__pycache__",
        key,
    )


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
    place, skip = Path(sysconfig.get_path("stdlib")), _NOT_LIBRARY.__contains__
    return list_files(place, lambda name: name.endswith(".py"), "", skip, "data.source=stdlib")


def text_files(config: DataConfig) -> list[SourceFile]:
    """The file at `data.path`, or the text files under it that are not hidden, each once, sorted by name."""
    if config.path is None:
        raise ConfigError("data.path=null: data.source=text needs a .txt, .jsonl or .parquet file, or a folder of them")
    return files_at(config.path, f"data.path={config.path}")


def left_out(config: DataConfig) -> str:
    """What of the folder `data.path` is not read, in brackets; nothing where all is, or it is a file."""
    path = Path(os.path.expanduser(config.path or ""))
    return folder_at(path, f"data.path={config.path}").left_out if config.path and os.path.isdir(path) else ""


def domains_of(config: DataConfig) -> dict[str, str]:
    """Name -> where its text is: `PACKAGE/*.SUFFIX` for files of an installed package, else as in `data.path`. By name,
    so that the order in which they were written does not matter."""
    return dict(sorted((DOMAINS if config.domains is None else config.domains).items()))


def weights_of(config: DataConfig) -> dict[str, float]:
    """Name -> how much of the text is of the domain, 1 being an equal share. Raises ConfigError where `data.weights`
    leaves a domain out, or names another."""
    names, given = list(domains_of(config)), config.weights
    if given is None:
        return dict.fromkeys(names, 1.0)
    for name in given:
        if name not in names:
            raise ConfigError(
                f"data.weights.{name}: no such domain{closest(name, names)} (domains: {', '.join(names)})"
            )
    for name in names:
        if name not in given:
            raise ConfigError(f"data.weights={given}: {name} has none; give every domain one, or leave it out of both")
    whole = sum(given.values())
    return {name: given[name] * len(names) / whole for name in names}


def of_a_package(where: str) -> bool:
    """Whether a domain's text is named by a package and a suffix."""
    return "/*." in where


def domain_files(config: DataConfig, name: str) -> list[SourceFile]:
    """The files of a domain, sorted by name. Raises ConfigError where there are none."""
    where = domains_of(config)[name]
    key = f"data.domains={{{name}: {where}}}"
    if not name.strip():
        raise ConfigError(f"{key}: a domain without a name; give it one")
    if not of_a_package(where):
        return files_at(where, key)
    package, _, suffix = where.partition("/*.")
    if not package.isidentifier() or not suffix.isalnum():
        raise ConfigError(f"{key}: expected PACKAGE/*.SUFFIX of an installed package, or a file or folder of text")
    if not (files := installed_files(package, f".{suffix}", key)):
        raise ConfigError(f"{key}: {package} is installed, but has no such file; name a suffix that it has")
    return files


def _apart(config: DataConfig) -> list[tuple[str, SourceFile]]:
    """The files of all domains, each with its name. Raises ConfigError where one is of two of them."""
    owner: dict[tuple[int, int], str] = {}
    files = list[tuple[str, SourceFile]]()
    for name in domains_of(config):
        for file in domain_files(config, name):
            if (other := owner.setdefault(file.inode, name)) != name:
                raise ConfigError(f"data.domains: {file.path} is of {other} and of {name}; leave it to one of them")
            files.append((name, file))
    return files
