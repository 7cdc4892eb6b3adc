"""Corpora: the pinned bytes, the three splits, thinning, and one line for everything a user can get wrong."""

import gzip
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.text import corpora
from tasks.text.corpora import load_splits
from tasks.text.division import thin
from tasks.text.reading import read_texts
from tasks.text.sources import PACKAGES
from tasks.text.splits import SPLITS, Document, Splits, _bare, _copies, _is_short, drop_near_copies


def prose(seed: int, words: int = 60) -> str:
    """Random words: texts of different seeds share no 13-word window."""
    source = random.Random(seed)
    return " ".join(f"{source.randrange(10**6):x}" for _ in range(words)) + "\n"


def parts_of(splits: Splits) -> tuple[dict[str, list[Document]], object]:
    """All that two splits can differ in."""
    return {split: list(splits[split]) for split in SPLITS}, splits.origin


def sizes(splits: Splits) -> dict[str, int]:
    return {split: sum(len(document.text.encode()) for document in splits[split]) for split in SPLITS}


@pytest.fixture(scope="module")
def packages() -> Splits:
    return load_splits(DataConfig())


def test_default_corpus_is_pinned_and_split_by_subtree(packages: Splits) -> None:
    if packages.origin["versions"] == PACKAGES:
        assert packages.origin["pinned"] is True, "the installed sympy or networkx was changed"
    subtrees = {"validation": corpora.VALIDATION_SUBTREES, "test": corpora.TEST_SUBTREES}
    for split, trees in subtrees.items():
        assert 1.5e6 < sizes(packages)[split] < 2.5e6
        assert all(document.name.startswith(trees) for document in packages[split])
        assert {document.name.split("/")[0] for document in packages[split]} == {"networkx", "sympy"}
    assert not any(d.name.startswith(corpora.VALIDATION_SUBTREES + corpora.TEST_SUBTREES) for d in packages.train)
    assert packages.origin["dropped"]["validation"], "edgelist.py has a twin in networkx/algorithms/bipartite"
    assert packages.train == sorted(packages.train, key=lambda document: document.name)


def test_changed_packages_are_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "PACKAGES", {"networkx": "3.6.1", "sympy": "0.0"})
    assert load_splits(DataConfig(max_bytes=200_000)).origin["pinned"] is False


def test_max_bytes_thins_every_split_by_the_same_factor(packages: Splits) -> None:
    kept, again = (load_splits(DataConfig(max_bytes=2_000_000)) for _ in range(2))
    assert kept == again
    whole = {document.name: document.text for split in SPLITS for document in packages[split]}
    for split in SPLITS:
        if (
            split != "by_file"
        ):  # its near copies of the rest of their package are dropped afterwards, a few of its files
            assert sizes(kept)[split] / sizes(packages)[split] == pytest.approx(2 / 32.64, rel=0.04)
        assert all(whole.get(document.name, document.text).startswith(document.text) for document in kept[split])


def test_thin_keeps_order_and_cuts_one_document() -> None:
    entries = {"train": [(f"{i}", 100) for i in range(20)], "test": [("a", 40), ("empty", 0), ("b", 40)]}
    kept = thin(entries, 1040)
    assert {split: sum(names.values()) for split, names in kept.items()} == {"train": 1000, "test": 40}
    assert list(kept["train"]) == [name for name, _ in entries["train"] if name in kept["train"]]
    assert thin(entries, None)["test"] == {"a": 40, "b": 40}


def test_stdlib_splits_by_module() -> None:
    splits = load_splits(DataConfig(source="stdlib"))
    tops = {split: {document.name.split("/")[0] for document in splits[split]} for split in SPLITS}
    assert not (tops["train"] & tops["validation"] or tops["train"] & tops["test"] or tops["validation"] & tops["test"])
    assert not any({"tests", "test", "site-packages"} & set(document.name.split("/")) for document in splits.train)
    assert sizes(splits)["test"] > 100_000


def test_documents_are_split_by_their_own_hash(tmp_path: Path) -> None:
    texts = [prose(i) for i in range(400)]
    path = tmp_path / "documents.jsonl.gz"

    def assigned(texts: list[str]) -> dict[str, str]:
        path.write_bytes(gzip.compress("".join(json.dumps({"text": text}) + "\n" for text in texts).encode()))
        splits = load_splits(DataConfig(source="text", path=str(path)))
        assert splits.origin["split"] == "document hash"
        return {document.text: split for split in SPLITS for document in splits[split]}

    few, many = assigned(texts[:200]), assigned(texts)
    assert len(few) == 200 and set(few.values()) == {"train", "validation", "test"}
    assert few == {text: many[text] for text in few}, "more data must move no document to another split"


def test_one_file_is_split_by_position(tmp_path: Path) -> None:
    text = "".join(prose(i, 10) for i in range(500))
    (tmp_path / "book.txt").write_text(text)
    splits = load_splits(DataConfig(source="text", path=str(tmp_path)))
    parts = [document.text for split in SPLITS for document in splits[split]]
    assert "".join(parts) == text and len(parts) == 3
    assert all(part.endswith("\n") for part in parts)
    assert [len(part) / len(text) for part in parts] == pytest.approx([0.9, 0.05, 0.05], abs=0.005)
    one_line = "x" * 1000
    (tmp_path / "book.txt").write_text(one_line)
    assert sizes(load_splits(DataConfig(source="text", path=str(tmp_path)))) == {
        "train": 900,
        "validation": 50,
        "test": 50,
        "by_file": 0,
    }


def test_near_copies_of_training_text_are_dropped() -> None:
    train = [Document("train", prose(1, 200))]
    words = train[0].text.split()
    copied = Document("copied", prose(2, 100) + " ".join(words[:60]))  # 48 of 148 windows
    distant = Document("distant", prose(3, 100) + " ".join(words[:30]))  # 18 of 118 windows
    splits = Splits(train, [copied, distant], [Document("short", words[0])], [], {})
    kept = drop_near_copies(splits)
    assert kept.validation == [distant] and kept.test == splits.test
    assert kept.origin["dropped"] == {"validation": ["copied"], "test": []}


def test_the_second_test_set_is_of_files_beside_those_learned_from(packages: Splits) -> None:
    names = {split: {document.name for document in packages[split]} for split in SPLITS}
    assert sum(map(len, names.values())) == len(set.union(*names.values())), "each document is in one split only"
    assert not any(name.startswith(corpora.VALIDATION_SUBTREES + corpora.TEST_SUBTREES) for name in names["by_file"])
    folders = {name.rpartition("/")[0] for name in names["train"]}
    assert names["by_file"] and {name.rpartition("/")[0] for name in names["by_file"]} <= folders
    assert sizes(packages)["by_file"] == pytest.approx(corpora.BY_FILE * sizes(packages)["train"], rel=0.25)


def _folder(path: Path) -> DataConfig:
    return DataConfig(source="text", path=str(path))


def _hidden(folder: Path) -> Path:
    """A folder with nothing but copies that others keep."""
    (folder / ".ipynb_checkpoints").mkdir()
    for name in ("._a.txt", ".ipynb_checkpoints/b-checkpoint.txt"):
        (folder / name).write_text(prose(1))
    return folder


def _file(name: str, content: bytes, max_bytes: int | None = None) -> Callable[[Path], DataConfig]:
    def make(folder: Path) -> DataConfig:
        (folder / name).write_bytes(content)
        return DataConfig(source="text", path=str(folder / name), max_bytes=max_bytes)

    return make


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: DataConfig(source="text"), "data.path=null"),
        (lambda folder: _folder(folder / "absent.txt"), "cannot be read"),
        (lambda folder: _folder(folder / ("long" * 80 + ".txt")), "cannot be read (File name too long); name a file"),
        (lambda folder: DataConfig(source="text", path=""), "data.path=: is empty; name a file or a folder"),
        (_folder, "holds no .txt"),
        (_file("empty.txt", b""), "holds no text"),
        (_file("latin.txt", "é".encode("latin-1") * 9), "not UTF-8"),
        (_file("words.doc", b"words"), "expected a file ending in"),
        (_file("torn.txt.gz", gzip.compress(b"words " * 99)[:-9]), "not a whole gzip file"),
        (
            _file("rows.jsonl", b'{"text": "a"}\n{"body": "b"}\n'),
            "rows.jsonl line 2 has no field `text` (fields: body)",
        ),
        (_file("rows.jsonl", b'{"text": "a"}\n{"text": null}\n'), "rows.jsonl line 2 has a field `text` that is null"),
        (
            _file("rows.jsonl", b'{"text": ["a"]}\n'),
            "rows.jsonl line 1 has a field `text` that is of type list, expected a str",
        ),
        (_file("rows.jsonl", b'["text"]\n'), "rows.jsonl line 1 is no object"),
        (_file("wide.txt", "words".encode("utf-16")), "wide.txt is not UTF-8 text, but UTF-16 or no text at all"),
        (
            _file("wide.jsonl", '{"text": "a"}'.encode("utf-16-le")),
            "wide.jsonl line 1 is not UTF-8 text, but UTF-16 or no text",
        ),
        (_file("big.txt.gz", gzip.compress("words".encode("utf-16-be"))), "big.txt.gz is not UTF-8 text, but UTF-16"),
        (_file("program.txt", b"\x7fELF\x02\x01\x01\x00\x00"), "or no text at all"),
        (
            lambda folder: _folder(_hidden(folder)),
            ".jsonl.zst, .parquet file (left out: hidden text files: 2); a file is read by its ending",
        ),
        (_file("rows.jsonl", b"text\n"), "line 1 is not JSON"),
        (_file("rows.jsonl", b'{"text": "\\ud800"}\n'), "surrogate"),
        (lambda folder: DataConfig(source="hf"), "data.name=null"),
        (lambda folder: DataConfig(max_bytes=0), "data.max_bytes=0"),
        (lambda folder: DataConfig(max_bytes=5), "data.max_bytes=5: the validation split is left without text"),
        (
            _file("one.txt", b"twelve bytes", max_bytes=2_000_000),
            "one.txt: the validation split is left without text; add text",
        ),
    ],
)
def test_what_a_user_can_get_wrong_is_one_line(tmp_path: Path, make: Callable[[Path], DataConfig], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_splits(make(tmp_path), None, tmp_path)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    mark = "\ufeff".encode()
    rows = [json.dumps({"text": prose(i)}).encode() + b"\n" for i in range(6)]
    written = {
        "a.txt": mark + prose(10).encode(),
        "b.jsonl": mark + b"".join(rows[:3]) + mark + b"".join(rows[3:]),  # of two files that were joined
        "c.jsonl": json.dumps({"text": "\ufeff" + prose(11)}).encode(),
        "d.txt.gz": gzip.compress(mark + prose(12).encode()),
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    texts = [text for _, text in read_texts(_folder(tmp_path))]
    assert texts == [prose(i) for i in (10, 0, 1, 2, 3, 4, 5, 11, 12)]


def test_what_has_no_end_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("some text\n")
    os.mkfifo(tmp_path / "d.txt")
    for path in (tmp_path, tmp_path / "d.txt"):
        with pytest.raises(ConfigError, match=r"d\.txt:? is no file but a pipe or a device"):
            load_splits(DataConfig(source="text", path=str(path)))


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/a.txt").write_text(prose(1))
    for link, target in (("linked", tmp_path / "other"), ("again", tmp_path / "other"), ("loop", tmp_path / "own")):
        (tmp_path / "own" / link).symlink_to(target)
    assert dict(read_texts(_folder(tmp_path / "own"))) == {"again/a.txt": prose(1)}


def test_a_folder_that_cannot_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text(prose(1))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def closed(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(ConfigError, match=r"/closed cannot be read \(Permission denied\); move it away"):
        list(read_texts(_folder(tmp_path)))


def test_hidden_files_are_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/shown.txt").write_text("".join(prose(i) for i in range(50)))
    shown = load_splits(_folder(tmp_path))
    said: list[str] = []
    hidden = load_splits(_folder(_hidden(tmp_path)), said.append)
    assert parts_of(hidden) == parts_of(shown)
    assert said[0] == f"reading {tmp_path} (left out: hidden text files: 2)"
    (tmp_path / ".#lock.txt").symlink_to("user@host.123")  # as an editor marks a file that it holds
    os.mkfifo(tmp_path / ".pipe.txt")
    assert parts_of(load_splits(_folder(tmp_path))) == parts_of(shown)
    (tmp_path / ".named.txt").write_text(prose(3))
    assert [text for _, text in read_texts(_folder(tmp_path / ".named.txt"))] == [prose(3)], "it was asked for"


def test_a_hidden_folder_is_read_under_its_other_name(tmp_path: Path) -> None:
    (tmp_path / ".store/real").mkdir(parents=True)
    (tmp_path / ".store/real/a.txt").write_text(prose(1))
    (tmp_path / "data").symlink_to(tmp_path / ".store/real")
    assert [name for name, _ in read_texts(_folder(tmp_path))] == ["data/a.txt"]


def test_a_link_is_unpacked_by_its_own_name(tmp_path: Path) -> None:
    """Caches keep files under their hashes."""
    for name, content in {"a.txt.gz": prose(1), "b.jsonl.gz": json.dumps({"text": prose(1)})}.items():
        (tmp_path / f"0{name[0]}1").write_bytes(gzip.compress(content.encode()))
        (tmp_path / name).symlink_to(tmp_path / f"0{name[0]}1")
        assert [text for _, text in read_texts(_folder(tmp_path / name))] == [prose(1)]


def test_of_copies_no_one_is_held_out(tmp_path: Path) -> None:
    """However the text is divided."""
    for i in range(120):
        (tmp_path / f"{i}.txt").write_text(prose(i % 6))
    with pytest.raises(ConfigError, match="left without text that shares at most 20% of its 13-grams with the train"):
        load_splits(_folder(tmp_path))


def test_short_texts_with_other_blanks_are_copies_and_with_other_signs_are_not(tmp_path: Path) -> None:
    def dropped(texts: list[str]) -> tuple[int, int]:
        rows = [json.dumps({"text": text}) for text in np.random.default_rng(0).permutation(texts)]
        (tmp_path / "rows.jsonl").write_text("\n".join(rows))
        splits = load_splits(_folder(tmp_path))
        assert not {" ".join(d.text.split()) for d in splits.train} & {" ".join(d.text.split()) for d in splits.test}
        return len(splits.origin["dropped"]["test"]), len(splits.test)

    often = [f"number {i}{blank}and a few words" for i in range(300) for blank in (" ", "  ", "\n")]
    copied, kept = dropped([*often, *(f"another {i} of them" for i in range(900))])
    assert copied > 20 and kept > 20
    assert dropped([f"x{i} = {sign}3" for i in range(1000) for sign in ("", "-", "+", "~")])[0] == 0


@given(st.text(st.sampled_from("a\u3042 \t\n\x1c\x85\xa0"), max_size=40), st.integers(0, 20))
def test_a_text_is_short_by_what_is_left_without_its_blanks(text: str, longest: int) -> None:
    assert _is_short(text, longest) == (len(_bare(text)) <= longest)


def test_a_long_text_is_not_copied_to_see_whether_it_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a corpus may have a quarter of a gigabyte."""
    copied: list[int] = []
    monkeypatch.setattr("tasks.text.splits._bare", lambda text: copied.append(len(text)) or _bare(text))
    train = [Document("a", "word " * 100_000), Document("b", "w" * 100_000), Document("c", "yes  ab")]
    short = Document("d", "yes ab")
    assert _copies([short, Document("e", "no ab")], train, None) == [short]
    assert max(copied) < 10


@pytest.mark.parametrize(
    "text", ["yes ab", "\u3042\u4e2d\u6587" * 40, "one two three four five six seven eight nine ten eleven"]
)
def test_of_short_copies_no_one_is_held_out(tmp_path: Path, text: str) -> None:
    """They have no window of 13 words, or are all one word where a script has no blanks."""
    rows = [json.dumps({"text": f"{text}{i % 6}"}) for i in range(2000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(ConfigError, match="left without text that shares at most 20% of its 13-grams with the train"):
        load_splits(_folder(tmp_path))


def test_near_copies_are_seen_in_a_script_without_blanks(tmp_path: Path) -> None:
    """Of 400 characters 8 are others."""
    rng = np.random.default_rng(0)
    for i in range(300):
        text = np.random.default_rng(i % 15).integers(0x4E00, 0x6E00, 400)
        text[rng.integers(0, 400, 8)] = rng.integers(0x6E00, 0x8E00, 8)
        (tmp_path / f"{i}.txt").write_text("".join(map(chr, text)))
    with pytest.raises(ConfigError, match="left without text that shares at most 20% of its 13-grams with the train"):
        load_splits(_folder(tmp_path))


def test_short_documents_that_differ_are_held_out(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": f"yes {i}"}) for i in range(2000)))
    splits = load_splits(_folder(tmp_path))
    assert splits.origin["dropped"] == {"validation": [], "test": []} and len(splits.test) > 50


def test_one_text_may_repeat_itself(tmp_path: Path) -> None:
    """A line of a log has a number and then always the same: what it shares in words, it does not in longer windows,
    which the guard counts."""
    line = "the service has been asked for a page that it does not have and says so again"
    (tmp_path / "log.txt").write_text("".join(f"{i:08x} {line}\n" for i in range(3000)))
    assert load_splits(_folder(tmp_path)).origin["split"] == "position"


def test_a_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb.jsonl").write_text("text\n")
    with pytest.raises(ConfigError, match=r"^[^\n]*a\\nb.jsonl line 1 is not JSON[^\n]*$"):
        list(read_texts(_folder(tmp_path)))
    (tmp_path / "c\nd.txt").symlink_to("nowhere")
    with pytest.raises(ConfigError, match=r"^[^\n]*c\\nd.txt cannot be read[^\n]*$"):
        list(read_texts(_folder(tmp_path)))


def test_a_file_of_several_names_is_read_once_and_what_is_passed_over_is_said(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("".join(prose(i) for i in range(50)))
    (tmp_path / "a.txt").symlink_to(tmp_path / "b.txt")
    os.link(tmp_path / "b.txt", tmp_path / "c.txt")
    (tmp_path / "D.TXT").write_text(prose(60))
    (tmp_path / "e.JSONL.GZ").write_bytes(gzip.compress(json.dumps({"text": prose(61)}).encode()))
    (tmp_path / ".git").mkdir()
    for other in ("rows.json", "README.md", ".hidden.md", ".git/config"):
        (tmp_path / other).write_text(prose(62))
    os.link(tmp_path / "b.txt", tmp_path / "z.txt")
    assert [name for name, _ in read_texts(_folder(tmp_path))] == ["D.TXT", "a.txt", "e.JSONL.GZ:1"], "sorted by name"
    said: list[str] = []
    load_splits(_folder(tmp_path), said.append)
    assert said[0] == f"reading {tmp_path} (left out: links to text that is there: 3, files of other kinds: 2)"


def test_names_that_are_not_utf_8_are_spelled_out(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9.txt")
    odd.write_text(prose(1))
    (tmp_path / "café.txt").write_text(prose(2))
    assert dict(read_texts(_folder(tmp_path))) == {"caf\\xe9.txt": prose(1), "café.txt": prose(2)}
    assert dict(read_texts(_folder(odd))) == {"caf\\xe9.txt": prose(1)}


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not an installed package"):
        load_splits(DataConfig())
