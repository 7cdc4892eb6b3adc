"""manifest.json of a published result: what repeating it needs, and the hash of every file beside it."""

import dataclasses
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self

from ablations.files import read_json, write_json
from models.base.typed import ConfigError, build

MANIFEST = "manifest.json"
FORMAT: Final = 1
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class Commit:
    """Of the checkout. Either `commit` and `dirty` are known, or `commit_unknown` says why not."""

    commit: str | None = None
    dirty: bool | None = None
    """Whether the tree (results/ aside) differs from it."""
    commit_unknown: str | None = None


@dataclass(frozen=True)
class Manifest(Commit):
    sweep: str = ""
    scale: str = ""
    partial: bool = False
    """Whether trials were missing."""
    trials: dict[str, int] = field(default_factory=dict)
    """Of the confirmation: planned, missing, complete, diverged, failed."""
    search_trials: int = 0
    commands: list[str] = field(default_factory=list)
    """What repeats the result, and reports it."""
    sweep_file: str | None = None
    plan_sha256: str = ""
    code: str = ""
    data: str = ""
    chosen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By arm."""
    verdicts: list[dict[str, str]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)
    """Each that trials ran in, once."""
    versions: dict[str, str | None] = field(default_factory=dict)
    """Of packages, when it was published."""
    files: dict[str, str] = field(default_factory=dict)
    """Path in the folder -> SHA-256."""
    rendered: Commit | None = None
    """What its tables and pages were made anew by."""
    format: Literal[1] = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises ConfigError where the file is none of ours, OSError where it cannot be read."""
        path = folder / MANIFEST
        values = read_json(path)
        if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
            raise ConfigError(f"{path}: format={values['format']}: this version reads format {FORMAT}")
        manifest = build(cls, values, str(path))
        if manifest.commit is not None and not COMMIT.fullmatch(manifest.commit):
            raise ConfigError(f"{path}: commit={manifest.commit}: must be the 40 digits of one, or null")
        return manifest

    def write(self, folder: Path) -> None:
        write_json(folder / MANIFEST, dataclasses.asdict(self))


def strange(folder: Path) -> list[tuple[str, str]]:
    """Paths in the folder that are no files of it, and what they are: to read a link would open a file outside of it,
    and to read a pipe may never end."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found.append((name, "a link, and what it leads to is not of this result"))
        elif path.is_dir() and path.suffix == ".json":
            found.append((name, "a folder, where a record would be a file"))
        elif not path.is_dir() and not path.is_file():
            found.append((name, "neither a file nor a folder"))
    return found


def hashes(folder: Path, part: str = ".") -> dict[str, str]:
    """Path in the folder -> SHA-256 of every file but the manifest; of a `part` of it, of what lies there. Links are
    none of its files: what they lead to is somebody else's."""
    there = (path for path in sorted((folder / part).rglob("*")) if not path.is_symlink())
    files = [path for path in there if path.is_file() and path != folder / MANIFEST]
    return {str(path.relative_to(folder)): _sha_of(path) for path in files}


def _sha_of(path: Path) -> str:
    """Read in pieces: a stranger's file may be of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
