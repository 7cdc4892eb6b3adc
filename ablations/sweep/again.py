"""A published result's trials, run again from what it was planned from: its own sweep file, its own command."""

import dataclasses
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.config.compose import compose
from ablations.config.schema import NAME
from ablations.config.trialkeys import OF_A_RUN, Stage, TrialKeys, differing, value_of, with_overrides
from ablations.files import sha
from ablations.judge.repeated import Again
from ablations.judge.sidebyside import leaves
from ablations.launch.progress import Progress
from ablations.record.documents import ConfirmTrial, PlanDocument, SweepState
from ablations.record.record import Record
from ablations.sweep.plan import Plan, Published
from ablations.sweep.planning import make_plan
from ablations.sweep.trials import Trials, keys_of
from ablations.sweep.workplace import check_writable, prepared_texts, started_pool
from ablations.trial.identity import bits, code_hash
from models.base.files import write_atomically
from models.base.typed import ConfigError, build
from models.precision.products import resolve_kernels
from tasks.evals.known import OUR_TASKS

OTHERWISE = ("sweep", "search", "results_dir", "sweeps_dir", "runs_dir", "dry_run", "yes_really")
"""Words of the plan's command that a rerun says itself."""
CHAINS = ("before", "teacher")
"""What a trial goes on from, and learns from."""


@dataclass(frozen=True)
class Rerun:
    """What is to be run again, and where."""

    document: PlanDocument
    state: SweepState
    runs: Path
    """Takes trials, data and the sweep's file."""
    workers: int | None = None
    progress: str = "auto"
    trust: bool = False
    """Whether files that the result names may be opened."""


def planned_again(rerun: Rerun) -> Plan:
    """The plan, made anew; searched values are those of the result. Nothing is read but its words: a result may be
    anybody's, and what its plan names (files of tasks, of text) is opened only where `trust` says so.

    Raises ConfigError where the result does not hold its sweep's file, where that makes another plan here, or where it
    names files.
    """
    document, state = rerun.document, rerun.state
    if not document.sweep_file or not document.command:
        raise ConfigError(
            f"plan.json of sweep={document.sweep}: holds neither the sweep's file nor the command (it is of an earlier "
            "version), so that nothing can be run from it; tables_only=true rebuilds its tables"
        )
    if not NAME.fullmatch(document.sweep):
        raise ConfigError(f"plan.json: sweep={document.sweep}: not the name of a sweep (letters, digits, _ and -)")
    check_writable(rerun.runs)
    file = rerun.runs / "sweeps" / f"{document.sweep}.yaml"
    write_atomically(file, document.sweep_file)
    own = [word for word in _typed(document.command) if not _says_how(word)]
    places = [f"results_dir={rerun.runs / 'none'}", f"runs_dir={rerun.runs}"]
    given = [f"sweep={document.sweep}", "search=fresh", *own, *places, "track.mode=disabled"]
    given += [f"launch.progress={rerun.progress}"]
    given += [f"launch.workers={rerun.workers}"] if rerun.workers is not None else []
    plan = make_plan(compose(given, file))
    if instead := _otherwise_set(document, plan, own):
        said = ", ".join(f"{key}={value}" for key, value in sorted(instead.items()))
        print(f"as its plan has it, and not as the scale, a default or this machine would: {said}")
        plan = make_plan(compose(given, file, instead))
    missing = sorted(document.arms.keys() - (plan.arms.keys() & state.chosen.keys()))
    if missing:
        raise ConfigError(
            f"sweep={document.sweep}: no arm {', '.join(missing)} comes of its file, which the result has"
        )
    if not rerun.trust:
        _refuse_files(plan)
    return dataclasses.replace(plan, published=Published(state.chosen, state.mistuning, state.search))


def _otherwise_set(document: PlanDocument, plan: Plan, words: Sequence[str]) -> dict[str, Any]:
    """The published baseline's keys of which neither the sweep's file nor a word of the command says anything, and that
    are other ones here."""
    sweep, keys = plan.sweep, plan.baseline.keys
    baseline = sweep.arms[sweep.baseline]
    said = {*sweep.common, *sweep.search.keys, *baseline.set, *baseline.search, *(w.partition("=")[0] for w in words)}
    return {key: value_of(document.keys, key) for key in differing(document.keys, keys) if key not in said}


def _says_how(word: str) -> bool:
    key = word.partition("=")[0].strip()
    return key in OTHERWISE or key.split(".")[0] in OF_A_RUN


def _typed(command: str) -> list[str]:
    """The words behind `python -m ablations.run`."""
    try:
        words = shlex.split(command)
        return words[words.index("ablations.run") + 1 :]
    except ValueError:
        raise ConfigError(f"plan.json: command={command}: no command of ablations.run") from None


def _refuse_files(plan: Plan) -> None:
    """A task's file can run code, as can a model that writes programs, and a text's path can be of anything."""
    for arm in plan.arms.values():
        data = [stage.data for stage in arm.keys.all_stages]
        named = {"eval.tasks": [task for task in arm.keys.eval.tasks if task not in OUR_TASKS]}
        named |= {"eval.data_dir": [arm.keys.eval.data_dir] if arm.keys.eval.data_dir else []}
        named |= {f"data.{name}": [v for d in data if (v := getattr(d, name))] for name in ("path", "name", "domains")}
        for key, values in named.items():
            if values:
                raise ConfigError(
                    f"arm {arm.name}: {key}={values[0]}: the result asks for this here, which can run its "
                    "author's code; trust=true does so all the same"
                )


def run_again(
    rerun: Rerun, plan: Plan, wanted: Collection[ConfirmTrial], published: Callable[[str], Record]
) -> list[Again]:
    """Train them, and what they branch off. `published`: the record of an id.

    Raises ConfigError where a trial would be of other keys than its record has, or learn from another text: that no
    number could tell from chance.
    """
    before = {trial: published(trial.id) for trial in wanted}
    for trial, record in before.items():
        point = rerun.state.chosen[trial.arm]
        _check_keys(trial, keys_of(plan, plan.arms[trial.arm], "confirm", point, trial.share), record)
    with Progress(plan.config.launch.progress, plan.sweep.name) as progress:
        text = prepared_texts(plan, rerun.runs / "data", progress.note)
        for trial, record in before.items():
            if record.data and sha(record.data) != sha(text(plan.arms[trial.arm].keys)):
                raise ConfigError(
                    f"arm {trial.arm} seed {trial.seed}: learns from another text here than its record did; install "
                    "the versions of its commit's requirements.lock, of whose sources the text is made"
                )
        with started_pool(plan, rerun.runs, rerun.runs / "logs", progress) as pool:
            trials = Trials(plan, rerun.runs, plan.config.scale, text, pool, progress)
            made = {
                trial: trials.of(
                    plan.arms[trial.arm], "confirm", trial.seed, rerun.state.chosen[trial.arm], trial.share
                )
                for trial in before
            }
            records = trials.run("reproduction", list(made.values()))
    return [Again(trial.arm, trial.seed, before[trial], records[own.id], trial.share) for trial, own in made.items()]


def _check_keys(trial: ConfirmTrial, own: TrialKeys, record: Record) -> None:
    known = build(TrialKeys, record.config)  # a key that was not there yet had its default
    settled = {"model.precision.kernels": resolve_kernels(known.model.precision.kernels)}  # once was left to the trial
    known = with_overrides(known, settled, "")
    other = [(name, value_of(own, name), value_of(known, name)) for name in differing(known, own)]
    other = other or [found for name in CHAINS for found in _in_chains(name, getattr(own, name), getattr(known, name))]
    if other:
        (name, here, there), more = other[0], f", and {len(other) - 1} more keys" if len(other) > 1 else ""
        raise ConfigError(
            f"arm {trial.arm} seed {trial.seed}: {name}={here} here, and {there} in its record{more}: the scale, the "
            "sweep's file or defaults have changed since; run it from its own commit"
        )


def _in_chains(place: str, own: Sequence[Stage], known: Sequence[Stage]) -> list[tuple[str, Any, Any]]:
    """Key, value here and value there of what differs in earlier stages, or in teachers'."""
    if len(own) != len(known):
        return [(f"stages of {place}", len(own), len(known))]
    found = list[tuple[str, Any, Any]]()
    for number, (here, there) in enumerate(zip(own, known, strict=True), start=1):
        said = f"{place}, stage {number}"
        left, right = (dict(leaves(dataclasses.asdict(dataclasses.replace(s, teacher=[])))) for s in (here, there))
        found += [(f"{said}: {key}", value, right[key]) for key, value in left.items() if value != right[key]]
        found += _in_chains(f"teacher of {said}", here.teacher, there.teacher)
    return found


def why_other(record: Record) -> str | None:
    """What of code, versions and instruction set makes it another trial here than it was: each as `name here, there`.
    None where nothing of them does."""
    now = {**bits(), "code": code_hash()}
    found = [
        f"{name} {_short(value)} here, {_short(record.environment.get(name))} there"
        for name, value in now.items()
        if record.environment.get(name) != value
    ]
    return ", ".join(found) or None


def _short(value: Any) -> str:
    return str(value)[:12]
