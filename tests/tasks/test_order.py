"""The order of a training's sequences: every order is a permutation of the same ones, by how hard each is."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.base.typed import ConfigError
from models.training.batch import Batch
from tasks.config import DataConfig, Order
from tasks.datamodule import TextDataModule
from tasks.order import in_order, permutation, rarity
from tasks.skills.data import SkillData
from tasks.text.batches import PackedData, prepare

ORDERED: tuple[Order, ...] = ("easy_to_hard", "hard_to_easy", "staged")
COUNT, SEED = 96, 3


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedData:
    """Common words, and among them long runs of numbers."""
    folder: Path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    words, numbers = "the same old words once more\n" * 20, rng.integers(0, 10**9, (95, 30))
    lines = ["".join(f"{n}\n" for n in row) for row in numbers]
    held_out = "".join(lines[60:])  # of which nothing is learned from
    (folder / "book.txt").write_text("".join(words + line for line in lines[:60]) + held_out)
    config = DataConfig(source="text", path=str(folder / "book.txt"), seq_len=16, batch_size=4)
    return prepare(config, 300, folder / "cache")


@pytest.fixture(scope="module")
def skill() -> SkillData:
    config = DataConfig(source="skill", skill="chain", seq_len=40, batch_size=4, answers_only=True)
    return SkillData(config, 64)


def rows(batch: "torch.Tensor | Batch") -> list[bytes]:
    """Tokens and mask of each sequence."""
    tokens, mask = Batch.of(batch)
    joined = tokens if mask is None else torch.cat([tokens, mask.long()], dim=1)
    return [row.numpy().tobytes() for row in joined]


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("name", ["text", "skill"])
def test_every_order_has_the_same_sequences_each_once(name: str, order: Order, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    drawn = rows(data.train_sequences(SEED, 0, COUNT))
    taken = in_order(data, SEED, COUNT, order)
    found = [row for first in range(0, COUNT, 8) for row in rows(taken.train_sequences(SEED, first, 8))]
    assert sorted(found) == sorted(drawn) and found != drawn
    assert rows(in_order(data, SEED, COUNT, "mixed").train_sequences(SEED, 0, COUNT)) == drawn
    again = in_order(data, SEED, COUNT, order)
    assert rows(again.train_sequences(SEED, 40, 8)) == found[40:48], "after a kill as before it"


def test_a_skill_is_as_hard_as_its_level(skill: SkillData) -> None:
    drawn = rows(skill.train_sequences(SEED, 0, COUNT))
    level = dict(zip(drawn, skill.train_levels(SEED, 0, COUNT).tolist(), strict=True))
    assert set(level.values()) == {1, 2, 3}
    levels = {
        order: [level[row] for row in rows(in_order(skill, SEED, COUNT, order).train_sequences(SEED, 0, COUNT))]
        for order in ORDERED
    }
    assert levels["easy_to_hard"] == sorted(levels["easy_to_hard"])
    assert levels["hard_to_easy"] == sorted(levels["hard_to_easy"], reverse=True)


def test_text_is_as_hard_as_its_tokens_are_rare(text: PackedData) -> None:
    tokens = text.train_sequences(SEED, 0, COUNT).numpy()
    counts = {token: int((tokens == token).sum()) for token in np.unique(tokens)}
    nats = [-np.mean([np.log(counts[token] / tokens.size) for token in row]) for row in tokens]
    assert rarity(tokens) == pytest.approx(np.array(nats))
    ordered = Batch.of(in_order(text, SEED, COUNT, "easy_to_hard").train_sequences(SEED, 0, COUNT)).tokens_BT1
    first, last = (text.tokenizer.decode(ordered[i].tolist()) for i in (0, COUNT - 1))
    assert "words" in first and "words" not in last


def test_staged_brings_in_the_harder_thirds_one_after_another() -> None:
    """A ninth of easy ones, then middling ones too until 7/18, then all: each third evenly from its stage on."""
    hardness = np.random.default_rng(1).random(9000)
    places = permutation(hardness, "staged", SEED)
    third = np.argsort(np.argsort(hardness))[places] // 3000
    assert sorted(places.tolist()) == list(range(9000))
    counts = [np.bincount(third[a:b], minlength=3) for a, b in ((0, 900), (1100, 3400), (3600, 9000))]
    assert counts[0].tolist() == [900, 0, 0] and counts[1][2] == 0
    assert counts[1][:2] / 2300 == pytest.approx(np.array([0.4, 0.6]), abs=0.04)
    assert counts[2] / 5400 == pytest.approx(np.array([2, 3, 6]) / 11, abs=0.03)
    assert not np.array_equal(places, permutation(hardness, "staged", SEED + 1))


def test_the_data_module_takes_its_batches_in_order(skill: SkillData) -> None:
    batches = [(first, 8) for first in range(0, COUNT, 8)]
    for order in ("mixed", *ORDERED):
        stream = TextDataModule(skill, SEED, batches, order).train_dataloader()
        whole = rows(in_order(skill, SEED, COUNT, order).train_sequences(SEED, 0, COUNT))
        assert [row for batch in stream for row in rows(batch)] == whole, order


def test_what_cannot_be_ordered_is_one_line() -> None:
    from ablations.config.trialkeys import TrialKeys, with_overrides
    from ablations.config.trialrules import check

    for words, said in (
        ({"train.tokens": 300_000_000}, "data.order=staged: holds the training's 300,000,000"),
        ({"data.source": "domains", "data.domain_per": "batch"}, "take data.domain_per=sequence"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            check(with_overrides(TrialKeys(), {"data.order": "staged", **words}, "here"))
        assert "\n" not in str(error.value)


def test_what_goes_on_in_a_trunks_place_keeps_its_order() -> None:
    """Else what the trunk has had would come again, and what it has not never would."""
    from dataclasses import replace

    from ablations.config.trialkeys import Stage, TrialKeys, with_overrides
    from ablations.config.trialrules import check

    def of(order: Order, tokens: int) -> TrialKeys:
        return with_overrides(TrialKeys(), {"data.order": order, "train.tokens": tokens}, "here")

    def going_on(trunk: TrialKeys, keys: TrialKeys) -> TrialKeys:
        return replace(keys, before=[Stage(trunk.model, trunk.data, trunk.optim, trunk.train, until=0.5)])

    same = of("staged", 409_600)
    check(going_on(same, same))
    for trunk, keys in ((of("mixed", 409_600), same), (of("staged", 819_200 - 409_600 // 2), same)):
        with pytest.raises(ConfigError, match=r"data.order=staged: .* some would come twice and others never"):
            check(going_on(trunk, keys))
