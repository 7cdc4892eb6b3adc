"""Domains: equal shares of kinds of text, one to a sequence or one to a batch."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.text.batches import PackedData, prepare
from tasks.text.corpora import load_splits
from tasks.text.domains import domain_of_windows, one_domain_a_batch
from tasks.text.sources import DOMAINS, source_state
from tasks.text.splits import SPLITS

LETTERS, DIGITS = "abcdefgh", "01234567"
BATCH = 4


def write(file: Path, characters: str, documents: int) -> None:
    source = random.Random(characters)
    texts = [" ".join("".join(source.choices(characters, k=5)) for _ in range(60)) + "\n" for _ in range(documents)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("domains")
    write(folder / "letters.jsonl", LETTERS, 300)
    write(folder / "digits.jsonl", DIGITS, 200)
    return {name: str(folder / f"{name}.jsonl") for name in ("letters", "digits")}


@pytest.fixture(scope="module")
def config(where: dict[str, str]) -> DataConfig:
    return DataConfig(source="domains", domains=where, seq_len=16, batch_size=BATCH)


@pytest.fixture(scope="module", params=["sequence", "batch"])
def packed(
    request: pytest.FixtureRequest, where: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> PackedData:
    config = DataConfig(source="domains", domains=where, seq_len=16, batch_size=BATCH, domain_per=request.param)
    return prepare(config, 300, tmp_path_factory.mktemp("cache"))


def kinds(data: PackedData, step: int) -> list[str]:
    """Of each sequence of a batch: the domains whose characters it has."""
    texts = [data.tokenizer.decode(row.tolist()) for row in data.train_batch(0, step)]
    return ["".join(k for k, own in (("l", LETTERS), ("d", DIGITS)) if set(own) & set(text)) for text in texts]


def test_a_window_is_of_the_domain_that_it_begins_in() -> None:
    assert domain_of_windows([8, 9, 3], 4, 5).tolist() == [0, 0, 1, 1, 1]  # 8..11, 12..15, and 16 is the last of it


def test_batches_of_one_domain_keep_the_order_and_leave_out_only_what_makes_no_batch() -> None:
    domain = np.array([0] * 11 + [1] * 6 + [2] * 3)
    order = np.random.default_rng(0).permutation(20)
    found = one_domain_a_batch(order, domain, 4)
    assert len(found) == len(set(found.tolist())) == 8 + 4  # of the third domain no batch is whole
    assert all(len(set(domain[batch])) == 1 for batch in found.reshape(-1, 4))
    for one in (0, 1):
        kept = [w for w in found if domain[w] == one]
        assert kept == [w for w in order if domain[w] == one][: len(kept)]


def test_domains_have_equal_shares_of_every_split(config: DataConfig) -> None:
    splits = load_splits(config)
    for split in ("train", "validation", "test"):
        names = [document.domain for document in splits[split]]
        assert names == sorted(names) and set(names) == {"digits", "letters"}
        sizes = {d: sum(len(x.text) for x in splits[split] if x.domain == d) for d in ("digits", "letters")}
        assert sizes["letters"] == pytest.approx(sizes["digits"], rel=0.03), "300 documents, thinned to what 200 hold"
    assert splits.origin["domains"] == {"digits": None, "letters": None}, "no path of this machine"
    assert all(document.name.startswith(f"{document.domain}/") for document in splits.test)


def test_weights_say_how_much_is_of_each(config: DataConfig) -> None:
    def sizes(weights: dict[str, float] | None, split: str) -> dict[str, int]:
        documents = load_splits(dataclasses.replace(config, weights=weights))[split]
        return {d: sum(len(x.text) for x in documents if x.domain == d) for d in ("digits", "letters")}

    for split in ("train", "validation", "test"):
        found = sizes({"letters": 3.0, "digits": 1.0}, split)
        assert found["letters"] / found["digits"] == pytest.approx(3, rel=0.05), split
    most, even = sizes({"letters": 3.0, "digits": 1.0}, "train"), sizes(None, "train")
    assert most["letters"] > even["letters"], "the scarcest one is taken whole"
    same, plain = load_splits(dataclasses.replace(config, weights={"letters": 0.2, "digits": 0.2})), load_splits(config)
    assert [list(same[s]) for s in SPLITS] == [list(plain[s]) for s in SPLITS]
    assert same.origin["weights"] == {"digits": 1.0, "letters": 1.0} and "weights" not in plain.origin


def test_the_order_in_which_domains_are_named_does_not_matter(config: DataConfig, where: dict[str, str]) -> None:
    turned = DataConfig(source="domains", domains=dict(reversed(where.items())), seq_len=16, batch_size=BATCH)
    there, here = load_splits(turned), load_splits(config)
    assert [list(there[s]) for s in SPLITS] == [list(here[s]) for s in SPLITS] and there.origin == here.origin
    assert (turned, hash(turned)) == (config, hash(config))


def test_a_sequence_is_of_one_domain_and_a_batch_of_one_where_it_is_asked(packed: PackedData) -> None:
    steps = packed.epoch // BATCH
    batches = [kinds(packed, step) for step in range(steps)]
    assert sum("ld" in batch for batch in batches) <= 1, "only the window over the border holds both"
    mixed = sum(len(set(batch)) > 1 for batch in batches)
    assert mixed <= 1 if packed.domain_per == "batch" else mixed > steps / 2
    digits = sum(batch.count("d") for batch in batches) / (BATCH * steps)
    assert 0.4 < digits < 0.6


def test_an_epoch_of_batches_of_one_domain_runs_on_into_the_next(packed: PackedData) -> None:
    whole = packed.epoch
    assert len(packed._order(0, 0)) == len(packed._order(0, 1)) == whole
    over = packed.train_sequences(0, whole - 2, 4)
    assert over[:2].equal(packed.train_sequences(0, whole - 2, 2))
    assert over[2:].equal(packed._cut("train", packed._order(0, 1)[:2]))


def test_what_the_installation_brings_is_a_mix_with_every_kind_in_every_split() -> None:
    splits = load_splits(DataConfig(source="domains", max_bytes=1_500_000))
    for split in ("train", "validation", "test"):
        assert {document.domain for document in splits[split]} == set(DOMAINS), split


@pytest.mark.parametrize(
    ("domains", "told"),
    [
        (
            {"a": "nowhere/*.py", "b": "sympy/*.py"},
            "data.domains={a: nowhere/*.py}: nowhere is not an",
        ),
        (
            {"a": "sympy/*.docx", "b": "sympy/*.py"},
            "data.domains={a: sympy/*.docx}: sympy is installed, but has no such file",
        ),
        ({"a": "sym py/*.py", "b": "sympy/*.py"}, "data.domains={a: sym py/*.py}: expected PACKAGE/*.SUFFIX"),
        ({"a": "sympy/*.p*", "b": "sympy/*.py"}, "data.domains={a: sympy/*.p*}: expected PACKAGE/*.SUFFIX"),
        ({"a": "/nowhere.txt", "b": "sympy/*.py"}, "data.domains={a: /nowhere.txt}: cannot be read"),
        ({"a": "", "b": "sympy/*.py"}, "data.domains={a: }: is empty; name a file or a folder of text"),
        ({" ": "mypy/*.py", "b": "sympy/*.py"}, "data.domains={ : mypy/*.py}: a domain without a name; give it one"),
    ],
)
def test_a_domain_without_text_is_one_line(domains: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_splits(DataConfig(source="domains", domains=domains))
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


def test_a_domain_whose_held_out_text_is_all_copies_is_named(where: dict[str, str], tmp_path: Path) -> None:
    record = "name %d of a record that is like all others but for the number in it which says nothing at all %d"
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": record % (i, i)}) + "\n" for i in range(300)))
    config = DataConfig(source="domains", domains={"a": str(tmp_path / "a.jsonl"), "b": where["letters"]})
    with pytest.raises(
        ConfigError, match=r"^data.domains=\{a: .*\}: its validation split is left without text that shares"
    ):
        load_splits(config)


def test_a_domain_of_one_text_that_repeats_itself_keeps_its_parts(where: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("to be or not to be that is the question and it is asked again and again\n" * 900)
    splits = load_splits(DataConfig(source="domains", domains={"a": str(tmp_path / "a.txt"), "b": where["letters"]}))
    for split in ("validation", "test"):
        assert {document.domain for document in splits[split]} == {"a", "b"}


def test_a_domain_of_one_text_that_another_learns_is_named(where: dict[str, str], tmp_path: Path) -> None:
    lines = [json.loads(line)["text"] for line in Path(where["letters"]).read_text().splitlines()]
    (tmp_path / "a.txt").write_text("".join(lines))
    config = DataConfig(source="domains", domains={"a": str(tmp_path / "a.txt"), "b": where["letters"]})
    with pytest.raises(
        ConfigError, match=r"^data.domains=\{a: .*\}: its validation split is left without text that sh"
    ):
        load_splits(config)


def test_where_little_is_kept_the_remedy_is_to_keep_more(config: DataConfig) -> None:
    told = "left without text; add other text, raise its data.weights, raise data.max_bytes=50, or leave it out$"
    with pytest.raises(ConfigError, match=told):
        load_splits(dataclasses.replace(config, weights={"letters": 1, "digits": 0.05}, max_bytes=50))


def test_a_file_is_of_one_domain(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.txt").write_text("some text\n")
    domains = {"all": str(tmp_path), "inner": str(tmp_path / "in/a.txt")}
    with pytest.raises(ConfigError, match=r"data\.domains: .*/in/a\.txt is of all and of inner; leave it to one"):
        source_state(DataConfig(source="domains", domains=domains))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (
            {"leters": 1.0, "digits": 1.0},
            "data.weights.leters: no such domain; did you mean letters? (domains: digits, l",
        ),
        (
            {"digits": 2.0},
            "data.weights={'digits': 2.0}: letters has none; give every domain one, or leave it out of bo",
        ),
    ],
)
def test_weights_of_other_domains_are_one_line(config: DataConfig, weights: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_splits(dataclasses.replace(config, weights=weights))
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


def test_a_long_file_of_a_users_own_is_taken_whole(tmp_path: Path) -> None:
    for name, characters in (("a", LETTERS), ("b", DIGITS)):
        source = random.Random(name)
        lines = (" ".join("".join(source.choices(characters, k=5)) for _ in range(10)) for _ in range(2000))
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    splits = load_splits(DataConfig(source="domains", domains={n: str(tmp_path / f"{n}.txt") for n in "ab"}))
    assert sum(len(document.text) for document in splits.train) > 0.65 * 2 * 2000 * 59
    assert splits.origin["split"] == {"a": "position", "b": "position"}


def test_batches_of_one_domain_need_one_of_each(config: DataConfig, tmp_path: Path) -> None:
    wide = dataclasses.replace(config, batch_size=4000, domain_per="batch")
    with pytest.raises(ConfigError, match=r"^data.batch_size=4000: the domain digits has \d+ training sequences of 16"):
        prepare(wide, 300, tmp_path)
    with pytest.raises(ConfigError, match="less than a batch of its own"):
        prepare(wide, 300, tmp_path)  # from the cache


def test_a_weight_that_leaves_a_domain_no_text_is_one_line(config: DataConfig) -> None:
    config = dataclasses.replace(config, weights={"letters": 1000.0, "digits": 0.001}, max_bytes=1000)
    with pytest.raises(ConfigError, match=r"^data\.weights\.digits=2e-06 of the mean: leaves it no text; raise it$"):
        load_splits(config)
