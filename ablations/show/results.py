"""From plan, trials and records to one `Result`: the only thing that tables, figures and pages read.

Nothing here is parsed from logs, and nothing is dropped: a diverged or failed trial is counted and shown, and enters no
mean. Records that do not exist yet are simply not there, so that the same code reports a sweep that is still running.
"""

import hashlib
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.constraint import Constraint, Held
from ablations.losscurve import loss_error
from ablations.metrics import metric as metric_of
from ablations.metrics import share_of_maximum
from ablations.records import RECORD, Record, read_record, recorded_at
from ablations.rundir import read_plan, read_state
from ablations.schema import ExpectedConfig
from ablations.show.judging import families_of, verdicts_of, with_search
from ablations.stats import Difference, Edge, between, tokens_saved
from ablations.verdicts import DECISION_RULE, Verdict
from models.typed import ConfigError, build, closest


@dataclass(frozen=True)
class Guard:
    name: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class SearchTrial:
    """One trial of the search, scored on the search-validation split. `loss` is None where it did not finish."""

    arm: str
    point: dict[str, Any]
    seed: int
    id: str
    loss: float | None
    max_vio: float | None
    share: float | None
    """The constrained metric over its maximum; None where the search had no constraint."""


@dataclass(frozen=True)
class ArmResult:
    """What the confirmation trials of one arm say. `values[metric][seed]` holds complete trials only."""

    name: str
    kind: str
    """`arm`, `aa` (the baseline, weights perturbed by 1e-6) or `control` (the known small harm)."""
    plan: dict[str, Any]
    chosen: dict[str, Any]
    seeds: list[int]
    records: dict[int, Record] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    guards: list[Guard] = field(default_factory=list)
    mistuning: float | None = None
    """Estimate, in nats, of what a better point between the searched ones could gain; None where nothing was searched,
    and at an edge."""
    edges: dict[str, Edge] = field(default_factory=dict)
    """Searched keys whose chosen value is the last of its grid on that side."""
    held: Held | None = None
    """The search's limit on balance, on these trials; None where it had none."""
    speed: dict[str, float] = field(default_factory=dict)
    seconds_per_token: list[float] = field(default_factory=list)
    """Of training, one for each round in which all arms were timed in turn."""
    chunks: dict[str, list[float]] = field(default_factory=dict)
    """Seconds of a pipeline's chunks by stage: f, b, i, w."""

    def of_status(self, status: str) -> list[int]:
        """Seeds whose trial ended as `complete`, `diverged` or `failed`."""
        return [seed for seed, record in self.records.items() if record.status == status]

    def mean(self, metric: str) -> float | None:
        values = list(self.values.get(metric, {}).values())
        return statistics.fmean(values) if values else None

    def sd(self, metric: str) -> float | None:
        values = list(self.values.get(metric, {}).values())
        return statistics.stdev(values) if len(values) > 1 else None

    @property
    def tokens_per_active_parameter(self) -> float | None:
        tokens, active = self.plan.get("tokens"), self.plan.get("active_params")
        return tokens / active if tokens is not None and active else None


@dataclass(frozen=True)
class Result:
    """A sweep at one scale. `arms` starts with the baseline and ends with the control and the A/A arm."""

    sweep: str
    scale: str
    plan: dict[str, Any]
    plan_sha: str
    """SHA-256 of the bytes of plan.json."""
    baseline: str
    primary: str
    seeds: list[int]
    arms: dict[str, ArmResult]
    differences: dict[str, dict[tuple[str, str], Difference]]
    """Per metric, (arm, against) -> the paired difference; all pairs of a metric are one family, each in one order
    (`difference` finds it in both)."""
    expected: list[ExpectedConfig]
    verdicts: list[Verdict]
    """One per entry of `expected`, in the same order."""
    search: list[SearchTrial]
    deviations: list[str]
    missing: list[tuple[str, int]]
    """(arm, seed) of confirmation trials that the plan has and no record answers."""
    minutes: float
    trials: dict[str, Any]

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
        return control.plan.get("set", {}).get("train.token_fraction") if control else None

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
    if not (folder / "plan.json").is_file():
        raise ConfigError(_no_such_run(runs, sweep, scale))

    def find(trial_id: str) -> Record | None:
        elsewhere = [published / f"{trial_id}.json"] if published else []
        place = recorded_at(runs / "trials" / trial_id / RECORD, *elsewhere)
        return read_record(place) if place else None

    return _gather(folder, find)


def load_published(folder: Path) -> Result:
    """The result in a published folder, from its plan.json, trials.json and records/ alone."""
    if not (folder / "plan.json").is_file():
        raise ConfigError(f"{folder}: holds no plan.json, so it is no published result")
    records = folder / "records"
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
    plan_bytes = (folder / "plan.json").read_bytes()
    plan, trials = read_plan(folder), read_state(folder)
    baseline, primary = plan["baseline"], plan.get("primary", "loss")
    seeds = [int(seed) for seed in plan["seeds"]]
    ids = {(entry["arm"], int(entry["seed"])): entry["id"] for entry in trials.get("confirm", [])}
    arms = {}
    for name in sorted(plan["arms"], key=lambda name: _rank(name, plan)):
        found = {seed: find(ids[name, seed]) for seed in seeds if (name, seed) in ids}
        arms[name] = _arm(name, plan, trials, seeds, {s: r for s, r in found.items() if r is not None})
    expected = [build(ExpectedConfig, entry, f"expected[{i}]") for i, entry in enumerate(plan.get("expected", []))]
    if "loss_error" in (*plan.get("metrics", []), primary, *(claim.metric for claim in expected)):
        for arm in arms.values():
            arm.values["loss_error"] = _loss_errors(arm, arms[baseline])
    plan_sha = hashlib.sha256(plan_bytes).hexdigest()
    deviations = [str(line) for line in trials.get("deviations", [])]
    if trials.get("plan_sha") and not plan_sha.startswith(trials["plan_sha"]):
        deviations.append("plan.json is not the plan that these trials were run under (its hash differs)")
    if plan.get("decision_rule") not in (None, DECISION_RULE):
        deviations.append("the verdicts follow the decision rule of a later version, not that of plan.json")
    families = families_of(arms, baseline, primary, expected, plan)
    constraint = Constraint.of(plan.get("search_rule", {}))
    search = [_search_trial(entry, constraint, arms) for entry in trials.get("search", [])]
    arms = {name: with_search(arm, search, constraint) for name, arm in arms.items()}
    return Result(
        sweep=plan["sweep"],
        scale=plan["scale"],
        plan=plan,
        plan_sha=plan_sha,
        baseline=baseline,
        primary=primary,
        seeds=seeds,
        arms=arms,
        differences={m: {pair: d for pair, d in f.items() if d.n} for m, f in families.items()},
        expected=expected,
        verdicts=verdicts_of(arms, baseline, expected, families, {trial.arm for trial in search}),
        search=search,
        deviations=deviations,
        missing=[(name, seed) for name, arm in arms.items() for seed in seeds if seed not in arm.records],
        minutes=float(trials.get("minutes") or 0.0),
        trials=trials,
    )


def _rank(name: str, plan: dict[str, Any]) -> tuple[int, str]:
    """Baseline, the sweep's own arms by name, the control, the A/A arm: JSON keeps no order of its own."""
    order = {"arm": 1, "control": 2, "aa": 3}
    return (0 if name == plan["baseline"] else order[plan["arms"][name].get("kind", "arm")], name)


def _arm(
    name: str, plan: dict[str, Any], trials: dict[str, Any], seeds: list[int], records: dict[int, Record]
) -> ArmResult:
    values: dict[str, dict[int, float]] = {}
    for seed, record in records.items():
        if record.status != "complete":
            continue
        for metric, value in {**record.metrics, **score_values(record)}.items():
            if math.isfinite(value):
                values.setdefault(metric, {})[seed] = value
    entry, speed = plan["arms"][name], trials.get("speed", {}).get(name, {})
    return ArmResult(
        name=name,
        kind=entry.get("kind", "arm"),
        plan=entry,
        chosen=dict(trials.get("chosen", {}).get(name, {})),
        seeds=seeds,
        records=records,
        values=values,
        guards=[
            Guard(g["name"], bool(g["passed"]), g.get("detail") or "") for g in trials.get("guards", {}).get(name, [])
        ],
        mistuning=trials.get("mistuning", {}).get(name),
        speed={k: v for k, v in speed.items() if k != "seconds_per_token"},
        seconds_per_token=list(speed.get("seconds_per_token", [])),
        chunks=dict(trials.get("chunks", {}).get(name, {})),
    )


def _loss_errors(arm: ArmResult, baseline: ArmResult) -> dict[int, float]:
    """Seed -> the arm's training curve against the baseline's of the same seed."""
    complete = set(arm.of_status("complete")) & set(baseline.of_status("complete"))
    curves = {seed: (arm.records[seed].history, baseline.records[seed].history) for seed in sorted(complete)}
    return {
        seed: loss_error(ours["loss"], theirs["loss"]) for seed, (ours, theirs) in curves.items() if ours and theirs
    }


def _search_trial(entry: dict[str, Any], constraint: Constraint | None, arms: dict[str, ArmResult]) -> SearchTrial:
    """The maximum of a constrained metric follows from sizes, so the confirmation's is the search's."""
    share = None
    if constraint is not None and entry["arm"] in arms:
        values = {name: arms[entry["arm"]].mean(name) for name in (metric_of(constraint.metric).maximum or "",)}
        values[constraint.metric] = entry.get(constraint.metric)
        share = share_of_maximum({name: v for name, v in values.items() if v is not None}, constraint.metric)
    return SearchTrial(
        arm=entry["arm"],
        point=dict(entry["point"]),
        seed=int(entry["seed"]),
        id=entry["id"],
        loss=entry.get("loss"),
        max_vio=entry.get("max_vio_global"),
        share=share,
    )


def _no_such_run(runs: Path, sweep: str, scale: str) -> str:
    known = sorted(f"{p.parent.parent.name} {p.parent.name}" for p in runs.glob("*/*/plan.json"))
    scales = [pair.split()[1] for pair in known if pair.split()[0] == sweep]
    if scales:
        return f"scale={scale}: no run of sweep={sweep} at this scale under {runs} (there is: {', '.join(scales)})"
    near = closest(sweep, [pair.split()[0] for pair in known])
    return (
        f"sweep={sweep} scale={scale}: no such run under {runs}{near} "
        f"(`python -m ablations.run sweep={sweep} scale={scale}` makes one)"
    )
