"""One process per rank of a pipeline: started here, or by torchrun.

A rank that fails ends all others, and its traceback is what the caller sees. Ranks on one machine meet through a file
and talk over the loopback interface alone.
"""

import contextlib
import logging
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from ablations.launch.environment import forget_launcher, thread_environment
from models.base.typed import ConfigError

Work = Callable[[int, int, Any], None]
"""What a rank does: (rank, ranks, job), an importable function; the job can be pickled."""
SILENCE = timedelta(minutes=10)
"""Longer than any rank waits for another that is alive."""


@dataclass(frozen=True)
class Hardware:
    """What one rank works on."""

    threads: int = 1
    """CPU threads: two busy ranks with two threads each on two cores run many times slower."""
    device: Literal["cpu", "cuda"] = "cpu"

    def of(self, rank: int) -> torch.device:
        """GPUs in the order of the ranks on a machine."""
        if self.device == "cpu":
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))


class RankFailed(Exception):
    """A rank ended before its work was done; the message holds its traceback."""


def torchrun_rank(ranks: int) -> int | None:
    """This process's rank where torchrun has started it, else None. Raises ConfigError for another number of ranks."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    world = int(os.environ["WORLD_SIZE"])
    if world != ranks:
        raise ConfigError(
            f"WORLD_SIZE={world}: the pipeline has {ranks} ranks; start it with torchrun --nproc-per-node {ranks}, or "
            f"without torchrun"
        )
    return int(os.environ["RANK"])


def run_ranks(ranks: int, work: Work, job: Any, hardware: Hardware) -> None:
    """Run `work` in as many processes and wait for them. Raises RankFailed, KeyboardInterrupt."""
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # whom it ends is said once, below
    forget_launcher()  # ranks that are started here meet here, under whatever this command was started
    os.environ |= thread_environment(hardware.threads)  # for the ranks, which begin as this process is
    with tempfile.TemporaryDirectory(prefix="ranks.") as folder:
        meeting = str(Path(folder) / "meeting")
        try:
            # Forked from a process that has imported what they need, and begun nothing: seconds for each rank.
            multiprocessing.set_forkserver_preload([work.__module__])
            start_processes(_enter, (ranks, meeting, work, job, hardware), nprocs=ranks, start_method="forkserver")
        except ProcessRaisedException as error:
            raise RankFailed(f"rank {error.error_index} failed:\n{error.msg.strip()}") from None
        except ProcessExitedException as error:
            how = f"by {error.signal_name}" if error.signal_name else f"with exit code {error.exit_code}"
            raise RankFailed(f"rank {error.error_index} was ended {how}") from None


def _enter(rank: int, ranks: int, meeting: str, work: Work, job: Any, hardware: Hardware) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    with joined(rank, ranks, f"file://{meeting}", hardware):
        work(rank, ranks, job)


@contextlib.contextmanager
def joined(rank: int, ranks: int, meeting: str, hardware: Hardware) -> Iterator[None]:
    """Be one of the ranks that meet there (`env://` under torchrun)."""
    torch.set_num_threads(hardware.threads)
    device = hardware.of(rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=ranks, timeout=SILENCE)
    yield
    dist.destroy_process_group()  # not after a failure: the others no longer answer
