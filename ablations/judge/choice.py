"""What a search says to take: of strengths the best that keeps the balance asked for, of learning rates the vertex.

Knows numbers only, so that a result can say of a published search what the search itself would have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ablations.judge.grid import LEARNING_RATE, Edge, Key, Measured, Point, curve, edges, eligible
from ablations.judge.vertex import Vertex, vertex


@dataclass(frozen=True)
class Choice:
    point: Point
    """What is confirmed."""
    mistuning: float | None
    """What the learning rate may cost, in nats, as an upper 95 % bound; None where that cannot be said. 0 where all
    arms have one by design."""
    vertex: Vertex | None = None
    """Of the learning rate at the chosen strength; None where fewer than three were searched."""
    edges: dict[str, Edge] = field(default_factory=dict)
    """Searched keys whose best value is the last one on that side, or would lie beyond it."""
    notes: list[str] = field(default_factory=list)
    """What the result must say of it."""
    best: Point = field(default_factory=dict)
    """The searched point that it stands on."""


def choose(name: str, measured: Mapping[Key, Measured], limit: float | None, taken: float | None = None) -> Choice:
    """For the arm `name`, which keeps the limit where it searches a strength of its own (`limit` is None where not):
    the least loss among the points within it, the best balanced one where none is; then the vertex of the learning
    rates at that strength. taken: the learning rate that was confirmed, where that is done; what it may cost is then
    said of this one."""
    within, notes = eligible(measured, limit), list[str]()
    if within:
        best = min(within, key=lambda key: within[key].loss)
    else:
        finite = eligible(measured, None) or dict(measured)
        best = min(finite, key=lambda key: (finite[key].constraint, finite[key].loss))
        if finite[best].diverged:
            notes.append(f"{name}: all searched points diverged; one of them was taken")
        else:
            notes.append(f"{name}: no searched point keeps the balance asked for; the best balanced one was taken")
    point = dict(best)
    if LEARNING_RATE not in point:
        return Choice(point, 0.0, edges=edges(point, measured, limit), notes=notes, best=point)
    found = vertex(curve(LEARNING_RATE, point, {key: m.losses for key, m in measured.items()}), taken)
    at_edge = edges(point, measured, limit)
    if found is None:
        return Choice(point, None, edges=at_edge, notes=notes, best=point)
    if found.dropped:
        left_out = ", ".join(f"{rate:g}" for rate in found.dropped)
        notes.append(
            f"{name}: the parabola leaves out {LEARNING_RATE}={left_out}, which diverged or lies too far off for it"
        )
    if found.beyond is not None:
        at_edge[LEARNING_RATE] = found.beyond
    return Choice({**point, LEARNING_RATE: found.rate}, found.excess, found, at_edge, notes, best=point)
