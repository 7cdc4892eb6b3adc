"""Guards before training: which arms have to be looked at, and again where they or the code have changed."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ablations.config.trialkeys import Stage
from ablations.files import sha
from ablations.launch.job import Launcher, Outcome
from ablations.launch.progress import Progress
from ablations.record.documents import SweepState
from ablations.record.guardresult import GuardResult, passed
from ablations.sweep.plan import Arm, Plan, config_guards
from ablations.sweep.yardstick import twins_at_start, yardstick
from ablations.trial.identity import code_hash, environment
from ablations.trial.requests import GuardsRequest, job
from models.base.typed import build

GUARD_CODE = ("ablations.guards.arm", "ablations.guards.text")
"""The modules that look at an arm and at its text."""


class GuardFailed(Exception):
    """An arm is not what it claims to be; nothing is trained."""


@dataclass(frozen=True)
class Guarding:
    """The guards of a plan's arms; `fingerprint` knows the text of a stage, `cache` is where the packed ones are."""

    plan: Plan
    fingerprint: Callable[[Stage], dict[str, Any]]
    cache: str
    pool: Launcher
    progress: Progress

    def look(self, state: SweepState) -> None:
        """All guards of all arms, the cheap ones first, into `state`. Those whose arm and whose code have not changed
        since they passed are not run again. Raises GuardFailed."""
        cheap = {name: self._settled(arm) for name, arm in self.plan.arms.items()}
        stop_at_failures(cheap)
        wanted = {name: self._seen(arm) for name, arm in self.plan.arms.items()}
        known = {name for name, results in state.guards.items() if passed(results)}
        arms = [a for n, a in self.plan.arms.items() if n not in known or state.guard_keys.get(n) != wanted[n]]
        if arms:
            outcomes = self._run(arms)
            for arm in arms:
                found = _results(outcomes[f"guards:{self._text(arm)}"], "separation")
                found += _results(outcomes[f"guards:{arm.name}"], "initialisation")
                state.guards[arm.name] = [*cheap[arm.name], *map(self._waived, found)]
            for name, twin in twins_at_start(self.plan, state.guards).items():
                state.guards[name].append(twin)
            state.guard_keys = wanted
        stop_at_failures({name: state.guards[name] for name in self.plan.arms})

    def _run(self, arms: list[Arm]) -> dict[str, Outcome]:
        seed = self.plan.seeds[0]
        requests = {arm.name: GuardsRequest(arm.keys, seed, self.cache) for arm in arms}
        texts = {self._text(arm): requests[arm.name] for arm in arms}  # arms may learn from rearranged documents
        jobs = [job(f"guards:{name}", "guards", request) for name, request in requests.items()]
        jobs += [job(f"guards:{text}", "data_guard", request) for text, request in texts.items()]
        shown = {one.key: (one.key.split(":")[1], seed) for one in jobs}
        self.progress.phase("guards", shown, None, workers=self.plan.workers)
        return self.pool.run(jobs, self.progress.event)

    def _text(self, arm: Arm) -> str:
        """A name for the tokens that an arm learns from, which several may share."""
        return "data-" + sha(self.fingerprint(arm.keys))[:8]

    def _waived(self, result: GuardResult) -> GuardResult:
        """With the sweep's reason to do without it, where it has one and needs it."""
        return result if result.passed else replace(result, waived=self.plan.sweep.waive.get(result.name, ""))

    def _settled(self, arm: Arm) -> list[GuardResult]:
        """What keys and text alone can show."""
        base = self.plan.baseline.keys
        same = yardstick(arm.keys, base, self.fingerprint(arm.keys), self.fingerprint(base))
        return [*config_guards(self.plan, arm), same]

    def _seen(self, arm: Arm) -> str:
        """Of the arm's keys and text, of the code that trains it and of the guards' own, and of what is waived."""
        code, waived = [code_hash(module) for module in GUARD_CODE], self.plan.sweep.waive
        return sha([asdict(arm.keys), self.fingerprint(arm.keys), environment(arm.keys), code, waived])


def stop_at_failures(guards: Mapping[str, list[GuardResult]]) -> None:
    """Raise GuardFailed that names each arm and guard."""
    failures: dict[str, list[tuple[str, str]]] = {}
    for arm, results in guards.items():
        for result in results:
            if not result.holds:
                failures.setdefault(result.said, []).append((arm, result.name))
    if failures:  # one fault may be in the way of many guards, and of many arms
        raise GuardFailed("; ".join(f"{_listed(found)}: {said}" for said, found in failures.items()))


def _listed(found: list[tuple[str, str]]) -> str:
    arms, names = (list(dict.fromkeys(one)) for one in zip(*found, strict=True))
    return f"{', '.join(arms)}: {', '.join(names)}"


def _results(outcome: Outcome, name: str) -> list[GuardResult]:
    """Of a job of guards; where it has none, one of them by `name` says why."""
    if outcome.result is None:
        return [GuardResult(name, False, str(outcome.error), ran=False)]
    return [build(GuardResult, result) for result in outcome.result["guards"]]
