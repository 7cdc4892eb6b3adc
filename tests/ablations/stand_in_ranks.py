"""What ranks do in tests: importable, because a rank's process finds it by name. Lightning costs each of them seconds,
so that only who trains imports it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from parallel_cases import ParallelCase

    from ablations.trial.job import TrialJob


def fails(rank: int, ranks: int, folder: str) -> None:
    """Rank 1 breaks while the others wait for it."""
    (Path(folder) / f"{rank}").touch()
    if rank == 1:
        raise ArithmeticError("a chunk went wrong")
    dist.barrier()


def dies(rank: int, ranks: int, job: None) -> None:
    import os
    import signal

    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def says_its_rank(rank: int, ranks: int, folder: str) -> None:
    total = torch.tensor([rank])
    dist.all_reduce(total)
    (Path(folder) / f"{rank}").write_text(f"{int(total)} with {torch.get_num_threads()} threads")


def saves_with_lightning(rank: int, ranks: int, job: "TrialJob") -> None:
    """Trains, and lets the Trainer write a checkpoint into the job's folder."""
    from ablations.launch.strategy import PipelineStrategy
    from ablations.trial.fitting import build_model, open_data, quiet_lightning, trainer_of
    from tasks.datamodule import TextDataModule

    keys, folder = job.keys, Path(job.folder)
    quiet_lightning()
    module = build_model(keys, job.seed, rank)
    trainer = trainer_of(keys, folder, [], PipelineStrategy(rank, ranks, torch.device("cpu")))
    trainer.fit(module, TextDataModule(open_data(keys, job.cache), job.seed, keys.batches))
    trainer.save_checkpoint(folder / "lightning.ckpt")


def shares_batches(rank: int, ranks: int, job: "tuple[str, list[ParallelCase]]") -> None:
    """Trains each case on its share of each batch; rank 0 leaves the losses, loads and norms of every step."""
    from parallel_cases import trained

    folder, cases = job
    found = {case.name: trained(case, case.parallel) for case in cases}
    torch.save(found, Path(folder) / f"{rank}.pt")
