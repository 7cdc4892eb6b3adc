"""Our own step log survives every kill; Weights & Biases mirrors it and can never fail a trial."""

import builtins
import json
import logging
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from processes import wait_until

from ablations.config.schema import Mode, TrackConfig
from ablations.config.trialkeys import TrainConfig, TrialKeys, with_overrides
from ablations.judge.result import is_score
from ablations.record.record import Record, read_record
from ablations.record.steplog import COLUMNS, StepLog, read_steps
from ablations.sweep.jobs import KINDS
from ablations.trial import requests
from ablations.trial.job import TrialJob
from ablations.trial.mirror import Mirror
from ablations.trial.requests import Labels, TrialRequest
from ablations.trial.tracking import is_mirrored, mirror_record, name_of, open_mirror
from ablations.trial.uploads import (
    begin_tracking,
    destination,
    fallen_back,
    host,
    mode_later,
    resolve_mode,
    server,
    wandb_places,
    written,
)
from models.base.typed import ConfigError

CHOSEN = {"model.moe.balance.update_speed": 0.01}
LABELS = Labels("moe_balance", "smoke", "bias", 1, "confirm", "aux_loss", "ab" * 32, CHOSEN)


def row(step: int) -> dict[str, float]:
    return dict.fromkeys(COLUMNS, 0.0) | {"step": step, "loss": 5.0 / step}


@pytest.fixture
def log(tmp_path) -> Path:
    """A step log of five steps."""
    steps = StepLog(tmp_path / "steps.jsonl")
    for step in range(1, 6):
        steps.add(row(step))
    steps.close()
    return tmp_path / "steps.jsonl"


def test_every_step_is_on_disk_at_once(tmp_path):
    steps = StepLog(tmp_path / "steps.jsonl")
    for step in (1, 2):
        steps.add(row(step))
        assert read_steps(tmp_path / "steps.jsonl") == [row(i) for i in range(1, step + 1)]


def test_a_resumed_log_is_cut_back_to_its_checkpoint(log):
    steps = StepLog(log, keep_steps=3)
    assert steps.rows == read_steps(log) == [row(1), row(2), row(3)]
    steps.add(row(4))
    steps.close()
    assert read_steps(log) == steps.rows == [row(i) for i in (1, 2, 3, 4)]


def test_a_trial_that_starts_over_starts_an_empty_log(log):
    assert StepLog(log).rows == read_steps(log) == []


def test_a_line_cut_short_is_left_out(log):
    with log.open("a") as file:
        file.write('{"step": 6, "lo')
    assert read_steps(log) == [row(i) for i in range(1, 6)]
    assert StepLog(log, keep_steps=5).rows == [row(i) for i in range(1, 6)]
    assert log.read_text().endswith("}\n")


def test_a_log_that_lacks_the_checkpoint_s_steps_is_refused(log):
    before = log.read_bytes()
    with pytest.raises(ValueError, match="lacks steps"):
        StepLog(log, keep_steps=6)
    assert log.read_bytes() == before
    assert read_steps(log.with_name("none.jsonl")) == []


class Broken:
    """A run all of whose methods and attributes raise."""

    def __init__(self) -> None:
        self.touched = 0

    def __getattr__(self, name: str) -> Any:
        self.__dict__["touched"] += 1
        raise ConnectionError("no network")


ONE_STEP = TrialKeys(train=TrainConfig(tokens=TrialKeys().tokens_per_step))
ROW = {"step": 1, "tokens": 256, "loss": 1.0, "aux_loss": 0.0, "max_vio": 0.5, "lr": 0.1, "max_vio_layers": [0.5]}
RECORD = Record("id", 1, "complete", {}, metrics={"loss": 1.0})


def use(mirror: Mirror) -> None:
    mirror.step(ROW)
    mirror.step(ROW)
    mirror.validation(1, 256, 1.0, 0.5)
    mirror.finish(RECORD)
    mirror.finish(None)


@pytest.mark.parametrize("method", ["step", "validation", "finish", "stop"])
def test_a_run_that_raises_is_noted_once_and_left_out(method):
    broken, heard = Broken(), list[str]()
    mirror = Mirror(lambda: broken, failed=heard.append)
    {
        "step": lambda: mirror.step(ROW),
        "validation": lambda: mirror.validation(1, 256, 1.0, 0.5),
        "finish": lambda: mirror.finish(RECORD),
        "stop": lambda: mirror.finish(None),
    }[method]()
    use(mirror)
    assert broken.touched == 1
    assert heard == ["ConnectionError: no network"]


def given_trial(folder: Path, mode: Mode = "offline") -> TrialRequest:
    job = TrialJob("t", ONE_STEP, 1, str(folder / "trials/t"), str(folder / "data"))
    return TrialRequest(job, LABELS, TrackConfig(mode, "p"))


def test_without_wandb_nothing_is_mirrored(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert resolve_mode("auto") == resolve_mode("online") == "disabled"
    use(open_mirror(given_trial(tmp_path, "disabled")))
    assert not (tmp_path / "wandb").exists()
    assert not caplog.records


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The modes in which a run was opened; none can be."""
    tried = list[str]()

    def refuse(mode: str, *_: Any) -> Any:
        tried.append(mode)
        raise TimeoutError(f"no {mode}")

    monkeypatch.setattr("ablations.trial.tracking._open", refuse)
    return tried


def test_what_fails_once_is_not_tried_again_by_any_trial_of_the_command(tmp_path, opened):
    events = list[dict[str, Any]]()
    for _ in range(3):
        use(open_mirror(given_trial(tmp_path, "online"), events.append))
    assert opened == ["online", "offline"]
    assert [event["text"] for event in events] == [
        "Weights & Biases did not work online, runs are written offline from here on: TimeoutError: no online",
        "Weights & Biases did not work offline, no more runs are written from here on: TimeoutError: no offline",
    ]
    assert fallen_back(tmp_path) == events[-1]["text"]
    begin_tracking(tmp_path)
    assert fallen_back(tmp_path) is None
    open_mirror(given_trial(tmp_path, "online"))
    assert opened == ["online", "offline"] * 2
    assert written(tmp_path) is None, "no folder is named that was not written"


def test_a_marker_that_cannot_be_written_ends_nothing(tmp_path, opened):
    (tmp_path / "wandb").write_text("a file")
    use(open_mirror(given_trial(tmp_path, "online")))
    assert opened == ["online", "offline"]


def test_a_wandb_that_breaks_on_import_is_left_out(tmp_path, monkeypatch, caplog):
    original = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise OSError("libwandb.so is damaged")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with caplog.at_level(logging.WARNING):
        use(open_mirror(given_trial(tmp_path)))
    assert "libwandb.so is damaged" in caplog.text


def test_the_plan_says_where_runs_go(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    runs, auto = tmp_path / "runs", TrackConfig()
    assert destination(auto, runs) == f"offline, in {runs}/wandb (no login is found; nothing is uploaded)"
    assert destination(TrackConfig(mode="disabled"), runs) == "none (track.mode)"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org/")
    why = "(you are logged in; track.mode=offline uploads nothing)"
    said = f"uploaded to wandb.example.org, project team/v3-ablations {why}"
    assert destination(TrackConfig(entity="team"), runs) == said
    assert destination(TrackConfig(mode="offline"), runs) == f"offline, in {runs}/wandb (track.mode)"


@pytest.mark.parametrize(
    ("name", "value", "mode"),
    [
        *(("WANDB_MODE", word, "offline") for word in ("offline", "dryrun", "OFFLINE")),
        *(("WANDB_MODE", word, "online") for word in ("online", "run", "shared")),
        *(("WANDB_MODE", "disabled", "disabled"), ("WANDB_DISABLED", "true", "disabled"), ("WANDB_MODE", "", "online")),
    ],
)
def test_every_word_of_wandb_is_understood(name, value, mode, monkeypatch):
    for variable in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv(name, value)
    assert resolve_mode("auto") == mode


def test_a_word_that_nobody_knows_uploads_nothing(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_MODE", "off")
    with pytest.raises(ConfigError, match="^WANDB_MODE=off: none of online, run, shared, offline, dryrun, disabled; "):
        resolve_mode("auto")


def test_without_a_home_wandb_keeps_everything_beside_the_runs(monkeypatch, tmp_path):
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert set(wandb_places(tmp_path)) == {"WANDB_DATA_DIR"}
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert set(wandb_places(tmp_path)) == {"WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"}
    monkeypatch.delenv("HOME")  # the password database has one, which W&B's service does not ask
    assert set(wandb_places(tmp_path)) == {"WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"}
    monkeypatch.setenv("WANDB_CACHE_DIR", "/own")
    assert "WANDB_CACHE_DIR" not in wandb_places(tmp_path)


def test_auto_is_offline_without_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC", "WANDB_BASE_URL", "WANDB_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_mode("auto") == "offline"
    assert (resolve_mode("disabled"), resolve_mode("online")) == ("disabled", "online")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    netrc.chmod(0o600)
    assert resolve_mode("auto") == "online"
    netrc.write_text(f"machine {host()}\n  login user\n  password secret\n")
    assert resolve_mode("auto") == "online", "under the name that the installed W&B has for its server"
    (tmp_path / ".config/wandb").mkdir(parents=True)
    (tmp_path / ".config/wandb/settings").write_text("[default]\nbase_url = https://own.example\n")
    assert (server(), resolve_mode("auto")) == ("https://own.example", "offline")
    netrc.write_text("nonsense {")
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert resolve_mode("auto") == "online"
    assert mode_later(TrackConfig("online")) == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode("auto") == mode_later(TrackConfig("online")) == "offline"


@pytest.fixture
def trial(plan, data_cache, tmp_path, monkeypatch) -> TrialRequest:
    """A real trial of 12 steps with a checkpoint after 3, 6 and 9, mirrored offline."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    keys = with_overrides(plan().arms["bias"].keys, {"train.checkpoint_every": 0.25}, "test")
    identity = "0123456789abcdef"
    job = TrialJob(identity, keys, 1, str(tmp_path / "runs/trials" / identity), str(data_cache))
    return TrialRequest(job, LABELS, TrackConfig("offline", "p"))


def run(request: TrialRequest, report: Any = lambda event: None) -> Record:
    """As a worker does; the record that it leaves."""
    result = KINDS["trial"](requests.job("a", "trial", request).arguments, report)
    record = read_record(Path(request.trial.folder) / "record.json")
    assert result == {"status": record.status, "loss": record.metrics.get("loss"), "reason": record.reason}
    return record


def inspect(folder: Path) -> list[dict[str, Any]]:
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    return [json.loads(line) for line in text.splitlines()]


def history_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["history"]["item"] for line in lines if line["type"] == "history"]


def check_run(folder: Path, record: Record) -> list[dict[str, Any]]:
    """Exactly what the record says, step by step and once, and every number of it."""
    lines = inspect(folder)
    history = [item for item in history_of(lines) if not any(name.startswith("paired/") for name in item)]
    assert [item["_step"] for item in history] == record.history["step"]
    assert [item["tokens"] for item in history] == record.history["tokens"]
    for ours, theirs in (("loss", "loss"), ("aux_loss", "aux_loss"), ("lr", "lr"), ("max_vio", "max_vio_batch")):
        assert [item[f"train/{theirs}"] for item in history] == pytest.approx(record.history[ours])
    assert all(item["train/gradient_norm"] > 0 for item in history)
    validation = {item["_step"]: item["validation/loss"] for item in history if "validation/loss" in item}
    assert validation == pytest.approx(dict(zip(record.validation["step"], record.validation["loss"], strict=True)))
    summary = {name: x for line in lines if line["type"] == "summary" for name, x in line["summary"]["update"].items()}
    assert summary["status"] == "complete"
    assert {name: summary[f"test/{name}"] for name in record.metrics} == pytest.approx(record.metrics)
    scores = {f"test/{task}/{name}" for task, row in record.scores.items() for name in row if is_score(name, row[name])}
    assert scores <= summary.keys()
    assert summary["test/load_largest_layer1"] == pytest.approx(max(record.load[0]))
    assert not [name for item in history for name in item if name.startswith("load")]
    assert lines[-1]["exit"]["exit_code"] == 0
    return lines


def test_a_shorter_training_has_another_name() -> None:
    short = replace(LABELS, share=0.67)
    assert (name_of(LABELS), name_of(short)) == ("bias s1 u 0.01", "bias s1 67% of the tokens u 0.01")


def test_an_offline_run_holds_what_the_record_holds(trial, tmp_path):
    record = run(trial)
    (folder,) = (tmp_path / "runs/wandb").glob("offline-run-*")
    lines = check_run(folder, record)
    (told,) = [line["run"] for line in lines if line["type"] == "run"]
    wanted = {
        "run_group": "moe_balance/smoke/bias",
        "job_type": "confirm",
        "display_name": "bias s1 u 0.01",
        "project": "p",
    }
    assert {name: told[name] for name in wanted} == wanted
    assert set(told["tags"]) == {"moe_balance", "smoke", "bias"}
    config = told["config"]["update"]
    assert config["model"]["moe"]["balance"]["kind"] == "bias"
    assert (config["seed"], config["trial"], config["optim"]["lr"]) == (1, record.id, record.config["optim"]["lr"])
    assert (config["baseline"], config["plan"], config["arm"]) == ("aux_loss", "ab" * 32, "bias")
    axes = {m.get("glob_name"): m.get("step_metric") for m in (line.get("metric", {}) for line in lines)}
    assert [axes[group] for group in ("train/*", "validation/*", "paired/*")] == ["tokens"] * 3
    assert config["goals"]["test/loss"] == "minimize" and config["goals"]["test/gradient_cosine"] == "maximize"
    said = written(tmp_path / "runs")
    assert said == f"W&B runs, offline: 1; to upload them: wandb sync {tmp_path}/runs/wandb/offline-run-*"
    command = said.rpartition(": ")[2].replace(
        "wandb sync", f"{Path(sys.executable).with_name('wandb')} sync --dry-run"
    )
    done = subprocess.run(command, shell=True, capture_output=True, text=True, env=dict(os.environ))
    assert "Would sync 1 run" in done.stdout + done.stderr

    other = replace(trial, labels=replace(LABELS, sweep="balance_scope", arm="baseline"))
    assert is_mirrored(trial) and not is_mirrored(other)
    mirror_record(other, lambda event: None)
    assert is_mirrored(other)
    (second,) = set((tmp_path / "runs/wandb").glob("offline-run-*")) - {folder}
    (told,) = [line["run"] for line in check_run(second, record) if line["type"] == "run"]
    assert (told["run_group"], told["job_type"]) == ("balance_scope/smoke/baseline", "confirm")
    assert told["run_id"] != folder.name.rpartition("-")[2]


def test_a_run_holds_its_differences_to_the_baselines_trial(trial, tmp_path):
    """Written again, whole, where that trial ended later."""
    base = replace(trial.trial, id="0" * 16, folder=str(tmp_path / "runs/trials" / ("0" * 16)))
    keys = with_overrides(base.keys, {"train.perturb": 0.01}, "test")
    pair = replace(trial, against=base.folder)
    record = run(pair)
    assert not is_mirrored(pair) and is_mirrored(trial)
    rival = run(TrialRequest(replace(base, keys=keys), replace(LABELS, arm="aux_loss"), TrackConfig("disabled")))
    mirror_record(pair, lambda event: None)
    assert is_mirrored(pair)
    (folder,) = (tmp_path / "runs/wandb").glob("offline-run-*")
    lines = check_run(folder, record)
    rows = [item for item in history_of(lines) if "paired/train_loss" in item]
    assert [row["tokens"] for row in rows] == record.history["tokens"]
    wanted = [a - b for a, b in zip(record.history["loss"], rival.history["loss"], strict=True)]
    assert [row["paired/train_loss"] for row in rows] == pytest.approx(wanted) and any(wanted)
    assert sum("paired/validation_loss" in item for item in history_of(lines)) == len(record.validation["step"])
    summary = {name: x for line in lines if line["type"] == "summary" for name, x in line["summary"]["update"].items()}
    assert summary["paired/test/loss"] == pytest.approx(record.metrics["loss"] - rival.metrics["loss"])


def test_a_baseline_that_cannot_be_read_fails_no_trial(tmp_path):
    (tmp_path / "record.json").write_text("{")
    heard = list[str]()

    class Open:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    mirror = Mirror(Open, failed=heard.append, against=tmp_path / "record.json")
    mirror.finish(RECORD)
    assert len(heard) == 1 and "not readable as JSON" in heard[0]
    Mirror(Open, failed=heard.append).replay([{"step": 1, "loss": 1.0}], {"step": [1.0], "loss": [1.0]})
    assert len(heard) == 2, "nor does a record of before tokens were counted"


class Killed(BaseException):
    pass


def test_an_interrupted_trial_has_one_history(trial, tmp_path):
    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] >= 8:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ablations.trial.recorder.REPORT_SECONDS", 0.0)
        run(trial, kill)
    (first,) = (tmp_path / "runs/wandb").glob("offline-run-*")
    wait_until(lambda: history_of(inspect(first)), every=0.5)  # a service of its own writes it
    assert [item["_step"] for item in history_of(inspect(first))] == list(range(1, 8)) and not is_mirrored(trial)
    record = run(trial)
    (folder,) = (tmp_path / "runs/wandb").glob("offline-run-*")
    check_run(folder, record)


def test_a_broken_tracker_changes_no_number(trial, monkeypatch, tmp_path):
    elsewhere = replace(trial.trial, folder=str(tmp_path / "quiet/trials/a"))
    one = run(replace(trial, trial=elsewhere, track=TrackConfig("disabled")))
    broken = Broken()
    monkeypatch.setattr("ablations.sweep.jobs.open_mirror", lambda *_: Mirror(lambda: broken))
    other = run(trial)
    assert other.status == "complete" and broken.touched == 1
    assert (one.metrics, one.history, one.validation) == (other.metrics, other.history, other.validation)
    assert read_steps(Path(trial.trial.folder) / "steps.jsonl")
