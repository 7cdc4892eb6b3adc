"""The environment that a worker starts with: the caller's, without what others have put there to steer processes.

A trial is one process on one device, whatever started the scheduler. Libraries read a launcher's variables by
themselves and believe them: under `sbatch -n 2` Lightning refuses to train on one device, and with RANK=1 it takes
itself for a process that writes nothing.
"""

import os
from collections.abc import Mapping

LAUNCHERS = (
    # Slurm: the tasks of a job that this process is not one of.
    "SLURM_", "SLURMD_", "SRUN_",
    # MPI in its kinds (Open MPI, PMI and PMIx, MPICH's Hydra, MVAPICH, Intel): ranks of an mpirun around the command.
    "OMPI_", "PMI_", "PMIX_", "PMI2_", "HYDI_", "HYDRA_", "MPI_", "MPICH_", "MV2_", "I_MPI_",
    # LSF and its jsrun.
    "LSB_", "LSF_", "JSM_",
    # torchrun, and whoever sets torch.distributed's rendezvous by hand (Kubeflow, Ray, a tutorial's export).
    "TORCHELASTIC_", "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "WORLD_SIZE",
    "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "STANDALONE_PORT",
    # Lightning: PL_TRAINER_<ARGUMENT> changes whatever the Trainer is not given, precision and batches included.
    "PL_",
)  # fmt: skip
"""Names, and beginnings of names where they end in an underscore."""

NUMERICS = (
    "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE", "ONEDNN_", "DNNL_",
    "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)  # fmt: skip
"""What has a library multiply otherwise: the same keys, code and versions would give other bits under the same id."""

OF_WANDB = (
    # Who sends, and to which server.
    "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_ENTITY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_CREDENTIALS_FILE",
    # How the server is reached.
    "WANDB_HTTP_PROXY", "WANDB_HTTPS_PROXY", "WANDB_INSECURE_DISABLE_SSL", "WANDB_X_EXTRA_HTTP_HEADERS",
    # Where W&B keeps what belongs to no run.
    "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR",
)  # fmt: skip
"""What stays of WANDB_*. All else names or shapes one run (WANDB_RUN_ID, WANDB_RESUME, WANDB_SWEEP_ID, WANDB_NAME,
WANDB_TAGS, WANDB_DIR, WANDB_SERVICE ...), and would make every trial that run."""


def worker_environment(variables: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """`variables` without those that steer a process, and `own` laid over them."""
    return {name: value for name, value in variables.items() if not steers(name)} | dict(own)


def forget_launcher() -> None:
    """Take what steers a process out of this one's environment, for the processes that begin as it is."""
    for name in [name for name in os.environ if steers(name)]:
        del os.environ[name]


def steers(name: str) -> bool:
    """Whether a variable makes a process a part of something larger, its run somebody else's, or its numbers others."""
    if name.startswith("WANDB_"):
        return name not in OF_WANDB
    return any(name.startswith(own) if own.endswith("_") else name == own for own in (*LAUNCHERS, *NUMERICS))


def thread_environment(threads: int) -> dict[str, str]:
    """What numerical libraries read, once, when they are loaded: threads per worker."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
