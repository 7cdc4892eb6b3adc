"""Skills among text: their share and places, tokens of their own, and text that stays what it is without them."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.config.trialrules import check
from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.drawn import hashes, is_of
from tasks.prepared import prepare_data
from tasks.skills.chain import Chain
from tasks.skills.mixed import MixedData, skill_places
from tasks.skills.polynomial import Polynomial
from tasks.text.batches import PackedData

VOCAB, SEED = 400, 3
OWN = len(Chain().words) - 1 + len(Polynomial().words) - 1


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    file = tmp_path_factory.mktemp("text") / "book.txt"
    numbers = np.random.default_rng(0).integers(0, 10**9, 4000)
    file.write_text("".join(f"the word {n}\n" for n in numbers))
    return DataConfig(
        source="text", path=str(file), seq_len=32, batch_size=10, skills=["chain", "polynomial"], skills_share=0.2
    )


@pytest.fixture(scope="module")
def mixed(config: DataConfig, cache: Path) -> MixedData:
    found = prepare_data(config, VOCAB, cache)
    assert isinstance(found, MixedData)
    return found


@pytest.fixture(scope="module")
def text(config: DataConfig, cache: Path) -> PackedData:
    found = prepare_data(dataclasses.replace(config, skills=[], skills_share=0.1), VOCAB - OWN, cache)
    assert type(found) is PackedData, "off is not on the path"
    return found


def test_every_batch_has_its_share_and_the_skills_take_turns(mixed: MixedData) -> None:
    for step in range(10):
        rows = mixed.train_batch(SEED, step)
        least = [int(row[row > 0].min()) for row in rows]
        assert sum(low >= VOCAB - OWN for low in least) == 2
        border = VOCAB - OWN + len(Chain().words) - 1
        assert Counter(low >= border for low in least if low >= VOCAB - OWN) == {False: 1, True: 1}


@pytest.mark.parametrize("share", [0.1, 0.07, 0.5, 0.3333])
def test_places_are_counted_one_by_one(share: float) -> None:
    of_skill, before = skill_places(0, 1000, share)
    assert abs(int(of_skill.sum()) - 1000 * share) < 1
    assert before.tolist() == [int(of_skill[:i].sum()) for i in range(1000)]
    part, since = skill_places(333, 50, share)
    assert part.tolist() == of_skill[333:383].tolist() and since.tolist() == before[333:383].tolist()


def test_a_sequence_depends_on_seed_and_place_alone(mixed: MixedData) -> None:
    whole = mixed.train_sequences(SEED, 0, 60)
    assert torch.equal(torch.cat([mixed.train_sequences(SEED, i, 7) for i in range(0, 56, 7)]), whole[:56])
    assert not torch.equal(mixed.train_sequences(SEED + 1, 0, 60), whole)


def test_the_text_is_what_it_is_without_skills(mixed: MixedData, text: PackedData) -> None:
    rows = mixed.train_sequences(SEED, 0, 100)
    kept = rows[(rows < VOCAB - OWN).all(dim=1)]
    assert len(kept) == 80 and torch.equal(kept, text.train_sequences(SEED, 0, 80))
    assert mixed.tokenizer.to_str() == text.tokenizer.to_str() and text.vocab_size == VOCAB - OWN
    for split in ("validation", "test"):
        ours, theirs = (list(data.evaluation_batches(split, 640)) for data in (mixed, text))
        assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(ours, theirs, strict=True))
    assert mixed.token_bytes[: VOCAB - OWN].tolist() == text.token_bytes.tolist()
    assert len(mixed.token_bytes) == VOCAB and not mixed.token_bytes[VOCAB - OWN :].any()
    assert mixed.fingerprint.keys() - text.fingerprint.keys() == {"skills", "skills_share"}
    before = int((~skill_places(0, mixed.epoch, 0.2)[0]).sum())
    assert before == text.epoch


def test_items_are_the_skills_own_and_held_out_where_they_are_scored(mixed: MixedData) -> None:
    first = VOCAB - OWN
    for name, words in (("chain", Chain().words), ("polynomial", Polynomial().words)):
        (items,) = mixed.skill_items(name, "test", 640)
        alone = np.where(items.tokens_NT1 == 0, 0, items.tokens_NT1 - first + 1)
        assert is_of("test", hashes(alone)).all() and items.answers_NT.any(axis=1).all()
        assert alone.min() >= 0 and alone.max() < len(words)
        first += len(words) - 1
    rows = mixed.train_sequences(SEED, 0, 100).numpy()
    trained = rows[((rows == 0) | (rows >= first - OWN)).all(axis=1) & (rows.max(axis=1) < first - 12)]
    assert len(trained) and is_of("train", hashes(np.where(trained == 0, 0, trained - (VOCAB - OWN) + 1))).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.skills": ["chian"]}, "data.skills=chian: expected some of recall, "),
        ({"data.skills": ["chian"]}, "did you mean chain?"),
        ({"data.skills": ["chain"], "model.vocab_size": 290}, "the text needs 257; raise it to 296 or more"),
        ({"data.skills": ["recall"], "data.seq_len": 16}, "data.skills=recall: does not fit into data.seq_len=16 ("),
        ({"data.skills": ["chain"], "data.skills_share": 0.7}, "data.skills_share=0.7: must be at most 0.5"),
        ({"data.skills": ["chain"], "data.skills_share": 0.0}, "data.skills_share=0.0: must be at least 0.001"),
        ({"data.skills_share": 0.2}, "data.skills_share=0.2: is read with data.skills only"),
        ({"data.skills": ["chain"], "data.order": "staged"}, "data.order=staged: is of text alone"),
        (
            {"data.skills": ["chain"], "data.source": "skill", "data.skill": "chain"},
            "data.skills=['chain']: stand among text, and data.source=skill has none",
        ),
        (
            {"data.skills": ["chain"], "data.source": "problem", "data.problem": "sums"},
            "data.skills=['chain']: stand among text, and data.source=problem has none",
        ),
    ],
)
def test_what_cannot_stand_among_text(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(with_overrides(TrialKeys(), changes, "here"))
    assert said in str(caught.value) and "\n" not in str(caught.value)
