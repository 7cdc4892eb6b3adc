"""The search of an arm's values: a grid, of which one scheduler asks every point.

Every arm has the same points of the shared keys and the same budget, so that a killed search repeats nothing and no
sampler's random start decides what an arm may try. Nothing is pruned; a diverging trial stops itself. Selection is
ours: the least loss among the points that keep the balance that the sweep asks for. Optuna is told, a study for each
arm, as points end.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from ablations.config.trialkeys import with_overrides
from ablations.config.trialrules import check
from ablations.judge import grid
from ablations.judge.choice import Choice, choose
from ablations.judge.grid import Measured, key_of, measure
from ablations.metrics import share_of_maximum
from ablations.record.documents import SearchTrial
from ablations.record.record import Record
from ablations.sweep.plan import Arm, Plan
from ablations.sweep.studies import Studies
from ablations.sweep.trials import Trial, Trials
from models.base.typed import ConfigError

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
        records = trials.run("search" + " widened" * bool(generation), asked, _telling(plan, asked, studies))
        keep([_row(trial, records[trial.id], plan.sweep.search.constraint_metric) for trial in asked])
        choices = {arm.name: _choice(plan, arm, asked, records) for arm in plan.searched_arms}
        wider = widened(plan, choices)
        if wider is None:
            break
        if generation < MAX_WIDENINGS:
            trials.progress.note(f"an optimum is on the edge of its grid ({_on_edge(choices)}): widened")
            plan = wider
    studies.mark(choices)
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


def _telling(plan: Plan, asked: Sequence[Trial], studies: Studies) -> Callable[[Trial, Record], None]:
    """Hears of each trial that has ended, and tells its study of a point when the last one of it has."""
    waiting = Counter((trial.arm, key_of(trial.point)) for trial in asked)
    records = dict[str, Record]()

    def ended(trial: Trial, record: Record) -> None:
        arm, own = plan.arms[trial.arm], [t for t in asked if (t.arm, t.point) == (trial.arm, trial.point)]
        records[trial.id] = record
        waiting[trial.arm, key_of(trial.point)] -= 1
        if trial.point and not waiting[trial.arm, key_of(trial.point)]:
            found = _measured(plan, own, records)
            studies.tell(arm, arm.grid(plan.shared), trial.point, found, [records[t.id] for t in own])

    return ended


def _choice(plan: Plan, arm: Arm, trials: list[Trial], records: Mapping[str, Record]) -> Choice:
    points = arm.grid(plan.shared)
    if points == [{}]:
        return Choice({}, 0.0)
    measured = {
        key_of(point): _measured(plan, (t for t in trials if t.arm == arm.name and t.point == point), records)
        for point in points
    }
    return choose(arm.name, measured, plan.sweep.search.constraint_max if arm.search else None)


def _measured(plan: Plan, trials: Iterable[Trial], records: Mapping[str, Record]) -> Measured:
    """One point, from its trials."""
    own = [records[trial.id] for trial in trials]
    shares = [_share_of_max(record, plan.sweep.search.constraint_metric) for record in own]
    return measure({record.seed: _metric(record, "loss") for record in own}, shares)


def _metric(record: Record, name: str) -> float | None:
    return record.metrics.get(name) if record.status == "complete" else None


def _share_of_max(record: Record, name: str | None) -> float | None:
    return share_of_maximum(record.metrics, name) if name is not None and record.status == "complete" else None
