"""Pipelines on real ranks: the command, Lightning's strategy, and ranks that fail."""

import dataclasses
import subprocess
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in_ranks import dies, fails, saves_with_lightning, says_its_rank

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.guards.arm import GUARDS, arm_guards
from ablations.guards.schedule import schedule
from ablations.guards.subject import Subject
from ablations.launch.ranks import Hardware, RankFailed, run_ranks
from ablations.ranks import main
from ablations.record.record import read_record
from ablations.trial.fitting import open_data
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from models.balance import BiasAndAuxLoss
from models.base.typed import build
from models.checkpoint import load_checkpoint
from models.pipeline.stages import Chunks

PIPED = {
    "model.n_layers": 4,
    "model.dtype": "float64",
    "model.moe.backend": "loop",
    "model.pipeline.schedule": "dualpipe",
    "model.pipeline.stages": 2,
    "train.microbatches": 4,
}
"""Four microbatches, as many as two ranks need."""


@pytest.fixture
def no_orphans() -> Any:
    yield
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert server is not None
    found = subprocess.run(["pgrep", "-P", str(server)], capture_output=True, text=True)
    assert found.stdout == "", "a rank outlived its work"


@pytest.mark.usefixtures("no_orphans")
def test_every_rank_does_its_work_and_all_can_talk(tmp_path: Path) -> None:
    run_ranks(3, says_its_rank, str(tmp_path), Hardware(threads=2))
    said = "3 with 2 threads"
    assert sorted((path.name, path.read_text()) for path in tmp_path.iterdir()) == [(str(r), said) for r in range(3)]


@pytest.mark.usefixtures("no_orphans")
def test_a_rank_that_fails_ends_all_with_its_traceback(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(RankFailed, match="(?s)rank 1 failed:.*in fails.*ArithmeticError: a chunk went wrong"):
        run_ranks(2, fails, str(tmp_path), Hardware())
    assert time.monotonic() - started < 100, "the other rank was not waited for"
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}


@pytest.mark.usefixtures("no_orphans")
def test_a_rank_that_is_killed_ends_all() -> None:
    with pytest.raises(RankFailed, match="rank 1 was ended by SIGKILL"):
        run_ranks(2, dies, None, Hardware())


def test_a_checkpoint_of_the_trainer_holds_the_whole_model(job: Callable[..., TrialJob], tmp_path: Path) -> None:
    """Trained with the Trainer on two ranks and in one process; clipped, balanced, two steps."""
    half = {"model.pipeline.schedule": "zb1p"}  # on two ranks each DualPipe rank holds everything
    given = job(changes={**PIPED, **half, "train.tokens": 512, "optim.clip_norm": 0.1}, seed=0)
    run_ranks(2, saves_with_lightning, dataclasses.replace(given, folder=str(tmp_path)), Hardware())
    saved = torch.load(tmp_path / "lightning.ckpt", weights_only=True)["state_dict"]
    run_trial(dataclasses.replace(given, keys=_scored(given.keys)), lambda event: None)
    single, _ = load_checkpoint(Path(given.folder) / "checkpoint")
    assert {name.removeprefix("transformer.") for name in saved} == set(single.state_dict())
    for name, tensor in single.state_dict().items():
        assert float((saved[f"transformer.{name}"] - tensor).abs().max()) < 1e-12, name


def _scored(keys: TrialKeys) -> TrialKeys:
    """With a task, because a trial without one leaves no checkpoint."""
    return with_overrides(keys, {"eval.tasks": ["python_bits_per_byte"], "eval.items": 2}, "test")


WORDS = ["sweep=pipeline", "scale=smoke", "arms=all", "data.seq_len=32", "train.tokens=1024", "eval.items=2"]


def test_the_command_trains_an_arm_on_ranks_as_a_sweep_does_in_one_process(runs: Path, capfd: Any) -> None:
    words = [*WORDS, "eval.tasks=[python_bits_per_byte]", f"runs_dir={runs}", "arm=zb1p_p2_m8", "seed=1"]
    assert main(words) == 0
    record_path, checkpoint = (Path(line) for line in capfd.readouterr().out.splitlines())
    record = read_record(record_path)
    assert record.status == "complete" and record.environment["ranks"] == 2 and record.seed == 1
    keys = build(TrialKeys, record.config)
    given = TrialJob("0" * 16, keys, 1, str(runs / "trials/one"), str(runs / "data"))
    single = run_trial(given, lambda event: None)
    assert record.metrics["loss"] == pytest.approx(single.metrics["loss"], rel=1e-12)
    assert record.history["loss"] == pytest.approx(single.history["loss"], rel=1e-12)
    model, _ = load_checkpoint(checkpoint)
    alone, _ = load_checkpoint(runs / "trials/one/checkpoint")
    for name, tensor in alone.state_dict().items():
        assert float((model.state_dict()[name] - tensor).abs().max()) < 1e-12, name


def test_a_training_that_diverges_on_ranks_is_a_result(runs: Path, own_server: Callable[[], None], capfd: Any) -> None:
    own_server()
    words = [word for word in WORDS if not word.startswith("train.tokens")]
    words += ["eval.tasks=[]", f"runs_dir={runs}", "arm=1f1b_p2_m8"]
    assert main([*words, "optim.lr=1e20", "train.spike_nats=0.1", "train.tokens=4096"]) == 0
    said = capfd.readouterr()
    record = read_record(Path(said.out.strip()))
    assert record.status == "diverged" and record.reason.startswith("loss ")
    assert f"diverged: {record.reason}" in said.err and not (Path(said.out.strip()).parent / "checkpoint").exists()


WRONG = [
    (["arm=dualpipe_p2_m9"], "arm=dualpipe_p2_m9: no such arm; did you mean dualpipe_p2_m8?"),
    (["arm=none"], "arm=none: has no pipeline (arms of sweep=pipeline with a pipeline: gpipe_p4_m8"),
    (["arm=gpipe_p4_m8", "seed=-1"], "seed=-1: must not be negative"),
    (["arm=gpipe_p4_m8", "model.n_layers=3"], "more than model.n_layers=3, and every stage needs a layer"),
    (["arm=gpipe_p4_m8", "data.batch_size=12"], "must divide evenly into model.pipeline.microbatches=8"),
    (["arm=gpipe_p4_m8", "model.pipelines.stages=3"], "model.pipelines"),
]


@pytest.mark.parametrize(("words", "line"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_cannot_be_trained_is_one_line_and_starts_nothing(
    words: list[str], line: str, tmp_path: Path, capsys: Any
) -> None:
    assert main([*WORDS, f"runs_dir={tmp_path / 'runs'}", *words]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and said.err.startswith("error: ") and line in said.err
    assert said.out == "" and not (tmp_path / "runs").exists()


def test_ranks_that_do_not_match_the_launcher_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main([*WORDS, f"runs_dir={tmp_path / 'runs'}", "arm=dualpipe_p2_m8"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "WORLD_SIZE=3: the pipeline has 2 ranks; start it with torchrun --nproc-per-node 2" in said
    assert not (tmp_path / "runs").exists()


def test_the_guard_sees_a_schedule_that_trains_otherwise(
    job: Callable[..., TrialJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job(changes={**PIPED, "model.moe.balance.kind": "bias_aux_loss", "model.moe.balance.alpha": 0.5})
    keys, data = given.keys, open_data(given.keys, given.cache)
    own = tuple(guard for guard in GUARDS if guard.name in ("initialisation", "schedule", "ranks"))
    monkeypatch.setattr("ablations.guards.arm.GUARDS", own)
    passed = {guard.name: guard for guard in arm_guards(keys, 0, data)}
    assert passed["schedule"].passed and passed["ranks"].passed, passed
    assert passed["schedule"].detail.startswith("dualpipe against microbatching in FP64")
    plain = dataclasses.replace(keys, model=dataclasses.replace(keys.model, pipeline=type(keys.model.pipeline)()))
    assert not {"schedule", "ranks"} & {guard.name for guard in arm_guards(plain, 0, data)}
    forgotten = Chunks._embedding
    monkeypatch.setattr(Chunks, "_embedding", staticmethod(lambda chunk: None))
    assert not schedule(Subject(keys, 0, data)).passed
    monkeypatch.setattr(Chunks, "_embedding", staticmethod(forgotten))
    monkeypatch.setattr(BiasAndAuxLoss, "loss", lambda self, routing, f: 2 * self.aux.loss(routing, f))
    assert schedule(Subject(keys, 0, data)).passed, "both sides alike"
