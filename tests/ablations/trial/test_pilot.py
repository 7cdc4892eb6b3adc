"""The pilot of problems: what is trained is a pre-training on that problem, and its table keeps what was measured."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ablations.trial.job import TrialJob
from benchmarks import pilot
from models.base.typed import ConfigError

FOUND = dict.fromkeys(pilot.METRICS, 0.25)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[TrialJob]:
    jobs = list[TrialJob]()

    def run(job: TrialJob, report: Any) -> Any:
        jobs.append(job)
        metrics = FOUND | {"pass_1": job.seed / 10_000}
        return SimpleNamespace(status="complete", metrics=metrics, timings={"train_s": 1.0})

    monkeypatch.setattr(pilot, "run_trial", run)
    return jobs


def test_each_problem_has_its_row_and_keeps_it(trained: list[TrialJob], tmp_path: Path) -> None:
    out = f"out={tmp_path}"
    assert pilot.main(["problems=[sums]", "scale=smoke", out, "train.tokens=5120"]) == 0
    assert pilot.main(["problems=[sorting]", "scale=smoke", "seeds=1", out]) == 0
    assert [(job.keys.data.problem, job.seed) for job in trained] == [("sums", 2000), ("sums", 2001), ("sorting", 2000)]
    assert trained[0].keys.train.tokens == 5120 and trained[0].keys.data.settings["wrong"] == 0.3
    assert all(stage.data.source == "problem" for job in trained for stage in job.keys.stages)
    rows = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| s")]
    assert [row.split(" | ")[0] for row in rows] == ["| sums", "| sorting"]
    assert "0.200, 0.200" in rows[0] and "15,360" in rows[0], "three times as many tokens"


@pytest.mark.parametrize("word", ["problems=[sum]", "seeds=0", "seeds=x", "quick", "data.problem=sums model.d_model=0"])
def test_bad_words_are_one_line(trained: list[TrialJob], tmp_path: Path, word: str) -> None:
    with pytest.raises(ConfigError):
        pilot.main([f"out={tmp_path}", "scale=smoke", *word.split()])
    assert not trained and not list(tmp_path.iterdir())
