"""A trial on two devices: the real Trainer in two processes, killed, resumed, handed on, and failing."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupted import Killed, killed_at

from ablations.config.trialkeys import with_overrides
from ablations.config.trialrules import check
from ablations.home import ROOT
from ablations.launch.job import RankKilled
from ablations.launch.ranks import RankFailed
from ablations.record.record import Record
from ablations.record.steplog import STEPS, read_steps
from ablations.trial.crew import Crew
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from models.base.typed import ConfigError
from models.training.parallel import _checksum

ONE = {"model.dtype": "float64", "model.moe.backend": "loop"}
"""Two devices add halves up in another order, and what that rounds to goes by the processor: no mistake is so small."""
TWO = ONE | {"train.devices": 2}
SHARDS = TWO | {"train.strategy": "fsdp"}
EXACT = 1e-12
"""Relative, of a loss."""
Make = Callable[..., TrialJob]
Whole = Callable[..., tuple[TrialJob, Record]]


def ignore(event: dict[str, Any]) -> None: ...


def losses(job: TrialJob) -> list[float]:
    return [row["loss"] for row in read_steps(Path(job.folder) / STEPS)]


def numbers(record: Record) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(record).items() if name not in ("timings", "config")}


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[TrialJob, Record]]:
    return {}


@pytest.fixture
def undisturbed(job: Make, known: dict[str, tuple[TrialJob, Record]]) -> Callable[..., tuple[TrialJob, Record]]:
    """A trial with these changes that nothing interrupts, and its record: trained once for all tests; to be read
    only."""

    def whole(changes: dict[str, Any]) -> tuple[TrialJob, Record]:
        name = json.dumps(changes, sort_keys=True)
        if name not in known:
            given = job(f"whole {len(known)}", changes=changes)
            known[name] = given, run_trial(given, ignore)
        return known[name]

    return whole


@pytest.mark.parametrize("changes", [TWO, SHARDS], ids=["copies", "shards"])
def test_two_devices_train_what_one_trains(undisturbed: Whole, changes: dict[str, Any]) -> None:
    (one, alone), (two, both) = undisturbed(ONE), undisturbed(changes)
    assert losses(two) == pytest.approx(losses(one), rel=EXACT) and len(losses(two)) == 12
    assert both.metrics.keys() == alone.metrics.keys()
    assert both.metrics["loss"] == pytest.approx(alone.metrics["loss"], rel=EXACT)
    assert both.history["max_vio"] == alone.history["max_vio"], "loads are counted over both"
    assert [p.name for p in Path(two.folder).iterdir()] == [p.name for p in Path(one.folder).iterdir()]
    assert both.config["train"]["devices"] == 2 and not torch.distributed.is_initialized()


@pytest.mark.parametrize("changes", [TWO, SHARDS], ids=["copies", "shards"])
def test_a_trial_that_was_interrupted_goes_on_bit_for_bit(
    job: Make, undisturbed: Whole, changes: dict[str, Any]
) -> None:
    given, (whole, record) = job("killed", changes=changes), undisturbed(changes)
    with pytest.raises(Killed):
        run_trial(given, killed_at(7))
    assert (Path(given.folder) / "resume.ckpt").is_file()
    events: list[dict[str, Any]] = []
    assert numbers(run_trial(given, events.append)) == numbers(record)
    assert [event["step"] for event in events if event["event"] == "step"] == list(range(7, 13))
    assert losses(given) == losses(whole)


@pytest.mark.parametrize(("first", "then"), [(SHARDS, ONE), (ONE, SHARDS), (TWO, SHARDS)], ids=str)
def test_what_some_have_left_others_take_over(
    job: Make, undisturbed: Whole, first: dict[str, Any], then: dict[str, Any]
) -> None:
    """A checkpoint is whole, moments and all, whoever has written it."""
    begun, (whole, _) = job("handed", changes=first), undisturbed(ONE)
    with pytest.raises(Killed):
        run_trial(begun, killed_at(7))
    one = {"train.devices": 1, "train.strategy": "ddp"}
    given = dataclasses.replace(begun, keys=with_overrides(begun.keys, one | then, "test"))
    run_trial(given, ignore)
    assert losses(given) == pytest.approx(losses(whole), rel=EXACT)


@pytest.mark.parametrize("until", [1.0, 0.5])
def test_stages_go_on_from_one_another(until: float, job: Make) -> None:
    """From weights, and in the place of a stage that was stopped on its way."""
    found = []
    for changes in (ONE, SHARDS):
        given = job(str(len(changes)), changes=changes)
        before = dataclasses.replace(given.keys.stages[0], until=until)
        given = dataclasses.replace(given, keys=dataclasses.replace(given.keys, before=[before]))
        run_trial(given, ignore)
        found.append(losses(given))
    assert found[1] == pytest.approx(found[0], rel=EXACT) and len(found[0]) == (24 if until == 1 else 12)


ALONE = """
import json, os, signal, sys, multiprocessing
from ablations.trial.job import TrialJob
from models.base.typed import build

def report(event):
    if event.get("step") == 8:
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    import torch
    torch.set_num_threads(1)
    from ablations.launch.lean import lean
    with lean():
        import lightning
    import ablations.trial.recorder
    ablations.trial.recorder.REPORT_SECONDS = 0.0
    from ablations.trial.train import run_trial
    run_trial(build(TrialJob, json.loads(sys.argv[1])), report)
"""


def test_after_kill_9_nobody_is_left_and_the_bits_are_the_same(job: Make, undisturbed: Whole, tmp_path: Path) -> None:
    given, (_, record) = job("killed", changes=TWO), undisturbed(TWO)
    (tmp_path / "alone.py").write_text(ALONE)
    words = [sys.executable, str(tmp_path / "alone.py"), json.dumps(dataclasses.asdict(given))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=False)
    pids = ended.stdout.split()
    assert ended.returncode == -signal.SIGKILL and len(pids) == 1
    until = time.monotonic() + 30
    while any(map(_lives, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(_lives, pids))
    assert (Path(given.folder) / "resume.ckpt").is_file() and not (Path(given.folder) / "record.json").exists()
    assert numbers(run_trial(given, ignore)) == numbers(record)


def _lives(pid: str) -> bool:
    """An orphan that nobody has reaped yet is none."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_divergence_is_all_ranks_alike(job: Make) -> None:
    changes = {"optim.lr": 1e9, "optim.warmup_fraction": 0.0, "train.spike_nats": 0.1}
    one, two = (run_trial(job(f"{len(also)}", changes=changes | also), ignore) for also in ({}, {"train.devices": 2}))
    assert (one.status, two.status) == ("diverged", "diverged") and one.reason == two.reason


def test_a_rank_that_is_killed_ends_the_trial(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    begin = Crew.begin

    def killing(crew: Crew, *arguments: Any) -> Any:
        found = begin(crew, *arguments)
        multiprocessing.active_children()[0].kill()
        return found

    monkeypatch.setattr(Crew, "begin", killing)
    given = job("killed", changes=TWO)
    with pytest.raises(RankKilled, match=r"^rank 1 was ended with exit code -9$") as caught:
        run_trial(given, ignore)
    assert caught.value.signal == signal.SIGKILL, "the worker ends by it too, and the trial is tried again"
    assert not torch.distributed.is_initialized() and not (Path(given.folder) / "record.json").exists()


def test_weights_that_come_apart_are_an_error(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 alone moves one weight a little, after the last step."""
    import ablations.trial.train as trial

    taken = trial.whole_weights

    def moved(module: Any) -> Any:
        with torch.no_grad():
            next(module.parameters()).view(-1)[0] += 1e-3
        return taken(module)

    monkeypatch.setattr(trial, "whole_weights", moved)
    with pytest.raises((RankFailed, RuntimeError), match="come apart|was ended"):
        run_trial(job("apart", changes=TWO), ignore)


def test_a_checksum_sees_every_bit_and_its_place() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert _checksum(values) == _checksum(values.clone()) != _checksum(values.T.contiguous())


REFUSED = [
    (TWO | {"train.microbatches": 3, "data.batch_size": 6}, "train.devices=2: must divide train.microbatches=3"),
    (TWO | {"train.microbatches": 1, "data.batch_size": 3}, "train.devices=2: must divide train.microbatches=1, or"),
    (TWO | {"model.pipeline.schedule": "1f1b", "model.pipeline.stages": 2}, "train.devices=2: shares batches, and"),
    (TWO | {"train.microbatches": 1, "model.moe.balance.load_scope": "microbatch"}, "train.devices=2: cuts the only"),
    (TWO | {"train.microbatches": 1, "data.ramp_from": 0.5}, "train.devices=2: data.ramp_from=0.5 cuts batches"),
    (SHARDS | {"model.precision.recipe": "fp8_block"}, "train.strategy=fsdp: model.precision.recipe=fp8_block"),
    ({"train.devices": 2, "train.compile": True}, "train.compile=true: train.devices=2"),
]


@pytest.mark.parametrize(("changes", "line"), REFUSED, ids=[line for _, line in REFUSED])
def test_what_devices_cannot_share_is_refused(job: Make, changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(job(changes=changes).keys)
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_all_stages_have_as_many_devices(job: Make) -> None:
    keys = job(changes=TWO).keys
    before = dataclasses.replace(keys.stages[0], train=dataclasses.replace(keys.train, devices=1))
    with pytest.raises(ConfigError, match=r"^train.devices=2: a stage before the last has 1; all stages"):
        check(dataclasses.replace(keys, before=[before]))
