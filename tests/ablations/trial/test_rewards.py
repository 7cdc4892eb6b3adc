"""A trial whose last stage learns from rewards: what it leaves, and that it goes on to the bit when it is killed."""

import dataclasses
from pathlib import Path

import pytest
from interrupted import Killed, killed_at

from ablations.config.trialkeys import with_overrides
from ablations.record.record import Record
from ablations.record.steplog import read_steps
from ablations.record.trialdir import STATE
from ablations.trial import stages
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from models.cost import cost
from models.post_training.config import OF_ANSWERS

PROBLEM = {
    "data.source": "problem",
    "data.problem": "sums",
    "data.settings": {"digits": [1]},
    "data.max_bytes": None,
    "data.seq_len": 32,
    "data.batch_size": 32,
    "model.vocab_size": 64,
    "eval.tasks": [],
    "train.tokens": 6 * 32 * 32,
}
REWARDED = {
    "grpo.on": True,
    "grpo.answer_tokens": 10,
    "grpo.group": 4,
    "grpo.updates": 2,
    "data.batch_size": 16,
    "train.tokens": 8 * 16 * 32,
}
STEPS = 6 + 8
STILL = {"optim__lr": 1e-12, "optim__weight_decay": 0.0, "model__moe__balance__update_speed": 0.0}


@pytest.fixture
def chain(job):
    """`chain(folder, {key: value})`: a trial of a pre-training and a stage of rewards."""

    def make(folder: str = "a", **changes: object) -> TrialJob:
        first = job(folder, changes=PROBLEM)
        changed = {name.replace("__", "."): value for name, value in changes.items()}
        keys = with_overrides(first.keys, REWARDED | changed, "test")
        return dataclasses.replace(first, keys=dataclasses.replace(keys, before=first.keys.stages))

    return make


def finish(given: TrialJob) -> Record:
    return run_trial(given, lambda event: None)


def rows(given: TrialJob) -> list[dict[str, float]]:
    return read_steps(Path(given.folder) / "steps.jsonl")


def numbers(record: Record) -> dict[str, object]:
    return {k: v for k, v in dataclasses.asdict(record).items() if k != "timings"}


def test_its_record_says_what_each_stage_did_and_what_the_answers_were_like(chain, undisturbed):
    given = chain()
    record, logged = undisturbed(given), rows(given)
    assert record.status == "complete" and len(logged) == STEPS and "train_loss" not in record.metrics
    assert record.answering["step"] == list(range(7, STEPS + 1)) and list(record.answering) == ["step", *OF_ANSWERS]
    assert all("reward" not in row for row in logged[:6])
    assert record.text_history["step"] == list(range(1, 7)), "a policy's loss is none of the next token"
    first, second = record.stages
    per_token = cost(given.keys.model, 32).flops_per_token
    assert (first.steps, first.tokens, first.drawn, first.flops) == (6, 6 * 32 * 32, 0, 6 * 32 * 32 * per_token)
    drawn, learned = (sum(row[name] for row in logged[6:]) for name in ("drawn", "learned"))
    assert (second.steps, second.tokens, second.drawn) == (8, learned, drawn)
    assert [row["drawn"] > 0 for row in logged[6:]] == [True, False] * 4, "two steps learn from the same draw"
    assert learned == drawn + 8 * 16 * 4, "16 answers behind questions of 4 tokens"
    assert second.flops == pytest.approx(per_token * (learned + drawn / 3 + 2 * learned / 3))
    assert record.metrics["flops"] == first.flops + second.flops


@pytest.mark.parametrize("step", [7, 8, 9, 12])
def test_killed_among_its_rewards_it_goes_on_bit_for_bit(chain, undisturbed, step):
    """In the middle of a draw that serves two steps as well."""
    whole, given = chain("whole"), chain("killed")
    expected = undisturbed(whole)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    assert numbers(finish(given)) == numbers(expected)
    assert rows(given) == rows(whole)


def test_what_others_have_trained_is_taken_over_to_the_bit(chain, job, undisturbed):
    alone = chain("alone")
    trunk = dataclasses.replace(job("trunk", changes=PROBLEM), keep=True)
    trunk = dataclasses.replace(trunk, keys=alone.keys.trunk)
    finish(trunk)
    assert (Path(trunk.folder) / STATE).is_file()
    given = dataclasses.replace(chain("given"), trunk=trunk.folder)
    events = list[int]()
    found = run_trial(given, lambda event: events.append(event["step"]) if event["event"] == "step" else None)
    assert events == list(range(7, STEPS + 1)) and numbers(found) == numbers(undisturbed(alone))
    scored = dataclasses.replace(job("scored", changes=PROBLEM), trunk=trunk.folder)
    events.clear()
    found = run_trial(scored, lambda event: events.append(event["step"]) if event["event"] == "step" else None)
    assert not events and found.metrics == finish(job("whole", changes=PROBLEM)).metrics, (
        "scored, and not trained again"
    )


def test_rewards_change_what_comes_of_it(chain, undisturbed):
    given, free, still = chain("a"), chain("b", grpo__kl_weight=0.0), chain("c", **STILL)
    undisturbed(given), finish(free), finish(still)
    assert rows(given)[:7] != rows(free)[:7] or rows(given)[7:] != rows(free)[7:]
    assert all(row["kl"] < 1e-6 for row in rows(still)[6:]) and any(row["kl"] > 1e-6 for row in rows(given)[7:])


def test_a_policy_that_is_no_number_any_more_is_a_divergence_with_its_step(chain):
    record = finish(chain(optim__lr=1e20, grpo__updates=1))
    assert record.status == "diverged" and " not finite at step " in (record.reason or "")


def test_steps_without_a_right_answer_are_spoken_of_once(chain, monkeypatch):
    monkeypatch.setattr(stages, "UNREWARDED", 3)
    hard = {"data__settings": {"digits": [9]}, "data__seq_len": 128, "grpo__answer_tokens": 80}
    said, given = [], chain(**hard, train__tokens=6 * 16 * 128)
    record = run_trial(given, lambda event: said.append(event["text"]) if event["event"] == "note" else None)
    assert len(said) == 1 and said[0].startswith("no answer was right in 3 steps up to step 9: nothing is learned")
    assert record.metrics["without_signal"] == 1.0
    right = [{"step": i, "right": r} for i, r in enumerate((0, 0, 0.5, 0, 0, 0, 0, 0.5, 0, 0, 0), start=1)]
    spoken = [i for i in range(1, 12) if stages.unrewarded(right[:i])]
    assert spoken == [6, 11] and stages.unrewarded([{"step": 1}] * 9) is None, "text has no answers"
