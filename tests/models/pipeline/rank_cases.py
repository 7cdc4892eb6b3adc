"""All cases of `test_ranks.py`, on 2 and on 4 ranks: `python rank_cases.py FOLDER`. Ranks are forked, so that what
costs them seconds to import is imported once.

Compares with what the folder's `reference.pt` holds, made in one process without a pipeline, and writes what differs.
"""

import dataclasses
import json
import multiprocessing
import multiprocessing.connection
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pipelines import MICROBATCHES, largest_difference, piped, train, variant
from torch import Tensor

from models.pipeline.chosen import executor_of
from models.pipeline.parts import partial_model, rank_parameters
from models.pipeline.ranks import Ranked, whole_state
from models.pipeline.rules import schedule_of
from models.pipeline.schedules import SCHEDULES
from models.transformer import Transformer, initialise


def cases(ranks: int) -> list[tuple[str, str, int]]:
    """(schedule, numbers, steps); `ours` is FP64 on our runtime instead of torch's, `masked`
    FP64 with targets that do not count."""
    steps = {"dualpipe": 4} if ranks == 2 else dict.fromkeys(SCHEDULES, 1)
    exact = [(name, "fp64", steps.get(name, 2)) for name in SCHEDULES]
    exact += [(name, "ours", 1) for name in ("1f1b", "interleaved_1f1b", "zbv", "dualpipev")] if ranks == 2 else []
    rounded = [(name, "fp8", 1) for name in ("1f1b", "zbv", "dualpipe")]
    masked = [(name, "masked", 1) for name in ("1f1b", "dualpipe")]
    return exact + rounded + masked if ranks == 2 else exact


def one(name: str, numbers: str, steps: int, rank: int, ranks: int, reference: dict[str, Any]) -> dict[str, Any]:
    config = variant(numbers, ranks)
    config = dataclasses.replace(config, pipeline=piped(name, ranks).pipeline)
    model = partial_model(config, MICROBATCHES, rank)
    initialise(model, 3, config.std)
    executor = executor_of(model.train(), MICROBATCHES, rank)
    assert isinstance(executor, Ranked)
    executor.use_torch = numbers != "ours"
    gradients, results = train(model, executor, steps, numbers == "masked")
    assert (executor.runtime is None) == (name == "dualpipe" or numbers == "ours")
    state = model.state_dict()
    found: dict[str, Any] = {
        "held": sorted(gradients),
        "parameters": sum(p.numel() for p in model.parameters()),
        "counted": rank_parameters(config, schedule_of(config, MICROBATCHES))[rank],
        "gradients": largest_difference(gradients, reference["gradients"]),
        "state": largest_difference(state, reference["state"]),
        "losses": max(
            abs(float(own.losses[term]) - value) / max(abs(value), 1e-30)
            for own, values in zip(results, reference["losses"], strict=True)
            for term, value in values.items()
        ),
        "loads": all(
            torch.equal(own.load_LE, load) and torch.equal(own.last_load_LE, last)
            for own, load, last in zip(results, reference["loads"], reference["last_loads"], strict=True)
        ),
        "copies": copies_are_equal(state, executor, rank),
    }
    whole = whole_state(executor)
    if whole is not None:
        single = Transformer(config)
        single.load_state_dict(whole)
        found["whole"] = largest_difference(dict(single.state_dict()), reference["state"])
    return found


def copies_are_equal(state: dict[str, Tensor], executor: Ranked, rank: int) -> bool:
    """Every copy of a parameter or a bias, bit for bit, against the first holder's."""
    equal = True
    for name, ranks in executor.holders.items():
        if len(ranks) < 2 or rank not in ranks:
            continue
        if rank == ranks[0]:
            for other in ranks[1:]:
                dist.send(state[name].contiguous(), dst=other)
        else:
            first = torch.empty_like(state[name])
            dist.recv(first, src=ranks[0])
            equal &= torch.equal(first, state[name])
    return equal


def rank_of(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{ranks}", rank=rank, world_size=ranks)
    reference = torch.load(folder / "reference.pt", weights_only=True)
    found = {}
    for name, numbers, steps in cases(ranks):
        expected = reference[f"{ranks} {numbers} {steps}"]
        found[f"{name} {numbers}"] = one(name, numbers, steps, rank, ranks, expected)
    (folder / f"found{ranks}.{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> bool:
    """Whether all ranks came to their end. One that fails ends all."""
    fork = multiprocessing.get_context("fork")
    for ranks in (2, 4):
        processes = [fork.Process(target=rank_of, args=(rank, ranks, folder), daemon=True) for rank in range(ranks)]
        for process in processes:
            process.start()
        waiting = {process.sentinel: process for process in processes}
        while waiting:
            for ended in multiprocessing.connection.wait(list(waiting)):
                if waiting.pop(ended).exitcode:  # type: ignore[call-overload]
                    return False
    return True


if __name__ == "__main__":
    sys.exit(not main(Path(sys.argv[1])))
