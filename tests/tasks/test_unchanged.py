"""Small corpora keep the very bytes that they had before corpora could be larger than memory.

A published result names its data by these fingerprints. One that changes is another corpus: say so in CHANGELOG.md, and
that results of the earlier one cannot be reproduced, before the new one is written down here.
"""

import gzip
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from tasks.config import DataConfig
from tasks.text.batches import prepare
from tasks.text.sources import PACKAGES, package_versions


def prose(seed: int, words: int = 60) -> str:
    source = random.Random(seed)
    return " ".join(f"{source.randrange(10**6):x}" for _ in range(words)) + "\n"


def mixed(folder: Path) -> str:
    """All that one folder may hold: blank rows, copies and near copies, other scripts, a byte order mark."""
    rows = [prose(i, 20 + i % 70) + "é漢字 " * (i % 7) + prose(i + 1) * (i % 3 == 0) for i in range(260)]
    rows += ["   ", "", rows[3], rows[5] + prose(10**6, 3)]
    lines = [json.dumps({"text": row}, ensure_ascii=i % 2 == 0) for i, row in enumerate(rows)]
    (folder / "deep").mkdir()
    (folder / "a.jsonl").write_text("\n".join(lines[:150]) + "\n", encoding="utf-8")
    (folder / "deep/b.jsonl.gz").write_bytes(gzip.compress("\r\n".join(lines[150:]).encode(), mtime=0))
    (folder / "c.txt").write_bytes("\ufeff".encode() + prose(77, 400).encode() * 2)
    return str(folder)


def book(folder: Path) -> str:
    """Too few documents to be divided by their hashes."""
    (folder / "a.txt").write_text("".join(prose(i, 10) for i in range(200)), encoding="utf-8")
    ideographs = (chr(0x4E00 + i * 7919 % 20_000) for i in range(2800))  # no part of which is another's copy
    (folder / "b.txt").write_text("".join(ideographs), encoding="utf-8")
    return str(folder)


def kinds(folder: Path) -> dict[str, str]:
    """Of unequal sizes."""
    for number, name in enumerate(("digits", "letters")):
        rows = [prose(1000 * number + i, 40 + 20 * number) for i in range(120)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return {name: str(folder / f"{name}.jsonl") for name in ("digits", "letters")}


TEXT: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str]] = {
    "mixed": (mixed, {}, "389d71d7c558f450"),
    "mixed, thinned": (mixed, {"max_bytes": 60_000}, "91bd213f6d98daef"),
    "mixed, rearranged": (mixed, {"fim_rate": 0.5}, "37e2b8eab17c3215"),
    "book": (book, {}, "b8b49817fa3c5ecb"),
    "book, thinned and rearranged": (book, {"max_bytes": 15_001, "fim_rate": 1.0}, "1a7f6cd756249160"),
    "kinds": (kinds, {}, "219ad015f009b74c"),
    "kinds, thinned": (kinds, {"max_bytes": 30_000}, "f7d0f0cc79a3e4dc"),
}


def everything(folder: Path, fingerprint: dict[str, Any]) -> str:
    """A hash of the fingerprint and of each byte in the cache folder, but for what is new in the manifest: its own sum,
    and that of what was read."""
    digest = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode())
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        if path.name == "manifest.json":
            manifest = json.loads(content)
            del manifest["sha256"], manifest["content"]
            content = json.dumps(manifest, indent=1, sort_keys=True).encode()
        digest.update(path.name.encode() + content)
    return digest.hexdigest()[:16]


@pytest.mark.skipif(tokenizers.__version__ != "0.23.3", reason="another version may merge otherwise")
@pytest.mark.parametrize("name", TEXT)
def test_own_text_is_packed_as_ever(name: str, tmp_path: Path) -> None:
    make, keys, expected = TEXT[name]
    (tmp_path / "text").mkdir()
    made = make(tmp_path / "text")
    where = {"source": "domains", "domains": made} if isinstance(made, dict) else {"source": "text", "path": made}
    data = prepare(DataConfig(seq_len=16, **where, **keys), 280, tmp_path / "cache")
    assert everything(data.folder, data.fingerprint) == expected


@pytest.mark.skipif(tokenizers.__version__ != "0.23.3", reason="another version may merge otherwise")
def test_the_default_corpus_is_packed_as_ever(tmp_path: Path) -> None:
    if package_versions() != PACKAGES:
        pytest.skip("other versions are other bytes")
    data = prepare(DataConfig(max_bytes=200_000, seq_len=16, fim_rate=0.3), 300, tmp_path)
    assert everything(data.folder, data.fingerprint) == "a9f8c3dc72151c39"
