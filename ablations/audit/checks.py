"""All checks of a model, in turn, and what they say together."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ablations.audit.case import RAISED, AllAlikeError, Case, case_of, raised, undisturbed, untried
from ablations.audit.learning import derivative, scoring, size, start
from ablations.audit.repeating import cache, determinism
from ablations.audit.sight import causality, padding, rows
from ablations.audit.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.base.typed import ConfigError

Outcome = Literal["passes", "fails", "cannot be tried"]


@dataclass(frozen=True)
class Check:
    name: str
    look: Callable[[Case], GuardResult]
    awake: bool = True
    """Whether parameters that are zero as a whole are filled meanwhile: a mistake behind them would hide."""
    compares: bool = False
    """Whether it compares passes over other rows or lengths, for which no dice can be the same."""


DICE = "evaluation throws dice (see determinism), so that nothing can be compared with it"

CHECKS = (
    Check("start", start, awake=False),
    Check("size", size, awake=False),
    Check("causality", causality),
    Check("rows", rows, compares=True),
    Check("padding", padding, compares=True),
    Check("cache", cache, compares=True),
    Check("scoring", scoring),
    Check("derivative", derivative),
    Check("determinism", determinism),
)


@dataclass(frozen=True)
class Verdict:
    name: str
    outcome: Outcome
    detail: str
    """A sentence for people."""
    facts: dict[str, Fact]
    seconds: float


@dataclass(frozen=True)
class Report:
    target: str
    rows: int
    length: int
    vocab_size: int
    dtype: str
    """In which values were compared."""
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """None fails, and one at least was tried."""
        outcomes = [verdict.outcome for verdict in self.verdicts]
        return "fails" not in outcomes and "passes" in outcomes

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "passes": self.passes}


def audit(
    subject: Subject,
    target: str,
    rows: int = 3,
    length: int = 64,
    vocab_size: int | None = None,
    heard: Callable[[Verdict], None] = lambda verdict: None,
) -> Report:
    """`heard` hears of each verdict as it comes. Raises ConfigError for a model that takes no such tokens."""
    try:
        case = case_of(subject, rows, length, vocab_size)
        report = Report(target, rows, length, case.vocab_size, str(case.dtype).removeprefix("torch."))
    except ConfigError:
        raise
    except RAISED as error:
        raise ConfigError(f"{target}: the model raises, though not at first ({raised(error)})") from error
    for check in CHECKS:
        report.verdicts.append(verdict := _verdict(check, case))
        heard(verdict)
    return report


def _verdict(check: Check, case: Case) -> Verdict:
    """A model that raises where it should compute fails."""
    began = time.perf_counter()
    try:
        with undisturbed(case.subject.module, check.awake), undisturbed(case.exact.module, False):
            result = untried(check.name, DICE) if check.compares and case.draws else check.look(case)
    except AllAlikeError:
        result = GuardResult(check.name, False, "all logits are alike, whatever the tokens: there is nothing to see")
    except RAISED as error:
        result = GuardResult(check.name, False, f"the model raises {raised(error)}")
    assert result.name == check.name
    outcome: Outcome = "passes" if result.passed else "fails" if result.ran else "cannot be tried"
    return Verdict(check.name, outcome, result.detail, result.facts, round(time.perf_counter() - began, 3))
