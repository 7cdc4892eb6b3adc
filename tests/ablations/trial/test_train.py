"""A trial: whole, resumed, torn, diverged, and without the harness's libraries; tiny, but with the real Trainer."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killed, killed_at

import ablations.trial.train as trial
from ablations.config.trialkeys import with_overrides
from ablations.home import ROOT
from ablations.launch.space import full_place
from ablations.record.record import Record, read_record
from ablations.record.steplog import read_steps
from ablations.trial.job import TrialJob
from ablations.trial.recorder import Unwatched, fractions_of
from ablations.trial.scoring import ScoringFailed
from ablations.trial.train import run_trial

torch.set_num_threads(1)


def ignore(event: dict[str, Any]) -> None: ...


def finish(job: TrialJob, report: Callable[[dict[str, Any]], None] = ignore) -> Record:
    """The record, which is what was written."""
    found = run_trial(job, report)
    assert found == read_record(Path(job.folder) / "record.json")
    return found


def as_json(job: TrialJob) -> str:
    """For another process."""
    return json.dumps(dataclasses.asdict(job))


def numbers(record: Record) -> dict[str, Any]:
    """Everything but times."""
    return {name: value for name, value in dataclasses.asdict(record).items() if name != "timings"}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """`once(what, job, do)`: the folder of a trial like `job` elsewhere, to be read only, and what `do` returned for
    it: done anew for each `what`, keys and seed, and for no other test."""
    known: dict[str, tuple[Path, Any]] = {}

    def made(what: str, job: TrialJob, do: Callable[[TrialJob], Any]) -> tuple[Path, Any]:
        name = what + as_json(dataclasses.replace(job, folder=""))
        if name not in known:
            folder = tmp_path_factory.mktemp("once") / "trial"
            known[name] = folder, do(dataclasses.replace(job, folder=str(folder)))
        return known[name]

    return made


@pytest.fixture
def whole_of(once: Callable[..., tuple[Path, Any]]) -> Callable[[TrialJob], tuple[Record, bytes]]:
    """Record and step log of a job that nothing interrupts."""

    def whole(job: TrialJob) -> tuple[Record, bytes]:
        folder, record = once("whole", job, finish)
        return record, (folder / "steps.jsonl").read_bytes()

    return whole


def test_what_a_trial_leaves(job):
    events: list[dict[str, Any]] = []
    given = job()
    folder, record = Path(given.folder), finish(given, events.append)
    assert (record.id, record.seed, record.status, record.reason) == ("0123456789abcdef", 1, "complete", None)
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
    assert record.config == dataclasses.asdict(given.keys)
    assert record.data["tokens"]["train"] > 0
    assert record.environment["dtype"] == "float32"
    assert record.timings["tokens_per_second"] > 0
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(1, 13))


def test_a_record_is_never_made_twice(job):
    given = job()
    first = finish(given)
    path = Path(given.folder) / "record.json"
    stamp = path.stat().st_mtime_ns
    events: list[dict[str, Any]] = []
    assert run_trial(given, events.append) == first
    assert (events, path.stat().st_mtime_ns) == ([], stamp)


@pytest.mark.parametrize(
    ("arm", "step", "resumed_at"),
    [("bias", 2, 0), ("bias", 7, 6), ("bias", 9, 6), ("bias", 12, 9), ("batch_aux_loss", 8, 6), ("aa", 5, 3)],
)
def test_a_killed_trial_goes_on_bit_for_bit(job, whole_of, arm, step, resumed_at):
    given = job("killed", arm)
    whole, log = whole_of(given)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    folder = Path(given.folder)
    assert not (folder / "record.json").exists()
    assert (folder / "resume.ckpt").exists() == (resumed_at > 0)
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(resumed_at + 1, 13))
    assert numbers(read_record(folder / "record.json")) == numbers(whole)
    assert (folder / "steps.jsonl").read_bytes() == log
    assert not (folder / "resume.ckpt").exists()


def test_a_trial_killed_twice_goes_on_too(job, whole_of):
    given = job("killed")
    whole, _ = whole_of(given)
    for step in (4, 8):
        with pytest.raises(Killed):
            run_trial(given, killed_at(step))
    assert numbers(finish(given)) == numbers(whole)


def tear(path: Path, share: float) -> None:
    os.truncate(path, int(path.stat().st_size * share))


@pytest.mark.parametrize(
    "damage", ["half", "empty", "rubbish", "no log", "short log", "torn log", "odd log", "binary log", "half renamed"]
)
def test_after_damage_it_starts_over_with_the_same_result(job, whole_of, once, damage):
    given = job("killed")
    whole, _ = whole_of(given)
    folder = Path(given.folder)

    def kill(given: TrialJob) -> None:
        with pytest.raises(Killed):
            run_trial(given, killed_at(8))

    shutil.copytree(once("killed at 8", given, kill)[0], folder)
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
        case "odd log":
            log.write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 9)))
        case "binary log":
            log.write_bytes(b"\xff\xfe\0" * 100)
        case "half renamed":
            (folder / ".resume.ckpt").write_bytes(checkpoint.read_bytes()[:100])
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert next(e["step"] for e in events if e["event"] == "step") == (7 if damage == "half renamed" else 1)
    asides = {"half": checkpoint, "empty": checkpoint, "rubbish": checkpoint, "short log": log, "torn log": log}
    asides |= {"odd log": log, "binary log": log}
    found = [path.name for path in folder.glob("*.damaged")]
    assert found == ([f"{asides[damage].name}.damaged"] if damage in asides else [])
    said = [e["text"] for e in events if e["event"] == "note"]
    assert [text.endswith("; the trial starts over") for text in said] == [True] * (damage != "half renamed")
    assert [name for name in found if name not in said[0]] == []
    assert numbers(read_record(folder / "record.json")) == numbers(whole)


@pytest.mark.parametrize(("size", "resumed_at"), [("64k", 0), ("1200k", 3)])
def test_a_disk_that_is_full_amid_a_training_loses_what_was_being_written(job, whole_of, tmp_path, size, resumed_at):
    """Room for no checkpoint, or for the first and not for the second beside it."""
    given = job("small/trial")
    whole, _ = whole_of(given)
    disk = Path(given.folder).parent
    disk.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(Exception) as caught:
            run_trial(given, ignore)
        assert full_place(caught.value) is not None
        assert not any(path.name.endswith(".part") for path in Path(given.folder).iterdir())
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        events: list[dict[str, Any]] = []
        record = run_trial(given, events.append)
        assert next(e["step"] for e in events if e["event"] == "step") == resumed_at + 1
        assert numbers(record) == numbers(whole)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_steps_after_the_checkpoint_are_cut_off_the_log(job, whole_of):
    given = job("killed")
    whole, _ = whole_of(given)
    with pytest.raises(Killed):
        run_trial(given, killed_at(8))
    log = Path(given.folder) / "steps.jsonl"
    assert len(read_steps(log)) == 8, "two more than the checkpoint has"
    with log.open("a") as file:
        file.write('{"step": 9, "lo')
    assert numbers(finish(given)) == numbers(whole)


SCORED = {"eval.tasks": ["python_cloze"]}


class Scoring:
    """In the place of lm-eval: fails as often as it is told to, then says what the model's every logit adds up to."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)

    def __call__(self, logits: Any, data: Any, *_: Any, **__: Any) -> dict[str, dict[str, Any]]:
        if self.errors:
            raise self.errors.pop(0)
        batch = next(iter(data.evaluation_batches("test", 512)))
        return {"python_cloze": {"acc": float(logits(batch[:, :-1]).double().sum()), "items": "01"}}


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("the task is broken"), Killed()])
@pytest.mark.parametrize("arm", ["bias", "aux_loss"])
def test_where_scoring_fails_the_next_run_only_scores(job, whole_of, monkeypatch, error, arm):
    given = job("failed", arm, SCORED)
    monkeypatch.setattr("tasks.evals.score.score", Scoring())
    whole, _ = whole_of(given)
    monkeypatch.setattr("tasks.evals.score.score", Scoring(error))
    folder = Path(given.folder)
    with pytest.raises(Exception) as caught:
        run_trial(given, ignore)
    assert not (folder / "record.json").exists()
    if isinstance(error, OSError):
        said = "the training is kept, and the same command scores it again, unless a file of a task changes"
        assert str(caught.value) == f"{said}: OSError: no network"
    kept = written(folder)
    events: list[dict[str, Any]] = []
    run_trial(given, events.append)
    assert [event["event"] for event in events] == ["evaluating"], "no step was taken"
    assert numbers(read_record(folder / "record.json")) == numbers(whole)
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", "record.json", "steps.jsonl"]
    assert kept.items() > {p: t for p, t in written(folder).items() if p.name != "record.json"}.items()


@pytest.mark.parametrize("name", ["trained.json", "checkpoint/model.safetensors", "checkpoint/config.json"])
@pytest.mark.parametrize("share", [None, 0.5])
def test_where_what_was_kept_is_damaged_it_trains_again(job, once, monkeypatch, name, share):
    given = job(changes=SCORED)
    folder = Path(given.folder)

    def fail(given: TrialJob) -> None:
        monkeypatch.setattr("tasks.evals.score.score", Scoring(OSError("no network")))
        with pytest.raises(ScoringFailed):
            run_trial(given, ignore)

    shutil.copytree(once("not scored", given, fail)[0], folder)
    monkeypatch.setattr("tasks.evals.score.score", Scoring())
    first = (folder / "steps.jsonl").read_bytes()
    if share is None:
        (folder / name).unlink()
    else:
        tear(folder / name, share)
    events: list[dict[str, Any]] = []
    record = finish(given, events.append)
    assert (record.status, set(record.scores)) == ("complete", {"python_cloze"})
    assert (folder / "steps.jsonl").read_bytes() == first
    asides = sorted(path.name for path in folder.glob("*.damaged"))
    assert asides == ([] if (name, share) == ("trained.json", None) else ["checkpoint.damaged", "trained.json.damaged"])
    said = [e["text"] for e in events if e["event"] == "note"]
    assert all(text.startswith(f"damaged, set aside as {' and '.join(reversed(asides))}, ") for text in said)
    assert len(said) == bool(asides)


def test_a_failed_record_is_replaced_and_a_complete_one_never(job):
    given = job()
    path = Path(given.folder) / "record.json"
    Record(given.id, 1, "failed", dataclasses.asdict(given.keys), reason="the worker died").write(path)
    complete = finish(given)
    assert complete.status == "complete" and complete.reason is None


ALONE = """
import dataclasses, json, sys
for name in ("wandb", "optuna", "hydra", "omegaconf", "lm_eval", "datasets"):
    sys.modules[name] = None  # importing it fails, and it is not found
import torch
torch.set_num_threads(1)
from ablations.launch.lean import lean
with lean():
    import lightning
import ablations.trial.recorder
from ablations.trial.train import run_trial
from ablations.trial.job import TrialJob
from ablations.config.trialkeys import with_overrides
from models.base.typed import build
ablations.trial.recorder.REPORT_SECONDS = 0.0

def say(event):
    print(json.dumps(event), flush=True)
    if event.get("step") == 5:
        sys.stdin.readline()

say(dataclasses.asdict(run_trial(build(TrialJob, json.loads(sys.argv[1])), say)))
"""


def test_it_trains_where_the_harness_is_not_installed_and_another_at_this_trial_waits(job, whole_of, tmp_path):
    """The record equals that of this process, where wandb, Optuna, Hydra and lm-eval are at hand. Amid its steps this
    process comes to the same trial: without an owner, each would find the other's checkpoint gone or half there."""
    given = job("there")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command, pipe = [sys.executable, "-c", ALONE, as_json(given)], subprocess.PIPE
    heard: list[dict[str, Any]] = []
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        said = [next(process.stdout, "") for _ in range(5)]  # it stands still after the fifth step

        def go_on(event: dict[str, Any]) -> None:
            heard.append(event)
            if event["event"] == "waiting":
                process.stdin.write("\n")
                process.stdin.flush()

        taken = run_trial(given, go_on)
        said += process.communicate(timeout=120)[0].splitlines()
    events = [json.loads(line) for line in said]
    assert process.returncode == 0
    assert [event["step"] for event in events if event.get("event") == "step"] == list(range(1, 13))
    assert [event["event"] for event in heard] == ["waiting"]
    assert events[-1] == dataclasses.asdict(taken) and taken.status == "complete"
    assert taken == read_record(Path(given.folder) / "record.json")
    whole, log = whole_of(given)
    assert numbers(taken) == numbers(whole)
    assert (Path(given.folder) / "steps.jsonl").read_bytes() == log


def test_arms_of_one_seed_see_the_same_batches_and_begin_alike(job):
    bias, aa, control, other = (
        finish(job("bias")),
        finish(job("aa", "aa")),
        finish(job("control", "control")),
        finish(job("other", seed=2)),
    )
    base = finish(job("base", "aux_loss"))
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
def test_a_diverging_trial_is_a_result(job, changes, reason):
    given = job(changes=changes)
    record = finish(given)
    assert record.status == "diverged"
    assert reason in (record.reason or "")
    step = int((record.reason or "").rsplit(" ", 1)[-1])
    assert 1 < step <= 12
    assert record.history["step"] == [float(i) for i in range(1, step)]
    assert all(math.isfinite(x) for column in record.history.values() for x in column)
    assert (record.metrics, record.scores) == ({}, {})
    assert not (Path(given.folder) / "resume.ckpt").exists()


@pytest.mark.parametrize("changes", [{}, {"optim.lr": 1e20}, {"optim.clip_norm": 0.1, "train.validate_every": 0.4}])
def test_how_often_the_host_asks_the_device_changes_no_number(job, whole_of, monkeypatch, changes):
    """As on a GPU: also of a trial that diverges, and of one that is killed and goes on."""
    given = job("asks", changes=changes)
    record, log = whole_of(given)
    monkeypatch.setattr("ablations.trial.fitting.READ_EVERY", {"cpu": 5})
    events: list[dict[str, Any]] = []
    folder = Path(given.folder)
    if record.status == "complete":
        with pytest.raises(Killed):
            run_trial(given, killed_at(8))
    assert numbers(finish(given, events.append)) == numbers(record)
    assert (folder / "steps.jsonl").read_bytes() == log


def test_a_search_trial_is_scored_on_the_other_split(job):
    test, validation = finish(job()), finish(job("b", changes={"eval.split": "validation"}))
    assert test.history == validation.history
    assert test.metrics["loss"] != validation.metrics["loss"]


def test_the_microbatches_change_nothing_but_rounding(job):
    one, four = finish(job(arm="none")), finish(job("b", "none", {"train.microbatches": 4}))
    assert one.history["loss"][0] == pytest.approx(four.history["loss"][0], rel=1e-6)
    assert one.metrics["loss"] == pytest.approx(four.metrics["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(12, 0.5, {6, 12}), (12, 0.25, {3, 6, 9, 12}), (10, 0.3, {3, 6, 9, 10}), (1, 0.1, {1}), (300, 1.0, {300})],
)
def test_fractions_of_a_run(steps, every, expected):
    assert fractions_of(steps, every) == expected


def test_a_long_history_is_thinned_and_keeps_its_end(job, monkeypatch):
    monkeypatch.setattr("ablations.trial.recorder.HISTORY_POINTS", 5)
    record = finish(job())
    assert record.history["step"] == [1, 4, 7, 10, 12]


def test_a_last_step_that_ruins_the_model_is_a_divergence_too(job, tmp_path):
    """The training loss of that step was still the model's before it."""
    given = job(changes={"optim.lr": 1e38, "train.tokens": 256, "model.dtype": "float32"})
    record = finish(given)
    assert record.status == "diverged"
    assert record.reason == "loss on the test split is not finite after the last step"


# --- stages


def staged(given: TrialJob, **second: Any) -> TrialJob:
    """`given` with its training as a first stage, and the same once more, changed by `second`, after it."""
    changes = {name.replace("__", "."): value for name, value in second.items()}
    keys = with_overrides(given.keys, changes, "test")
    return dataclasses.replace(given, keys=dataclasses.replace(keys, before=given.keys.stages))


HALVED = {"optim__lr": 1e-4, "data__batch_size": 4}
"""A second stage of 24 steps of 128 tokens, after the first's 12 of 256."""


def test_stages_are_one_training_whose_steps_and_tokens_are_counted_on(job):
    one, given = finish(job("one")), staged(job("two"), **HALVED)
    events: list[dict[str, Any]] = []
    two = finish(given, events.append)
    rows = read_steps(Path(given.folder) / "steps.jsonl")
    assert rows[:12] == read_steps(Path(given.folder).parent / "one/steps.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 37)) == two.history["step"]
    tokens = [*range(256, 3073, 256), *range(3200, 6145, 128)]
    assert [row["tokens"] for row in rows] == tokens == two.history["tokens"] and given.keys.trained_tokens == 6144
    assert max(two.history["lr"][12:]) == pytest.approx(1e-4) and max(two.history["lr"][:12]) > 1e-3
    assert two.validation["step"] == [3, 6, 9, 12, 18, 24, 30, 36]
    assert two.validation["tokens"] == [768, 1536, 2304, 3072, 3840, 4608, 5376, 6144]
    assert {name: column[:4] for name, column in two.validation.items()} == one.validation
    assert [(e["step"], e["steps"]) for e in events if e["event"] == "step"] == [(i, 36) for i in range(1, 37)]
    assert two.metrics["loss"] < one.metrics["loss"], "it has learned on"
    groups = ("model", "data", "optim", "train", "grpo", "distil", "teacher", "until")
    assert two.config["before"] == [{group: one.config[group] for group in groups}]


@pytest.mark.parametrize("arm", ["none", "bias"])
def test_a_stage_begins_with_the_weights_and_biases_that_the_one_before_ended_with(job, arm):
    """A second stage that all but stands still: what it measures is what the first has learned."""
    one, still = (
        finish(job("one", arm)),
        finish(staged(job("two", arm), optim__lr=1e-12, model__moe__balance__update_speed=1e-12)),
    )
    assert still.validation["loss"][3] < still.validation["loss"][0] - 0.1
    assert still.validation["loss"][4:] == pytest.approx([one.validation["loss"][3]] * 4, abs=1e-6)
    assert still.metrics["loss"] == pytest.approx(one.metrics["loss"], abs=1e-6)
    assert still.load == one.load
    assert still.history["loss"][12] < still.history["loss"][0] - 0.1, "the same batch again"


class Watching(Unwatched):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.validated: list[int] = []

    def replay(self, rows: Any, validation: Any) -> None:
        self.steps += [row["step"] for row in rows]
        self.validated += validation["step"]

    def step(self, row: Any) -> None:
        self.steps.append(row["step"])

    def validation(self, step: int, tokens: float, loss: float, max_vio: float) -> None:
        self.validated.append(step)


@pytest.mark.parametrize(
    ("step", "resumed_at"), [(5, 3), (12, 9), ("between", 12), (13, 12), (18, 12), (19, 18), (31, 30), (36, 30)]
)
def test_a_trial_killed_in_any_stage_goes_on_bit_for_bit(job, whole_of, monkeypatch, step, resumed_at):
    given = staged(job("killed"), **HALVED)
    whole, log = whole_of(given)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if step == "between":
            built = [trial.build_model]
            patch.setattr(trial, "build_model", lambda *a: built.pop()(*a) if built else killed_at(12)({"step": 12}))
            run_trial(given, ignore)
        else:
            run_trial(given, killed_at(step))
    watching, events = Watching(), list[dict[str, Any]]()
    record, folder = run_trial(given, events.append, lambda: watching), Path(given.folder)
    assert [e["step"] for e in events if e["event"] == "step"] == list(range(resumed_at + 1, 37))
    assert numbers(record) == numbers(whole)
    assert (folder / "steps.jsonl").read_bytes() == log
    assert watching.steps == list(range(1, 37)) and watching.validated == whole.validation["step"]
    assert not (folder / "resume.ckpt").exists()


def test_a_divergence_in_a_later_stage_keeps_what_came_before(job):
    record = finish(staged(job(), optim__lr=1e20))
    assert record.status == "diverged" and "loss is not finite at step " in record.reason
    assert record.history["step"][:12] == list(range(1, 13)) and len(record.history["step"]) < 24
