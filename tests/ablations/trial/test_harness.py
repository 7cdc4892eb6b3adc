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
from benchmarks import harness


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
