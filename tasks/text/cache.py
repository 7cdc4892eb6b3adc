"""The folder of a packed corpus: tokens, tokenizer, held-out documents, and a manifest by which it is whole or not."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from models.base.files import remove_unfinished, whole_folder
from models.base.locks import hold
from models.base.typed import ConfigError
from tasks.progress import Report
from tasks.text.splits import SPLITS, Document
from tasks.text.tokenizer import Tokens

TOKENIZER = "tokenizer.json"
_MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_CHECKED_BLOCKS = 64


def tokens_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.npy"


def write_tokens(path: Path, blocks: Iterable[Tokens], dtype: np.dtype[np.unsignedinteger]) -> tuple[int, str]:
    """Write an array as `numpy.save` would, block by block; returns how many tokens it has, and their sha256."""
    digest, count = hashlib.sha256(), 0
    with path.open("wb") as file:
        _write_header(file, 0, dtype)
        begin = file.tell()
        for block in blocks:
            file.write(block.data)
            digest.update(block.data)
            count += len(block)
        file.seek(0)
        _write_header(file, count, dtype)
        if file.tell() != begin:
            raise RuntimeError(f"the header of {path.name} has grown over the tokens behind it")
    return count, digest.hexdigest()


def _write_header(file: BinaryIO, count: int, dtype: np.dtype[np.unsignedinteger]) -> None:
    """Its length does not depend on the count: numpy leaves room in it for arrays that grow."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    npy.write_array_header_1_0(file, header)


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(asdict(document)) + "\n" for document in documents)


def read_documents(folder: Path, split: str) -> list[Document]:
    with documents_file(folder, split).open(encoding="utf-8", newline="\n") as lines:
        return [Document(**json.loads(line)) for line in lines]


def documents_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.jsonl"


def write_manifest(folder: Path, fingerprint: dict[str, Any], content: str | None) -> None:
    """Over all that is in the folder; `content`: by what it is known under another name, if by anything."""
    files = {path.name: _checksum(path) for path in sorted(folder.iterdir())}
    manifest: dict[str, Any] = {"files": files, "fingerprint": fingerprint, "content": content}
    manifest["sha256"] = _of_manifest(manifest)
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")


def read_fingerprint(folder: Path) -> dict[str, Any] | None:
    """Of a whole folder; None where it is missing or damaged.

    Raises ConfigError where its tokenizer is whole, but not the one that its tokens were made with.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        if manifest.pop("sha256", None) != _of_manifest(manifest):
            return None
        if any(_checksum(folder / name) != checksum for name, checksum in manifest["files"].items()):
            return None
        fingerprint: dict[str, Any] = manifest["fingerprint"]
        made_with = fingerprint["tokenizer_sha256"]
        found = hashlib.sha256((folder / TOKENIZER).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if found != made_with:
        raise ConfigError(
            f"{folder}: its {TOKENIZER} ({found[:16]}) is not the tokenizer that its tokens were made with "
            f"({made_with[:16]}); put that back, or remove the folder and it is made anew"
        )
    return fingerprint


def token_counts(folder: Path) -> dict[str, int] | None:
    """Tokens per split, out of the manifest alone; None where there is none."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        return {split: int(manifest["fingerprint"]["tokens"][split]) for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def take_over(folder: Path, content: str) -> dict[str, Any] | None:
    """Make the folder of one beside it that holds the same under another name, and return its fingerprint; None where
    there is no such one. Their files are the same ones, so that it takes neither time nor room."""
    for manifest in sorted(folder.parent.glob(f"*/{_MANIFEST}")):
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            if json.loads(manifest.read_bytes()).get("content") != content:
                continue
            if (fingerprint := read_fingerprint(manifest.parent)) is not None:
                with whole_folder(folder) as fresh:
                    for path in manifest.parent.iterdir():
                        os.link(path, fresh / path.name)
                return fingerprint
    return None


@contextlib.contextmanager
def making(folder: Path, report: Report) -> Iterator[None]:
    """Make `folder` alone among all processes; what a kill left of it is removed. Where nothing comes of it, the
    folders above it are as they were.

    Raises ConfigError where they cannot be written.
    """
    above = folder.parent
    new = [place for place in (above, *above.parents) if not place.exists()]
    try:
        with hold(above / f".{folder.name}.lock", lambda owner: report(f"process {owner} prepares it; waiting")):
            remove_unfinished(folder)
            yield
    except OSError as error:
        raise ConfigError(f"{above}: the token cache cannot be written ({error.strerror or error})") from None
    finally:
        for place in new:
            with contextlib.suppress(OSError):  # something came of it
                place.rmdir()


def _of_manifest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> str:
    """sha256 over the size and at most 64 evenly spread blocks of 1 MiB: the whole file, unless it is very large."""
    size = path.stat().st_size
    blocks = -(-size // _BLOCK)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(min(blocks, _CHECKED_BLOCKS)):
            file.seek(i * blocks // min(blocks, _CHECKED_BLOCKS) * _BLOCK)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()
