"""The search of an arm's values: one Optuna study per arm, told by one scheduler, in index order.

Every arm has the same points of the shared keys and the same budget. The grid is enqueued, so that a killed search
repeats nothing and no sampler's random start decides what an arm may try. Nothing is pruned; a diverging trial stops
itself. Selection is ours: the least loss among the points that keep the balance that the sweep asks for.
"""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import with_overrides
from ablations.config.trialrules import check
from ablations.judge import grid
from ablations.judge.choice import Choice, choose
from ablations.judge.grid import Key, Measured, Point, key_of, measure
from ablations.metrics import share_of_maximum
from ablations.record.documents import SearchTrial
from ablations.record.record import Record
from ablations.sweep.plan import Arm, Plan
from ablations.sweep.trials import Trial, Trials
from models.files import set_aside
from models.typed import ConfigError

MAX_WIDENINGS = 2
"""How often an optimum on the edge of a grid widens it."""


def widened(plan: Plan, choices: Mapping[str, Choice]) -> Plan | None:
    """The plan with a value added where an optimum lies on an edge, or None where none does, or none can be added.

    Budgets stay equal: a shared key is widened for all arms, and where one arm's strength is widened, each other arm
    that searches one gets one more value too, beside its best. Arms without a strength have more search seeds instead
    (`Plan.search_seeds`).
    """
    shared = dict(plan.shared)
    for key, values in plan.shared.items():
        sides = {choice.edges[key] for choice in choices.values() if key in choice.edges}
        if sides and len(values) > 1:
            shared[key] = _valid(plan.baseline, key, grid.widened(values, sides))
    arms = dict(plan.arms)
    if any(choices[arm.name].edges.keys() & arm.search.keys() for arm in plan.searched_arms):
        arms |= {arm.name: _with_another_strength(arm, choices[arm.name]) for arm in plan.searched_arms}
    if shared == plan.shared and arms == plan.arms:
        return None
    return dataclasses.replace(plan, shared=shared, arms=arms)


def _with_another_strength(arm: Arm, choice: Choice) -> Arm:
    """One more value of one strength: beyond an edge if one lies there, else beside the best."""
    searched = [key for key, values in arm.search.items() if len(values) > 1]
    if not searched:
        return arm
    key = next((key for key in searched if key in choice.edges), searched[0])
    values, side = arm.search[key], choice.edges.get(key)
    more = grid.widened(values, [side]) if side else grid.refined(values, choice.point[key])
    return dataclasses.replace(arm, search={**arm.search, key: _valid(arm, key, more)})


def _valid(arm: Arm, key: str, values: list[float]) -> list[float]:
    """Without the values that the key does not take: a share ends at 1, however far its grid would go on."""
    kept = []
    for value in values:
        with contextlib.suppress(ConfigError):
            check(with_overrides(arm.keys, {key: value}, key))
            kept.append(value)
    return kept


def search(
    plan: Plan, trials: Trials, journal: Path, keep: Callable[[list[SearchTrial]], None]
) -> tuple[dict[str, Choice], list[str]]:
    """The choice of every searched arm, and what the result must say about it. After each generation of learning rates
    `keep` is given the rows of all trials so far."""
    if not any(arm.grid(plan.shared)[0] for arm in plan.searched_arms):
        return {arm.name: Choice({}, None) for arm in plan.searched_arms}, []
    studies, notes = Studies(plan, journal, trials.progress.note), []
    for generation in range(MAX_WIDENINGS + 1):
        asked = [
            trials.of(arm, "search", seed, point)
            for arm in plan.searched_arms
            for point in arm.grid(plan.shared)
            for seed in plan.search_seeds(arm)
        ]
        records = trials.run("search" + " widened" * bool(generation), asked)
        keep([_row(trial, records[trial.id], plan.sweep.search.constraint_metric) for trial in asked])
        choices = {arm.name: _choice(plan, arm, asked, records, studies) for arm in plan.searched_arms}
        wider = widened(plan, choices)
        if wider is None:
            break
        if generation < MAX_WIDENINGS:
            trials.progress.note(f"an optimum is on the edge of its grid ({_on_edge(choices)}): widened")
            plan = wider
    if _on_edge(choices):
        notes = [f"the best searched value is still on the edge of its grid: {_on_edge(choices)}"]
    return choices, [*notes, *(note for choice in choices.values() for note in choice.notes)]


def _on_edge(choices: Mapping[str, Choice]) -> str:
    return ", ".join(
        f"{key}={choice.point[key]:g} of {name} ({side}est)"
        for name, choice in choices.items()
        for key, side in choice.edges.items()
    )


def _row(trial: Trial, record: Record, constraint: str | None) -> SearchTrial:
    loss, max_vio = _metric(record, "loss"), _metric(record, "max_vio_global")
    share = _share_of_max(record, constraint)
    return SearchTrial(trial.arm, trial.point, trial.seed, trial.id, loss, max_vio, share)


def _choice(plan: Plan, arm: Arm, trials: list[Trial], records: Mapping[str, Record], studies: "Studies") -> Choice:
    rule, points = plan.sweep.search, arm.grid(plan.shared)
    if points == [{}]:
        return Choice({}, 0.0)
    measured: dict[Key, Measured] = {}
    ids: dict[Key, list[str]] = {}
    for point in points:
        own = [t for t in trials if t.arm == arm.name and t.point == point]
        shares = [_share_of_max(records[t.id], rule.constraint_metric) for t in own]
        measured[key_of(point)] = measure({t.seed: _metric(records[t.id], "loss") for t in own}, shares)
        ids[key_of(point)] = [t.id for t in own]
    studies.tell(arm, points, measured, ids)
    return choose(arm.name, measured, rule.constraint_max if arm.search else None)


def _metric(record: Record, name: str) -> float | None:
    return record.metrics.get(name) if record.status == "complete" else None


def _share_of_max(record: Record, name: str | None) -> float | None:
    return share_of_maximum(record.metrics, name) if name is not None and record.status == "complete" else None


class Studies:
    """One Optuna study per arm in a JournalFile; only this process opens them.

    The journal mirrors the records, for Optuna's own tools. One that is damaged is set aside, and a new one is filled
    from the records as they are told again.
    """

    def __init__(self, plan: Plan, journal: Path, note: Callable[[str], None] = lambda text: None) -> None:
        journal.parent.mkdir(parents=True, exist_ok=True)
        _mend(journal)
        try:
            self._studies = _open(plan, journal)
        except OSError:
            raise
        except Exception as error:  # whatever the replay of a damaged journal ends in
            aside = set_aside(journal)
            note(
                f"{journal.name} is damaged ({type(error).__name__}): set aside as {aside.name}, made anew from records"
            )
            self._studies = _open(plan, journal)

    def tell(
        self, arm: Arm, points: list[Point], measured: Mapping[Any, Measured], trial_ids: Mapping[Any, Any]
    ) -> None:
        """Tell a generation's points in index order; those that the study has from the same trials are left alone.

        A diverged point is told as pruned: it stopped itself. So `failed` is only what a killed scheduler left.
        """
        from optuna.trial import TrialState

        study = self._studies[arm.name]
        for _ in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.ask()  # only a running trial can be told
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        told = [(trial.user_attrs.get("trials"), trial.value) for trial in finished]
        for point in points:
            result, ids = measured[key_of(point)], list(trial_ids[key_of(point)])
            if (ids, result.loss if math.isfinite(result.loss) else None) in told:
                continue
            study.enqueue_trial(point)
            asked = study.ask()
            for name, value in point.items():
                asked.suggest_float(name, *_range(points, name), log=value > 0)
            asked.set_user_attr("constraint_share_of_max", result.constraint if math.isfinite(result.loss) else None)
            asked.set_user_attr("trials", ids)
            if math.isfinite(result.loss):
                study.tell(asked, result.loss)
            else:
                study.tell(asked, state=TrialState.PRUNED)


def _open(plan: Plan, journal: Path) -> dict[str, Any]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return {
        arm.name: optuna.create_study(
            storage=storage,
            study_name=f"{plan.sweep.name}/{plan.config.scale}/{arm.name}",
            direction="minimize",
            load_if_exists=True,
        )
        for arm in plan.searched_arms
    }


def _mend(journal: Path) -> None:
    """Undo what a kill amid a write leaves: a lock that nobody holds (Optuna would wait 30 s for it), half a line."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.is_file():
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)


def _range(points: list[Point], name: str) -> tuple[float, float]:
    values = [point[name] for point in points]
    return min(values), max(values)
