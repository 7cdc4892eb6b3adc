"""From plan, state and records to one `Result`: the only thing that tables, figures and pages read.

Nothing here is parsed from logs, and nothing is dropped: a diverged or failed trial is counted and shown, and enters no
mean. Records that do not exist yet are simply not there, so that the same code reports a sweep that is still running.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from ablations.config.sweepfile import scale_names
from ablations.judge.constraint import Constraint
from ablations.judge.distinct import apart, distinct
from ablations.judge.families import families_of
from ablations.judge.judging import verdicts_of, with_search
from ablations.judge.loss_curve import loss_error
from ablations.judge.result import ArmResult, Result, rule_of, score_values, seeds_of
from ablations.metrics import at_shares
from ablations.record.documents import (
    PLAN,
    STATE,
    PlanDocument,
    SweepState,
    sha_of,
)
from ablations.record.record import RECORD, RECORDS, Record, read_record, recorded_at
from models.base.typed import ConfigError, closest


def load_result(runs_dir: str | Path, sweep: str, run: str, published: Path | None = None) -> Result:
    """The result of what is finished so far. `run` is its folder's name; `published` is a folder of records to fall
    back on, by id.

    Raises ConfigError where no run of this sweep was ever planned.
    """
    runs = Path(runs_dir)
    folder = runs / sweep / run
    if not (folder / PLAN).is_file():
        raise ConfigError(_no_such_run(runs, sweep, run))

    def find(trial_id: str) -> Record | None:
        elsewhere = [published / f"{trial_id}.json"] if published else []
        place = recorded_at(runs / "trials" / trial_id / RECORD, *elsewhere)
        return read_record(place) if place else None

    return _gather(folder, find)


def load_published(folder: Path) -> Result:
    """The result in a published folder, from its plan.json, state.json and records/ alone."""
    if not (folder / PLAN).is_file():
        raise ConfigError(f"{folder}: holds no {PLAN}, so it is no published result")
    records = folder / RECORDS
    return _gather(folder, lambda i: read_record(records / f"{i}.json") if (records / f"{i}.json").is_file() else None)


def load_with(folder: Path, records: Mapping[str, Record]) -> Result:
    """The published result as it would be with other records, by the ids under which it knows them."""
    return _gather(folder, records.get)


def _gather(folder: Path, find: Callable[[str], Record | None]) -> Result:
    plan, state, plan_sha = PlanDocument.read(folder), SweepState.read(folder), sha_of(folder / PLAN)
    if state.looked not in (0, *plan.looks):
        raise ConfigError(f"{folder / STATE}: looked={state.looked}: {PLAN} looks after {plan.looks or 'all'} seeds")
    ids = {(trial.arm, trial.seed): trial.id for trial in state.confirm if trial.share == 1}
    arms = {}
    for name in sorted(plan.arms, key=lambda name: _rank(name, plan)):
        found = {seed: find(ids[name, seed]) for seed in seeds_of(plan, state) if (name, seed) in ids}
        arms[name] = _arm(name, plan, state, {seed: record for seed, record in found.items() if record is not None})
        _with_shorter(arms[name], plan, state, find)
    if "loss_error" in (plan.primary, *plan.metrics, *(claim.metric for claim in plan.expected)):
        for arm in arms.values():
            arm.values["loss_error"] = _loss_errors(arm, arms[plan.baseline])
    deviations = list(state.deviations)
    if state.plan_sha and state.plan_sha != plan_sha:
        deviations.append(f"{PLAN} is not the plan that these trials were run under (its hash differs)")
    if plan.decision_rule != rule_of(plan):
        deviations.append(f"the verdicts follow the decision rule of a later version, not that of {PLAN}")
    arms = _with_late_guards(arms, plan, state)
    families = families_of(arms, plan)
    constraint = Constraint.of(plan.search_rule)
    arms = {name: with_search(arm, state.search, constraint) for name, arm in arms.items()}
    return Result(
        run=folder.name,
        plan=plan,
        plan_sha=plan_sha,
        state=state,
        arms=arms,
        differences={m: {pair: d for pair, d in f.items() if d.n} for m, f in families.items()},
        verdicts=verdicts_of(arms, plan, families, {trial.arm for trial in state.search}),
        deviations=deviations,
    )


def _with_late_guards(arms: dict[str, ArmResult], plan: PlanDocument, state: SweepState) -> dict[str, ArmResult]:
    """What only finished trials show: that toggles did something, and that no seed both chose and judged."""
    own, found = distinct(arms, plan), {}
    for name, arm in arms.items():
        seeds = apart({trial.seed for trial in state.search if trial.arm == name}, plan.seeds)
        late = [result for result in (own.get(name), seeds) if result is not None]
        before = [guard for guard in arm.guards if guard.name not in {result.name for result in late}]
        found[name] = dataclasses.replace(arm, guards=before + late)
    return found


def _rank(name: str, plan: PlanDocument) -> tuple[int, str]:
    """Baseline, the sweep's own arms by name, the control, the A/A arm: JSON keeps no order of its own."""
    order = {"arm": 1, "control": 2, "aa": 3}
    return (0 if name == plan.baseline else order[plan.arms[name].kind], name)


def _arm(name: str, plan: PlanDocument, state: SweepState, records: dict[int, Record]) -> ArmResult:
    """What a run has not come to yet is not there: a state knows an arm from the step on that settled something."""
    values: dict[str, dict[int, float]] = {}
    for seed, record in records.items():
        if record.status != "complete":
            continue
        for metric, value in {**record.metrics, **score_values(record)}.items():
            if math.isfinite(value):
                values.setdefault(metric, {})[seed] = value
    if any(key.startswith("data.") for key in plan.arms[name].set):
        values.pop("train_loss", None)  # of otherwise arranged text: another yardstick
    return ArmResult(
        name=name,
        plan=plan.arms[name],
        seeds=seeds_of(plan, state),
        records=records,
        values=values,
        chosen=state.chosen.get(name, {}),
        guards=state.guards.get(name, []),
        mistuning=state.mistuning.get(name),
        speed=state.speed.get(name),
        chunks=state.chunks.get(name, {}),
    )


def _with_shorter(arm: ArmResult, plan: PlanDocument, state: SweepState, find: Callable[[str], Record | None]) -> None:
    """Its values after shorter trainings, and their losses as metrics of the arm."""
    names = {share: name for name, share in at_shares(plan.horizons).items()}
    for trial in state.confirm:
        record = find(trial.id) if trial.arm == arm.name and trial.share in names else None
        if record is None or record.status != "complete":
            continue
        for metric, value in {**record.metrics, **score_values(record)}.items():
            if math.isfinite(value):
                arm.shorter.setdefault(trial.share, {}).setdefault(metric, {})[trial.seed] = value
    for share, name in names.items():
        if losses := arm.shorter.get(share, {}).get("loss"):
            arm.values[name] = losses


def _loss_errors(arm: ArmResult, baseline: ArmResult) -> dict[int, float]:
    """Seed -> the arm's training curve against the baseline's of the same seed."""
    complete = set(arm.of_status("complete")) & set(baseline.of_status("complete"))
    curves = {seed: (arm.records[seed].history, baseline.records[seed].history) for seed in sorted(complete)}
    return {
        seed: loss_error(ours["loss"], theirs["loss"]) for seed, (ours, theirs) in curves.items() if ours and theirs
    }


def _no_such_run(runs: Path, sweep: str, run: str) -> str:
    """`run`: the name of its folder, which is a scale's, or that and a plan's hash; so `scale` or `run` has said it."""
    known = sorted(f"{p.parent.parent.name} {p.parent.name}" for p in runs.glob(f"*/*/{PLAN}"))
    if there := [pair.split()[1] for pair in known if pair.split()[0] == sweep]:
        return f"sweep={sweep}: no run {run} under {runs}; take another scale or run (there is: {', '.join(there)})"
    near, scale = closest(sweep, [pair.split()[0] for pair in known]), run.partition("@")[0]
    made = f" (`python -m ablations.run sweep={sweep} scale={scale}` makes one)" if scale in scale_names() else ""
    return f"sweep={sweep}: no run {run} under {runs}{near}{made}"
