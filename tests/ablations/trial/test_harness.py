"""What benchmarks/harness.py compares with is the same training, so that the ratio means something."""

from pathlib import Path

import pytest
import torch

from ablations.config.compose import compose
from ablations.config.trialkeys import with_overrides
from ablations.record.steplog import STEPS, read_steps
from ablations.sweep.planning import make_plan
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from benchmarks import harness, trial_speed


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rounds=0", "rounds=0: must be at least 1"),
        ("steps=6", "steps=6: must be at least 7"),
        ("trials=many", "trials=many: expected a whole number, got text"),
        ("trials", "trials: expected trials=VALUE"),
        ("scale=cpus", "scale=cpus: "),
        ("round=3", "round: no such key"),
        ("train.tokens=100", "train.tokens=100 (x "),
    ],
)
def test_a_word_that_cannot_be_obeyed_is_one_line(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(harness, "measured", lambda *_: pytest.fail("it has begun"))
    assert harness.main([word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("rounds=x", "rounds=x: expected a whole number, got text"),
        ("rounds=0", "rounds=0: must be at least 1"),
        ("against=/nowhere", "against=/nowhere: is no checkout"),
        ("scale=cpus", "scale=cpus: "),
        ("nonsense", "nonsense: "),
    ],
)
def test_so_is_one_of_the_benchmark_of_speed(
    word: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trial_speed, "Side", lambda *_: pytest.fail("it has begun"))
    assert trial_speed.main([word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and said in err


@pytest.mark.parametrize("kind", ["aux_loss", "bias"])
def test_the_bare_loop_trains_as_the_harness_does(
    kind: str, tmp_path: Path, data_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "CACHE", str(data_cache))
    config = compose(["sweep=gating", "scale=smoke", "train.tokens=2048", *harness.PLAIN])
    keys = with_overrides(make_plan(config).baseline.keys, {"model.moe.balance.kind": kind}, "test")
    clock = harness.Clock()
    run_trial(TrialJob("t", keys, 3, str(tmp_path), str(data_cache)), lambda event: None, lambda: clock)
    ours = [row["loss"] for row in read_steps(tmp_path / STEPS)]
    assert len(clock.at) == 1 + keys.steps and clock.end > clock.at[-1]
    torch.testing.assert_close(list(harness.bare(keys, 3)), ours, rtol=0, atol=1e-6)
