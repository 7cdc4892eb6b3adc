"""A published result's trials, run again from what it was planned from: its own sweep file, its own command."""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.config.compose import compose
from ablations.config.trialkeys import TrialKeys, differing, value_of
from ablations.judge.repeated import Again
from ablations.launch.progress import Progress
from ablations.record.documents import ConfirmTrial, PlanDocument, SweepState
from ablations.record.record import Record
from ablations.sweep.plan import Plan, Published
from ablations.sweep.planning import make_plan
from ablations.sweep.trials import Trial, Trials
from ablations.sweep.workplace import check_writable, prepared_texts, started_pool
from ablations.trial.identity import bits, code_hash
from models.files import write_atomically
from models.typed import ConfigError, build

OTHERWISE = ("sweep", "search", "results_dir", "sweeps_dir", "runs_dir")
"""Words of the plan's command that a rerun says itself."""


@dataclass(frozen=True)
class Rerun:
    """What is to be run again, and where."""

    document: PlanDocument
    state: SweepState
    runs: Path
    """Takes trials, data and the sweep's file."""
    workers: int | None = None
    progress: str = "auto"


def planned_again(rerun: Rerun) -> Plan:
    """The plan, made anew; searched values are those of the result.

    Raises ConfigError where the result does not hold its sweep's file, or where that makes another plan here.
    """
    document = rerun.document
    if not document.sweep_file or not document.command:
        raise ConfigError(
            f"plan.json of sweep={document.sweep}: holds neither the sweep's file nor the command (it is of an earlier "
            "version), so that nothing can be run from it; tables_only=true rebuilds its tables"
        )
    file = rerun.runs / "sweeps" / f"{document.sweep}.yaml"
    write_atomically(file, document.sweep_file)
    words = shlex.split(document.command)
    own = [word for word in words[words.index("ablations.run") + 1 :] if word.partition("=")[0] not in OTHERWISE]
    places = [f"results_dir={rerun.runs / 'none'}", f"runs_dir={rerun.runs}"]
    given = [f"sweep={document.sweep}", "search=fresh", *own, *places, "track.mode=disabled"]
    given += [f"launch.progress={rerun.progress}"]
    given += [f"launch.workers={rerun.workers}"] if rerun.workers is not None else []
    plan = make_plan(compose(given, file))
    missing = sorted(document.arms.keys() - plan.arms.keys())
    if missing:
        raise ConfigError(f"sweep={document.sweep}: makes no arm {', '.join(missing)} here, which the result has")
    state = rerun.state
    return dataclasses.replace(plan, published=Published(state.chosen, state.mistuning, state.search))


def run_again(
    rerun: Rerun, plan: Plan, wanted: Collection[ConfirmTrial], published: Callable[[str], Record]
) -> list[Again]:
    """Train them, and what they branch off. `published`: the record of an id.

    Raises ConfigError where a trial would be of other keys than its record has, which no number could tell from chance.
    """
    check_writable(rerun.runs)
    with Progress(plan.config.launch.progress, plan.sweep.name) as progress:
        fingerprint = prepared_texts(plan, rerun.runs / "data", progress.note)
        with started_pool(plan, rerun.runs, rerun.runs / "logs", progress) as pool:
            trials = Trials(plan, rerun.runs, plan.config.scale, fingerprint, pool, progress)
            made = {
                trial: trials.of(
                    plan.arms[trial.arm], "confirm", trial.seed, rerun.state.chosen[trial.arm], trial.share
                )
                for trial in wanted
            }
            before = {trial: published(trial.id) for trial in made}
            for trial, own in made.items():
                _check_keys(trial, own, before[trial])
                if own.id != trial.id:
                    other = why_other(before[trial], fingerprint(own.keys))
                    progress.note(f"{trial.arm} seed {trial.seed}: another trial here ({other})")
            records = trials.run("reproduction", list(made.values()))
    return [Again(trial.arm, trial.seed, before[trial], records[own.id], trial.share) for trial, own in made.items()]


def _check_keys(trial: ConfirmTrial, own: Trial, record: Record) -> None:
    known = build(TrialKeys, record.config)  # a key that was not there yet had its default
    other = differing(known, own.keys) or (["before"] if known.before != own.keys.before else [])
    if other:
        name, more = other[0], f", and {len(other) - 1} more keys" if len(other) > 1 else ""
        here, there = (
            getattr(keys, name, None) if name == "before" else value_of(keys, name) for keys in (own.keys, known)
        )
        raise ConfigError(
            f"arm {trial.arm} seed {trial.seed}: {name}={here} here, and {there} in its record{more}: the scale or "
            "defaults have changed since; run it from its own commit"
        )


def why_other(record: Record, text: Mapping[str, Any]) -> str:
    """What makes this another trial than the record's: each as `name here, there`."""
    now = {**bits(), "code": code_hash()}
    found = [
        f"{name}: {_short(value)} here, {_short(record.environment.get(name))} there"
        for name, value in now.items()
        if record.environment.get(name) != value
    ]
    return (
        ", ".join([*found, *(["the text is another"] if record.data != text else [])])
        or "its keys are written otherwise"
    )


def _short(value: Any) -> str:
    return str(value)[:12]
