"""A trial that learns a skill: what is learned and measured, and that it goes on after a kill with the same bits."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from interrupted import Killed, killed_at

from ablations.record.record import Record
from ablations.record.steplog import read_steps
from ablations.trial.fitting import build_model, open_data
from ablations.trial.job import TrialJob
from ablations.trial.measures import until_half
from ablations.trial.train import run_trial
from models.checkpoint import load_checkpoint
from models.layers import inferring
from models.training.batch import Batch
from tasks.skills.chain import Chain
from tasks.skills.data import SkillData
from tasks.skills.mixed import MixedData

torch.set_num_threads(1)

Jobs = Callable[..., TrialJob]
RECALL = {
    "data.source": "skill",
    "data.skill": "recall",
    "data.settings": {"pairs": [1, 4], "keys": 6},
    "data.answers_only": True,
    "data.max_bytes": None,
    "model.vocab_size": 24,
    "eval.tasks": ["skill_answers"],
    "train.validate_every": 0.25,
    "train.microbatches": 2,
}


def finish(job: TrialJob) -> Record:
    return run_trial(job, lambda event: None)


@pytest.fixture
def learned(job: Jobs) -> tuple[TrialJob, Record]:
    given = job("a", changes=RECALL)
    return given, finish(given)


def test_the_answers_alone_are_learned(learned: tuple[TrialJob, Record]) -> None:
    """The first step's loss is the mean over the answers of the whole batch, whatever microbatches they are in."""
    given, record = learned
    keys = given.keys
    tokens, mask = Batch.of(open_data(keys, given.cache).train_sequences(given.seed, *keys.batches[0]))
    assert mask is not None and keys.microbatches > 1
    assert len({int(part.sum()) for part in mask.chunk(keys.microbatches)}) > 1, "or a mean of means would do"
    model = build_model(keys, given.seed).transformer
    losses = F.cross_entropy(model(tokens[:, :-1]).logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    first = read_steps(Path(given.folder) / "steps.jsonl")[0]
    assert first["loss"] == pytest.approx(losses[mask].mean().item(), rel=1e-5)
    assert record.status == "complete" and record.metrics["loss"] == pytest.approx(
        record.metrics["answer_nats"], rel=1e-5
    )


def test_what_is_measured_is_what_the_model_says(learned: tuple[TrialJob, Record]) -> None:
    given, record = learned
    model, _ = load_checkpoint(Path(given.folder) / "checkpoint")
    data = open_data(given.keys, given.cache)
    assert isinstance(data, SkillData)
    right, count, by_level = 0, 0, {1: [0, 0], 4: [0, 0]}
    with inferring(model):
        for items in data.evaluation_items("test", given.keys.eval.tokens):
            likeliest = model(torch.from_numpy(items.tokens_NT1[:, :-1])).logits.argmax(dim=-1).numpy()
            for said, row, asked, level in zip(
                likeliest, items.tokens_NT1, items.answers_NT, items.levels_N, strict=True
            ):
                hits = int((said == row[1:])[asked].sum())
                right, count = right + hits, count + int(asked.sum())
                by_level[int(level)][0] += hits
                by_level[int(level)][1] += int(asked.sum())
    metrics = record.metrics
    assert metrics["answer_accuracy"] == pytest.approx(right / count)
    assert {i: metrics[f"answer_accuracy_level{i}"] for i in by_level} == pytest.approx(
        {i: a / b for i, (a, b) in by_level.items()}
    )
    assert metrics["answer_chance"] == data.skill.chance and metrics["answer_ceiling"] == 1
    assert len(record.validation["answer_accuracy"]) == len(record.validation["loss"]) == 4
    assert metrics["tokens_to_half"] == given.keys.trained_tokens and metrics["reached_half"] == 0


def test_lm_eval_scores_the_same_answers(learned: tuple[TrialJob, Record]) -> None:
    given, record = learned
    model, _ = load_checkpoint(Path(given.folder) / "checkpoint")
    data, scored = open_data(given.keys, given.cache), record.scores["skill_answers"]
    assert isinstance(data, SkillData)
    nats, right = [], []
    with inferring(model):
        for question in data.questions("test")[: scored["n"]]:
            context, answer = (data.tokenizer.encode(question[name]).ids for name in ("context", "answer"))
            logits = model(torch.tensor([[*context, *answer][:-1]])).logits[0, len(context) - 1 :].double()
            nats.append(-float(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()))
            right.append(logits.argmax(-1).tolist() == answer)
    assert scored["acc"] == pytest.approx(sum(right) / len(right))
    assert scored["perplexity"] == pytest.approx(math.exp(sum(nats) / len(nats)), rel=1e-5)


def test_it_goes_on_after_a_kill_with_the_same_bits(job: Jobs, learned: tuple[TrialJob, Record]) -> None:
    whole, given = learned[1], job("b", changes=RECALL)
    with pytest.raises(Killed):
        run_trial(given, killed_at(7))
    again = finish(given)
    assert dataclasses.replace(again, timings={}) == dataclasses.replace(whole, timings={}, id=again.id)


@pytest.mark.parametrize(
    ("right", "found"),
    [
        ([0.5, 0.75, 0.4], {"tokens_to_half": 150.0, "reached_half": 1.0}),
        ([0.625, 0.9, 0.9], {"tokens_to_half": 100.0, "reached_half": 1.0}),
        ([0.1, 0.2, 0.62], {"tokens_to_half": 300.0, "reached_half": 0.0}),
    ],
)
def test_half_is_found_between_validations_or_censored(right: list[float], found: dict[str, float]) -> None:
    """Of a skill with a chance of 1/4 and a ceiling of 1."""
    seen = {"tokens": [100.0, 200.0, 300.0], "answer_accuracy": right}
    assert until_half(Chain(length=[2], modulus=4), seen) == pytest.approx(found)
    assert until_half(None, {"tokens": [100.0], "loss": [1.0]}) == {}


def test_skills_among_text_are_measured_beside_it(job: Jobs) -> None:
    """The loss is of text alone, the answers are of each skill, and what was learned from both is not called text."""
    text = {"model.vocab_size": 400, "data.max_bytes": 300_000}
    given = job("a", changes={**text, "data.skills": ["chain", "star"], "data.skills_share": 0.5})
    record, data = finish(given), open_data(given.keys, given.cache)
    assert isinstance(data, MixedData) and record.status == "complete" and "train_loss" not in record.metrics
    first = min(data._first.values())
    held = list(data.evaluation_batches("test", given.keys.eval.tokens))
    assert all(int(Batch.of(batch).tokens_BT1.max()) < first for batch in held) and record.metrics["loss"] > 0
    measured = {name for name in record.metrics if name.startswith(("item_", "answer_"))}
    kinds = ("item_accuracy", "answer_nats", "answer_accuracy")
    assert measured == {f"{kind}_{name}" for kind in kinds for name in ("chain", "star")}
    assert record.metrics["answer_nats_chain"] != record.metrics["answer_nats_star"]
    alone = finish(job("b", changes=text))
    assert {"train_loss"} | record.metrics.keys() - measured == {*alone.metrics}
