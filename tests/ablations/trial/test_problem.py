"""A trial that learns a problem goes the whole way, from its texts to its scores, as one that learns text does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.eval import evaluate, request_of
from ablations.judge.result import score_values
from ablations.record.steplog import read_steps
from ablations.trial.fitting import open_data
from ablations.trial.job import TrialJob
from ablations.trial.train import TRAINED, run_trial
from models.training.batch import Batch
from tasks.prepared import require_contexts, tokens_of
from tasks.problems.template import CHAT_TEMPLATE

Jobs = Callable[..., TrialJob]
PROBLEM: dict[str, Any] = {
    "data.source": "problem",
    "data.settings": {},
    "data.max_bytes": None,
    "data.seq_len": 128,
    "data.answers_only": True,
    "data.mask_documents": True,
    "data.template": "chat",
    "model.vocab_size": 128,
    "eval.tasks": ["skill_answers"],
    "train.tokens": 4096,
}


@pytest.mark.parametrize("problem", ["sums", "modchain", "sorting", "countdown"])
def test_a_problem_goes_the_whole_way(job: Jobs, problem: str) -> None:
    given = job(problem, changes={**PROBLEM, "data.problem": problem})
    data = open_data(given.keys, given.cache)
    assert tokens_of(data, "test") is None
    require_contexts(data, [])
    record = run_trial(given, lambda event: None)
    assert record.status == "complete" and record.data["problem"] == problem and record.needles is None
    assert record.metrics["answer_nats"] > 0 and 0 < record.metrics["answer_chance"] < record.metrics["answer_ceiling"]
    assert record.scores["skill_answers"]["n"] > 0
    saved = json.loads((Path(given.folder) / "checkpoint" / "config.json").read_text())
    assert saved["chat_template"] == CHAT_TEMPLATE, "as it was asked"
    _, mask = Batch.of(data.train_sequences(given.seed, *given.keys.batches[0]))
    assert mask is not None and 0 < int(mask.sum()) < mask.numel(), "answers count, and questions do not"
    assert len(read_steps(Path(given.folder) / "steps.jsonl")) == given.keys.steps


ANSWERED = ["problem_greedy", "problem_samples"]
SORTING = {**PROBLEM, "data.problem": "sorting", "data.settings": {"numbers": [2], "below": 22, "short": 1.0}}


def test_answers_are_metrics_and_change_nothing_else(job: Jobs) -> None:
    """To the bit: what a trial has without them, it has with them, and with more of them."""
    found = []
    for folder, changes in (
        ("without", {}),
        ("few", {"eval.tasks": ["skill_answers", *ANSWERED], "eval.samples": 4}),
        ("more", {"eval.tasks": ["skill_answers", *ANSWERED], "eval.samples": 8}),
    ):
        given = job(folder, changes={**SORTING, "eval.items": 20, **changes})
        record = run_trial(given, lambda event: None)
        assert record.status == "complete"
        found.append(record)
    without, few, more = found
    greedy, sampled = {"greedy_right"}, {"pass_1", "answers_formatted", "answers_ended", "answer_tokens"}
    assert few.metrics.keys() - without.metrics.keys() == greedy | sampled
    assert more.metrics.keys() - few.metrics.keys() == {"pass_8", "pass_gap"}
    for record in (few, more):
        assert {name: record.metrics[name] for name in without.metrics} == without.metrics
        assert record.scores["skill_answers"] == without.scores["skill_answers"]
        assert (record.history, record.validation, record.load) == (without.history, without.validation, without.load)
        assert record.metrics["greedy_right"] == record.scores["problem_greedy"]["exact_match"]
        assert all(record.metrics[name] == record.scores["problem_samples"][name] for name in sampled)
        assert "problem_greedy/exact_match" in score_values(record)
        assert not any(name.startswith("problem_samples/") for name in score_values(record)), "shown once"
    assert few.metrics["greedy_right"] == more.metrics["greedy_right"]
    assert few.metrics["answer_tokens"] != more.metrics["answer_tokens"], "other draws"


def test_a_training_that_is_only_scored_has_the_same_answers(job: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**SORTING, "eval.tasks": ANSWERED, "eval.samples": 8, "eval.items": 20, "data.mask_documents": False}
    whole = run_trial(job("whole", changes=changes), lambda event: None)
    given = job("kept", changes=changes)
    with monkeypatch.context() as broken:
        broken.setattr("ablations.trial.train.scored", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_trial(given, lambda event: None)
    assert (Path(given.folder) / TRAINED).is_file()
    again = run_trial(given, lambda event: None)
    assert (again.metrics, again.scores) == (whole.metrics, whole.scores)
    words = [f"checkpoint={given.folder}/checkpoint", "eval=answers", "eval.samples=8", "eval.items=20"]
    assert evaluate(request_of([*words, f"runs_dir={given.folder}"]))["scores"] == whole.scores, "by the command too"
