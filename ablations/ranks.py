"""`python -m ablations.ranks sweep=NAME arm=NAME [seed=0] [KEY=VALUE ...]`: an arm's pipeline on real ranks.

Trains the arm once, with one process per rank of its schedule over torch.distributed (gloo on CPUs, NCCL on GPUs),
where a sweep runs all ranks' chunks in one process. The numbers are the same up to the order of sums. It starts the
ranks itself; under `torchrun --nproc-per-node RANKS -m ablations.ranks ...` it is one of them. Leaves runs/ranks/ID/
with record.json and a checkpoint that one process can load.
"""

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ablations.home import check_house
from models.base.command import parse, parted
from models.base.streams import obeyed, spoken
from models.base.typed import AtLeast, AtMost, ConfigError, closest

if TYPE_CHECKING:
    from ablations.config.trialkeys import TrialKeys


@dataclass(frozen=True)
class RankCommand:
    """Of the command's words its own; the rest is what `ablations.run` takes."""

    arm: str = ""
    seed: Annotated[int, AtLeast(0), AtMost(999_999_999)] = 0


def rank_trial(arm: str, words: list[str]) -> "tuple[TrialKeys, Path]":
    """The keys of the arm's trial, and runs_dir. Raises ConfigError, before anything is started."""
    from ablations.config.compose import compose
    from ablations.config.trialkeys import with_overrides
    from ablations.sweep.planning import make_plan
    from ablations.sweep.preflight import check_device
    from ablations.sweep.workplace import check_writable

    config = compose(words)
    plan = make_plan(config)
    check_device(plan)
    check_writable(Path(config.runs_dir).absolute())
    arms = {name: found for name, found in plan.arms.items() if found.kind == "arm"}
    piped = [name for name, found in arms.items() if found.keys.model.pipeline.schedule != "none"]
    if arm not in piped:
        why = "has no pipeline" if arm in arms else f"no such arm{closest(arm, arms)}"
        known = ", ".join(piped) or "none; set model.pipeline.schedule and model.pipeline.stages"
        raise ConfigError(f"arm={arm}: {why} (arms of sweep={config.sweep.name} with a pipeline: {known})")
    chosen = plan.published.chosen[arm] if plan.published is not None else {}
    return with_overrides(arms[arm].keys, chosen, f"arm {arm}"), Path(config.runs_dir).absolute()


def _run(words: list[str]) -> int:
    check_house()
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    own, rest = parted(RankCommand, words)
    asked = parse(RankCommand, own)
    keys, runs = rank_trial(asked.arm, rest)

    from ablations.launch.lock import single_owner
    from ablations.launch.ranks import RankFailed, joined, run_ranks, torchrun_rank
    from ablations.trial.ranked import hardware_of, prepared, train_rank
    from models.pipeline.schedules import ranks_of

    ranks = ranks_of(keys.model.pipeline.schedule, keys.model.pipeline.stages)
    rank = torchrun_rank(ranks)
    job = prepared(keys, asked.seed, runs, quiet=bool(rank))
    folder = Path(job.folder)
    if rank is not None:
        with (
            contextlib.nullcontext() if rank else single_owner(folder),
            joined(rank, ranks, "env://", hardware_of(keys)),
        ):
            train_rank(rank, ranks, job)
        if rank > 0:
            return 0
    else:
        try:
            with single_owner(folder):
                run_ranks(ranks, train_rank, job, hardware_of(keys))
        except RankFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for name in ("record.json", "checkpoint"):
        if (folder / name).exists():  # a training that diverged leaves its record alone
            print(folder / name)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where a rank failed; 2 with one line on stderr for what cannot be obeyed; 130 after Ctrl-C."""
    words = sys.argv[1:] if arguments is None else arguments
    return obeyed(lambda: _run(words), "stopped; a training on ranks starts over")


if __name__ == "__main__":
    sys.exit(spoken(main))
