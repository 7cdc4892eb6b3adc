"""The step log is read up to its first line that is none, whatever that is."""

import json
from pathlib import Path

import pytest

from ablations.record.steplog import COLUMNS, STEPS, read_steps

GOOD = dict.fromkeys(COLUMNS, 1.0) | {"step": 1}


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 2, "lo',
        b"3",
        b"null",
        b"[]",
        b"{}",
        json.dumps(GOOD | {"step": "2"}).encode(),
        json.dumps(GOOD | {"loss": None}).encode(),
        b"\xff\xfe\0",
        b"9" * 5000,
        b"[" * 100_000,
    ],
    ids=["cut", "number", "null", "list", "empty", "text", "no loss", "binary", "digits", "deep"],
)
def test_what_is_no_line_ends_it(line: bytes, tmp_path: Path) -> None:
    good = json.dumps(GOOD).encode()
    (tmp_path / STEPS).write_bytes(b"\n".join([good, line, good]))
    assert read_steps(tmp_path / STEPS) == [GOOD]
