"""What a schedule costs: every rank works through its order, each step as soon as what it needs is there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from models.pipeline.schedules import Action, Overlapped, Schedule, Step, needs, parts


class ChunkCosts(Protocol):
    @property
    def transfer(self) -> float:
        """Between ranks, from the end of a step to the start of one that needs it."""
        ...

    def of(self, step: Step) -> float:
        """How long a step keeps its rank busy."""
        ...


@dataclass(frozen=True)
class Costs:
    """Times of one chunk, what one stage does with one microbatch, where all stages' are the same."""

    f: float
    i: float
    w: float
    overlapped: float | None = None
    """F&B of a forward and a backward chunk; None is their sum: no gain is ever assumed, only measured or given."""
    transfer: float = 0.0

    @property
    def b(self) -> float:
        return self.i + self.w

    @property
    def of_pair(self) -> float:
        return self.f + self.b if self.overlapped is None else self.overlapped

    def of(self, step: Step) -> float:
        if isinstance(step, Overlapped):
            return self.of_pair
        return {"F": self.f, "B": self.b, "I": self.i, "W": self.w}[step.kind]


@dataclass(frozen=True)
class StageCosts:
    """Times of one chunk by stage, as measured (models/pipeline/measure.py)."""

    chunks: Mapping[str, Sequence[float]]
    """{"f", "b", "i", "w"}: of each stage. `b` is a backward chunk in one piece."""
    transfer: float = 0.0
    exchange: float = 0.0
    """Of expert parallelism: all-to-all's share of a chunk's time, of F beside F, and as long again beside B or I."""
    hidden: bool = False
    """Whether an overlapped pair hides its all-to-alls behind its products, as V3 3.2.1 says; never assumed."""

    def of(self, step: Step) -> float:
        if isinstance(step, Overlapped):
            alone = self._busy(step.forward) + self._busy(step.backward)
            return alone if self.hidden else alone + self._waits(step.forward) + self._waits(step.backward)
        return self._busy(step) + self._waits(step)

    def _busy(self, action: Action) -> float:
        return self.chunks[action.kind.lower()][action.stage]

    def _waits(self, action: Action) -> float:
        return 0.0 if action.kind == "W" else self.exchange * self.chunks["f"][action.stage]


@dataclass(frozen=True)
class Timed:
    step: Step
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    schedule: Schedule
    ranks: list[list[Timed]]

    @property
    def end(self) -> float:
        return max(timed[-1].end for timed in self.ranks)

    def bubble(self, rank: int) -> float:
        """Time in which a rank waits, from the first start of any rank to the last end."""
        return self.end - math.fsum(timed.end - timed.start for timed in self.ranks[rank])

    @property
    def bubble_share(self) -> float:
        """Of all ranks' time: the mean over ranks."""
        return math.fsum(map(self.bubble, range(len(self.ranks)))) / (self.end * len(self.ranks))

    @property
    def longest_bubble_share(self) -> float:
        """Of the rank that waits longest, which V3's table 2 has formulas for; with two directions ranks differ."""
        return max(map(self.bubble, range(len(self.ranks)))) / self.end

    def activations(self, rank: int) -> list[tuple[float, int]]:
        """(time, chunks that are held from then on): from the start of F to the end of B or W."""
        changes = []
        for timed in self.ranks[rank]:
            for action in parts(timed.step):
                if action.kind in ("F", "B", "W"):
                    changes.append((timed.start, 1) if action.kind == "F" else (timed.end, -1))
        held, found = 0, []
        for time, change in sorted(changes):
            held += change
            found.append((time, held))
        return found

    def peak_activations(self, rank: int) -> int:
        """Chunks held at once; a chunk in work counts until its step ends."""
        return max(held for _, held in self.activations(rank))


class Deadlock(Exception):
    """No rank can go on: an order waits for itself."""


def simulate(schedule: Schedule, costs: ChunkCosts) -> Timeline:
    """Raises Deadlock."""
    done: dict[Action, float] = {}
    timed: list[list[Timed]] = [[] for _ in schedule.ranks]
    left = sum(map(len, schedule.ranks))
    while left:
        before = left
        for rank, steps in enumerate(schedule.ranks):
            while len(timed[rank]) < len(steps):
                step = steps[len(timed[rank])]
                ready = _ready(step, rank, schedule, costs, done)
                if ready is None:
                    break
                start = max(ready, timed[rank][-1].end if timed[rank] else 0.0)
                end = start + costs.of(step)
                timed[rank].append(Timed(step, start, end))
                for action in parts(step):
                    done[action] = end
                    if action.kind == "B":
                        done[Action("I", action.stage, action.microbatch, action.direction)] = end
                left -= 1
        if left == before:
            stuck = [str(steps[len(t)]) for steps, t in zip(schedule.ranks, timed, strict=True) if len(t) < len(steps)]
            raise Deadlock(f"{schedule.name}: waiting for each other: {'; '.join(stuck)}")
    return Timeline(schedule, timed)


def _ready(step: Step, rank: int, schedule: Schedule, costs: ChunkCosts, done: dict[Action, float]) -> float | None:
    """When what `step` needs is here; None while it is not known. A pair may not need its own parts."""
    ready = 0.0
    for action in parts(step):
        for need in needs(action, schedule):
            if need not in done:
                return None
            ready = max(ready, done[need] + (costs.transfer if schedule.rank_of(need) != rank else 0.0))
    return ready
