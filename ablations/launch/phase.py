"""A phase of a sweep (guards, search, confirmation): where its jobs are, and an honest estimate of the time left."""

import heapq
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OVERDUE, OVERDUE_SECONDS = 0.1, 2.0
"""How much later than it was expected to end, of its length and at least, a job is that nobody knows the end of."""

State = Literal["waiting", "running", "done", "failed"]


@dataclass
class TrialState:
    """One job of the phase, as its events tell it."""

    name: str
    arm: str
    seed: int
    expected: float | None
    state: State = "waiting"
    started: float = 0.0
    stepped: float = 0.0
    """When the last step was heard of."""
    seconds: float = 0.0
    step: dict[str, Any] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        steps = self.step.get("steps") or 0
        return min(self.step.get("step", 0) / steps, 1.0) if steps else 0.0

    @property
    def pace(self) -> float:
        """The fraction of the steps that are this job's own, where they take about as long as each other; 0 where each
        is another thing. A branch or a trial that is resumed begins with steps that were done before."""
        steps, begun = self.step.get("steps") or 0, self.step.get("begun", 0)
        if "what" in self.step or steps <= begun:
            return 0.0
        return min((self.step["step"] - begun) / (steps - begun), 1.0)

    @property
    def where(self) -> str:
        return f"{self.step['step']}/{self.step['steps']}" if self.step.get("steps") else ""

    @property
    def label(self) -> str:
        """The arm, and what is being done with it where the job says so."""
        what = self.step.get("what")
        return f"{self.arm}: {what}" if what else self.arm

    def number(self, name: str, form: str) -> str:
        value = self.step.get(name)
        return "" if value is None else format(value, form)


class Phase:
    """A set of jobs on their way, and how long they still need. Seconds are those of `clock`."""

    def __init__(
        self,
        name: str,
        jobs: Mapping[str, tuple[str, int]],
        seconds: Mapping[str, float] | float | None,
        workers: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        expected = dict.fromkeys(jobs, seconds) if isinstance(seconds, int | float) else dict(seconds or {})
        known = [value for value in expected.values() if value]
        typical = statistics.median(known) if known else None
        self.name, self.clock, self.begun = name, clock, clock()
        self.trials = {
            key: TrialState(short(key), arm, seed, expected.get(key) or typical) for key, (arm, seed) in jobs.items()
        }
        self.workers = workers or 1
        """At least as many as were seen running at once."""

    def event(self, key: str, event: Mapping[str, Any]) -> None:
        trial, now = self.trials[key], self.clock()
        match event["event"]:
            case "started":
                trial.state, trial.started, trial.step = "running", now, {}
                self.workers = max(self.workers, len(self.running))
            case "step":
                trial.step, trial.stepped = dict(event), now
            case "retry":
                trial.state = "waiting"
            case "done":
                trial.state, trial.seconds = "failed" if event.get("error") else "done", now - trial.started
                if "what" in trial.step:  # it is no longer there
                    trial.step = {}

    def _in(self, *states: State) -> list[TrialState]:
        return [trial for trial in self.trials.values() if trial.state in states]

    @property
    def running(self) -> list[TrialState]:
        return self._in("running")

    @property
    def ended(self) -> int:
        return len(self._in("done", "failed"))

    def time_left(self) -> float | None:
        """Seconds until the last job ends; None while there is nothing to judge by, and once a job takes longer than
        all that was known of it.

        A job's length is its expected seconds times the median of measured / expected over the finished jobs; a
        running one leans on its own progress the more, the further it is. The waiting ones are then dealt out to
        the workers in order, so that a last round with idle workers counts in full.
        """
        now, finished = self.clock(), self._in("done")
        measured = [trial.seconds / (trial.expected or 1.0) for trial in finished]
        # What follows the last step (scoring, checkpoints) as a share of what went before.
        after = [
            trial.seconds / (trial.stepped - trial.started)
            for trial in finished
            if trial.pace == 1.0 and trial.stepped > trial.started
        ]
        tail = statistics.median(after) if after else 1.0
        own = {
            id(trial): tail * (trial.stepped - trial.started) / trial.pace for trial in self.running if trial.pace > 0
        }
        if not measured:
            # Nothing but the first ones' progress, which the expectation outweighs until they are far enough.
            for trial in self.running:
                if trial.pace >= 0.05:
                    ratio = own[id(trial)] / (trial.expected or 1.0)
                    measured.append(1.0 + trial.pace * (ratio - 1.0) if trial.expected else ratio)
        if not measured and not any(trial.expected for trial in self.trials.values()):
            return None
        pace = statistics.median(measured) if measured else 1.0

        free = []
        for trial in self.running:
            length = pace * (trial.expected or 1.0)
            length += trial.pace * (own.get(id(trial), length) - length)
            left = length - (now - trial.started)
            if left < -max(OVERDUE_SECONDS, OVERDUE * length):
                return None
            free.append(max(left, 0.0))
        free += [0.0] * max(self.workers - len(free), 0)
        heapq.heapify(free)
        for trial in self._in("waiting"):
            heapq.heapreplace(free, free[0] + pace * (trial.expected or 1.0))
        return max(free)

    def summary(self) -> str:
        """The line that stays when the phase is over."""
        failed, total = len(self._in("failed")), len(self.trials)
        count = f"{total}" if self.ended == total else f"stopped after {self.ended} of {total}"
        return f"{self.name}: {count} in {duration(self.clock() - self.begun)}" + (f", {failed} failed" * bool(failed))


def short(key: str) -> str:
    """The first part of a job's key, or as much of an id as tells it from others."""
    return key.partition(":")[0] if ":" in key else key[:8]


def duration(seconds: float) -> str:
    """`42 s`, `4 min 10 s`, `1 h 05 min`; coarser the longer, so that it stays calm."""
    if seconds < 59.5:
        return f"{seconds:.1f} s" if 0.05 <= seconds < 0.95 else f"{seconds:.0f} s"
    if seconds < 3570:
        tens = round(seconds / 10)
        return f"{tens // 6} min" + (f" {tens % 6 * 10} s" if tens % 6 else "")
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"
