"""Sequences of a skill: the same for equal (seed, i), never on two sides, and the same text to lm-eval."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks import config
from tasks.config import DataConfig
from tasks.drawn import Items
from tasks.skills import data as skills_data
from tasks.skills.chosen import SKILLS
from tasks.skills.data import BLOCK, SkillData
from tasks.skills.skill import WrittenOut

V = 512


def made(skill: str = "recall", seq_len: int = 128, **settings: Any) -> SkillData:
    return SkillData(DataConfig(source="skill", skill=skill, settings=settings, seq_len=seq_len, answers_only=True), V)


@pytest.mark.parametrize("name", SKILLS)
def test_sequences_are_a_function_of_seed_and_place(name: str) -> None:
    data, again = made(name), made(name)
    whole = data.train_sequences(3, BLOCK - 5, 12)
    parts = [again.train_sequences(3, BLOCK - 5 + i, 4) for i in (8, 0, 4)]
    tokens = torch.cat([parts[i].tokens_BT1 for i in (1, 2, 0)])
    assert torch.equal(whole.tokens_BT1, tokens) and whole.tokens_BT1.shape == (12, 129)
    assert whole.mask_BT is not None and whole.mask_BT.any(dim=1).all()
    assert not torch.equal(whole.tokens_BT1, data.train_sequences(4, BLOCK - 5, 12).tokens_BT1)
    assert again.fingerprint == data.fingerprint and made(name, 256).fingerprint != data.fingerprint


@pytest.mark.parametrize("name", SKILLS)
def test_no_item_is_on_two_sides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skills_data, "SAMPLE", BLOCK)
    data = made(name)
    assert data.shared("test") == data.shared("validation") == 0
    test, validation = ({*map(bytes, rows(data, split))} for split in ("test", "validation"))
    assert len(test) > BLOCK / 2 and not test & validation


def rows(data: SkillData, split: str) -> np.ndarray:
    return np.concatenate([items.tokens_NT1 for items in data.evaluation_items(split, BLOCK * data.seq_len)])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("chain", {"statements": 2, "length": [1, 2], "modulus": 5}),
        ("polynomial", {"operations": [1]}),
        ("star", {"path": [3], "nodes": 8}),
        ("recall", {"pairs": [2], "keys": 6}),
    ],
)
def test_an_item_stands_on_one_side_whatever_room_it_has(name: str, settings: dict[str, Any]) -> None:
    """One stage may read longer sequences than the next."""
    short, long = (made(name, seq_len, **settings) for seq_len in (32, 64))
    learned = whole(short.items("train", 0, 0, 3200))
    asked = whole(long.items("test", 0, 0, 1024))
    assert learned and asked and not learned & asked


def whole(items: Items) -> set[bytes]:
    """Each item, without whatever stands behind its last answer."""
    ends = (np.flatnonzero(mask)[-1] + 2 for mask in items.answers_NT)
    return {bytes(row[:end]) for row, end in zip(items.tokens_NT1, ends, strict=True)}


def test_of_few_items_each_side_has_its_own_or_none() -> None:
    data = made(seq_len=4, pairs=[1], keys=6)
    sides = [{*map(bytes, rows(data, split))} for split in ("test", "validation")]
    learned = {*map(bytes, data.train_sequences(0, 0, 1024).tokens_BT1.numpy())}
    assert sum(map(len, (*sides, learned))) == 36, "all there are"
    assert data.shared("test") == 0
    with pytest.raises(ConfigError, match="has too few items so for a test split"):
        list(made(seq_len=4, pairs=[1], keys=2).evaluation_items("test", 4))


@pytest.mark.parametrize("name", SKILLS)
def test_the_answers_are_learned_and_what_is_written_on_the_way(name: str) -> None:
    data = made(name)
    items, batch = (next(found("test", 32 * 128)) for found in (data.evaluation_items, data.evaluation_batches))
    assert batch.mask_BT is not None and torch.equal(batch.tokens_BT1, torch.from_numpy(items.tokens_NT1))
    answers = torch.from_numpy(items.answers_NT)
    assert answers.any(dim=1).all() and not (answers & ~batch.mask_BT).any()
    assert isinstance(data.skill, WrittenOut) or torch.equal(answers, batch.mask_BT)


def test_items_that_both_sides_have_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skills_data, "is_of", lambda split, hashes: np.ones(len(hashes), dtype=bool))
    assert made(seq_len=4, pairs=[1], keys=6).shared("test") == 1


@pytest.mark.parametrize("name", SKILLS)
def test_its_words_are_tokens(name: str) -> None:
    data = made(name)
    assert data.tokenizer.get_vocab_size() == len(data.token_bytes) == V
    for row, document in zip(rows(data, "test"), data.documents("test"), strict=False):
        ids = data.tokenizer.encode(document.text, add_special_tokens=False).ids
        assert ids == row[: len(ids)].tolist() and not row[len(ids) :].any()
        assert int(data.token_bytes[ids].sum()) == len(document.text.encode())
        assert data.tokenizer.decode(ids) == document.text


@pytest.mark.parametrize("name", SKILLS)
def test_words_are_different_and_without_blanks(name: str) -> None:
    words = made(name).skill.words
    assert len({*words}) == len(words) and not any(set(word) & set(" \n\t") or not word for word in words)


def test_the_docs_have_every_skill_with_its_chance_and_ceiling() -> None:
    lines = (Path(__file__).parents[3] / "docs/skills.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    assert {row[0].strip("`") for row in rows if row[0] != "`data.skill`"} == {*SKILLS} == {*config.SKILLS}
    for name, made in SKILLS.items():
        (row,) = (row for row in rows if row[0] == f"`{name}`")
        assert (row[3], row[4]) == (f"{made().chance:.3f}", f"{made().ceiling:.3g}")


def test_all_is_learned_where_not_the_answers_alone_are() -> None:
    config = DataConfig(source="skill", skill="recall", seq_len=128)
    assert SkillData(config, V).train_sequences(0, 0, 2).mask_BT is None
    assert isinstance(made().train_batch(0, 1), Batch)
    assert torch.equal(made().train_batch(0, 1).tokens_BT1, SkillData(config, V).train_sequences(0, 16, 16).tokens_BT1)


def test_a_block_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data, drawn = made(), list[int]()
    before = data.skill.draw
    monkeypatch.setattr(type(data.skill), "draw", lambda self, *a: drawn.append(1) or before(*a))
    for first in range(0, BLOCK, 8):
        data.train_sequences(0, first, 8)
    assert len(drawn) <= 2 and skills_data.BLOCK == BLOCK


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"skill": "recal"}, "data.skill=recal: expected one of recall"),
        ({"skill": "recall", "settings": {"pears": 3}}, "data.settings.pears: no such key; did you mean pairs?"),
        (
            {"skill": "recall", "settings": {"keys": 300}},
            "model.vocab_size=512: data.skill=recall has 602 words; raise it",
        ),
    ],
)
def test_a_wrong_key_is_one_line(config: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        SkillData(DataConfig(source="skill", **config), V)
    assert said in str(error.value)
