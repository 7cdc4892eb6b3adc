"""A trial that learns a problem goes the whole way, from its texts to its scores, as one that learns text does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.record.steplog import read_steps
from ablations.trial.job import TrialJob
from ablations.trial.train import open_data, run_trial
from models.batch import Batch
from tasks.prepared import require_contexts, tokens_of

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
    _, mask = Batch.of(data.train_sequences(given.seed, *given.keys.batches[0]))
    assert mask is not None and 0 < int(mask.sum()) < mask.numel(), "answers count, and questions do not"
    assert len(read_steps(Path(given.folder) / "steps.jsonl")) == given.keys.steps
