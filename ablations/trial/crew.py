"""The ranks of one trial that share its batches: this process is the first, and starts the others, who follow it.

The first does all that a trial does. What it trains, they train with it, stage by stage; they write nothing, and leave
when it does, however it ends. Ranks meet through a file and talk over the loopback interface alone (on GPUs by NCCL).
"""

import contextlib
import multiprocessing
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import lightning as L
import torch.distributed as dist
from torch import Tensor

from ablations.config.trialkeys import Stage
from ablations.launch.job import RankKilled
from ablations.launch.ranks import Hardware, RankFailed, joined
from ablations.launch.strategy import RankStrategy, ShardedStrategy
from ablations.record.steplog import STEPS, StepLog
from ablations.trial.fitting import batches_of, build_model, open_data, quiet_lightning, trainer_of
from ablations.trial.job import TrialJob
from ablations.trial.recorder import Notes, Recorder, Unwatched
from models.module import Diverged, LanguageModel
from models.training.parallel import as_the_first, check_together, whole

LEAVING_SECONDS = 10.0


@dataclass(frozen=True)
class Order:
    """What the first rank begins, for the others to train with it."""

    stage: int
    checkpoint: str | None
    kept: bool


class Crew:
    """The first rank's view of the others."""

    def __init__(self, stages: list[Stage], hardware: Hardware) -> None:
        self.stages, self.hardware = stages, hardware

    def begin(self, stage: int, module: LanguageModel, checkpoint: Path | None, kept: bool) -> RankStrategy:
        """The others build the same module, take its values, and train beside whoever fits it by this strategy."""
        dist.broadcast_object_list([Order(stage, None if checkpoint is None else str(checkpoint), kept)], src=0)
        as_the_first(module)
        return strategy_of(self.stages[stage], 0, self.hardware)


def strategy_of(stage: Stage, rank: int, hardware: Hardware) -> RankStrategy:
    kind = {"ddp": RankStrategy, "fsdp": ShardedStrategy}[stage.train.strategy]
    return kind(rank, stage.train.devices, hardware.of(rank))


def whole_weights(module: LanguageModel) -> dict[str, Tensor]:
    """Of a trained module; all ranks ask. Raises RuntimeError where they have come apart."""
    check_together(module.transformer)
    return {name: whole(tensor) for name, tensor in module.transformer.state_dict().items()}


@contextlib.contextmanager
def crew_of(job: TrialJob) -> Iterator[Crew | None]:
    """The others, while the context lasts; None where the trial has one device."""
    ranks = job.keys.train.devices
    if ranks == 1:
        yield None
        return
    hardware = Hardware(job.keys.train.threads, job.keys.train.device)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([__name__])  # from a process that has imported what they need, and begun nothing
    with tempfile.TemporaryDirectory(prefix="ranks.") as folder:
        meeting = f"file://{folder}/meeting"
        others: list[BaseProcess] = [
            forks.Process(target=_follow, args=(rank, ranks, meeting, job, hardware), daemon=True)
            for rank in range(1, ranks)
        ]
        interface = os.environ.get("GLOO_SOCKET_IFNAME")
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        try:
            for other in others:
                other.start()
            with joined(0, ranks, meeting, hardware):
                yield Crew(job.keys.stages, hardware)
                dist.broadcast_object_list([None], src=0)
            for other in others:
                other.join(LEAVING_SECONDS)
        except Exception as error:  # whatever it was, it may be that another rank is gone
            codes = {rank: _exit_code(other) for rank, other in enumerate(others, start=1)}
            ended = {rank: code for rank, code in codes.items() if code and not isinstance(error, Diverged)}
            for rank, code in sorted(ended.items(), key=lambda pair: pair[1]):  # one that was killed ends the others
                said = f"rank {rank} was ended with exit code {code}"
                raise (RankKilled(said, -code) if code < 0 else RankFailed(said)) from error
            raise
        finally:
            for other in others:
                other.kill()
                other.join()
            if dist.is_initialized():
                dist.destroy_process_group()
            os.environ.pop("GLOO_SOCKET_IFNAME")
            if interface is not None:
                os.environ["GLOO_SOCKET_IFNAME"] = interface


def _exit_code(process: BaseProcess) -> int | None:
    """None for one that is alive and stays so for a moment: the first rank hears of an end before it is over."""
    process.join(1.0)
    return process.exitcode


def _follow(rank: int, ranks: int, meeting: str, job: TrialJob, hardware: Hardware) -> None:
    """What another rank does from its start to its end."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the server that it is forked from may have begun before that was set
    threading.Thread(target=_leave_with_the_first, daemon=True).start()
    quiet_lightning()
    with joined(rank, ranks, meeting, hardware), tempfile.TemporaryDirectory(prefix="rank.") as folder:
        while (order := _received()) is not None:
            stage = job.keys.stages[order.stage]
            module = build_model(stage, job.seed)
            as_the_first(module)
            data = open_data(stage, job.cache)
            notes = Notes(job.keys, StepLog(Path(folder) / STEPS), Unwatched(), lambda event: None)
            recorder = Silent(notes, order.stage, data, Path(folder), order.kept)
            trainer = trainer_of(stage, Path(folder), [recorder], strategy_of(stage, rank, hardware))
            with contextlib.suppress(Diverged):  # the first says so
                trainer.fit(module, batches_of(stage, data, job.seed), ckpt_path=order.checkpoint, weights_only=True)
                whole_weights(module)
            notes.steps.close()


class Silent(Recorder):
    """Takes part in what all ranks do together, and leaves nothing."""

    def save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.folder / "unwritten")

    def load_state_dict(self, state_dict: Mapping[str, object]) -> None: ...


def _received() -> Order | None:
    found: list[Order | None] = [None]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def _leave_with_the_first() -> None:
    first = multiprocessing.parent_process()
    assert first is not None
    wait([first.sentinel])
    os._exit(1)
