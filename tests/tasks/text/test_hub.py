"""Datasets of a hub: streamed once, kept, and gone on with after an interruption.

No hub is asked here. A folder of Parquet files, which `datasets` streams as it would a repository, stands for one.
"""

import json
import os
import random
import subprocess
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pytest
from pyarrow import parquet

from models.base.files import beside
from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.text import hub
from tasks.text.batches import prepare
from tasks.text.corpora import load_splits
from tasks.text.hub import _content, stream
from tasks.text.named import PRESETS, hub_text
from tasks.text.reading import Rows
from tasks.text.sources import source_content, source_state
from tasks.text.splits import SPLITS


def prose(seed: int, words: int = 60) -> str:
    source = random.Random(seed)
    return " ".join(f"{source.randrange(10**6):x}" for _ in range(words)) + "\n"


TEXTS = [prose(i) for i in range(300)]
SIZE = len("".join(TEXTS))


def write(folder: Path, texts: list[str | None], field: str = "text") -> str:
    """In three files with small row groups, as a repository has them."""
    folder.mkdir()
    for number in range(3):
        part = pa.table({"id": range(100), field: pa.array(texts[number * 100 : number * 100 + 100], pa.string())})
        parquet.write_table(part, folder / f"train-{number:05}-of-00003.parquet", row_group_size=40)
    return str(folder)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("hub") / "set", list(TEXTS))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "SHARD_BYTES", SIZE // 10)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")


def of(name: str, **keys: Any) -> DataConfig:
    return DataConfig(source="hf", name=name, **keys)


def streamed(config: DataConfig, cache: Path, said: list[str] | None = None) -> list[tuple[str, str]]:
    rows = Rows(f"data.name={config.name}")
    return list(stream(config, cache, rows, ([] if said is None else said).append)[0])


class Failing:
    """Rows that end in a lost connection after some."""

    def __init__(self, rows: Any, after: int) -> None:
        self.rows, self.after = rows, after
        self.state_dict, self.load_state_dict = rows.state_dict, rows.load_state_dict

    def __iter__(self) -> Iterator[Any]:
        for number, row in enumerate(self.rows):
            if number == self.after:
                raise ConnectionError("the line is dead\nand more")
            yield row


def cut_off(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    opened = hub._opened
    monkeypatch.setattr(hub, "_opened", lambda *arguments: Failing(opened(*arguments), after))


def test_an_interrupted_stream_goes_on_where_it_was(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [(f"set:{i}", text) for i, text in enumerate(TEXTS)]
    assert streamed(of(repository), tmp_path / "whole") == whole
    kept = []
    for after in (117, 1, 60):  # each counts from where the last has left off
        with monkeypatch.context() as patched:
            cut_off(patched, after)
            with pytest.raises(ConfigError) as error:
                streamed(of(repository), tmp_path / "torn")
        told = str(error.value)
        assert f"data.name={repository}: the dataset cannot be streamed (ConnectionError: the line is dead); " in told
        assert "and the same command goes on from there" in told and "\n" not in told
        kept.append(int(told.split(" rows are kept")[0].rpartition(" ")[2]))
    assert 117 - 32 < kept[0] <= 117 and kept[1] == kept[0] and kept[0] + 60 - 32 < kept[2] <= kept[0] + 60
    said: list[str] = []
    assert streamed(of(repository), tmp_path / "torn", said) == whole
    assert said == [f"streaming set on from row {kept[2]}"]


def first(size: int) -> list[str]:
    """The texts up to the one with which there are `size` bytes."""
    return TEXTS[: next(i for i in range(301) if len("".join(TEXTS[:i])) >= size)]


def test_what_is_here_is_read_without_a_hub_and_only_the_rest_is_streamed(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, asked = hub._opened, []
    monkeypatch.setattr(hub, "_opened", lambda *arguments: asked.append(arguments) or opened(*arguments))
    for size, times in ((SIZE // 2, 1), (SIZE // 2, 1), (SIZE // 4, 1), (SIZE // 2 + 999, 2)):
        texts = [text for _, text in streamed(of(repository, max_bytes=size), tmp_path)]
        assert (texts, len(asked)) == (first(size), times)
    for size in (10**9, 10**10):
        texts = [text for _, text in streamed(of(repository, max_bytes=size), tmp_path)]
        assert (texts, len(asked)) == (TEXTS, 3), "it has no more rows"


def test_a_dataset_is_packed_and_named_by_its_revision(repository: str, tmp_path: Path) -> None:
    said: list[str] = []
    config = of(repository, seq_len=8)
    data = prepare(config, 270, tmp_path / "cache", said.append)
    found = data.fingerprint
    assert (found["source"], found["name"], found["hub_split"]) == ("hf", "set", "train")
    assert len(found["revision"]) == 64 and str(tmp_path) not in str(found) and repository not in str(found)
    assert sum(found["documents"].values()) == 300 and "streaming set" in said
    own = write(tmp_path / "set", list(TEXTS))
    same = prepare(of(own, seq_len=8), 270, tmp_path / "cache").fingerprint
    assert same == found, "a copy of it elsewhere"
    parquet.write_table(pa.table({"id": [0], "text": ["another"]}), Path(own) / "train-00000-of-00003.parquet")
    changed = prepare(of(own, seq_len=8), 270, tmp_path / "cache").fingerprint
    assert changed["revision"] != found["revision"] and sum(changed["documents"].values()) == 201


def test_a_folder_that_was_edited_is_another_revision(tmp_path: Path) -> None:
    """To the byte as long as it was, and as old."""
    texts = [prose(seed) for seed in range(300)]
    name = write(tmp_path / "rows", texts)
    file = next((tmp_path / "rows").rglob("*.*"))
    was, before = file.stat(), _content(tmp_path / "rows", "data.name=rows")
    content = file.read_bytes()
    file.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert name and _content(tmp_path / "rows", "data.name=rows") != before


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a shard lacks": (lambda folder: (folder / "00003.parquet").unlink(), "00003.parquet is not there, and 00004"),
    "the first lacks": (lambda folder: (folder / "00000.parquet").unlink(), "00000.parquet is not there, and 00001"),
    "no origin": (lambda folder: (folder / "source.json").unlink(), "source.json cannot be read"),
    "half an origin": (lambda folder: (folder / "source.json").write_text('{"na'), "source.json cannot be read"),
    "another table": (
        lambda folder: parquet.write_table(pa.table({"text": ["x"]}), sorted(folder.glob("*.parquet"))[-1]),
        "does not say which rows it holds",
    ),
    "a count that is none": (
        lambda folder: rewritten(sorted(folder.glob("*.parquet"))[-1], pa.array(["x"]), {"rows": "many"}),
        "does not say which rows it holds",
    ),
    "numbers for text": (
        lambda folder: rewritten(sorted(folder.glob("*.parquet"))[0], pa.array([1]), {}),
        "00000.parquet holds no text",
    ),
}


def rewritten(shard: Path, column: Any, have: dict[str, Any]) -> None:
    """With another column, and something else said of where it stands in the stream."""
    said = json.loads(parquet.read_schema(shard).metadata[b"have"]) | have
    parquet.write_table(pa.table({"text": column}).replace_schema_metadata({"have": json.dumps(said)}), shard)


@pytest.mark.parametrize("damage", DAMAGES)
def test_kept_rows_that_are_damaged_are_one_line(damage: str, repository: str, tmp_path: Path) -> None:
    work, told = DAMAGES[damage]
    assert len(streamed(of(repository), tmp_path)) == 300
    (folder,) = tmp_path.glob("hub-*")
    work(folder)
    with pytest.raises(ConfigError) as error:
        streamed(of(repository), tmp_path)
    said = str(error.value)
    assert said.startswith(f"data.name={repository}: {folder}: ") and told in said and "\n" not in said
    assert said.endswith("; remove the folder, and its rows are streamed anew")


def test_a_folder_that_is_called_like_a_preset_is_not_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tinystories", list(TEXTS))
    assert hub_text(of("tinystories")) == PRESETS["tinystories"]
    assert hub_text(of("./tinystories")).repository == "./tinystories"


def test_a_field_that_is_not_there_and_a_set_that_is_not_are_one_line(tmp_path: Path) -> None:
    other = write(tmp_path / "code", list(TEXTS), "content")
    with pytest.raises(ConfigError, match=r"has no field `text` \(fields: id, content\); name the one") as error:
        load_splits(of(other), None, tmp_path / "cache")
    assert "\n" not in str(error.value) and not list((tmp_path / "cache").rglob("*.json")), "nothing is kept of it"
    assert [text for _, text in streamed(of(other, text_field="content"), tmp_path / "cache")] == TEXTS


def test_a_folder_at_home_and_a_name_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "set", list(TEXTS))
    assert streamed(of("~/set"), tmp_path / "cache") == streamed(of(str(tmp_path / "set")), tmp_path / "again")
    with pytest.raises(ConfigError, match="^data.name=b*: the dataset cannot be streamed"):
        streamed(of("b" * 300), tmp_path / "long")
    assert source_state(of("b" * 300)) == source_state(of("c" * 300)), "no folder is looked for there"


def test_what_stands_in_a_folder_counts_however_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached corpus is another where a file is: by its place, from home, and one SUBSET of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    names = (str(tmp_path / "set"), "~/set", f"{tmp_path / 'set'}:some", "~/set:some")
    write(tmp_path / "set", list(TEXTS))
    before = [(source_state(of(name)), source_content(of(name))) for name in names]
    first = tmp_path / "set/train-00000-of-00003.parquet"
    first.write_bytes((tmp_path / "set/train-00001-of-00003.parquet").read_bytes() + b"PAR1")
    for name, was in zip(names, before, strict=True):
        assert source_state(of(name)) != was[0] and source_content(of(name)) != was[1], name


def test_the_library_says_nothing_beside_the_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/train.json").write_text("7")
    datasets.logging.enable_propagation()
    try:
        with pytest.raises(ConfigError, match="the dataset cannot be streamed"):
            streamed(of(str(tmp_path / "set")), tmp_path / "cache")
    finally:
        datasets.logging.disable_propagation()
    assert not caplog.records


def test_what_helps_with_a_folder_that_cannot_be_streamed(tmp_path: Path) -> None:
    """Who reads files of text is named where there are some."""
    for name, files, helps in (
        ("lines", {"train.jsonl": '{"text": "a"}\n{"text": \n'}, "data.source=text data.path="),
        (
            "table",
            {"train.csv": 'text,b\n"a,1,2\n' * 9},
            "mend its files, or write them as .jsonl for data.source=text",
        ),
        (
            "test",
            {"test.jsonl": '{"text": "a"}\n' * 9},
            "check the name's subset, and that the dataset has a split `train`",
        ),
        ("empty", {"train.jsonl": ""}, "(StopIteration: it has no rows)"),
    ):
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
        with pytest.raises(ConfigError) as error:
            streamed(of(str(tmp_path / name)), tmp_path / "cache")
        assert helps in str(error.value) and "\n" not in str(error.value)


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    some, cache = write(tmp_path / "some", list(TEXTS)), tmp_path / "cache"
    load_splits(of(some), None, cache)
    (folder,) = cache.glob("hub-*")
    with subprocess.Popen(["true"]) as ended:
        pass
    machine = beside(folder / "x").name.split(".")[2].split("-")[0]
    left = folder / f".00001.parquet.{machine}-{ended.pid}-01234567.part"
    left.write_bytes(b"half")
    load_splits(of(some), None, cache)
    assert not left.exists()


def test_rows_without_text_are_left_out_as_in_files(tmp_path: Path) -> None:
    some = write(tmp_path / "some", [None if i in (7, 205) else text for i, text in enumerate(TEXTS)])
    said: list[str] = []
    splits = load_splits(of(some), said.append, tmp_path / "cache")
    assert splits.origin["malformed"] == 2 and sum(len(splits[s]) for s in SPLITS) == 298
    assert (
        "left out 2 of 300 rows: row 8 has no text in its field `text`; row 206 has no text in its field `text`" in said
    )
    many = write(tmp_path / "many", [None if i < 4 else text for i, text in enumerate(TEXTS)])
    with pytest.raises(ConfigError, match="row 1 has no text in its field `text`; 4 of 300 rows"):
        load_splits(of(many), None, tmp_path / "cache")


def test_damaged_rows_are_one_line_that_says_where_they_lie(repository: str, tmp_path: Path) -> None:
    streamed(of(repository), tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("hub-"))
    (folder / "00002.parquet").write_bytes(b"torn")
    with pytest.raises(ConfigError, match=f"{folder}, which may be removed: 00002.parquet is not a whole Parquet file"):
        streamed(of(repository), tmp_path)


def test_presets_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(PRESETS) == {"fineweb_edu", "wikitext", "tinystories", "codeparrot"}
    code = hub_text(of("codeparrot"))
    assert (code.repository, code.text_field, code.split) == ("codeparrot/codeparrot-clean", "content", "train")
    assert hub_text(of("codeparrot", text_field="path")).text_field == "path"
    web = hub_text(of("fineweb_edu@abc"))
    assert (web.repository, web.subset, web.revision) == ("HuggingFaceFW/fineweb-edu", "sample-10BT", "abc")
    own = hub_text(of("owner/set:en@v1"))
    assert (own.repository, own.subset, own.revision, own.label) == ("owner/set", "en", "v1", "owner/set:en")
    part = hub_text(of("fineweb_edu:sample-100BT@abc"))
    assert (part.repository, part.subset, part.revision) == ("HuggingFaceFW/fineweb-edu", "sample-100BT", "abc")
    for name in (":en", "@main"):
        with pytest.raises(ConfigError, match="names no dataset; write fineweb_edu, wikitext"):
            hub_text(of(name))


def test_a_folder_is_one_whatever_its_name_has_in_it(tmp_path: Path) -> None:
    (tmp_path / "set@2:en").mkdir()
    own = hub_text(of(str(tmp_path / "set@2:en")))
    assert (own.repository, own.subset, own.revision) == (str(tmp_path / "set@2:en"), None, None)


def test_the_folder_that_one_stands_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    assert hub_text(of(".")).label == hub_text(of("../mine")).label == "mine"


class Hub:
    """One that knows one dataset, and remembers what it was asked."""

    def __init__(self, repository: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.load, self.folder = datasets.load_dataset, repository
        monkeypatch.setattr(datasets, "load_dataset", self.load_dataset)
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", self.dataset_info)

    def dataset_info(self, repository: str, revision: str | None = None) -> Any:
        self.asked.append((repository, revision))
        if not repository.startswith("Hugging"):
            raise ConnectionError("no such place")
        return types.SimpleNamespace(sha="0123abcd")

    def load_dataset(self, *arguments: Any, **keys: Any) -> Any:
        self.asked.append((arguments, keys))
        return self.load(self.folder, split=keys["split"], streaming=True)


def test_the_newest_revision_is_asked_for_once_and_held_on_to(
    repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Hub(repository, monkeypatch)
    with monkeypatch.context() as patched:
        cut_off(patched, 100)
        with pytest.raises(ConfigError):
            load_splits(of("fineweb_edu"), None, tmp_path)
    splits = load_splits(of("fineweb_edu"), None, tmp_path)
    assert splits.origin["revision"] == "0123abcd" and splits.origin["name"] == "HuggingFaceFW/fineweb-edu:sample-10BT"
    opened = (
        ("HuggingFaceFW/fineweb-edu", "sample-10BT"),
        {"split": "train", "streaming": True, "revision": "0123abcd"},
    )
    assert known.asked == [("HuggingFaceFW/fineweb-edu", None), opened, opened]
    with pytest.raises(ConfigError) as error:
        load_splits(of("tinystory"), None, tmp_path)
    told = str(error.value)
    assert (
        "(ConnectionError: no such place)" in told and told.endswith("did you mean tinystories?") and "\n" not in told
    )


def test_paragraphs_under_one_heading_are_one_document() -> None:
    rows = ["", " = One = \n", "", " a \n", " = = Part = = \n", " b \n", " = Two = \n", " c = d \n"]
    named = [(f"set:{i}", text) for i, text in enumerate(rows)]
    heading = PRESETS["wikitext"].heading
    assert heading is not None
    joined = list(hub._under_headings(iter(named), heading))
    assert joined == [("set:0", ""), ("set:1", "".join(rows[1:6])), ("set:6", "".join(rows[6:]))]
