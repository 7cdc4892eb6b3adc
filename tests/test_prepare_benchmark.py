"""`python -m benchmarks.prepare`: what it makes to prepare, and what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ablations.home import ROOT
from benchmarks.prepare import main, repeated


def test_text_is_repeated_in_another_order() -> None:
    ideographs = "".join(map(chr, range(0x4E00, 0x4E46)))
    for text in (" ".join(f"w{i}" for i in range(70)), ideographs, f"{ideographs[:50]} {ideographs[50:]}"):
        first, *others = repeated([text], 20 * len(text.encode()))
        assert first == text and len({*others}) == len(others) >= 19
        assert all(sorted(other) == sorted(text) and other != text for other in others)


def test_it_prepares_and_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("".join(f"line {i * i} of the text\n" for i in range(20_000)))
    kept = tmp_path / "kept"
    assert main([f"path={tmp_path / 'a.txt'}", "megabytes=1", "vocab_size=300", f"out={kept}"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.items() < json.loads((kept / "prepare.json").read_text()).items()
    assert 1 <= found["megabytes"] < 1.5 and found["megabytes_per_second"] > 0 < found["rss_mb"]
    assert found["tokens"]["train"] > 100_000 < found["tokens"]["train"] + found["tokens"]["test"]


def test_nothing_is_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    assert main([f"path={tmp_path / 'a.txt'}"]) == 2
    assert capsys.readouterr().err == f"error: path={tmp_path / 'a.txt'}: holds no text; name other files\n"


def test_a_file_holds_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    assert main([f"out={tmp_path / 'a.txt'}"]) == 2
    assert capsys.readouterr().err == f"error: out={tmp_path / 'a.txt'}: is a file; name a folder\n"


def test_memory_is_of_this_process_alone() -> None:
    """And not what its parent once had."""
    child = [sys.executable, "-c", "from benchmarks.prepare import peak_mb; print(peak_mb())"]
    parent = f"import subprocess; held = b'x' * 300_000_000; print(subprocess.check_output({child}, text=True))"
    assert 5 < float(subprocess.check_output([sys.executable, "-c", parent], text=True, cwd=ROOT)) < 200
