"""Reading texts: every format gives the same, a few bad rows are left out and said, and damage is one line."""

import base64
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.text import reading
from tasks.text.batches import prepare
from tasks.text.corpora import load_splits
from tasks.text.reading import Rows, read_texts
from tasks.text.splits import SPLITS

SHARED = Path(__file__).parents[4] / "shared" / "data"


def prose(seed: int, words: int = 30) -> str:
    source = random.Random(seed)
    return " ".join(f"{source.randrange(10**6):x}" for _ in range(words)) + "\n"


TEXTS = [prose(i) + "漢字 é\n" for i in range(400)]


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def rows(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


def table(path: Path, values: list[str | None], field: str = "text") -> Path:
    parquet.write_table(pa.table({"id": range(len(values)), field: pa.array(values, pa.string())}), path)
    return path


def at(path: Path, **keys: object) -> DataConfig:
    return DataConfig(source="text", path=str(path), **keys)  # type: ignore[arg-type]


def texts_at(path: Path, **keys: object) -> list[str]:
    return [text for _, text in read_texts(at(path, **keys))]


WRITTEN: dict[str, Callable[[Path], object]] = {
    "a.jsonl": lambda path: path.write_bytes(rows(TEXTS)),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(rows(TEXTS[:9])) + gzip.compress(rows(TEXTS[9:]))),
    "a.jsonl.zst": lambda path: path.write_bytes(zstd(rows(TEXTS[:9])) + zstd(rows(TEXTS[9:]))),
    "a.parquet": lambda path: table(path, list(TEXTS)),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_all_formats_give_the_same_rows(name: str, tmp_path: Path) -> None:
    WRITTEN[name](tmp_path / name)
    assert texts_at(tmp_path / name) == TEXTS
    assert texts_at(tmp_path) == TEXTS, "a folder takes it, too"


def test_a_plain_text_is_one_document_however_it_is_packed(tmp_path: Path) -> None:
    text = "".join(TEXTS)
    for name, pack in (("a.txt", bytes), ("b.txt.gz", gzip.compress), ("c.txt.zst", zstd)):
        (tmp_path / name).write_bytes(pack(text.encode()))
    assert list(read_texts(at(tmp_path))) == [(name, text) for name in ("a.txt", "b.txt.gz", "c.txt.zst")]


def test_the_field_that_is_learned_from_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS, "content"))
    table(tmp_path / "b.parquet", list(TEXTS), "content")
    assert texts_at(tmp_path, text_field="content") == TEXTS * 2
    for name, told in (("a.jsonl", "line 1 has no field `text`"), ("b.parquet", "has no field `text`")):
        with pytest.raises(ConfigError) as error:
            load_splits(at(tmp_path / name))
        assert f"{name} {told} (fields: id, content)" in str(error.value) and "data.text_field" in str(error.value)


BAD = [
    (b"no json\n", "is not JSON"),
    (b'["text"]\n', "is no object"),
    (b'{"body": "x"}\n', "has no field `text` (fields: body)"),
    (b'{"text": null}\n', "has a field `text` that is null"),
    (b'{"text": 7}\n', "has a field `text` that is of type int"),
    (b'{"text": "\\ud800"}\n', "lone surrogate"),
    (b'{"text": "\xe9"}\n', "is not UTF-8 text (byte 10)"),
    (b'{"text": "\0"}\n', "zero bytes"),
]


@pytest.mark.parametrize(("line", "told"), BAD)
def test_a_few_bad_rows_are_left_out_named_and_counted(line: bytes, told: str, tmp_path: Path) -> None:
    lines = rows(TEXTS).splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join([*lines[:99], line, *lines[99:], b"\n", line]))
    said: list[str] = []
    splits = load_splits(at(tmp_path / "a.jsonl"), said.append)
    assert splits.origin["malformed"] == 2
    (left_out,) = [line for line in said if line.startswith("left out")]
    assert left_out.startswith("left out 2 of 402 rows: a.jsonl line 100 ") and "; a.jsonl line 403 " in left_out
    assert told in left_out and "\n" not in left_out
    assert {d.text for s in SPLITS for d in splits[s]} == set(TEXTS)


def test_more_than_one_in_a_hundred_stops_with_the_counts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS[:396]) + b"no json\n" * 4)
    assert load_splits(at(tmp_path)).origin["malformed"] == 4
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS) + b"no json\n" * 5)
    with pytest.raises(ConfigError) as error:
        load_splits(at(tmp_path))
    told = str(error.value)
    assert told.startswith(f"data.path={tmp_path}: a.jsonl line 401 is not JSON; ") and "\n" not in told
    assert "; 5 of 405 rows cannot be read, and at most 1% are left out; mend them" in told


def test_a_file_without_any_text_stops_beside_however_much_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS))
    (tmp_path / "b.jsonl").write_bytes(b'{"body": "x"}\n')
    with pytest.raises(ConfigError, match="b.jsonl line 1 has no field .*all of b.jsonl,"):
        load_splits(at(tmp_path))


def test_a_file_whose_beginning_is_all_bad_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_HOPELESS", 20)
    (tmp_path / "a.jsonl").write_bytes(b"no json\n" * 19 + rows(TEXTS) * 6)
    assert len(texts_at(tmp_path)) == 2400
    (tmp_path / "a.jsonl").write_bytes(b"no json\n" * 20 + rows(TEXTS) * 6)
    with pytest.raises(ConfigError, match="20 of 20 rows, all of a.jsonl so far,"):
        load_splits(at(tmp_path))


def test_bad_rows_of_a_domain_count_too(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS[:200]) + b"no json\n")
    (tmp_path / "b.jsonl").write_bytes(rows(TEXTS[200:]) + b"no json\n")
    where = {name: str(tmp_path / f"{name}.jsonl") for name in "ab"}
    assert load_splits(DataConfig(source="domains", domains=where)).origin["malformed"] == 2
    (tmp_path / "b.jsonl").write_bytes(rows(TEXTS[200:]) + b"no json\n" * 4)
    with pytest.raises(ConfigError, match=r"^data.domains=\{b: .*b.jsonl line 201 is not JSON"):
        load_splits(DataConfig(source="domains", domains=where))


def test_bad_rows_are_in_the_fingerprint_only_where_there_are_any(tmp_path: Path) -> None:
    found = []
    for name, more in (("good", b""), ("bad", b"no json\n")):
        (tmp_path / f"{name}.jsonl").write_bytes(rows(TEXTS[:200]) + more)
        config = at(tmp_path / f"{name}.jsonl", seq_len=8)
        found.append(prepare(config, 257, tmp_path / "cache").fingerprint)
    assert found[1].pop("malformed") == 1
    assert found[0] == {**found[1], "text_sha256": found[0]["text_sha256"]} and "malformed" not in found[0]


def test_rows_without_text_in_a_table_are_named(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", [*TEXTS[:150], None, *TEXTS[150:]])
    said: list[str] = []
    load_splits(at(tmp_path), said.append)
    assert "left out 1 of 401 rows: a.parquet row 151 has a field `text` that is null, expected a string" in said


def test_a_row_of_a_table_that_is_no_text_is_named(tmp_path: Path) -> None:
    values = [text.encode() for text in TEXTS]
    values[150] = b"caf\xe9"
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(values))]
    column = pa.StringArray.from_buffers(len(values), buffers[1], buffers[2])
    parquet.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    said: list[str] = []
    load_splits(at(tmp_path), said.append)
    assert any("left out 1 of 400 rows: a.parquet row 151 is not UTF-8 text (byte 3)" in line for line in said)


def test_many_bad_rows_are_not_all_named() -> None:
    counted = Rows("key", read=2000)
    for number in range(15):
        counted.leave_out(f"row {number}", "is bad")
    told = counted.check()
    assert told is not None and told.endswith("row 9 is bad; and 5 more") and "row 10" not in told


@pytest.mark.parametrize("text", ["".join(TEXTS), "漢字かな" * 3000, "x" * 40_000 + "\n" + "y\n" * 9])
def test_a_large_text_is_many_documents_in_whole_lines_or_characters(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGE", 10_000)
    monkeypatch.setattr(reading, "PART", 1000)
    data = text.encode()
    (tmp_path / "a.txt").write_bytes("\ufeff".encode() + data)
    parts = list(read_texts(at(tmp_path)))
    assert "".join(part for _, part in parts) == text
    assert all(len(part.encode()) <= 1000 for _, part in parts) and len(parts) < 2 * len(data) / 1000 + 2
    if "\n" in text[:1000]:
        assert all(part.endswith("\n") for _, part in parts)
    ends = [tuple(map(int, name.removeprefix("a.txt[").removesuffix("]").split(":"))) for name, _ in parts]
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])] and ends[-1][1] == len(data) + 3
    (tmp_path / "a.txt").write_bytes(data[:9000] + b"\xff" + data[9000:])
    with pytest.raises(ConfigError, match=r"a.txt is not UTF-8 text \(byte (9000|8999|8998)\)"):
        list(read_texts(at(tmp_path)))


@pytest.mark.parametrize("data", [b"good\n" * 300 + b"\x80" * 1000 + b"\nbye\n", b"\x80" * 3000, b"x" * 2999 + b"\xc3"])
def test_a_large_file_that_is_no_text_is_one_line(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many bytes in a row begin no character."""
    monkeypatch.setattr(reading, "LARGE", 1000)
    monkeypatch.setattr(reading, "PART", 100)
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=r"a.txt is not UTF-8 text \(byte \d+\)") as error:
        for number, _ in enumerate(read_texts(at(tmp_path))):
            assert number < 40, "it reads on and on"
    assert "\n" not in str(error.value)


def test_a_text_of_the_largest_size_is_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGE", 1000)
    (tmp_path / "a.txt").write_text("x\n" * 500)
    assert list(read_texts(at(tmp_path))) == [("a.txt", "x\n" * 500)]


def test_a_line_that_never_ends_is_not_read_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_LINE", 10_000)
    (tmp_path / "a.jsonl").write_bytes(rows(TEXTS[:3]) + b"x" * 20_000)
    with pytest.raises(ConfigError, match="a.jsonl line 4 is longer than"):
        list(read_texts(at(tmp_path)))


def torn(name: str, data: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


def torn_table(folder: Path) -> Path:
    path = table(folder / "a.parquet", list(TEXTS))
    path.write_bytes(path.read_bytes()[:-9])
    return path


def flipped_table(folder: Path) -> Path:
    path = table(folder / "a.parquet", list(TEXTS))
    data = bytearray(path.read_bytes())
    data[4:4000] = b"\x55" * 3996
    path.write_bytes(data)
    return path


def far_table(folder: Path) -> Path:
    """Of times in no year that Python has."""
    parquet.write_table(pa.table({"text": pa.array([2**62] * 3, pa.timestamp("us"))}), folder / "a.parquet")
    return folder / "a.parquet"


def doubled_table(folder: Path) -> Path:
    """Of groups that have a name twice."""
    groups = pa.StructArray.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    parquet.write_table(pa.table({"text": groups}), folder / "a.parquet")
    return folder / "a.parquet"


PACKED = rows(TEXTS)
CHECKED = base64.b64decode("KLUv/QRokQEAU29tZSBwbGFpbiB3b3JkcyBvZiB0ZXh0LCBzdG9yZWQgd2l0aCBhIGNoZWNrc3VtLgq/CZkO")
"""As the command zstd writes it, with a checksum: pyarrow writes none, but reads them."""
DAMAGED = {
    "gz, torn": (torn("a.jsonl.gz", gzip.compress(PACKED)[:-9]), "is not a whole gzip file"),
    "gz, flipped": (
        torn("a.jsonl.gz", gzip.compress(PACKED)[:2000] + gzip.compress(b"x" * 9999)[100:]),
        "whole gzip file",
    ),
    "gz, empty": (torn("a.txt.gz", b""), "is not a whole gzip file (it is empty)"),
    "zst, empty": (torn("a.jsonl.zst", b""), "is not a whole zstd file (it is empty)"),
    "gz, none": (torn("a.txt.gz", b"plain"), "is not a whole gzip file"),
    "zst, torn": (torn("a.jsonl.zst", zstd(PACKED)[:-9]), "is not a whole zstd file"),
    "zst, flipped": (torn("a.txt.zst", CHECKED.replace(b"plain", b"plaim")), "is not a whole zstd file"),
    "zst, none": (torn("a.txt.zst", b"plain words"), "is not a whole zstd file"),
    "parquet, torn": (torn_table, "is not a whole Parquet file"),
    "parquet, flipped": (flipped_table, "is not a whole Parquet file"),
    "parquet, none": (torn("a.parquet", b"plain words"), "is not a whole Parquet file"),
    "parquet, doubled": (doubled_table, "has a value that is none of Python's"),
    "parquet, far": (far_table, "has a value that is none of Python's (date value out of range); write it as text"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_one_line(case: str, tmp_path: Path) -> None:
    damage, told = DAMAGED[case]
    path = damage(tmp_path)
    with pytest.raises(ConfigError) as error:
        load_splits(at(path))
    assert str(error.value).startswith(f"data.path={path}: {path.name} ") and told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not (SHARED / "wikitext-2").is_dir(), reason="real corpora are not here")
def test_real_corpora_are_read() -> None:
    pages = SHARED / "wikitext-2/raw_test.pages.jsonl.gz"
    assert len(texts_at(pages, text_field="page")) == 62
    play = load_splits(at(SHARED / "tinyshakespeare/input.txt.gz"))
    assert play.origin["split"] == "position"
    assert sum(len(d.text) for s in SPLITS for d in play[s]) == 1_115_394
