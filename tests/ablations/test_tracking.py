"""Our own step log survives every kill; Weights & Biases mirrors it and can never fail a trial."""

import builtins
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ablations import tracking
from ablations.records import read_record
from ablations.tracking import Mirror, StepLog, open_mirror, read_steps, resolve_mode
from ablations.trial import run_trial

LABELS = {"sweep": "moe_balance", "scale": "smoke", "arm": "bias", "seed": 1, "phase": "confirm"}
TRACK = {"mode": "offline", "project": "p", "entity": None}


def row(step: int) -> dict[str, float]:
    return {"step": step, "loss": 5.0 / step}


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
    """A logger all of whose methods and attributes raise."""

    def __init__(self) -> None:
        self.touched = 0

    def __getattr__(self, name: str) -> Any:
        self.__dict__["touched"] += 1
        raise ConnectionError("no network")


def use(mirror: Mirror) -> None:
    mirror.log({"loss": 1.0}, 1)
    mirror.log({"loss": 0.9}, 2)
    mirror.table("load", ["layer"], [[0]])
    mirror.summary({"status": "complete"})
    mirror.finish(exit_code=1)
    mirror.finish()


@pytest.mark.parametrize("method", ["log", "table", "summary", "finish"])
def test_a_logger_that_raises_is_noted_once_and_left_out(caplog, method):
    broken = Broken()
    mirror = Mirror(lambda: broken)
    {
        "log": lambda: mirror.log({"loss": 1.0}, 1),
        "table": lambda: mirror.table("load", ["layer"], [[0]]),
        "summary": lambda: mirror.summary({}),
        "finish": mirror.finish,
    }[method]()
    use(mirror)
    assert broken.touched == 1
    assert [r.getMessage() for r in caplog.records] == [
        "Weights & Biases is left out from here on: ConnectionError: no network"
    ]


def test_a_run_that_cannot_be_opened_is_noted_and_left_out(caplog):
    def refuse() -> Any:
        raise TimeoutError("init took too long")

    use(Mirror(refuse))
    assert len(caplog.records) == 1
    use(Mirror(None))


def test_without_wandb_nothing_is_mirrored(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert resolve_mode("auto") == resolve_mode("online") == "disabled"
    use(open_mirror(TRACK, tmp_path / "wandb", LABELS, {}, "id"))
    assert not (tmp_path / "wandb").exists()
    assert not caplog.records


def test_a_wandb_that_breaks_on_import_is_left_out(tmp_path, monkeypatch, caplog):
    original = builtins.__import__

    def broken(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "wandb":
            raise OSError("libwandb.so is damaged")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with caplog.at_level(logging.WARNING):
        use(open_mirror(TRACK, tmp_path / "wandb", LABELS, {}, "id"))
    assert "libwandb.so is damaged" in caplog.text


def test_auto_is_offline_without_a_login(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_mode("auto") == "offline"
    assert (resolve_mode("disabled"), resolve_mode("online")) == ("disabled", "online")
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine api.wandb.ai\n  login user\n  password secret\n")
    netrc.chmod(0o600)
    assert resolve_mode("auto") == "online"
    netrc.write_text("nonsense {")
    assert resolve_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert resolve_mode("auto") == "online"
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert resolve_mode("auto") == "offline"


@pytest.fixture
def trial(plan, data_cache, tmp_path) -> dict[str, Any]:
    """A real trial of 12 steps, mirrored offline."""
    return {
        "id": "0123456789abcdef",
        "keys": plan().arms["bias"].keys,
        "seed": 1,
        "trial_dir": str(tmp_path / "runs/trials/0123456789abcdef"),
        "cache_dir": str(data_cache),
        "labels": LABELS,
        "track": TRACK,
    }


def test_an_offline_run_holds_what_the_record_holds(trial, tmp_path, monkeypatch):
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert run_trial(trial, lambda event: None)["status"] == "complete"
    record = read_record(Path(trial["trial_dir"]) / "record.json")
    (folder,) = (tmp_path / "runs/wandb/wandb").glob("offline-run-*")
    wandb = Path(sys.executable).with_name("wandb")
    command = [str(wandb), "leet", "inspect", "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    lines = [json.loads(line) for line in text.splitlines()]
    (run,) = [line["run"] for line in lines if line["type"] == "run"]
    wanted = {"run_group": "moe_balance", "job_type": "bias", "display_name": "bias-s1", "project": "p"}
    assert {name: run[name] for name in wanted} == wanted
    assert run["run_id"] == record.id
    assert set(run["tags"]) == {"smoke", "confirm"}
    config = run["config"]["update"]
    assert config["model"]["moe"]["balance"]["kind"] == "bias"
    assert (config["seed"], config["optim"]["lr"]) == (1, record.config["optim"]["lr"])
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    losses = {item["trainer/global_step"]: item["train/loss"] for item in history if "train/loss" in item}
    assert losses == pytest.approx(dict(zip(record.history["step"], record.history["loss"], strict=True)))
    validation = [item["validation/loss"] for item in history if "validation/loss" in item]
    assert validation == pytest.approx(record.validation["loss"])
    assert [item for item in history if "load._type" in item], "the loads are a table"
    summary = {name: x for line in lines if line["type"] == "summary" for name, x in line["summary"]["update"].items()}
    assert summary["status"] == "complete"
    assert summary["max_vio_global"] == pytest.approx(record.metrics["max_vio_global"])
    assert lines[-1]["exit"]["exit_code"] == 0


def test_a_broken_tracker_changes_no_number(trial, monkeypatch, tmp_path):
    quiet = {**trial, "track": {**TRACK, "mode": "disabled"}, "trial_dir": str(tmp_path / "quiet")}
    run_trial(quiet, lambda event: None)

    def broken(*args: Any) -> Mirror:
        return Mirror(Broken)

    monkeypatch.setattr("ablations.trial.open_mirror", broken)
    assert run_trial(trial, lambda event: None)["status"] == "complete"
    one, other = (read_record(Path(t["trial_dir"]) / "record.json") for t in (quiet, trial))
    assert (one.metrics, one.history, one.validation) == (other.metrics, other.history, other.validation)
    assert tracking.read_steps(Path(trial["trial_dir"]) / "steps.jsonl")
