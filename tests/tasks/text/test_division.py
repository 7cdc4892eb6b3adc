"""Dividing and thinning by numbers alone, against doing it with the texts in hand."""

import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.config import DataConfig
from tasks.text import corpora, division, separation
from tasks.text.corpora import load_splits
from tasks.text.division import divide, leading_bytes, thinned
from tasks.text.splits import SPLITS, Document, Joined
from tasks.text.spool import Spool, rank


def spooled(texts: dict[str, str]) -> Spool:
    spool = Spool()
    for name, text in texts.items():
        spool.add(name, text)
    return spool


def lines(seed: int, count: int) -> str:
    source = random.Random(seed)
    return "".join(f"{source.randrange(10**9)} é\n" for _ in range(count))


@given(sizes=st.lists(st.integers(0, 50), max_size=30), most=st.integers(0, 900), seed=st.integers(0, 99))
def test_leading_bytes_are_those_of_the_first_in_rank(sizes: list[int], most: int, seed: int) -> None:
    ranks = np.random.default_rng(seed).permutation(len(sizes)).astype(np.uint64)
    kept = leading_bytes(ranks, np.array(sizes, dtype=np.uint32), most).tolist()
    left, expected = most, [0] * len(sizes)
    for place in sorted(range(len(sizes)), key=lambda place: ranks[place]):
        expected[place] = min(sizes[place], left)
        left -= expected[place]
    assert kept == expected


def test_a_document_comes_back_from_the_disk_whole_or_cut_after_a_line(tmp_path: Path) -> None:
    texts = {f"d{i}": lines(i, 3 + i % 5) for i in range(50)}
    spool = Spool(tmp_path, "kind")
    for name, text in texts.items():
        spool.add(name, text)
    assert list(tmp_path.iterdir()) == [], "a kill must leave nothing behind"
    assert [spool.read(i) for i in (49, 0, 7)] == [(f"d{i}", texts[f"d{i}"].encode()) for i in (49, 0, 7)]
    assert spool.text_ranks.tolist() == [rank(text) for text in texts.values()]
    assert spool.name_ranks.tolist() == [rank(name) for name in texts]
    whole = division.Division(spool, np.zeros(50, dtype=np.uint8), "all")
    assert list(whole.keep("train", None)) == [Document(name, text, "kind") for name, text in texts.items()]
    some = list(whole.keep("train", 400))
    by_name = {document.name: document.text for document in some}
    assert sum(len(text.encode()) for text in by_name.values()) <= 400 and len(some) > 3
    assert all(texts[name].startswith(text) and text.endswith("\n") for name, text in by_name.items())
    assert sum(texts[name] != text for name, text in by_name.items()) == 1, "only the last is cut"


def test_a_held_out_split_has_a_largest_size_and_what_is_beyond_it_is_not_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"d{i}": lines(i, 4) for i in range(1500)}
    whole, capped = thinned(divide(spooled(texts)), None)
    assert capped == {}
    monkeypatch.setattr(division, "HELD_OUT_BYTES", 2000)
    few, capped = thinned(divide(spooled(texts)), None)
    size = {split: sum(len(d.text.encode()) for d in whole[split]) for split in SPLITS}
    assert capped == {split: size[split] for split in ("validation", "test")}
    for split in ("validation", "test"):
        assert 1900 < sum(len(d.text.encode()) for d in few[split]) <= 2000
        assert {d.name for d in few[split]} < {d.name for d in whole[split]}
    assert list(few["train"]) == list(whole["train"])


def test_what_is_left_out_of_the_held_out_splits_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"text": "{i} {name} {i * i}"}}\n' for i in range(900)))
    for module in (division, corpora):
        monkeypatch.setattr(module, "HELD_OUT_BYTES", 300)
    domains = {name: str(tmp_path / f"{name}.jsonl") for name in "ab"}
    for config in (DataConfig(source="text", path=str(tmp_path)), DataConfig(source="domains", domains=domains)):
        said: list[str] = []
        splits = load_splits(config, said.append)
        for split in ("validation", "test"):
            assert sum(len(d.text) for d in splits[split]) <= 300
            assert splits.origin["held_out_before"][split] > 300
            assert any(line.startswith(f"{split}: 0 MB are kept of ") for line in said)


def test_joined_documents_come_one_after_the_other() -> None:
    one, two = [Document("a", "x")], [Document("b", "y"), Document("c", "z")]
    assert list(Joined([one, two])) == one + two and len(Joined([one, two])) == 3


def test_a_corpus_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 MB; what Python holds at once of them is counted. 10 % of a corpus this small is held out, and kept."""
    source = random.Random(0)
    with (tmp_path / "a.jsonl").open("w") as file:
        for _ in range(1500):
            file.write('{"text": "' + f"{source.getrandbits(32000):x}" + '"}\n')
    monkeypatch.setattr(separation, "_BLOCK", 1 << 14)
    monkeypatch.setattr(separation, "_TABLE_BITS", 8)
    monkeypatch.setattr(separation, "_SHIFT", np.uint64(56))
    tracemalloc.start()
    try:
        splits = load_splits(DataConfig(source="text", path=str(tmp_path / "a.jsonl")))
        passed = sum(len(document.text) for document in splits.train)
        assert passed > 10e6 and tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
