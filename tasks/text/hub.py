"""Datasets of the Hugging Face hub, streamed: the rows so far stay on this machine, of one revision.

Rows are kept in Parquet files, each with the place in the stream behind it. A stream that was interrupted goes on
there, asking for more of it streams only the rest, and what is there is read without any network.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.base.files import remove_left, whole_file, write_atomically
from models.base.locks import hold
from models.base.typed import ConfigError, build, closest
from tasks.config import DataConfig
from tasks.progress import Progress, Report
from tasks.text.files import is_text
from tasks.text.named import PRESETS, HubText, hub_text
from tasks.text.reading import Rows, opened_table, text_of
from tasks.text.sources import local_dataset

if TYPE_CHECKING:
    from datasets import IterableDataset

HF_BYTES = 50_000_000
"""How much of a dataset is taken without `max_bytes`."""
SHARD_BYTES = 8_000_000
"""Text of one file of rows: what an interruption may lose."""
_HAVE = b"have"
_SOURCE = "source.json"


@dataclass(frozen=True)
class Have:
    """What the files hold up to one of them, and the stream's state behind it."""

    rows: int = 0
    bytes: int = 0
    state: dict[str, Any] | None = None
    ended: bool = False
    """The dataset has no more rows."""


def stream(
    config: DataConfig, cache: Path, rows: Rows, report: Report
) -> tuple[Iterator[tuple[str, str]], dict[str, Any]]:
    """(name, text) of the documents in the first `max_bytes` (default 50 MB), and what is known of their origin.

    Raises ConfigError where they are not all in `cache` and the rest cannot be streamed.
    """
    text = hub_text(config)
    if local := text.folder:  # it may change between two calls, and its rows are then others
        text = replace(text, revision=_content(local, rows.key))
    wanted = config.max_bytes or HF_BYTES
    parts = [text.repository, text.subset, text.split, text.text_field, text.revision]
    folder = cache / f"hub-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"
    try:
        with hold(cache / f".{folder.name}.lock", lambda owner: report(f"process {owner} streams it; waiting")):
            source = _fill(folder, text, wanted, rows.key, report)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{cache}: rows cannot be kept there ({reason}); choose another runs_dir") from None
    documents = _rows(folder, text, wanted, rows)
    return (documents if text.heading is None else _under_headings(documents, text.heading)), source


def _fill(folder: Path, text: HubText, wanted: int, key: str, report: Report) -> dict[str, Any]:
    """Stream what is missing of `wanted` bytes; returns the origin of all that is there."""
    remove_left(folder)
    shards = _shards(folder, key)
    have, number = _have(shards[-1], key) if shards else Have(), len(shards)
    kept = _kept_origin(folder, key) if shards else None
    if kept is not None and (have.ended or have.bytes >= wanted):
        return kept
    report(f"streaming {text.label}" + (f" on from row {have.rows:,}" if have.rows else ""))
    try:
        origin = _origin(text) if kept is None else kept
        rows = _opened(text, origin["revision"], key)
        if kept is None:
            write_atomically(folder / _SOURCE, json.dumps(origin))
        if have.state is not None:
            rows.load_state_dict(have.state)
        progress = Progress(report, f"streaming {text.label}", wanted - have.bytes)
        texts: list[str | None] = []
        size = 0
        for row in rows:
            found = text_of(row, text.text_field)
            texts.append(found if isinstance(found, str) else None)
            added = len(found.encode()) if isinstance(found, str) else 0
            size += added
            progress.add(added)
            if size >= SHARD_BYTES or have.bytes + size >= wanted:
                have = Have(have.rows + len(texts), have.bytes + size, rows.state_dict())
                _write(folder / f"{number:05}.parquet", texts, have)
                number, texts, size = number + 1, [], 0
                if have.bytes >= wanted:
                    return origin
        have = Have(have.rows + len(texts), have.bytes + size, rows.state_dict(), ended=True)
        _write(folder / f"{number:05}.parquet", texts, have)
        return origin
    except ConfigError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        if isinstance(error, StopIteration):  # of a dataset's own reader
            reason = "it has no rows"
        there = f"{have.rows:,} rows are kept, and the same command goes on from there; " if have.rows else ""
        if type(error) is ValueError:
            hint = "check the name's subset, and that the dataset has a split `train`"
        elif text.folder:
            readable = any(is_text(path.name) for path in text.folder.rglob("*"))
            reads = f"data.source=text data.path={text.repository} reads such files itself, and names what is malformed"
            hint = reads if readable else "mend its files, or write them as .jsonl for data.source=text"
        else:
            near = "" if "/" in text.repository else closest(text.repository, PRESETS)
            hint = f"check the name and the network, or use data.source=text{near}"
        raise ConfigError(
            f"{key}: the dataset cannot be streamed ({type(error).__name__}: {reason}); {there}{hint}"
        ) from None


def _origin(text: HubText) -> dict[str, Any]:
    """The revision that all rows will be of, and whatever else says which rows they are."""
    import datasets

    revision = text.revision
    if not text.folder:
        from huggingface_hub import HfApi

        revision = HfApi().dataset_info(text.repository, revision=text.revision).sha
    versions = {"datasets": datasets.__version__}
    return {"name": text.label, "hub_split": text.split, "revision": revision, "versions": versions}


def _content(folder: Path, key: str) -> str:
    """Stands for the revision of a folder of this machine."""
    found = []
    for own in local_dataset(folder, key):
        with own.path.open("rb") as file:
            found.append((own.name, hashlib.file_digest(file, "sha256").hexdigest()))
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _opened(text: HubText, revision: str, key: str) -> "IterableDataset":
    import datasets

    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # what goes wrong is said in one line
    pinned = None if text.folder else revision
    rows = datasets.load_dataset(text.repository, text.subset, split=text.split, streaming=True, revision=pinned)
    fields = rows.column_names or list(next(iter(rows), {}))
    if text.text_field not in fields:
        raise ConfigError(
            f"{key}: has no field `{text.text_field}` (fields: {', '.join(fields)}); name the one that is learned from "
            "by data.text_field"
        )
    return rows.select_columns([text.text_field])


def _write(path: Path, texts: list[str | None], have: Have) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"text": pa.array(texts, pa.large_string())})
    table = table.replace_schema_metadata({_HAVE: json.dumps(have.__dict__)})
    with whole_file(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd", row_group_size=1000)


def _shards(folder: Path, key: str) -> list[Path]:
    """In the order of their rows. Raises ConfigError where one lacks before the last."""
    found = sorted(folder.glob("[0-9]*.parquet"))
    for number, shard in enumerate(found):
        if shard.stem != f"{number:05}":
            raise _damaged(folder, key, f"{number:05}.parquet is not there, and {shard.name} is")
    return found


def _have(shard: Path, key: str) -> Have:
    with opened_table(shard, shard.name, f"{key}: {shard.parent}, which may be removed") as table:
        try:
            return build(Have, json.loads(table.schema_arrow.metadata[_HAVE]), shard.name)
        except (TypeError, KeyError, ValueError, ConfigError):
            raise _damaged(shard.parent, key, f"{shard.name} does not say which rows it holds") from None


def _kept_origin(folder: Path, key: str) -> dict[str, Any]:
    """Of the rows that are there."""
    try:
        origin: dict[str, Any] = json.loads((folder / _SOURCE).read_bytes())
        origin["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(folder, key, f"{_SOURCE} cannot be read") from None
    return origin


def _damaged(folder: Path, key: str, what: str) -> ConfigError:
    return ConfigError(f"{key}: {folder}: {what}; remove the folder, and its rows are streamed anew")


def _rows(folder: Path, text: HubText, wanted: int, rows: Rows) -> Iterator[tuple[str, str]]:
    """(name, text) of the kept rows, up to the one with which there are `wanted` bytes."""
    for shard in _shards(folder, rows.key):
        with opened_table(shard, shard.name, f"{rows.key}: {folder}, which may be removed") as table:
            for batch in table.iter_batches(batch_size=64):
                for found in batch.column(0).to_pylist():
                    rows.read += 1
                    if found is None:
                        rows.leave_out(f"row {rows.read}", f"has no text in its field `{text.text_field}`")
                        continue
                    if not isinstance(found, str):
                        raise _damaged(folder, rows.key, f"{shard.name} holds no text")
                    yield f"{text.label}:{rows.read - 1}", found
                    wanted -= len(found.encode())
                    if wanted <= 0:
                        return


def _under_headings(rows: Iterator[tuple[str, str]], heading: str) -> Iterator[tuple[str, str]]:
    """Rows joined to documents, each from one heading to the next: paragraphs of one text belong on one side."""
    begin, parts = "", list[str]()
    for name, text in rows:
        if re.fullmatch(heading, text) and parts:
            yield begin, "".join(parts)
            parts = []
        begin = begin if parts else name
        parts.append(text)
    if parts:
        yield begin, "".join(parts)
