"""A trial: whole, resumed, torn, diverged, and without the harness's libraries; tiny, but with the real Trainer."""

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ablations.trial as trial
from ablations.home import ROOT
from ablations.records import Record, read_record
from ablations.tracking import read_steps
from ablations.trial import fractions_of, run_trial

torch.set_num_threads(1)


class Killed(Exception):
    pass


def ignore(event: dict[str, Any]) -> None: ...


def killed_at(step: int) -> Callable[[dict[str, Any]], None]:
    """A report that ends the trial once this step is done, logged and (where one is due) checkpointed or not yet."""

    def report(event: dict[str, Any]) -> None:
        if event.get("step") == step:
            raise Killed

    return report


def finish(arguments: dict[str, Any]) -> Record:
    run_trial(arguments, ignore)
    return read_record(Path(arguments["trial_dir"]) / "record.json")


def numbers(record: Record) -> dict[str, Any]:
    """Everything but times."""
    return {name: value for name, value in dataclasses.asdict(record).items() if name != "timings"}


def test_what_a_trial_leaves(arguments):
    events: list[dict[str, Any]] = []
    given = arguments()
    result = run_trial(given, events.append)
    folder = Path(given["trial_dir"])
    record = read_record(folder / "record.json")
    assert result == {"status": "complete", "loss": record.metrics["loss"], "reason": None}
    assert (record.id, record.seed, record.status) == ("0123456789abcdef", 1, "complete")
    assert sorted(p.name for p in folder.iterdir()) == ["record.json", "steps.jsonl"]
    steps = read_steps(folder / "steps.jsonl")
    assert [row["step"] for row in steps] == list(range(1, 13))
    assert record.history["step"] == [float(i) for i in range(1, 13)]
    assert record.history["loss"] == [row["loss"] for row in steps]
    assert record.history["loss"][0] == pytest.approx(math.log(512), abs=0.3)
    assert record.validation["step"] == [3, 6, 9, 12]
    assert 4 < record.metrics["loss"] < record.history["loss"][0]
    assert record.metrics["max_vio_max"] == 3.0
    assert 0 <= record.metrics["max_vio_global"] <= 3.0
    assert 0 < record.metrics["routing_entropy"] <= math.log(8)
    assert len(record.load) == 1 and sum(record.load[0]) == pytest.approx(8)
    assert max(record.load[0]) - 1 == pytest.approx(record.metrics["max_vio_global"])
    assert record.metrics["max_vio_batch"] == steps[-1]["max_vio"]
    for kind in ("global", "batch"):
        layers = [v for k, v in record.metrics.items() if k.startswith(f"max_vio_{kind}_layer")]
        assert len(layers) == len(record.load)
        assert sum(layers) / len(layers) == pytest.approx(record.metrics[f"max_vio_{kind}"])
    assert record.metrics["max_vio_batch_floor"] > record.metrics["max_vio_floor"]  # a batch has fewer tokens
    assert 0 < record.metrics["bits_per_byte"] < record.metrics["loss"] / math.log(2)
    assert record.config == given["keys"]
    assert record.data["tokens"]["train"] > 0
    assert record.environment["dtype"] == "float32"
    assert record.timings["tokens_per_second"] > 0
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 13))


def test_a_record_is_never_made_twice(arguments):
    given = arguments()
    first = finish(given)
    path = Path(given["trial_dir"]) / "record.json"
    stamp = path.stat().st_mtime_ns
    events: list[dict[str, Any]] = []
    assert run_trial(given, events.append)["loss"] == first.metrics["loss"]
    assert (events, path.stat().st_mtime_ns) == ([], stamp)


@pytest.mark.parametrize(
    ("arm", "step", "resumed_at"),
    [("bias", 2, 0), ("bias", 7, 6), ("bias", 9, 6), ("bias", 12, 9), ("batch_aux_loss", 8, 6), ("aa", 5, 3)],
)
def test_a_killed_trial_goes_on_bit_for_bit(arguments, arm, step, resumed_at):
    whole, given = finish(arguments("whole", arm)), arguments("killed", arm)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    folder = Path(given["trial_dir"])
    assert not (folder / "record.json").exists()
    assert (folder / "resume.ckpt").exists() == (resumed_at > 0)
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(resumed_at + 1, 13))
    assert numbers(read_record(folder / "record.json")) == numbers(whole)
    assert (folder / "steps.jsonl").read_bytes() == (Path(given["trial_dir"]).parent / "whole/steps.jsonl").read_bytes()
    assert not (folder / "resume.ckpt").exists()


def test_a_trial_killed_twice_goes_on_too(arguments):
    whole, given = finish(arguments("whole")), arguments("killed")
    for step in (4, 8):
        with pytest.raises(Killed):
            run_trial(given, killed_at(step))
    assert numbers(finish(given)) == numbers(whole)


def tear(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize("damage", ["half", "empty", "rubbish", "no log", "short log", "torn log", "half renamed"])
def test_after_damage_it_starts_over_with_the_same_result(arguments, damage):
    whole, given = finish(arguments("whole")), arguments("killed")
    folder = Path(given["trial_dir"])
    with pytest.raises(Killed):
        run_trial(given, killed_at(8))
    checkpoint, log = folder / "resume.ckpt", folder / "steps.jsonl"
    match damage:
        case "half":
            tear(checkpoint, 0.5)
        case "empty":
            tear(checkpoint, 0)
        case "rubbish":
            checkpoint.write_bytes(b"rubbish")
        case "no log":
            log.unlink()
        case "short log":
            log.write_text("".join(log.read_text().splitlines(keepends=True)[:4]))
        case "torn log":
            tear(log, 0.3)
        case "half renamed":
            (folder / ".resume.ckpt").write_bytes(checkpoint.read_bytes()[:100])
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert next(e["step"] for e in events if e["event"] == "step") == (7 if damage == "half renamed" else 1)
    assert numbers(read_record(folder / "record.json")) == numbers(whole)


def test_steps_after_the_checkpoint_are_cut_off_the_log(arguments):
    whole, given = finish(arguments("whole")), arguments("killed")
    with pytest.raises(Killed):
        run_trial(given, killed_at(8))
    log = Path(given["trial_dir"]) / "steps.jsonl"
    assert len(read_steps(log)) == 8, "two more than the checkpoint has"
    with log.open("a") as file:
        file.write('{"step": 9, "lo')
    assert numbers(finish(given)) == numbers(whole)


SCORED = {"eval.tasks": ["python_cloze"]}


class Scoring:
    """In the place of lm-eval: fails as often as it is told to, then says what the model's every logit adds up to."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def __call__(self, logits: Any, data: Any, *_: Any) -> dict[str, dict[str, Any]]:
        if self.errors:
            raise self.errors.pop(0)
        batch = next(iter(data.evaluation_batches("test", 512)))
        return {"python_cloze": {"acc": float(logits(batch[:, :-1]).double().sum()), "items": "01"}}


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("the task is broken"), Killed()])
@pytest.mark.parametrize("arm", ["bias", "aux_loss"])
def test_where_scoring_fails_the_next_run_only_scores(arguments, monkeypatch, error, arm):
    monkeypatch.setattr("tasks.evals.score.score", Scoring())
    whole = finish(arguments("whole", arm, SCORED))
    monkeypatch.setattr("tasks.evals.score.score", Scoring(error))
    given = arguments("failed", arm, SCORED)
    folder = Path(given["trial_dir"])
    with pytest.raises(Exception) as caught:
        run_trial(given, ignore)
    assert not (folder / "record.json").exists()
    if isinstance(error, OSError):
        assert str(caught.value) == ("the training is kept, and the same command scores it again: OSError: no network")
    kept = written(folder)
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert [event["event"] for event in events] == ["evaluating"], "no step was taken"
    assert numbers(read_record(folder / "record.json")) == numbers(whole)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "record.json", "steps.jsonl"]
    assert kept.items() > {p: t for p, t in written(folder).items() if p.name != "record.json"}.items()


@pytest.mark.parametrize("name", ["trained.json", "checkpoint/model.safetensors", "checkpoint/config.json"])
@pytest.mark.parametrize("share", [None, 0.5])
def test_where_what_was_kept_is_damaged_it_trains_again(arguments, monkeypatch, name, share):
    monkeypatch.setattr("tasks.evals.score.score", Scoring(OSError("no network")))
    given = arguments(changes=SCORED)
    folder = Path(given["trial_dir"])
    with pytest.raises(trial.ScoringFailed):
        run_trial(given, ignore)
    first = (folder / "steps.jsonl").read_bytes()
    if share is None:
        (folder / name).unlink()
    else:
        tear(folder / name, share)
    record = finish(given)
    assert (record.status, set(record.scores)) == ("complete", {"python_cloze"})
    assert (folder / "steps.jsonl").read_bytes() == first


def test_a_failed_record_is_replaced_and_a_complete_one_never(arguments):
    given = arguments()
    path = Path(given["trial_dir"]) / "record.json"
    Record(given["id"], 1, "failed", given["keys"], reason="the worker died").write(path)
    complete = finish(given)
    assert complete.status == "complete" and complete.reason is None


AT_ONCE = """
import json, sys, torch
torch.set_num_threads(1)
import ablations.trial
ablations.trial.REPORT_SECONDS = 0.0
say = lambda event: print(json.dumps(event), flush=True)
say(ablations.trial.run_trial(json.loads(sys.argv[1]), say))
"""


def test_of_two_processes_at_one_trial_the_other_waits_and_takes_its_record(arguments):
    """Written at every step: without an owner, each would find the other's checkpoint gone or half there."""
    given = arguments(changes={"train.checkpoint_every": 0.08, "train.tokens": 30720})
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", AT_ONCE, json.dumps(given)]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    heard = [[json.loads(line) for line in process.communicate(timeout=120)[0].splitlines()] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert heard[0][-1] == heard[1][-1] and heard[0][-1]["status"] == "complete"
    steps, waits = (sorted(sum(e.get("event") == kind for e in one) for one in heard) for kind in ("step", "waiting"))
    assert steps == [0, 120]
    assert waits in ([0, 1], [0, 0]), "or it came when all was done"


def test_arms_of_one_seed_see_the_same_batches_and_begin_alike(arguments):
    bias, aa, control, other = (
        finish(arguments("bias")),
        finish(arguments("aa", "aa")),
        finish(arguments("control", "control")),
        finish(arguments("other", seed=2)),
    )
    base = finish(arguments("base", "aux_loss"))
    assert bias.history["loss"][0] == base.history["loss"][0], "the bias is zero at first"
    assert base.history["loss"] != aa.history["loss"], "perturbed by 1e-6"
    assert aa.history["loss"][0] == pytest.approx(base.history["loss"][0], abs=1e-4)
    assert control.history["loss"][0] == base.history["loss"][0]
    assert len(control.history["step"]) == 10
    assert control.history["tokens"] == [256 * step for step in range(1, 11)]
    rate, warmup = base.config["optim"]["lr"], round(0.1 * 12)
    assert base.history["lr"][0] == pytest.approx(rate / warmup), "the rate that the first step was taken with"
    assert other.history["loss"][0] != bias.history["loss"][0]
    assert bias.metrics != base.metrics


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optim.lr": 1e20}, "loss is not finite at step "),
        ({"optim.lr": 3.0, "train.spike_nats": 0.5, "optim.warmup_fraction": 0.0}, "nats above its minimum"),
    ],
)
def test_a_diverging_trial_is_a_result(arguments, changes, reason):
    given = arguments(changes=changes)
    result = run_trial(given, ignore)
    record = read_record(Path(given["trial_dir"]) / "record.json")
    assert result["status"] == record.status == "diverged"
    assert reason in (record.reason or "")
    step = int((record.reason or "").rsplit(" ", 1)[-1])
    assert 1 < step <= 12
    assert record.history["step"] == [float(i) for i in range(1, step)]
    assert all(math.isfinite(x) for column in record.history.values() for x in column)
    assert (record.metrics, record.scores) == ({}, {})
    assert not (Path(given["trial_dir"]) / "resume.ckpt").exists()


def test_a_search_trial_is_scored_on_the_other_split(arguments):
    test, validation = finish(arguments()), finish(arguments("b", changes={"eval.split": "validation"}))
    assert test.history == validation.history
    assert test.metrics["loss"] != validation.metrics["loss"]


def test_the_microbatches_change_nothing_but_rounding(arguments):
    two, four = finish(arguments(arm="none")), finish(arguments("b", "none", {"train.microbatches": 4}))
    assert two.history["loss"][0] == pytest.approx(four.history["loss"][0], rel=1e-6)
    assert two.metrics["loss"] == pytest.approx(four.metrics["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(12, 0.5, {6, 12}), (12, 0.25, {3, 6, 9, 12}), (10, 0.3, {3, 6, 9, 10}), (1, 0.1, {1}), (300, 1.0, {300})],
)
def test_fractions_of_a_run(steps, every, expected):
    assert fractions_of(steps, every) == expected


def test_a_long_history_is_thinned_and_keeps_its_end(arguments, monkeypatch):
    monkeypatch.setattr(trial, "HISTORY_POINTS", 5)
    record = finish(arguments())
    assert record.history["step"] == [1, 4, 7, 10, 12]


def test_it_trains_where_the_harness_is_not_installed(arguments, tmp_path):
    """The record equals that of this process, where wandb, Optuna, Hydra and lm-eval are at hand."""
    here, given = finish(arguments("here")), arguments("there")
    given = copy.deepcopy(given)
    given["track"]["mode"] = "auto"
    script = """
import json, sys
for name in ("wandb", "optuna", "hydra", "omegaconf", "lm_eval", "datasets"):
    sys.modules[name] = None  # importing it fails, and it is not found
import torch
torch.set_num_threads(1)
from ablations.trial import run_trial
print(run_trial(json.loads(sys.argv[1]), lambda event: None)["status"])
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, json.dumps(given)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["complete"], done.stderr[-2000:]
    assert numbers(read_record(tmp_path / "trials/there/record.json")) == numbers(here)


def test_a_last_step_that_ruins_the_model_is_a_divergence_too(arguments, tmp_path):
    """The training loss of that step was still the model's before it."""
    given = arguments(changes={"optim.lr": 1e38, "train.tokens": 256, "model.dtype": "float32"})
    run_trial(given, lambda event: None)
    record = read_record(Path(given["trial_dir"]) / "record.json")
    assert record.status == "diverged"
    assert record.reason == "loss on the test split is not finite after the last step"
