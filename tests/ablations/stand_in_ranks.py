"""What ranks do in tests: importable, because a rank's process finds it by name."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ablations.launch.strategy import PipelineStrategy
from ablations.trial import build_model, open_data, quiet_lightning, trainer_of
from ablations.trialkeys import typed_trial
from tasks.datamodule import TextDataModule


def fails(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    """Rank 1 breaks while the others wait for it."""
    (Path(arguments["folder"]) / f"{rank}").touch()
    if rank == 1:
        raise ArithmeticError("a chunk went wrong")
    dist.barrier()


def dies(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    import os
    import signal

    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def says_its_rank(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    total = torch.tensor([rank])
    dist.all_reduce(total)
    (Path(arguments["folder"]) / f"{rank}").write_text(str(int(total)))


def saves_with_lightning(rank: int, ranks: int, arguments: Mapping[str, Any]) -> None:
    """Trains, and lets the Trainer write a checkpoint."""
    keys = typed_trial(arguments["keys"])
    quiet_lightning()
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    module = build_model(keys, 0, rank)
    folder = Path(arguments["folder"])
    trainer = trainer_of(keys, folder, [], PipelineStrategy(rank, ranks, torch.device("cpu")))
    trainer.fit(module, TextDataModule(data, 0, keys.batches))
    trainer.save_checkpoint(folder / "lightning.ckpt")
