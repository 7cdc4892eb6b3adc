"""`python -m ablations.guards.rank_process FOLDER`: one step of a pipeline, with a process for each of its ranks.

Ranks are forked from this process, which has computed nothing yet, so that what costs seconds to import is imported
once. They talk over the loopback interface alone.
"""

import json
import multiprocessing
import os
import sys
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models.base.typed import build
from models.config import ModelConfig
from models.pipeline.chosen import executor_of
from models.pipeline.parts import partial_model
from models.pipeline.schedules import ranks_of
from models.training.executor import Executor, update_routers
from models.transformer import Transformer, initialise

JOB = "job.pt"
PATIENCE = timedelta(seconds=120)
"""That ranks may take for one step, and may wait for one that is gone."""


def descend(model: Transformer, executor: Executor, tokens: Tensor, limit: float) -> None:
    """One step along the clipped gradient, whose length Adam's first step would not show, and the routers' update."""
    result = executor.step(tokens)
    executor.clip(model.parameters(), limit)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.sub_(parameter.grad)
    update_routers(model, result, 0.0)


def found_by(folder: Path, rank: int) -> Path:
    """Where a rank leaves what it holds of the model."""
    return folder / f"found.{rank}.pt"


def _rank(rank: int, ranks: int, folder: Path, job: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=ranks, timeout=PATIENCE)
    config = build(ModelConfig, json.loads(job["model"]))
    model = partial_model(config, job["microbatches"], rank)
    initialise(model, job["seed"], config.std)
    executor = executor_of(model.train(), job["microbatches"], rank, job["document_end"])
    descend(model, executor, job["tokens"], job["limit"])
    torch.save(model.state_dict(), found_by(folder, rank))
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> int:
    """1 as soon as a rank fails, and then none is left."""
    job = torch.load(folder / JOB, weights_only=True)
    pipeline = json.loads(job["model"])["pipeline"]
    ranks = ranks_of(pipeline["schedule"], pipeline["stages"])
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_rank, args=(rank, ranks, folder, job), daemon=True) for rank in range(ranks)]
    for process in started:
        process.start()
    while waiting := [process for process in started if process.is_alive()]:
        wait([process.sentinel for process in waiting])
        if any(process.exitcode for process in started):
            return 1
    return int(any(process.exitcode for process in started))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
