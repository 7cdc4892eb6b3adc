"""From plan, state and records to one `Result`: the only thing that tables, figures and pages read.

Nothing here is parsed from logs, and nothing is dropped: a diverged or failed trial is counted and shown, and enters no
mean. Records that do not exist yet are simply not there, so that the same code reports a sweep that is still running.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.config.schema import ExpectedConfig
from ablations.judge.constraint import Constraint, Held
from ablations.judge.judging import families_of, verdicts_of, with_search
from ablations.judge.loss_curve import loss_error
from ablations.judge.stats import Difference, Edge, between, tokens_saved
from ablations.judge.verdicts import DECISION_RULE, Verdict
from ablations.record.documents import (
    PLAN,
    ArmDocument,
    ArmKind,
    Chunks,
    PlanDocument,
    Point,
    SearchTrial,
    Speed,
    SweepState,
    sha_of,
)
from ablations.record.guardresult import GuardResult
from ablations.record.record import RECORD, RECORDS, Record, read_record, recorded_at
from models.typed import ConfigError, closest


@dataclass(frozen=True)
class ArmResult:
    """What the confirmation trials of one arm say. `values[metric][seed]` holds complete trials only."""

    name: str
    plan: ArmDocument
    seeds: list[int]
    """Those that the plan asks for."""
    records: dict[int, Record] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    chosen: Point = field(default_factory=dict)
    guards: list[GuardResult] = field(default_factory=list)
    mistuning: float | None = None
    """Estimate, in nats, of what a better point between the searched ones could gain; None where nothing was searched,
    and at an edge."""
    edges: dict[str, Edge] = field(default_factory=dict)
    """Searched keys whose chosen value is the last of its grid on that side."""
    held: Held | None = None
    """The search's limit on balance, on these trials; None where it had none."""
    speed: Speed | None = None
    """None where it was not measured."""
    chunks: Chunks = field(default_factory=dict)

    @property
    def kind(self) -> ArmKind:
        return self.plan.kind

    def of_status(self, status: str) -> list[int]:
        """Seeds whose trial ended as `complete`, `diverged` or `failed`."""
        return [seed for seed, record in self.records.items() if record.status == status]

    def mean(self, metric: str) -> float | None:
        values = list(self.values.get(metric, {}).values())
        return statistics.fmean(values) if values else None

    def sd(self, metric: str) -> float | None:
        values = list(self.values.get(metric, {}).values())
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Result:
    """A sweep at one scale. `arms` starts with the baseline and ends with the control and the A/A arm."""

    plan: PlanDocument
    plan_sha: str
    """SHA-256 of the bytes of plan.json."""
    state: SweepState
    arms: dict[str, ArmResult]
    differences: dict[str, dict[tuple[str, str], Difference]]
    """Per metric, (arm, against) -> the paired difference; all pairs of a metric are one family, each in one order
    (`difference` finds it in both)."""
    verdicts: list[Verdict]
    """One per claim of the plan, in the same order."""
    deviations: list[str]
    """Those that the run noted, and those that reading it shows."""

    @property
    def sweep(self) -> str:
        return self.plan.sweep

    @property
    def scale(self) -> str:
        return self.plan.scale

    @property
    def baseline(self) -> str:
        return self.plan.baseline

    @property
    def primary(self) -> str:
        return self.plan.primary

    @property
    def seeds(self) -> list[int]:
        return self.plan.seeds

    @property
    def expected(self) -> list[ExpectedConfig]:
        return self.plan.expected

    @property
    def search(self) -> list[SearchTrial]:
        return self.state.search

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(arm, seed) of confirmation trials that the plan has and no record answers."""
        return [(name, seed) for name, arm in self.arms.items() for seed in arm.seeds if seed not in arm.records]

    def arm_of_kind(self, kind: str) -> ArmResult | None:
        return next((arm for arm in self.arms.values() if arm.kind == kind), None)

    def difference(self, arm: str, metric: str | None = None, against: str | None = None) -> Difference | None:
        return between(self.differences.get(metric or self.primary, {}), arm, against or self.baseline)

    def tokens_equivalent(self, difference: Difference | None) -> float | None:
        """The share of the training tokens that a loss difference is worth; positive saves tokens (method: costs)."""
        control, fraction = self.arm_of_kind("control"), self.control_fraction
        if control is None or fraction is None or difference is None or difference.metric != "loss":
            return None
        harm = self.difference(control.name, difference.metric)
        return tokens_saved(difference.mean, harm, fraction) if harm else None

    @property
    def control_fraction(self) -> float | None:
        """The control's share of the baseline's tokens; None where its harm is another."""
        control = self.arm_of_kind("control")
        return control.plan.set.get("train.token_fraction") if control else None

    @property
    def planned(self) -> int:
        return sum(len(arm.seeds) for arm in self.arms.values())

    @property
    def all_records(self) -> list[Record]:
        """The confirmation's, by arm and seed."""
        return [arm.records[seed] for arm in self.arms.values() for seed in sorted(arm.records)]

    @property
    def environment(self) -> dict[str, Any]:
        """Where the trials ran, from the first complete record."""
        return next((record.environment for record in self.all_records if record.status == "complete"), {})

    @property
    def score_metrics(self) -> list[str]:
        """`task/metric` of every lm-eval score that any arm has."""
        return sorted({metric for arm in self.arms.values() for metric in arm.values if "/" in metric})


def load_result(runs_dir: str | Path, sweep: str, scale: str, published: Path | None = None) -> Result:
    """The result of what is finished so far. `published` is a folder of records to fall back on, by id.

    Raises ConfigError where no run of this sweep was ever planned.
    """
    runs = Path(runs_dir)
    folder = runs / sweep / scale
    if not (folder / PLAN).is_file():
        raise ConfigError(_no_such_run(runs, sweep, scale))

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


def score_values(record: Record) -> dict[str, float]:
    """`task/metric` -> value of the lm-eval scores, without standard errors, counts, chance levels and item strings."""
    return {
        f"{task}/{name}": float(value)
        for task, scores in record.scores.items()
        for name, value in scores.items()
        if isinstance(value, int | float) and "_stderr" not in name and name not in ("n", "chance", "sample_len")
    }


def score_detail(arm: ArmResult, metric: str) -> tuple[float | None, int | None]:
    """(chance level, items per trial) of `task/metric`; None where the records do not say."""
    task = metric.split("/")[0]
    entries = [arm.records[seed].scores[task] for seed in arm.of_status("complete") if task in arm.records[seed].scores]
    chance = next((e["chance"] for e in entries if isinstance(e.get("chance"), int | float)), None)
    items = next((len(e["items"]) for e in entries if isinstance(e.get("items"), str)), None)
    return chance, items


def _gather(folder: Path, find: Callable[[str], Record | None]) -> Result:
    plan, state, plan_sha = PlanDocument.read(folder), SweepState.read(folder), sha_of(folder / PLAN)
    ids = {(trial.arm, trial.seed): trial.id for trial in state.confirm}
    arms = {}
    for name in sorted(plan.arms, key=lambda name: _rank(name, plan)):
        found = {seed: find(ids[name, seed]) for seed in plan.seeds if (name, seed) in ids}
        arms[name] = _arm(name, plan, state, {seed: record for seed, record in found.items() if record is not None})
    if "loss_error" in (plan.primary, *plan.metrics, *(claim.metric for claim in plan.expected)):
        for arm in arms.values():
            arm.values["loss_error"] = _loss_errors(arm, arms[plan.baseline])
    deviations = list(state.deviations)
    if state.plan_sha and state.plan_sha != plan_sha:
        deviations.append(f"{PLAN} is not the plan that these trials were run under (its hash differs)")
    if plan.decision_rule != DECISION_RULE:
        deviations.append(f"the verdicts follow the decision rule of a later version, not that of {PLAN}")
    families = families_of(arms, plan)
    constraint = Constraint.of(plan.search_rule)
    arms = {name: with_search(arm, state.search, constraint) for name, arm in arms.items()}
    return Result(
        plan=plan,
        plan_sha=plan_sha,
        state=state,
        arms=arms,
        differences={m: {pair: d for pair, d in f.items() if d.n} for m, f in families.items()},
        verdicts=verdicts_of(arms, plan, families, {trial.arm for trial in state.search}),
        deviations=deviations,
    )


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
    return ArmResult(
        name=name,
        plan=plan.arms[name],
        seeds=plan.seeds,
        records=records,
        values=values,
        chosen=state.chosen.get(name, {}),
        guards=state.guards.get(name, []),
        mistuning=state.mistuning.get(name),
        speed=state.speed.get(name),
        chunks=state.chunks.get(name, {}),
    )


def _loss_errors(arm: ArmResult, baseline: ArmResult) -> dict[int, float]:
    """Seed -> the arm's training curve against the baseline's of the same seed."""
    complete = set(arm.of_status("complete")) & set(baseline.of_status("complete"))
    curves = {seed: (arm.records[seed].history, baseline.records[seed].history) for seed in sorted(complete)}
    return {
        seed: loss_error(ours["loss"], theirs["loss"]) for seed, (ours, theirs) in curves.items() if ours and theirs
    }


def _no_such_run(runs: Path, sweep: str, scale: str) -> str:
    known = sorted(f"{p.parent.parent.name} {p.parent.name}" for p in runs.glob(f"*/*/{PLAN}"))
    scales = [pair.split()[1] for pair in known if pair.split()[0] == sweep]
    if scales:
        return f"scale={scale}: no run of sweep={sweep} at this scale under {runs} (there is: {', '.join(scales)})"
    near = closest(sweep, [pair.split()[0] for pair in known])
    return (
        f"sweep={sweep} scale={scale}: no such run under {runs}{near} "
        f"(`python -m ablations.run sweep={sweep} scale={scale}` makes one)"
    )
