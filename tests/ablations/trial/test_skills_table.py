"""The table of skills: every kind is trained on every skill, and rows that were measured stay."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations.trial.job import TrialJob
from benchmarks import pilot, skills
from models.base.typed import ConfigError
from tasks.skills.chosen import SKILLS

KINDS = ["mha", "gqa", "mqa", "mla", "experts"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrialJob]:
    jobs = list[TrialJob]()

    def run(job: TrialJob, report: Any) -> Any:
        jobs.append(job)
        right = job.seed / 10_000 + 0.1 * KINDS.index(job.id.split("-")[1])
        return SimpleNamespace(status="complete", metrics={"answer_accuracy": right})

    monkeypatch.setattr(pilot, "run_trial", run)
    return jobs


def test_every_skill_has_settings() -> None:
    assert list(skills.SETTINGS) and set(skills.SETTINGS) == set(SKILLS)


@pytest.mark.parametrize("skill", SKILLS)
def test_every_skill_composes(skill: str) -> None:
    kinds = skills.kinds_of(skill, "cpu", [])
    assert list(kinds) == KINDS
    for keys in kinds.values():
        assert keys.data.skill == skill and keys.data.answers_only
        assert keys.data.seq_len * keys.data.batch_size == skills.TOKENS_A_STEP
    assert {keys.model.attention.kind for keys in kinds.values()} == {"mha", "gqa", "mqa", "mla"}
    assert [keys.model.feed_forward for keys in kinds.values()].count("moe") == 1


def test_each_skill_has_its_row_and_keeps_it(trained: list[TrialJob], tmp_path: Path) -> None:
    out = f"out={tmp_path}"
    assert skills.main(["skills=[recall]", out, "train.tokens=5120"]) == 0
    assert skills.main(["skills=[grammar]", "seeds=2", out]) == 0
    jobs = [(job.keys.data.skill, job.seed) for job in trained]
    assert jobs == [("recall", 2000)] * len(KINDS) + [("grammar", 2000), ("grammar", 2001)] * len(KINDS)
    lines = [line.split(" | ") for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| ")]
    assert lines[0][-5:] == [*KINDS[:-1], f"{KINDS[-1]} |"]
    recall, grammar = lines[2:]
    assert recall[0] == "| recall" and recall[2:5] == ["10,240", "0.450", "1.000"], "twice as many tokens"
    assert grammar[5:7] == ["0.200, 0.200", "0.300, 0.300"], "seeds 2000 and 2001, by kind"


@pytest.mark.parametrize(
    "words", ["skills=[recal]", "seeds=0", "quick", "data.settings={pairs:[0]}", "model.d_model=0"]
)
def test_bad_words_are_one_line(trained: list[TrialJob], tmp_path: Path, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        skills.main([f"out={tmp_path}", *words.split()])
    assert "\n" not in str(error.value)
    assert not trained and not list(tmp_path.iterdir())
