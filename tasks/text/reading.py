"""Texts out of files: .txt, .jsonl and .parquet, also compressed, one document at a time.

A damaged file stops at once. A damaged row is left out, named and counted, as long as there are few (`Rows`).
"""

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.text.files import SourceFile, decode, read
from tasks.text.sources import LONGEST_OF_A_PACKAGE, domain_files, domains_of, of_a_package, text_files

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

MAX_MALFORMED = 0.01
"""Share of the rows that may be left out."""
LARGE = 32_000_000
"""Bytes of a .txt file that is still one document."""
PART = 256_000
"""Bytes of each document that a larger one is read as."""
LONGEST_LINE = 256_000_000
LONGEST_CHARACTER = 4
"""Bytes of UTF-8."""
_NAMED = 10
"""Rows that are named before they are only counted."""
_HOPELESS = 1000
"""Rows at the beginning of a file of which none is good."""

_BYTE_ORDER_MARK = "\ufeff"
"""Some editors begin a UTF-8 file with it; it is no part of the text."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_NO_TEXT = (
    "is not UTF-8 text, but UTF-16 or no text at all (it holds zero bytes, or begins as UTF-16 does); convert it, as "
    "with `iconv -f UTF-16 -t UTF-8`, or leave it out"
)


class Malformed(Exception):
    """A row that holds no text, and why."""


@dataclass
class Rows:
    """How many rows were read, and which of them could not be."""

    key: str
    """Opens an error's line."""
    read: int = 0
    malformed: int = 0
    named: list[str] = field(default_factory=list)
    """The first of those, with the reason."""

    def leave_out(self, row: str, reason: str) -> None:
        self.malformed += 1
        if len(self.named) < _NAMED:
            self.named.append(f"{row} {reason}")

    def stop(self, where: str) -> ConfigError:
        """The error that too many are malformed."""
        return ConfigError(
            f"{self.key}: {self.named[0]}; {self.malformed:,} of {self.read:,} rows{where} cannot be read, and at most "
            f"{MAX_MALFORMED:.0%} are left out; mend them, or name the field that is learned from by data.text_field"
        )

    def check(self) -> str | None:
        """What is to be said of the rows that were left out. Raises ConfigError where these are too many."""
        if self.malformed > MAX_MALFORMED * self.read:
            raise self.stop("")
        if not self.malformed:
            return None
        more = self.malformed - len(self.named)
        also = f"; and {more:,} more" if more else ""
        return f"left out {self.malformed:,} of {self.read:,} rows: {'; '.join(self.named)}{also}"


def read_texts(config: DataConfig, rows: Rows | None = None) -> Iterator[tuple[str, str]]:
    """(name, text) of every document at `data.path`. `rows` counts, and knows afterwards what was left out."""
    return texts_of(text_files(config), config.text_field, rows or Rows(f"data.path={config.path}"))


def domain_texts(config: DataConfig, name: str, rows: Rows) -> Iterator[tuple[str, str]]:
    """(name, text) of a domain's documents, the long ones of a package cut after a line end."""
    files = domain_files(config, name)
    if not of_a_package(domains_of(config)[name]):
        yield from ((f"{name}/{document}", text) for document, text in texts_of(files, config.text_field, rows))
        return
    for file in files:
        text = decode(read(file, rows.key), file.name, rows.key)
        begin = text[:LONGEST_OF_A_PACKAGE]
        yield f"{name}/{file.name}", text if begin == text else begin[: begin.rfind("\n") + 1] or begin


def texts_of(files: list[SourceFile], text_field: str, rows: Rows) -> Iterator[tuple[str, str]]:
    """(name, text) of every document: a .txt file is one (or, if it is `LARGE`, many), and each row of a .jsonl or
    .parquet file is one. `rows` counts."""
    for file in files:
        kind = file.name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")[2]
        if kind == "txt":
            yield from _plain(file, rows.key)
            continue
        before = rows.read, rows.malformed
        texts = _json_lines(file, text_field, rows.key) if kind == "jsonl" else _parquet(file, text_field, rows.key)
        for name, text in texts:
            rows.read += 1
            if isinstance(text, str):
                yield name, text
            else:
                rows.leave_out(name, str(text))
            read, bad = rows.read - before[0], rows.malformed - before[1]
            if read == bad == _HOPELESS:
                raise rows.stop(f", all of {file.name} so far,")
        if 0 < rows.read - before[0] == rows.malformed - before[1]:
            raise rows.stop(f", all of {file.name},")


@contextlib.contextmanager
def _opened(file: SourceFile, key: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed. Raises ConfigError where they end too early or are damaged."""
    packed = {".gz": "gzip", ".zst": "zstd"}.get(Path(file.name).suffix.lower())  # it may be a link to any name
    if packed is not None and not file.size:
        raise ConfigError(f"{key}: {file.name} is not a whole {packed} file (it is empty); mend it, or leave it out")
    try:
        with file.path.open("rb") as plain:
            if packed == "gzip":
                with gzip.open(plain) as unpacked:
                    yield unpacked  # type: ignore[misc]
            elif packed == "zstd":
                import pyarrow as pa  # which `datasets` needs, too; zstandard would be a further package

                with pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd") as unpacked:
                    yield io.BufferedReader(unpacked, 1 << 20)
            else:
                yield plain
    except (OSError, EOFError, zlib.error) as error:
        if packed is None:
            raise ConfigError(f"{key}: {file.name} cannot be read ({error})") from None
        raise ConfigError(f"{key}: {file.name} is not a whole {packed} file ({error}); copy it again") from None


def _plain(file: SourceFile, key: str) -> Iterator[tuple[str, str]]:
    """One document, or parts in whole lines of a file that is too large to be one."""
    with _opened(file, key) as stream:
        data = stream.read(LARGE + 1)
        if len(data) <= LARGE:
            yield file.name, _decoded(data, file, key)
            return
        passed = begin = 0
        while begin < len(data):
            end = _end_of_part(data, begin)
            name = f"{file.name}[{passed + begin}:{passed + end}]"
            yield name, _decoded(data[begin:end], file, key, passed + begin)
            begin = end
            if len(data) - begin <= PART:
                passed, data, begin = passed + begin, data[begin:] + stream.read(16 * PART), 0


def _end_of_part(data: bytes, begin: int) -> int:
    """Behind the last line end, else the last whole character, of the PART bytes from `begin` on. What is no character
    ends anywhere: it is refused when it is decoded."""
    if len(data) - begin <= PART:
        return len(data)
    if line_end := data.rfind(b"\n", begin, begin + PART) + 1:
        return line_end
    end = begin + PART
    return end - next((back for back in range(LONGEST_CHARACTER) if not 0x80 <= data[end - back] < 0xC0), 0)


def _decoded(data: bytes, file: SourceFile, key: str, begin: int = 0) -> str:
    if data.startswith(_UTF_16) or b"\0" in data:
        raise ConfigError(f"{key}: {file.name} {_NO_TEXT}")
    return decode(data, file.name, key, begin).removeprefix(_BYTE_ORDER_MARK)


def _json_lines(file: SourceFile, text_field: str, key: str) -> Iterator[tuple[str, str | Malformed]]:
    with _opened(file, key) as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            if len(line) > LONGEST_LINE:
                raise ConfigError(
                    f"{key}: {file.name} line {number} is longer than {LONGEST_LINE / 1e6:.0f} MB; a .jsonl file holds "
                    "one object per line"
                )
            if not line.isspace():
                text = _json_text(line, text_field)
                # Documents have always been named so; `fim` and thinning draw by their names.
                yield f"{file.name}:{number}" if isinstance(text, str) else f"{file.name} line {number}", text


def _json_text(line: bytes, text_field: str) -> str | Malformed:
    if line.startswith(_UTF_16) or b"\0" in line:
        return Malformed(_NO_TEXT)
    try:
        row = json.loads(line.decode().removeprefix(_BYTE_ORDER_MARK))  # one may stand where files were joined, too
    except UnicodeDecodeError as error:
        return Malformed(f"is not UTF-8 text (byte {error.start})")
    except (ValueError, RecursionError):
        return Malformed(f"is not JSON; every line holds one object with a field `{text_field}`")
    if not isinstance(row, dict):
        return Malformed(f"is no object; every line holds one with a string in a field `{text_field}`")
    return text_of(row, text_field)


def text_of(row: dict[str, Any], text_field: str) -> str | Malformed:
    """A row's text, or what stands there instead."""
    if text_field not in row:
        return Malformed(f"has no field `{text_field}` (fields: {', '.join(map(str, row)) or 'none'})")
    text = row[text_field]
    if not isinstance(text, str):
        found = "null" if text is None else f"of type {type(text).__name__}"
        return Malformed(f"has a field `{text_field}` that is {found}, expected a string")
    try:
        text.encode()
    except UnicodeEncodeError:
        return Malformed("escapes half a character (a lone surrogate), which is no text")
    return text.removeprefix(_BYTE_ORDER_MARK)


def _parquet(file: SourceFile, text_field: str, key: str) -> Iterator[tuple[str, str | Malformed]]:
    with opened_table(file.path, file.name, key) as table:
        fields = table.schema_arrow.names
        if text_field not in fields:
            raise ConfigError(
                f"{key}: {file.name} has no field `{text_field}` (fields: {', '.join(fields)}); name the one that is "
                "learned from by data.text_field"
            )
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=[text_field]):
            for value in batch.column(0):
                number += 1
                text = _text_in(value, text_field)
                yield f"{file.name}:{number}" if isinstance(text, str) else f"{file.name} row {number}", text


def _text_in(value: Any, text_field: str) -> str | Malformed:
    """A table's value."""
    try:
        return text_of({text_field: value.as_py()}, text_field)
    except UnicodeDecodeError as error:
        return Malformed(f"is not UTF-8 text (byte {error.start})")


@contextlib.contextmanager
def opened_table(path: Path, name: str, key: str) -> "Iterator[ParquetFile]":
    """A Parquet file; `key` and `name` open the line of the ConfigError that a damaged one ends in."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        # Otherwise a whole row group is read at once, which may be the file.
        with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:
            yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise ConfigError(f"{key}: {name} is not a whole Parquet file ({reason}); copy it again") from None
    except ConfigError:
        raise
    except (
        ValueError,
        ArithmeticError,
        LookupError,
    ) as error:  # a group with a name twice, a time in no year of Python's, or of no time zone
        raise ConfigError(f"{key}: {name} has a value that is none of Python's ({error}); write it as text") from None
