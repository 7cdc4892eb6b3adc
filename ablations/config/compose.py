"""From a command line to a checked `Config`.

Precedence: defaults of the dataclasses < scale < a named size (`model=small`) < the sweep's `at_least`, `at_most` and
`common` < command line < an arm's own toggles. An arm's toggle and the command line may not set the same key: one of
them would be silently lost. A searched key on the command line is pinned for all arms. What a sweep asks and claims is
its file's alone.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ablations.config.keys import leaves_of, settings
from ablations.config.resolve import fitted, resolved_arms, without
from ablations.config.schema import Config, LaunchConfig, SweepConfig
from ablations.config.sweepfile import default_scale, find_sweep, read_scale, read_sweep, shown, sweep_files
from ablations.config.sweeprules import check_control, check_metrics_exist
from ablations.config.trialkeys import TRIAL_GROUPS, TrialKeys, with_overrides
from ablations.config.trialrules import check
from ablations.config.unread import check_read
from ablations.config.words import parse
from models.base.typed import ConfigError, build, closest, nested
from models.cost import cost
from models.sizes import size

ONE_PROCESS = "each job is one process on one node"
NOT_TO_SBATCH = {
    "array": "jobs are an array already, of which launch.workers run at once",
    "wrap": "jobs run the harness's own command",
    "output": "what a job prints is kept in the run's folder",
    "error": "what a job prints is kept in the run's folder",
    "open-mode": "what a job prints is kept in the run's folder",
    "signal": "a job is told of its end by one that it knows",
    "nodes": ONE_PROCESS,
    "ntasks": ONE_PROCESS,
    "ntasks-per-node": ONE_PROCESS,
    "parsable": "the number that sbatch prints is read as it is",
}
"""Options that the harness gives by itself, and why another would be lost, or harm."""
TRAINABLE_PARAMS = 1e9
"""A named size beyond this is there to be counted."""
FOLDERS = ("runs_dir", "results_dir", "sweeps_dir")
ELSEWHERE = {"sweep.seeds": "seeds", "sweep.search.seeds": "search_seeds", "sweep.arms": "arms"}
"""What of a sweep can be chosen for one run, and by which key."""


def compose(overrides: list[str], sweep_file: Path | None = None, instead: Mapping[str, Any] | None = None) -> Config:
    """The checked config of `KEY=VALUE ...`; `sweep_file` is read in the place of the one that has the sweep's name,
    and `instead` gives trial keys by their dotted names in place of the scale's. Raises ConfigError, one line; writes
    nothing."""
    given = parse(overrides)
    given |= {key: _folder(key, given[key]) for key in FOLDERS if given.get(key) is not None}
    name, sweeps_dir = given.pop("sweep", ""), given.get("sweeps_dir")
    if not name:
        raise ConfigError(f"sweep=NAME is required; sweeps: {', '.join(sweep_files(sweeps_dir)) or 'none'}")
    path = sweep_file or find_sweep(name, sweeps_dir)
    _refuse_claims(given, path)
    sweep = read_sweep(path)
    scale = read_scale(given.get("scale", default_scale()))
    note = scale.pop("note", "")
    values = leaves_of(scale)
    if "model" in given:
        values |= _size(given.pop("model")) | {"model.dtype": values.get("model.dtype", "auto")}
    values |= fitted(sweep, nested(values), given.get("raise_sizes", values.get("raise_sizes", True)))
    values |= instead or {}
    explicit = {key for key in given if key.split(".")[0] in TRIAL_GROUPS}

    def stated(own: Mapping[str, Any]) -> Config:
        return build(Config, nested({**values, **sweep.common, **own}))

    config = stated(given)
    tasks, copies = [os.path.expanduser(task) for task in config.eval.tasks], config.eval.data_dir
    config = dataclasses.replace(
        config,
        eval=dataclasses.replace(config.eval, tasks=tasks, data_dir=copies and os.path.expanduser(copies)),
        sweep=without(sweep, explicit),
        overrides=tuple(overrides),
        sweep_text=path.read_text(encoding="utf-8"),
        note=note,
    )
    _check_seeds(config)
    _check_launch(config.launch)
    chosen = chosen_arms(config)
    _check_set_once({key: given[key] for key in sorted(explicit)}, config, chosen, shown(path))
    unsaid = {key: value for key, value in given.items() if key not in explicit}
    _check_trials(config, chosen, shown(path), explicit, lambda: dataclasses.replace(stated(unsaid), sweep=sweep))
    return config


def chosen_arms(config: Config) -> list[str]:
    """The arms to run, in the sweep's order: the baseline always, optional ones when named or with `arms=all`."""
    arms = config.sweep.arms
    wanted = [config.arms] if isinstance(config.arms, str) else config.arms
    if wanted is None:
        return [name for name, arm in arms.items() if not arm.optional]
    if wanted == ["all"]:
        return list(arms)
    for name in wanted:
        if name not in arms:
            raise ConfigError(f"arms={name}: no such arm{closest(name, arms)} (arms: {', '.join(arms)}; or arms=all)")
    if not wanted or wanted == [config.sweep.baseline]:
        raise ConfigError(f"arms={wanted}: name at least one arm besides the baseline {config.sweep.baseline}")
    return [name for name in arms if name in wanted or name == config.sweep.baseline]


def config_yaml(config: Config) -> str:
    """The composed config as YAML, for `--cfg job`."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(settings(config)))


def _folder(key: str, text: str) -> str:
    """With the user's home in the place of `~`, which shells expand at the beginning of a word only."""
    folder = os.path.expanduser(text)
    if folder.startswith("~"):
        raise ConfigError(f"{key}={text}: no such user; a folder of that name is written ./{text}")
    if key == "results_dir" and os.path.isfile(folder):
        raise ConfigError(f"{key}={text}: is a file; name the folder that results are published in")
    return folder


def _refuse_claims(given: Mapping[str, Any], path: Path) -> None:
    """What is written down before the first trial is not typed beside it."""
    for key in given:
        if key.startswith("sweep."):
            instead = [f"{own}=" for prefix, own in ELSEWHERE.items() if key.startswith(prefix)]
            other = f" ({instead[0]} chooses among them for one run)" if instead else ""
            raise ConfigError(
                f"{key}: what a sweep asks and claims is its file's own{other}; edit {shown(path)}, or copy it to "
                "another name"
            )


def _size(name: str) -> dict[str, Any]:
    """The dotted model keys of a named size that can be trained here."""
    config, _ = size(name, "model")
    if cost(config, 1).total_params > TRAINABLE_PARAMS:
        raise ConfigError(
            f"model={name}: is counted (python -m models.cost {name}), not trained on one machine; "
            f"the largest that is: model=base"
        )
    return leaves_of({"model": dataclasses.asdict(config)})


def _check_seeds(config: Config) -> None:
    """`seeds=` is a number of seeds or a list of them; two are the least that a difference has an error bar from."""
    seeds = config.seeds
    if seeds is None:
        return
    chosen = config.confirmation_seeds
    if len(chosen) < 2:
        raise ConfigError(f"seeds={seeds}: a difference with an error bar needs at least 2")
    shared = sorted(set(chosen) & set(config.sweep.search.seeds))
    if shared:
        counted = f" (so many are {chosen[0]} to {chosen[-1]})" if isinstance(config.seeds, int) else ""
        raise ConfigError(
            f"seeds={seeds}{counted}: {shared[0]} is a search seed of this sweep; confirmation needs new ones"
        )


def _check_launch(launch: LaunchConfig) -> None:
    """What is said of other machines is said to somebody, and how many trials run there at once is said too."""
    if launch.kind == "local" and launch.address is not None:
        raise ConfigError(
            f"launch.address={launch.address}: of no use with launch=local; add launch=ray, or leave it out"
        )
    if launch.kind == "slurm" and launch.address not in (None, "local"):
        raise ConfigError(
            f"launch.address={launch.address}: with launch=slurm jobs go to this machine's Slurm; leave it out, or "
            "try them out on this machine with launch.address=local"
        )
    if launch.kind != "slurm" and launch.slurm:
        raise ConfigError(f"launch.slurm={launch.slurm}: options of sbatch, of no use with launch={launch.kind}")
    for name, value in launch.slurm.items():
        if (why := NOT_TO_SBATCH.get(name.replace("_", "-"))) is not None:
            raise ConfigError(f"launch.slurm.{name}={value}: {why}; leave it out")
    minutes = launch.slurm.get("time", 1)
    if not isinstance(minutes, int) or minutes < 1:
        raise ConfigError(f"launch.slurm.time={minutes}: expected minutes, a whole number of at least 1")
    if launch.elsewhere and launch.workers is None:
        raise ConfigError(
            f"launch.workers=null: launch={launch.kind}: how many trials may run at once? add launch.workers=8"
        )


def _check_set_once(explicit: Mapping[str, Any], config: Config, chosen: Iterable[str], file: str) -> None:
    """The command line sets nothing that an arm or the control sets."""
    sweep = config.sweep
    for key, value in explicit.items():
        setters = [name for name in chosen if key in sweep.arms[name].set]
        if setters:
            which = f"arm{'s' * (len(setters) > 1)} {', '.join(setters)} of {file}"
            out = "" if sweep.baseline in setters else " or leave the arm out with arms=[...]"
            raise ConfigError(f"{key}={value}: set by {which}, which it would undo; take it off the command line{out}")
    for key, value in explicit.items():
        if key in sweep.control:
            raise ConfigError(
                f"{key}={value}: the control of {file} sets it to {sweep.control[key]}; take it off the command line"
            )


def _check_trials(
    config: Config, chosen: Collection[str], file: str, explicit: Collection[str], unsaid: Callable[[], Config]
) -> None:
    """Every arm and the control can be trained. What an arm cannot be trained with is not blamed on the file where the
    command line says it (`unsaid`: the config without the keys that it sets); and what stands before the arms need not
    be whole, for they may say the rest."""
    resolved = resolved_arms(config.sweep, config.trial, file, chosen)
    control = _control(config.sweep, resolved, file)
    for name, arm_keys in [*((arm, resolved[arm]) for arm in chosen), (None, control)]:
        if (fault := _fault(partial(check, arm_keys))) is None:
            continue
        if fault == _fault(partial(check, config.trial)):
            raise ConfigError(fault)
        where = "control" if name is None else f"arm {name}"
        guilty = explicit and _fault(partial(_check_one, unsaid, name, file, chosen)) is None
        raise ConfigError(f"{where if guilty else f'{file} {where}'}: {fault}")
    if config.track.checkpoints and not any(resolved[name].eval.tasks for name in chosen):
        raise ConfigError(
            "track.checkpoints=true: a checkpoint is kept for what is asked of it, and eval.tasks=[] asks nothing; "
            "name tasks, or leave it out"
        )
    check_metrics_exist(config.sweep, resolved, file)
    check_control(control, resolved[config.sweep.baseline], file)
    check_read(config.sweep, config.trial, resolved, file, explicit)


def _check_one(of: Callable[[], Config], arm: str | None, file: str, chosen: Collection[str]) -> None:
    """An arm alone, or the control."""
    config = of()
    resolved = resolved_arms(config.sweep, config.trial, file, chosen)
    check(_control(config.sweep, resolved, file) if arm is None else resolved[arm])


def _control(sweep: SweepConfig, resolved: Mapping[str, TrialKeys], file: str) -> TrialKeys:
    return with_overrides(resolved[sweep.baseline], sweep.control, f"{file} control")


def _fault(checking: Callable[[], object]) -> str | None:
    """What is wrong, if anything is."""
    try:
        checking()
    except ConfigError as error:
        return str(error)
    return None
