"""What a sweep at one scale has found: the only thing that tables, figures and pages read."""

import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ablations.config.schema import ExpectedConfig
from ablations.judge.choice import Choice
from ablations.judge.constraint import Held
from ablations.judge.equal_cost import stretch
from ablations.judge.grid import Edge
from ablations.judge.stats import Difference, between, lack_of_signal, tokens_saved
from ablations.judge.verdicts import Verdict, decision_rule
from ablations.metrics import COUNTED, indices, is_accuracy
from ablations.record.documents import (
    ArmDocument,
    ArmKind,
    Chunks,
    PlanDocument,
    Point,
    SearchTrial,
    Speed,
    SweepState,
)
from ablations.record.guardresult import GuardResult
from ablations.record.record import Record
from tasks.config import DRAWN
from tasks.evals.problems import SAMPLES


@dataclass(frozen=True)
class ArmResult:
    """What the confirmation trials of one arm say. `values[metric][seed]` holds complete trials only."""

    name: str
    plan: ArmDocument
    seeds: list[int]
    """Those that the plan asks for."""
    records: dict[int, Record] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    shorter: dict[float, dict[str, dict[int, float]]] = field(default_factory=dict)
    """Share of the tokens -> the same, after that much, where arms are finished at several lengths."""
    chosen: Point = field(default_factory=dict)
    guards: list[GuardResult] = field(default_factory=list)
    mistuning: float | None = None
    """What the chosen learning rate may cost, in nats, as an upper 95 % bound; None where nothing was searched, or it
    cannot be said."""
    choice: Choice | None = None
    """What the search's trials say to take; None where there was no search."""
    held: Held | None = None
    """The search's limit on balance, on these trials; None where it had none."""
    speed: Speed | None = None
    """None where it was not measured."""
    chunks: Chunks = field(default_factory=dict)

    @property
    def edges(self) -> dict[str, Edge]:
        """Searched keys whose best value is the last of its grid on that side."""
        return self.choice.edges if self.choice is not None else {}

    @property
    def kind(self) -> ArmKind:
        return self.plan.kind

    def of_status(self, status: str) -> list[int]:
        """Seeds whose trial ended as `complete`, `diverged` or `failed`."""
        return [seed for seed, record in self.records.items() if record.status == status]

    def mean(self, metric: str, seeds: Collection[int] | None = None) -> float | None:
        """Over these seeds; over all that are complete, where none are named."""
        found = self.values.get(metric, {})
        values = [value for seed, value in found.items() if seeds is None or seed in seeds]
        return statistics.fmean(values) if values else None

    def sd(self, metric: str) -> float | None:
        values = list(self.values.get(metric, {}).values())
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Result:
    """A sweep at one scale. `arms` starts with the baseline and ends with the control and the A/A arm."""

    run: str
    """Its folder's name: the scale, or `<scale>@<hash>` for another plan than the first."""
    plan: PlanDocument
    plan_sha: str
    """SHA-256 of the bytes of plan.json."""
    state: SweepState
    arms: dict[str, ArmResult]
    differences: dict[str, dict[tuple[str, str], Difference]]
    """Per metric, (arm, against) -> the paired difference, of all three families (ablations/judge/families.py), each
    pair in one order (`difference` finds it in both)."""
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
        """Those that the run has come to: of a plan that looks more than once, up to the look that it is at."""
        return seeds_of(self.plan, self.state)

    @property
    def expected(self) -> list[ExpectedConfig]:
        return self.plan.expected

    @property
    def decision_rule(self) -> str:
        """That the verdicts follow: the plan's, but where a later version has another."""
        return rule_of(self.plan)

    @property
    def search(self) -> list[SearchTrial]:
        return self.state.search

    @property
    def missing(self) -> list[tuple[str, int]]:
        """(arm, seed) of confirmation trials that the plan has and no record answers; of a plan that looks more than
        once, up to the look that it is at and, while that has not been judged, the next."""
        asked = [*self.seeds, *self._to_come]
        return [(name, seed) for name, arm in self.arms.items() for seed in asked if seed not in arm.records]

    @property
    def _to_come(self) -> list[int]:
        looks, seen = self.plan.looks, len(self.seeds)
        further = [look for look in looks if look > seen]
        return self.plan.seeds[seen : further[0]] if further and not self.state.settled else []

    def diagnostic(self, kind: Literal["aa", "control"], branched: bool | None = None) -> ArmResult | None:
        """The A/A arm or the control of arms that branch off, or do not; the first one where that is not asked."""
        return diagnostic(self.arms, kind, branched)

    def difference(self, arm: str, metric: str | None = None, against: str | None = None) -> Difference | None:
        rival = self.baseline if against is None else against
        return between(self.differences.get(metric or self.primary, {}), arm, rival)

    def usual(self, arm: ArmResult, metric: str | None = None) -> Difference | None:
        """An arm's difference to the one that it stands on, else to the baseline."""
        return self.difference(arm.name, metric, arm.plan.onto)

    def tokens_equivalent(self, difference: Difference | None) -> float | None:
        """The share of the training tokens that a loss difference is worth; positive saves tokens (method: costs). None
        where that is farther than the control's slope is followed."""
        if difference is None or difference.metric != "loss" or self.jumps:
            return None
        control, fraction = self.diagnostic("control", self.is_branched(difference)), self.control_fraction
        if control is None or fraction is None:
            return None
        harm = self.difference(control.name, difference.metric)
        saved = tokens_saved(difference.mean, harm, fraction) if harm else None
        return saved if saved is not None and stretch(1 - saved, fraction) is not None else None

    @property
    def jumps(self) -> bool:
        """Whether some training had not come halfway to a skill: the loss falls there, along no slope over tokens."""
        return any(0 in arm.values.get(COUNTED, {}).values() for arm in self.arms.values() if arm.kind == "arm")

    def is_branched(self, difference: Difference) -> bool:
        return branched(self.arms, self.baseline, (difference.arm, difference.against))

    @property
    def control_fraction(self) -> float | None:
        """The control's share of the baseline's tokens; None where its harm is another, and of chains of stages: there
        it is of the last stage's, which are not worth what those before were."""
        control = self.diagnostic("control")
        own = control.plan.set.get("train.token_fraction") if control and not self.chained else None
        return None if own is None else own / self.plan.keys.train.token_fraction

    @property
    def chained(self) -> bool:
        """Whether an arm is a chain of stages."""
        return any(record.chained for record in self.all_records)

    @property
    def common_seeds(self) -> list[int] | None:
        """Complete in every arm that has a complete trial; None where there is none such."""
        complete = [set(done) for arm in self.arms.values() if (done := arm.of_status("complete"))]
        return sorted(set.intersection(*complete)) or None if complete else None

    @property
    def planned(self) -> int:
        return sum(len(arm.seeds) + len(self._to_come) for arm in self.arms.values())

    @property
    def all_records(self) -> list[Record]:
        """The confirmation's, by arm and seed."""
        return [arm.records[seed] for arm in self.arms.values() for seed in sorted(arm.records)]

    @property
    def environment(self) -> dict[str, Any]:
        """Where the trials ran, from the first complete record."""
        return next((record.environment for record in self.all_records if record.status == "complete"), {})

    def indices(self, name: str) -> list[int]:
        """Which of the numbers that a metric's name has a place for some arm has."""
        return indices(name, {metric for arm in self.arms.values() for metric in arm.values})

    @property
    def score_metrics(self) -> list[str]:
        """`task/metric` of every lm-eval score that any arm has."""
        return sorted({metric for arm in self.arms.values() for metric in arm.values if "/" in metric})


def rule_of(plan: PlanDocument) -> str:
    """Today's, of a plan that may have been written under an earlier one."""
    return decision_rule(plan.looks, plan.expected, plan.keys.data.source in DRAWN)


def seeds_of(plan: PlanDocument, state: SweepState) -> list[int]:
    """See `Result.seeds`."""
    return plan.seeds[: max(state.looked, plan.looks[0])] if plan.looks else plan.seeds


def diagnostic(
    arms: Mapping[str, ArmResult], kind: Literal["aa", "control"], branched: bool | None = None
) -> ArmResult | None:
    """See `Result.diagnostic`."""
    found = [arm for arm in arms.values() if arm.kind == kind and branched in (None, arm.plan.branched)]
    return found[0] if found else None


def branched(arms: Mapping[str, ArmResult], baseline: str, names: Iterable[str]) -> bool:
    """Whether a comparison of these arms is one of branches. The baseline is the same in either design."""
    return any(arms[name].plan.branched for name in names if name != baseline and name in arms)


def score_values(record: Record) -> dict[str, float]:
    """`task/metric` -> value of the lm-eval scores, without standard errors, counts, chance levels and item strings,
    and without those of drawn answers, which are metrics by their own names."""
    return {
        f"{task}/{name}": float(value)
        for task, scores in record.scores.items()
        for name, value in scores.items()
        if is_score(name, value) and task != SAMPLES
    }


def is_score(name: str, value: object) -> bool:
    """Whether an entry of a task's scores is one, and no standard error, count, chance level or string of items."""
    return isinstance(value, int | float) and "_stderr" not in name and name not in ("n", "chance", "sample_len")


def lack_of_score_signal(arm: "ArmResult", metric: str) -> str | None:
    """Why an accuracy can tell nothing apart; None where it can, or where nobody knows its chance level."""
    chance, items = score_detail(arm, metric)
    scores = list(arm.values.get(metric, {}).values())
    if not scores or chance is None or not items or not is_accuracy(metric):
        return None
    return lack_of_signal(scores, chance, items)


def score_detail(arm: ArmResult, metric: str) -> tuple[float | None, int | None]:
    """(chance level, items per trial) of `task/metric`; None where the records do not say."""
    task = metric.split("/")[0]
    entries = [arm.records[seed].scores[task] for seed in arm.of_status("complete") if task in arm.records[seed].scores]
    chance = next((e["chance"] for e in entries if isinstance(e.get("chance"), int | float)), None)
    items = next((len(e["items"]) for e in entries if isinstance(e.get("items"), str)), None)
    return chance, items
