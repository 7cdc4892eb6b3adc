"""Pipeline schedules as data: for every rank, what it does in which order.

Letters of the papers: F a microbatch forward through a stage, B backward, I and W the two halves of B (gradients of the
input and of the weights), F&B a forward and a backward chunk that overlap. P ranks, M microbatches.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from models.base.typed import ConfigError

Kind = Literal["F", "B", "I", "W"]


@dataclass(frozen=True, slots=True)
class Action:
    """A stage's work on a microbatch. `direction` 1 enters a bidirectional pipeline from its other end; microbatches
    are numbered over both directions."""

    kind: Kind
    stage: int
    microbatch: int
    direction: int = 0


@dataclass(frozen=True, slots=True)
class Overlapped:
    """F&B: the forward chunk of one microbatch and the backward chunk of another, at the same time."""

    forward: Action
    backward: Action


Step = Action | Overlapped


@dataclass(frozen=True)
class Schedule:
    name: str
    ranks: list[list[Step]]
    """Of each rank, in its order."""
    stages: int
    """That a microbatch passes."""
    microbatches: int
    homes: list[list[int]]
    """By direction: the rank that holds each stage. With two directions every stage is held twice."""

    def rank_of(self, action: Action) -> int:
        return self.homes[action.direction][action.stage]

    def held(self, rank: int) -> list[int]:
        """The stages that a rank holds, of both directions where there are two."""
        return sorted({stage for homes in self.homes for stage, other in enumerate(homes) if other == rank})


def parts(step: Step) -> tuple[Action, ...]:
    """The actions of a step; of an overlapped pair the forward one first."""
    return (step,) if isinstance(step, Action) else (step.forward, step.backward)


class _Rank:
    """Writes one rank's order; counts microbatches and remembers weight gradients that wait."""

    def __init__(self, stages: dict[int, tuple[int, int, int]]) -> None:
        """`stages`: for each of this rank's chunks its stage, direction and first microbatch."""
        self.stages, self.steps = stages, list[Step]()
        self.forwards, self.backwards = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
        self.waiting: deque[Action] = deque()

    def forward(self, chunk: int = 0) -> None:
        self.steps.append(self._next("F", chunk, self.forwards))

    def backward(self, chunk: int = 0) -> None:
        self.steps.append(self._next("B", chunk, self.backwards))

    def input(self, chunk: int = 0) -> None:
        """I now; its W waits."""
        action = self._next("I", chunk, self.backwards)
        self.steps.append(action)
        self.waiting.append(Action("W", action.stage, action.microbatch, action.direction))

    def weight(self) -> None:
        """The W that has waited longest."""
        self.steps.append(self.waiting.popleft())

    def overlapped(self, forward_chunk: int, backward_chunk: int) -> None:
        forward = self._next("F", forward_chunk, self.forwards)
        self.steps.append(Overlapped(forward, self._next("B", backward_chunk, self.backwards)))

    def _next(self, kind: Kind, chunk: int, counts: dict[int, int]) -> Action:
        stage, direction, first = self.stages[chunk]
        counts[chunk] += 1
        return Action(kind, stage, first + counts[chunk] - 1, direction)


def _line(ranks: int) -> list[list[int]]:
    return [list(range(ranks))]


def _fold(ranks: int) -> list[list[int]]:
    """Stages go down the ranks and back up: a V."""
    return [[*range(ranks), *reversed(range(ranks))]]


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards (1811.06965)."""
    orders = []
    for r in range(ranks):
        rank = _Rank({0: (r, 0, 0)})
        for _ in range(microbatches):
            rank.forward()
        for _ in range(microbatches):
            rank.backward()
        orders.append(rank.steps)
    return Schedule("gpipe", orders, ranks, microbatches, _line(ranks))


def one_f_one_b(ranks: int, microbatches: int) -> Schedule:
    """As many forwards as there are ranks behind, then forward and backward in turn (1806.03377, PipeDream-flush)."""
    orders = []
    for r in range(ranks):
        rank, ahead = _Rank({0: (r, 0, 0)}), min(ranks - 1 - r, microbatches)
        for _ in range(ahead):
            rank.forward()
        for _ in range(microbatches - ahead):
            rank.forward()
            rank.backward()
        for _ in range(ahead):
            rank.backward()
        orders.append(rank.steps)
    return Schedule("1f1b", orders, ranks, microbatches, _line(ranks))


def interleaved_1f1b(ranks: int, microbatches: int) -> Schedule:
    """Two chunks per rank, P stages apart; P microbatches pass one chunk before they pass the next (2104.04473)."""
    if microbatches % ranks:
        raise ConfigError(
            f"model.pipeline.microbatches={microbatches}: interleaved_1f1b on {ranks} ranks needs a multiple of "
            f"{ranks}; the next is {-(-microbatches // ranks) * ranks}"
        )
    orders = []
    for r in range(ranks):
        rank = _Rank({0: (r, 0, 0), 1: (ranks + r, 0, 0)})
        total = 2 * microbatches
        ahead = min(total, 2 * (ranks - 1 - r) + ranks)
        chunk = [i // ranks % 2 for i in range(total)]
        for i in range(ahead):
            rank.forward(chunk[i])
        for i in range(total - ahead):
            rank.forward(chunk[ahead + i])
            rank.backward(1 - chunk[i])
        for i in range(total - ahead, total):
            rank.backward(1 - chunk[i])
        orders.append(rank.steps)
    homes = [[*range(ranks), *range(ranks)]]
    return Schedule("interleaved_1f1b", orders, 2 * ranks, microbatches, homes)


def zb1p(ranks: int, microbatches: int) -> Schedule:
    """1F1B with B in two halves (2401.10241, ZB-H1): rank r does W r microbatches later, so that I goes up at once and
    every rank holds P activations."""
    orders = []
    for r in range(ranks):
        rank, ahead = _Rank({0: (r, 0, 0)}), min(ranks - 1 - r, microbatches)
        for _ in range(ahead):
            rank.forward()
        for i in range(microbatches):
            if i < microbatches - ahead:
                rank.forward()
            rank.input()
            if i >= r:
                rank.weight()
        while rank.waiting:
            rank.weight()
        orders.append(rank.steps)
    return Schedule("zb1p", orders, ranks, microbatches, _line(ranks))


def zbv(ranks: int, microbatches: int) -> Schedule:
    """Two chunks per rank in a V, B in halves (2401.10241 5, ZB-V): P activations, no bubble where F = I = W."""
    _need("zbv", microbatches, 2 * ranks - 1, ranks)
    orders = []
    for r in range(ranks):
        rank = _Rank({0: (r, 0, 0), 1: (2 * ranks - 1 - r, 0, 0)})
        for _ in range(2 * (ranks - r) - 1):
            rank.forward(0)
        for _ in range(r):
            rank.forward(1)
            rank.forward(0)
        for _ in range(ranks - r):
            rank.forward(1)
            rank.input(1)
            rank.weight()
        while rank.forwards[1] < rank.forwards[0] or rank.forwards[0] < microbatches:
            if rank.forwards[0] < microbatches:
                rank.forward(0)
            rank.input(0)
            rank.weight()
            rank.forward(1)
            rank.input(1)
            rank.weight()
        for _ in range(r):
            rank.input(0)
            rank.input(1)
        for _ in range(ranks - r):
            rank.input(0)
            rank.weight()
        while rank.waiting:
            rank.weight()
        orders.append(rank.steps)
    return Schedule("zbv", orders, 2 * ranks, microbatches, _fold(ranks))


def dualpipe(ranks: int, microbatches: int) -> Schedule:
    """V3 3.2.1: half of the microbatches enter at either end, and every rank holds the two stages that it is from each
    end. Needs an even P and an even M of at least 2 P."""
    if ranks % 2:
        raise ConfigError(
            f"model.pipeline.stages={ranks}: dualpipe needs an even number, a mirror image for each stage; "
            f"take {ranks + 1} or model.pipeline.schedule=dualpipev"
        )
    if microbatches % 2:
        raise ConfigError(
            f"model.pipeline.microbatches={microbatches}: dualpipe needs an even number, half for each end; "
            f"take {microbatches + 1}"
        )
    _need("dualpipe", microbatches, 2 * ranks, ranks)
    half, orders = microbatches // 2, []
    for r in range(ranks):
        near, far = (r, 0, 0), (ranks - 1 - r, 1, half)
        if r >= ranks // 2:  # chunk 0 is of the direction that reaches this rank first
            near, far = far, near
        rank = _Rank({0: near, 1: far})
        _eight_steps(rank, min(r, ranks - 1 - r), ranks // 2, half)
        orders.append(rank.steps)
    return Schedule("dualpipe", orders, ranks, microbatches, [list(range(ranks)), list(reversed(range(ranks)))])


def dualpipev(ranks: int, microbatches: int) -> Schedule:
    """DualPipe cut in half (DeepSeek's DualPipeV): one direction, folded into a V. Needs M of at least 2 P."""
    _need("dualpipev", microbatches, 2 * ranks, ranks)
    orders = []
    for r in range(ranks):
        rank = _Rank({0: (r, 0, 0), 1: (2 * ranks - 1 - r, 0, 0)})
        _eight_steps(rank, r, ranks, microbatches)
        orders.append(rank.steps)
    return Schedule("dualpipev", orders, 2 * ranks, microbatches, _fold(ranks))


def _eight_steps(rank: _Rank, depth: int, deepest: int, microbatches: int) -> None:
    """Both DualPipes, of a rank `depth` ranks from its end of `deepest`; chunk 0 goes inwards, chunk 1 comes back."""
    inner = deepest - 1 - depth
    for _ in range(2 * inner):
        rank.forward(0)
    for _ in range(depth + 1):
        rank.forward(0)
        rank.forward(1)
    for _ in range(inner):
        rank.input(1)
        rank.weight()
        rank.forward(1)
    for i in range(microbatches - 2 * deepest + depth + 1):
        if i == 0 and inner == 0:  # where the V folds, the backward chunk waits for this very forward chunk
            rank.forward(0)
            rank.backward(1)
        else:
            rank.overlapped(0, 1)
        rank.overlapped(1, 0)
    for _ in range(inner):
        rank.backward(1)
        rank.overlapped(1, 0)
    split = False
    for i in range(depth + 1):
        for chunk in (1, 0):
            split = split or (i == (depth + 1) // 2 and chunk == depth % 2)
            if split:
                rank.input(chunk)
            else:
                rank.backward(chunk)
    for _ in range(inner):
        rank.weight()
        rank.input(0)
    while rank.waiting:
        rank.weight()


def _need(name: str, microbatches: int, least: int, ranks: int) -> None:
    if microbatches < least:
        raise ConfigError(
            f"model.pipeline.microbatches={microbatches}: {name} on {ranks} ranks needs {least} or more; "
            f"raise it or lower model.pipeline.stages"
        )


SCHEDULES: dict[str, Callable[[int, int], Schedule]] = {  # by ranks and microbatches
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "interleaved_1f1b": interleaved_1f1b,
    "zb1p": zb1p,
    "zbv": zbv,
    "dualpipe": dualpipe,
    "dualpipev": dualpipev,
}


TWO_CHUNKS = ("interleaved_1f1b", "zbv", "dualpipev")
"""Schedules in which a microbatch passes every rank twice."""
MOST_CHUNKS = 1_000_000
"""Stages times microbatches of a schedule: each is put in its place."""


def ranks_of(name: str, stages: int) -> int:
    """How many ranks hold `stages` stages. Raises ConfigError."""
    if stages < 2:
        raise ConfigError(f"model.pipeline.stages={stages}: model.pipeline.schedule={name} needs 2 or more")
    if name not in TWO_CHUNKS:
        return stages
    if stages % 2:
        raise ConfigError(
            f"model.pipeline.stages={stages}: {name} has two stages on each rank, so it needs an even number; "
            f"take {stages + 1}"
        )
    return stages // 2


def make_schedule(name: str, stages: int, microbatches: int) -> Schedule:
    """Raises ConfigError where the schedule does not exist for these numbers."""
    ranks = ranks_of(name, stages)
    if stages * microbatches > MOST_CHUNKS:
        raise ConfigError(
            f"model.pipeline.microbatches={microbatches}: with model.pipeline.stages={stages} they are "
            f"{stages * microbatches:,} chunks, each of which is put in its place; at most {MOST_CHUNKS:,}"
        )
    return SCHEDULES[name](ranks, microbatches)


def pairs_apart(schedule: Schedule) -> Schedule:
    """The same order with F and then B in the place of each overlapped pair, as a device without overlap runs them: F's
    result leaves before B begins."""
    return replace(schedule, ranks=[[action for step in steps for action in parts(step)] for steps in schedule.ranks])


def needs(action: Action, schedule: Schedule) -> Iterator[Action]:
    """What must be done before `action`; a backward may be a B or an I."""
    s, m, d = action.stage, action.microbatch, action.direction
    if action.kind == "F":
        if s > 0:
            yield Action("F", s - 1, m, d)
    elif action.kind == "W":
        yield Action("I", s, m, d)
    else:
        yield Action("F", s, m, d)
        if s < schedule.stages - 1:
            yield Action("I", s + 1, m, d)
