"""All guards of one arm, in turn."""

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from ablations.config.trialkeys import TrialKeys
from ablations.guards.balance import load
from ablations.guards.causality import causality
from ablations.guards.decoding import decoding
from ablations.guards.evaluation import evaluation
from ablations.guards.losses import derivative, scoring
from ablations.guards.schedule import ranks, schedule
from ablations.guards.sizes import initialisation, size
from ablations.guards.start import determinism, start
from ablations.guards.subject import Subject
from ablations.record.guardresult import GuardResult
from tasks.prepared import Data


def _always(keys: TrialKeys) -> bool:
    return True


def _piped(keys: TrialKeys) -> bool:
    return keys.model.pipeline.schedule != "none"


@dataclass(frozen=True)
class Guard:
    """`ablations.guards.meaning` says what it means to have passed it."""

    name: str
    check: Callable[[Subject], GuardResult]
    concerns: Callable[[TrialKeys], bool] = _always


GUARDS = (
    Guard("initialisation", initialisation),
    Guard("size", size),
    Guard("causality", causality),
    Guard("scoring", scoring),
    Guard("derivative", derivative),
    Guard("load", load),
    Guard("decoding", decoding),
    Guard("evaluation", evaluation),
    Guard("schedule", schedule, _piped),
    Guard("ranks", ranks, _piped),
    Guard("start", start),
    Guard("determinism", determinism),
)
"""The first one is about what the others need: a model."""


def arm_guards(
    keys: TrialKeys, seed: int, data: Data, at: Callable[[str], None] = lambda name: None
) -> list[GuardResult]:
    """What they find on real batches. `at` hears of each of GUARDS before its turn."""
    subject, results = Subject(keys, seed, data), list[GuardResult]()
    for guard in GUARDS:
        if not guard.concerns(keys):
            continue
        at(guard.name)
        results.append(found(guard, subject))
        if guard is GUARDS[0] and not results[0].passed:
            break
    return results


def found(guard: Guard, subject: Subject) -> GuardResult:
    """A guard that cannot look has seen nothing: that is no pass, and no fault of the kind that it looks for."""
    try:
        result = guard.check(subject)
    except Exception as error:  # whatever somebody's class raises
        traceback.print_exc()  # in the worker's log
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        result = GuardResult(guard.name, False, reason, ran=False)
    assert result.name == guard.name
    return result
