"""Packed data: batches as a pure function, and a cache that is whole or absent."""

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.base.typed import ConfigError
from tasks import progress
from tasks.config import DataConfig
from tasks.text import batches, packing
from tasks.text import cache as folders
from tasks.text.batches import PackedData, prepare
from tasks.text.corpora import load_splits
from tasks.text.fim import FIM_TOKENS, arrange
from tasks.text.splits import SPLITS, Document
from tasks.text.tokenizer import encode_packed, train_tokenizer

VOCAB = 300
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    folder = tmp_path_factory.mktemp("corpus")
    source = random.Random(0)
    for i in range(120):
        words = [f"{source.randrange(10**5)}" for _ in range(80)]
        (folder / f"{i:03}.txt").write_text(" ".join(words) + "\n")
    return DataConfig(source="text", path=str(folder), seq_len=16, batch_size=6)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def data(config: DataConfig, cache: Path) -> PackedData:
    return prepare(config, VOCAB, cache)


def test_every_epoch_visits_every_window_once(data: PackedData) -> None:
    windows = data.windows("train")
    steps = -(-2 * windows // data.batch_size)
    rows = torch.cat([data.train_batch(7, step) for step in range(steps)])[: 2 * windows]
    assert rows.shape == (2 * windows, data.seq_len + 1) and rows.dtype == torch.int64
    tokens = data.tokens("train").astype(np.int64)
    expected = [tuple(tokens[i * 16 : i * 16 + 17]) for i in range(windows)]
    epochs = [[tuple(row.tolist()) for row in part] for part in (rows[:windows], rows[windows:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(expected)
    assert epochs[0] != epochs[1] and epochs[0] != expected


@pytest.mark.parametrize("change", [{"order": "staged"}, {"seq_len": 8}, {"batch_size": 2}, {"mask_documents": True}])
def test_how_tokens_are_used_packs_no_text_again(
    data: PackedData, config: DataConfig, cache: Path, change: dict[str, Any]
) -> None:
    folders = sorted(cache.iterdir())
    again = prepare(dataclasses.replace(config, **change), VOCAB, cache)
    assert again.folder == data.folder and sorted(cache.iterdir()) == folders


def test_a_batch_depends_on_seed_and_step_only(data: PackedData, config: DataConfig, cache: Path) -> None:
    fresh = prepare(config, VOCAB, cache)
    for step in (500, 3, 40):  # out of order, over several epochs
        assert torch.equal(fresh.train_batch(1, step), data.train_batch(1, step))
    assert not torch.equal(data.train_batch(1, 3), data.train_batch(2, 3))
    assert not torch.equal(data.train_batch(1, 3), data.train_batch(1, 4))


def test_evaluation_windows_are_fixed_and_spread(data: PackedData) -> None:
    few = list(data.evaluation_batches("test", 16 * 10, rows=4))
    assert [len(batch) for batch in few] == [4, 4, 2]
    other = dataclasses.replace(DataConfig(), seq_len=16, batch_size=2)
    again = PackedData(data.folder, data.fingerprint, other.seq_len, other.batch_size)
    assert torch.equal(torch.cat(few), torch.cat(list(again.evaluation_batches("test", 160))))
    tokens, windows = data.tokens("test").astype(np.int64), data.windows("test")
    starts = [i * windows // 10 * 16 for i in range(10)]
    assert torch.cat(few).tolist() == [tokens[start : start + 17].tolist() for start in starts]
    whole = torch.cat(list(data.evaluation_batches("test", 10**9)))
    assert len(whole) == windows and len(torch.unique(whole, dim=0)) == windows


def test_packed_text_is_the_corpus(data: PackedData, config: DataConfig) -> None:
    splits = load_splits(config)
    for split in SPLITS:
        tokens = data.tokens(split)
        assert data.tokenizer.decode(tokens.tolist()) == "".join(document.text for document in splits[split])
        assert data.token_bytes[tokens].sum() == data.fingerprint["bytes"][split]
        assert (tokens == 0).sum() == data.fingerprint["documents"][split] == len(splits[split])
    assert data.documents("test") == splits.test and data.documents("validation") == splits.validation
    with pytest.raises(ValueError, match="train"):
        data.documents("train")


def test_fingerprint_tells_texts_apart_and_machines_not(data: PackedData, config: DataConfig, tmp_path: Path) -> None:
    copy = shutil.copytree(str(config.path), tmp_path / "elsewhere")
    moved = prepare(dataclasses.replace(config, path=str(copy), seq_len=8), VOCAB, tmp_path / "cache")
    assert moved.fingerprint == data.fingerprint
    assert json.loads(json.dumps(data.fingerprint)) == data.fingerprint
    assert config.path is not None and config.path not in json.dumps(data.fingerprint)
    name = data.documents("test")[0].name
    (copy / name).write_text((copy / name).read_text() + " 7")
    changed = prepare(dataclasses.replace(config, path=str(copy)), VOCAB, tmp_path / "cache")
    assert changed.fingerprint["text_sha256"] != data.fingerprint["text_sha256"], (
        "an edited file must not hit the cache"
    )


def test_second_call_does_not_read_the_corpus(
    data: PackedData, config: DataConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "load_splits", lambda *_: pytest.fail("the corpus was read again"))
    assert prepare(config, VOCAB, cache).fingerprint == data.fingerprint
    assert [path.name for path in cache.iterdir()] == [data.folder.name]


@pytest.mark.parametrize("name", ["train.npy", "tokenizer.json", "test.jsonl", "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_damaged_cache_is_made_anew(
    data: PackedData, config: DataConfig, tmp_path: Path, name: str, damage: str
) -> None:
    shutil.copytree(data.folder, tmp_path / data.folder.name)
    path = tmp_path / data.folder.name / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 3] ^= 0x80
        path.write_bytes(content[: len(content) // 2] if damage == "short" else content)
    heard: list[str] = []
    again = prepare(config, VOCAB, tmp_path, heard.append)
    assert path.read_bytes() == (data.folder / name).read_bytes()
    aside = path.parent.with_name(f"{data.folder.name}.damaged")
    assert f"{path.parent} is damaged: set aside as {aside.name}, and made anew" in heard
    assert (aside / name).exists() == (damage != "missing")
    assert torch.equal(again.train_batch(0, 0), data.train_batch(0, 0))


def test_a_kill_while_writing_leaves_no_half_cache(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    monkeypatch.setattr("os.rename", kill)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # kill -9 cleans nothing up
    with pytest.raises(Killed):
        prepare(config, VOCAB, tmp_path)
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".")
    data = prepare(config, VOCAB, tmp_path)
    assert list(tmp_path.iterdir()) == [data.folder]


def test_the_same_text_in_another_place_or_of_another_time_is_not_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there, cache_dir = (tmp_path / name for name in ("here", "there", "cache"))
    here.mkdir()
    for i in range(100):
        (here / f"{i}.txt").write_text(" ".join(f"{i * j % 97:x}" for j in range(200)) + "\n")
    shutil.copytree(here, there)

    def of(folder: Path) -> DataConfig:
        return DataConfig(source="text", path=str(folder), seq_len=16, batch_size=2)

    made, packed = list[Any](), batches.pack
    monkeypatch.setattr(batches, "pack", lambda *words: made.append(words) or packed(*words))
    first, second = (prepare(of(folder), VOCAB, cache_dir) for folder in (here, there))
    os.utime(here / "3.txt", (1, 1))
    third = prepare(of(here), VOCAB, cache_dir)
    assert len({data.folder for data in (first, second, third)}) == 3 and len(made) == 1
    assert first.fingerprint == second.fingerprint == third.fingerprint
    assert torch.equal(first.train_batch(0, 1), third.train_batch(0, 1))
    (cache_dir / "other").mkdir()
    (cache_dir / "other/manifest.json").write_text("[" * 100_000)
    (there / "5.txt").write_text((there / "5.txt").read_text().replace("1", "2"))
    prepare(of(there), VOCAB, cache_dir)
    assert len(made) == 2, "other text of the same length"
    (here / "5.txt").rename(here / "x.txt")
    prepare(of(here), VOCAB, cache_dir)
    assert len(made) == 3, "documents have names"


def test_text_that_changes_while_it_is_read_is_no_other_texts(tmp_path: Path) -> None:
    here, cache_dir = tmp_path / "here", tmp_path / "cache"
    here.mkdir()
    for i in range(100):
        (here / f"{i}.txt").write_text(" ".join(f"{i * j % 97:x}" for j in range(200)) + "\n")
    config, first = DataConfig(source="text", path=str(here), seq_len=16, batch_size=2), (here / "5.txt").read_text()
    truth = prepare(config, VOCAB, tmp_path / "other").fingerprint["tokens_sha256"]

    def edited(said: str) -> None:
        if said.startswith("reading"):
            (here / "5.txt").write_text("something else\n")

    assert prepare(config, VOCAB, cache_dir, edited).fingerprint["tokens_sha256"] != truth
    (here / "5.txt").write_text(first)
    assert prepare(config, VOCAB, cache_dir).fingerprint["tokens_sha256"] == truth


def test_a_file_that_cannot_be_read_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "x.txt").symlink_to("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"^data\.path=[^ ]*: x\.txt cannot be read"):
        prepare(DataConfig(source="text", path=str(tmp_path), seq_len=16), VOCAB, tmp_path / "cache")


def test_two_processes_preparing_at_once(config: DataConfig, data: PackedData, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from tasks.text.batches import prepare; from tasks.config import DataConfig\n"
        f"data = prepare(DataConfig(**{dataclasses.asdict(config)!r}), {VOCAB}, Path(sys.argv[1]))\n"
        "assert 'torch' not in sys.modules; print(data.fingerprint['tokens_sha256']['train'])"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=60)[0].strip() for process in started]
    assert printed == [data.fingerprint["tokens_sha256"]["train"]] * 2
    assert [path.name for path in tmp_path.iterdir()] == [data.folder.name]


def test_a_slower_process_takes_the_faster_ones_cache(
    config: DataConfig, data: PackedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overtaken(folder: Path) -> None:
        shutil.copytree(data.folder, folder)

    monkeypatch.setattr(folders, "remove_unfinished", overtaken)
    monkeypatch.setattr(packing, "whole_folder", lambda _: pytest.fail("what is there already was written again"))
    assert prepare(config, VOCAB, tmp_path).fingerprint == data.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == [data.folder.name]


@pytest.mark.parametrize(
    ("changes", "vocab", "words"),
    [
        ({"seq_len": 100_000}, VOCAB, "data.seq_len=100000: one sequence needs 100001 tokens"),
        ({"seq_len": 0}, VOCAB, "data.seq_len=0"),
        ({"batch_size": 0}, VOCAB, "data.batch_size=0"),
        ({}, 100, "model.vocab_size=100"),
        ({}, 10**6, "model.vocab_size=1000000"),
        ({"path": "/nowhere.txt"}, VOCAB, "data.path=/nowhere.txt"),
    ],
)
def test_errors_write_nothing(
    config: DataConfig, tmp_path: Path, changes: dict[str, object], vocab: int, words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(dataclasses.replace(config, **changes), vocab, tmp_path / "cache")  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_a_sequence_longer_than_a_split_is_refused_fresh_and_cached(
    data: PackedData, config: DataConfig, cache: Path, tmp_path: Path
) -> None:
    tokens = data.fingerprint["tokens"]
    shortest = min(("validation", "test"), key=lambda split: tokens[split])  # a second test set may be empty
    fits, too_long = (dataclasses.replace(config, seq_len=tokens[shortest] - less) for less in (1, 0))
    assert prepare(fits, VOCAB, cache).train_batch(0, 0).shape == (6, tokens[shortest])
    for folder in (cache, tmp_path / "cache"):  # its bytes would suffice, so this shows only after encoding
        with pytest.raises(ConfigError, match=f"data.seq_len={tokens[shortest]}: .*the {shortest} split"):
            prepare(too_long, VOCAB, folder)
    assert not (tmp_path / "cache").exists()


def test_unwritable_cache_folder(config: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        prepare(config, VOCAB, tmp_path / "file" / "cache")


def test_progress_is_reported(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    prepare(config, VOCAB, tmp_path, heard.append)
    for what in ("reading", "comparing the splits", "encoding"):
        assert any(re.fullmatch(what + r": 0( of 0)? MB, \d+\.\d MB/s", line) for line in heard)
    assert "training the tokenizer" in heard and "encoding" in heard
    heard.clear()
    monkeypatch.setattr(progress, "SECONDS", 1e9)
    prepare(config, VOCAB, tmp_path / "other", heard.append)
    assert len(heard) == 4 and not any("MB/s" in line for line in heard), "not more often than that"


def test_a_tokenizer_that_the_tokens_were_not_made_with_is_one_line(
    data: PackedData, config: DataConfig, tmp_path: Path
) -> None:
    """A damaged one is noticed by its checksum; this one was put there, with a manifest to go with it."""
    shutil.copytree(data.folder, tmp_path / data.folder.name)
    path = tmp_path / data.folder.name / "tokenizer.json"
    path.write_text(path.read_text().replace('"unk_token":null', '"unk_token":"a"', 1))
    manifest = json.loads((path.parent / "manifest.json").read_text())
    manifest["files"]["tokenizer.json"] = folders._checksum(path)
    del manifest["sha256"]
    manifest["sha256"] = folders._of_manifest(manifest)
    (path.parent / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="is not the tokenizer that its tokens were made with") as error:
        prepare(config, VOCAB, tmp_path)
    assert str(error.value).startswith(f"{path.parent}: ") and "\n" not in str(error.value)


def test_a_manifest_that_was_changed_is_no_whole_folder(data: PackedData, config: DataConfig, tmp_path: Path) -> None:
    """What it says of the corpus is part of a trial's id."""
    shutil.copytree(data.folder, tmp_path / data.folder.name)
    path = tmp_path / data.folder.name / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["fingerprint"]["tokens"]["train"] += 1
    path.write_text(json.dumps(manifest))
    assert prepare(config, VOCAB, tmp_path).fingerprint == data.fingerprint


def test_text_that_was_changed_to_the_byte_as_long_and_as_old_is_other_text(tmp_path: Path) -> None:
    path = tmp_path / "text" / "a.txt"
    path.parent.mkdir()
    found = []
    for seed in (1, 2):
        source = random.Random(seed)
        path.write_text(" ".join(f"{source.randrange(10**5, 10**6)}" for _ in range(4000)))
        os.utime(path, ns=(10**18, 10**18))
        config = DataConfig(source="text", path=str(path.parent), seq_len=16, batch_size=6)
        found.append(prepare(config, VOCAB, tmp_path / "cache").fingerprint["text_sha256"])
    assert found[0] != found[1]


def test_tokens_are_written_as_numpy_would_in_whatever_blocks(tmp_path: Path) -> None:
    for dtype, count in ((np.dtype("<u2"), 0), (np.dtype("<u2"), 12_345), (np.dtype("<u4"), 3)):
        tokens = np.arange(count).astype(dtype)
        np.save(tmp_path / "whole.npy", tokens)
        blocks = (tokens[begin : begin + 1000] for begin in range(0, count, 1000))
        found = folders.write_tokens(tmp_path / "blocks.npy", blocks, dtype)
        assert (tmp_path / "blocks.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
        assert found == (count, hashlib.sha256(tokens.tobytes()).hexdigest())


def test_what_fails_leaves_no_folder_behind_and_what_was_there_stays(tmp_path: Path) -> None:
    absent = DataConfig(source="text", path=str(tmp_path / "absent.txt"))
    with pytest.raises(ConfigError), folders.making(tmp_path / "a/b/c/corpus", print):
        assert (tmp_path / "a/b/c").is_dir()
        load_splits(absent)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a/other").mkdir(parents=True)
    with pytest.raises(ConfigError), folders.making(tmp_path / "a/b/corpus", print):
        load_splits(absent)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other"]


def test_the_tokenizer_sees_a_sample_of_long_text_and_lengths_are_bounded_by_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    documents = [Document(f"d{i}", f"{i} é" * 20) for i in range(100)]
    survey = packing.Survey(documents, 1.0, progress.Progress(None, ""))
    assert "".join(packing._sample(documents, survey, 300)) == "".join(document.text for document in documents)
    monkeypatch.setattr(packing, "_SAMPLE_CHARACTERS", 1001)
    monkeypatch.setattr(packing, "_SAMPLE_CHARACTERS_PER_TOKEN", 3)
    for vocab, most in ((300, 1001), (500, 1500)):
        sample = list(packing._sample(documents, survey, vocab))
        assert sum(map(len, sample)) == most and len(sample) < 40
    bytes_alone = train_tokenizer([], 260, FIM_TOKENS)
    segments = [segment for d in documents for segment in arrange(d.name, d.text, 1.0)]
    assert survey.most_tokens == len(encode_packed(bytes_alone, segments))


def test_no_window_runs_over_the_end(data: PackedData) -> None:
    """Also where seq_len divides the number of tokens: the last target needs one token more."""
    tokens = len(data.tokens("test"))
    for seq_len in range(2, 60):
        windows = PackedData(data.folder, data.fingerprint, seq_len, 1).windows("test")
        assert windows * seq_len + 1 <= tokens < (windows + 1) * seq_len + 1
