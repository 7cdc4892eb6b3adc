"""What a guard found out about an arm: facts for code, a sentence for eyes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

Fact = bool | int | float | str


@dataclass(frozen=True)
class GuardResult:
    """One guard of one arm."""

    name: str
    passed: bool
    detail: str = ""
    """A sentence with the facts in it. Nobody reads it but people."""
    facts: dict[str, Fact] = field(default_factory=dict)
    """What was measured, by name: all that another part of the program may know of it. What came out as no number
    (NaN, infinite) was not measured; the sentence says so."""
    ran: bool = True
    """Whether it could look at all; `detail` says why not. What was not looked at has not passed."""
    waived: str = ""
    """Why the sweep's file does without it, where it has not passed."""

    def __post_init__(self) -> None:
        for name in [name for name, fact in self.facts.items() if isinstance(fact, float) and not math.isfinite(fact)]:
            del self.facts[name]

    @property
    def holds(self) -> bool:
        """It has passed, or is done without."""
        return self.passed or bool(self.waived)

    @property
    def said(self) -> str:
        """The sentence, as a list of results has it."""
        said = self.detail if self.ran else f"did not run: {self.detail}"
        return f"{said} (done without: {self.waived})" if self.waived else said

    def number(self, name: str) -> float | None:
        """A fact that is a number; None where the guard did not come so far as to measure it."""
        fact = self.facts.get(name)
        return float(fact) if isinstance(fact, int | float) and not isinstance(fact, bool) else None


def passed(results: Iterable[GuardResult]) -> bool:
    """Whether there are any, and all of them hold."""
    results = list(results)
    return bool(results) and all(result.holds for result in results)
