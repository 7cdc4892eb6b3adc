"""What a launcher, a cluster or W&B has put into the environment does not reach a trial."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ablations.config.schema import TrackConfig
from ablations.launch.environment import forget_launcher, steers, worker_environment
from ablations.launch.pool import Pool
from ablations.record.record import read_record
from ablations.trial import requests
from ablations.trial.job import TrialJob
from ablations.trial.requests import Labels, TrialRequest
from ablations.trial.tracking import run_id
from ablations.trial.train import run_trial

HOSTILE = {
    "SLURM_JOB_ID": "77", "SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODELIST": "a[1-2]",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "PMI_RANK": "1", "PMIX_RANK": "1", "MPI_LOCALRANKID": "1",
    "LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "/none", "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2",
    "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1", "NODE_RANK": "1", "MASTER_ADDR": "nowhere", "MASTER_PORT": "1",
    "PL_TRAINER_LIMIT_TRAIN_BATCHES": "2", "PL_TRAINER_PRECISION": "bf16-mixed", "PL_GLOBAL_SEED": "5",
    "WANDB_RUN_ID": "x", "WANDB_RESUME": "must", "WANDB_SWEEP_ID": "s", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n",
    "WANDB_JOB_TYPE": "j", "WANDB_TAGS": "t", "WANDB_DIR": "/none", "WANDB_PROJECT": "other", "WANDB_MODE": "disabled",
    "WANDB_SERVICE": "2-1-tcp-localhost-1", "WANDB_NOTES": "n",
    "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2", "NVIDIA_TF32_OVERRIDE": "0",
}  # fmt: skip
HARMLESS = ("PATH", "HOME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "HF_HOME", "RANKING", "PLATFORM", "MASTER_KEY")
HARMLESS += ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_CONFIG_DIR")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_steers_a_process_is_left_out(name: str) -> None:
    assert steers(name)
    assert worker_environment({name: "1", "PATH": "/bin"}, {"OMP_NUM_THREADS": "1"}) == {
        "PATH": "/bin",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize("name", HARMLESS)
def test_what_a_user_sets_for_a_worker_stays(name: str) -> None:
    assert worker_environment({name: "1"}, {}) == {name: "1"}


def test_a_process_forgets_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    forget_launcher()
    assert not set(HOSTILE) & set(os.environ) and "PATH" in os.environ


def test_a_trial_is_the_same_under_any_launcher(
    job: Callable[..., TrialJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Labels("moe_balance", "smoke", "bias", 1, "confirm")
    quiet = TrialRequest(job("quiet"), labels, TrackConfig(mode="disabled"))
    hostile = TrialRequest(job("hostile"), labels, TrackConfig(mode="offline"))
    run_trial(quiet.trial, lambda event: None)
    for name, value in HOSTILE.items():
        monkeypatch.setenv(name, value)
    with Pool(1, tmp_path / "logs", {"OMP_NUM_THREADS": "1", "WANDB_SILENT": "true"}) as pool:
        outcome = pool.run([requests.job("trial", "trial", hostile)], lambda key, event: None)["trial"]
    assert outcome.error is None, (tmp_path / "logs/worker-0.log").read_text()
    one, other = (read_record(Path(given.trial.folder) / "record.json") for given in (quiet, hostile))
    assert (one.status, one.metrics, one.history, one.load) == (other.status, other.metrics, other.history, other.load)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert run.name.endswith(run_id(hostile)) and (run / "whole").exists()


def test_a_training_finds_no_cluster_where_a_variable_is_left(
    job: Callable[..., TrialJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun inside a Slurm job: the ranks need some of these."""
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODELIST", "LSB_JOBID"):
        monkeypatch.setenv(name, HOSTILE[name])
    monkeypatch.delattr(sys, "ps1", raising=False)
    assert run_trial(job("slurm"), lambda event: None).status == "complete"
