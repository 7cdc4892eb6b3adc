"""`python -m ablations.pipeline sweep=NAME arm=NAME [seed=0] [KEY=VALUE ...]`: an arm's pipeline on real ranks.

Trains the arm once, with one process per rank of its schedule over torch.distributed (gloo on CPUs, NCCL on GPUs),
where a sweep runs all ranks' chunks in one process. The numbers are the same up to the order of sums. It starts the
ranks itself; under `torchrun --nproc-per-node RANKS -m ablations.pipeline ...` it is one of them. Leaves runs/ranks/ID/
with record.json and a checkpoint that one process can load.
"""

import sys
from pathlib import Path
from typing import Any

from ablations.home import check_house
from models.typed import ConfigError, closest


def parse(words: list[str]) -> tuple[str, int, list[str]]:
    """(arm, seed, what `ablations.run` takes). Raises ConfigError."""
    own, rest = {"arm": "", "seed": "0"}, []
    for word in words:
        key, equals, value = word.partition("=")
        if key in own and equals:
            own[key] = value
        else:
            rest.append(word)
    if not own["seed"].isdigit():
        raise ConfigError(f"seed={own['seed']}: must be a whole number, 0 or more")
    return own["arm"], int(own["seed"]), rest


def rank_trial(arm: str, seed: int, words: list[str]) -> tuple[int, dict[str, Any]]:
    """How many ranks, and what each is given. Raises ConfigError, before anything is started."""
    from ablations.config import compose, with_overrides
    from ablations.plan import make_plan
    from models.pipeline.schedules import ranks_of

    config = compose(words)
    plan = make_plan(config)
    arms = {name: found for name, found in plan.arms.items() if found.kind == "arm"}
    piped = [name for name, found in arms.items() if found.typed.model.pipeline.schedule != "none"]
    if arm not in piped:
        why = "has no pipeline" if arm in arms else f"no such arm{closest(arm, arms)}"
        known = ", ".join(piped) or "none; set model.pipeline.schedule and model.pipeline.stages"
        raise ConfigError(f"arm={arm}: {why} (arms of sweep={config.sweep.name} with a pipeline: {known})")
    chosen = plan.published.chosen[arm] if plan.published is not None else {}
    keys = with_overrides(arms[arm].keys, chosen, f"arm {arm}")
    runs = Path(config.runs_dir).absolute()
    return ranks_of(keys["model"]["pipeline"]["schedule"], keys["model"]["pipeline"]["stages"]), {
        "keys": keys,
        "seed": seed,
        "runs": str(runs),
        "cache_dir": str(runs / "data"),
        "labels": {"sweep": config.sweep.name, "scale": config.scale, "arm": arm, "seed": seed, "phase": "ranks"},
    }


def _run(words: list[str]) -> int:
    check_house()
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    arm, seed, rest = parse(words)
    ranks, arguments = rank_trial(arm, seed, rest)

    from ablations.launch.ranks import RankFailed, joined, run_ranks, torchrun_rank
    from ablations.ranktrial import prepared, train_rank

    rank = torchrun_rank(ranks)
    if rank is not None:
        arguments = prepared(arguments, quiet=rank > 0)
        joined(rank, ranks, "env://", train_rank, arguments)
        if rank > 0:
            return 0
    else:
        arguments = prepared(arguments)
        try:
            run_ranks(ranks, train_rank, arguments)
        except RankFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    for name in ("record.json", "checkpoint"):
        if (Path(arguments["trial_dir"]) / name).exists():  # a training that diverged leaves its record alone
            print(Path(arguments["trial_dir"]) / name)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """0; 1 where a rank failed; 2 with one line on stderr for what cannot be obeyed; 130 after Ctrl-C."""
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'files'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; a training on ranks starts over", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
