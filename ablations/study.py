"""The search of an arm's values: one Optuna study per arm, told by one scheduler, in index order.

Every arm has the same points of the shared keys and the same budget. The grid is enqueued, so that a killed search
repeats nothing and no sampler's random start decides what an arm may try. Nothing is pruned; a diverging trial stops
itself. Selection is ours: the least loss among the points that keep the balance that the sweep asks for.
"""

import math
import os
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.plan import LEARNING_RATE, Arm, Plan
from ablations.records import Record
from ablations.stats import mistuning_bound, on_edge
from ablations.trials import Trial, Trials
from models.files import set_aside

MAX_WIDENINGS = 2
"""How often an optimum on the edge widens the learning rates, for all arms."""

Point = dict[str, float]


@dataclass(frozen=True)
class Measured:
    """A search point's mean over its seeds; infinite loss where a seed diverged or failed."""

    loss: float
    constraint: float
    """The constrained metric, as a share of its maximum."""


@dataclass(frozen=True)
class Choice:
    point: Point
    mistuning: float | None
    """Bound, in nats, on what a learning rate between the searched ones could gain; None at an edge."""
    edge: str | None
    """`low` or `high` where the best learning rate is the last one on that side."""
    note: str | None = None


def key_of(point: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    return tuple(sorted(point.items()))


def measure(losses: list[float | None], constraints: list[float | None]) -> Measured:
    """Mean over the seeds of one point."""
    if not losses or any(loss is None for loss in losses):
        return Measured(math.inf, math.inf)
    shares = [share for share in constraints if share is not None]
    return Measured(
        statistics.fmean(loss for loss in losses if loss is not None), statistics.fmean(shares) if shares else 0.0
    )


def choose(arm: Arm, measured: Mapping[tuple[tuple[str, float], ...], Measured], limit: float | None) -> Choice:
    """Least loss among the points within the limit. The limit binds arms that search a strength of their own; where no
    point meets it, the best-balanced point is taken, and said."""
    constrained = limit is not None and bool(arm.search)
    eligible = {p: m for p, m in measured.items() if not constrained or m.constraint <= (limit or 0.0)}
    note = None
    if not any(math.isfinite(m.loss) for m in eligible.values()):
        finite = {p: m for p, m in measured.items() if math.isfinite(m.loss)} or dict(measured)
        best = min(finite, key=lambda p: (finite[p].constraint, finite[p].loss))
        if not math.isfinite(measured[best].loss):
            note = f"{arm.name}: all searched points diverged; one of them was taken"
        elif constrained:
            note = f"{arm.name}: no searched point keeps the balance asked for; the best balanced one was taken"
    else:
        best = min(eligible, key=lambda p: eligible[p].loss)
    point = dict(best)
    if LEARNING_RATE not in point:
        return Choice(point, None, None, note)
    others = {key: value for key, value in point.items() if key != LEARNING_RATE}
    curve = {
        dict(p)[LEARNING_RATE]: m.loss
        for p, m in measured.items()
        if {key: value for key, value in p if key != LEARNING_RATE} == others
    }
    edge = on_edge(curve) if len(curve) >= 3 else None
    return Choice(point, mistuning_bound(curve), edge, note)


def widened(shared: Mapping[str, list[float]], choices: Mapping[str, Choice]) -> dict[str, list[float]] | None:
    """The shared grid with a learning rate added on each side where some arm's optimum lies on the edge, or None."""
    rates = sorted(shared.get(LEARNING_RATE, []))
    sides = {choice.edge for choice in choices.values()} - {None}
    if len(rates) < 2 or not sides:
        return None
    if "low" in sides:
        rates = [rates[0] * rates[0] / rates[1], *rates]
    if "high" in sides:
        rates = [*rates, rates[-1] * rates[-1] / rates[-2]]
    return {**shared, LEARNING_RATE: [float(f"{rate:.6g}") for rate in rates]}


def search(
    plan: Plan, trials: Trials, journal: Path, keep: Callable[[list[dict[str, Any]]], None]
) -> tuple[dict[str, Choice], list[str]]:
    """The choice of every searched arm, and what the result must say about it. After each generation of learning rates
    `keep` is given the rows of all trials so far."""
    shared = plan.shared
    if not any(arm.grid(shared)[0] for arm in plan.searched_arms):
        return {arm.name: Choice({}, None, None) for arm in plan.searched_arms}, []
    studies, notes = Studies(plan, journal, trials.progress.note), []
    for generation in range(MAX_WIDENINGS + 1):
        asked = [
            trials.of(arm, "search", seed, point)
            for arm in plan.searched_arms
            for point in arm.grid(shared)
            for seed in plan.search_seeds(arm)
        ]
        records = trials.run("search" + " widened" * bool(generation), asked)
        keep([_row(trial, records[trial.id]) for trial in asked])
        choices = {
            arm.name: _choice(plan, arm, arm.grid(shared), asked, records, studies) for arm in plan.searched_arms
        }
        wider = widened(shared, choices)
        if wider is None:
            break
        if generation == MAX_WIDENINGS:
            on_edge = ", ".join(name for name, choice in choices.items() if choice.edge)
            notes = [f"after {MAX_WIDENINGS} widenings the best learning rate is still on the edge for {on_edge}"]
            break
        trials.progress.note(
            f"an optimum is on the edge: learning rates widened to {wider[LEARNING_RATE]} for all arms"
        )
        shared = wider
    return choices, [*notes, *(choice.note for choice in choices.values() if choice.note)]


def _row(trial: Trial, record: Record) -> dict[str, Any]:
    measured = {name: _metric(record, name) for name in ("loss", "max_vio_global")}
    return {"arm": trial.arm, "point": trial.point, "seed": trial.seed, "id": trial.id, **measured}


def _choice(
    plan: Plan, arm: Arm, grid: list[Point], trials: list[Trial], records: Mapping[str, Record], studies: "Studies"
) -> Choice:
    rule = plan.sweep.search
    measured: dict[Any, Measured] = {}
    ids: dict[Any, list[str]] = {}
    for point in grid:
        own = [t for t in trials if t.arm == arm.name and t.point == point]
        shares = [_share_of_max(records[t.id], rule.constraint_metric) for t in own]
        measured[key_of(point)] = measure([_metric(records[t.id], "loss") for t in own], shares)
        ids[key_of(point)] = [t.id for t in own]
    studies.tell(arm, grid, measured, ids)
    return choose(arm, measured, rule.constraint_max if rule.constraint_metric else None)


def _metric(record: Record, name: str) -> float | None:
    return record.metrics.get(name) if record.status == "complete" else None


def _share_of_max(record: Record, name: str | None) -> float | None:
    value = _metric(record, name) if name else None
    most = record.metrics.get("max_vio_max") if name and name.startswith("max_vio") else 1.0
    return None if value is None else value / (most or 1.0)


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
