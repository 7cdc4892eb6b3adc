"""k-hop retrieval (2402.09268 section 4, in the form of Depo, 2512.17351): a ring, each step of it shown once, and what
lies k steps behind a node.

    c a  d b  a d  b c   2> a [b]  2> c [d]
    `---- steps ----'    `- two hops from each

One hop is associative recall; each further one looks up what the last one found. Steps are shown in random order. (In
the k-hop induction heads of 2402.09268 every hop goes back in the text, so that layers can double what they have found
and log k of them do; here half of the hops go forward, which only the tokens behind all steps can follow.)
"""

import functools
import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, distinct
from tasks.skills.skill import mask_at

EXACT = 32
"""Nodes up to which all ways to close a ring are counted."""
GUESSED, WALKED = 20_000, 2_000_000
"""Answers of which it is found how many nodes are left, and nodes of their rings, at most."""


@dataclass(frozen=True)
class Hops:
    """A sequence has one of the numbers of `hops`, all of them equally often."""

    level: ClassVar[str] = "hops"
    ceiling: ClassVar[float] = 1.0

    hops: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [1, 2, 3])
    nodes: Annotated[int, AtLeast(3), AtMost(10_000)] = 8
    """On the ring."""
    names: Annotated[int, AtLeast(3), AtMost(10_000)] = 24
    """Different nodes, of which each ring has some."""
    asked: Annotated[int, AtLeast(1), AtMost(10_000)] = 6
    """Nodes from which hops are asked, each once."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, *(f"{hops}>" for hops in self.hops), *(f"n{i}" for i in range(self.names))]

    @property
    def chance(self) -> float:
        """Of the likeliest node by the answers before: each is one answer only, and as many hops as are asked lead
        around in circles of equal size, which none closes early. Beyond `EXACT` nodes of a guess among all that may be
        the answer, which is up to some hundredths less."""
        circles = (self.nodes // math.gcd(self.nodes, hops) for hops in self.hops)
        return statistics.fmean(_guessed(self.nodes, circle, self.asked) for circle in circles)

    def check(self, seq_len: int) -> None:
        least, most = min(self.hops), max(self.hops)
        if least < 1:
            raise ConfigError(f"data.settings.hops={self.hops}: {least} hops lead nowhere; at least 1")
        if most >= self.nodes:
            raise ConfigError(
                f"data.settings.hops={self.hops}: {most} hops lead once around a ring of nodes={self.nodes}; fewer, or "
                "more nodes"
            )
        if self.nodes > self.names:
            raise ConfigError(
                f"data.settings.nodes={self.nodes}: a ring has more nodes than there are (names={self.names}); "
                "take fewer nodes, or more names"
            )
        if self.asked > self.nodes:
            raise ConfigError(
                f"data.settings.asked={self.asked}: each node is asked once, and there are {self.nodes}; ask fewer"
            )
        if (wanted := 2 * self.nodes + 3 * self.asked - 1) > seq_len:
            raise ConfigError(
                f"data.settings.nodes={self.nodes}: their ring, and what is asked, take {wanted} tokens of "
                f"data.seq_len={seq_len}; lower nodes or asked, or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        which = rng.integers(len(self.hops), size=count)
        levels = np.array(self.hops)[which]
        ring = 1 + len(self.hops) + distinct(rng, count, self.names, self.nodes)

        def at(places: np.ndarray) -> np.ndarray:
            return np.take_along_axis(ring, places % self.nodes, axis=1)

        shown = distinct(rng, count, self.nodes, self.nodes)
        asked = distinct(rng, count, self.nodes, self.asked)
        words = np.broadcast_to(1 + which[:, None], asked.shape)
        steps = np.stack([at(shown), at(shown + 1)], axis=2).reshape(count, -1)
        questions = np.stack([words, at(asked), at(asked + levels[:, None])], axis=2).reshape(count, -1)
        tokens = np.full((count, seq_len + 1), END)
        tokens[:, : 2 * self.nodes] = steps
        tokens[:, 2 * self.nodes : 2 * self.nodes + 3 * self.asked] = questions
        keys = 2 * self.nodes + 1 + 3 * np.arange(self.asked)
        return Items(tokens, mask_at(np.broadcast_to(keys, asked.shape), seq_len), levels)


@functools.lru_cache(maxsize=256)
def _guessed(nodes: int, size: int, asked: int) -> float:
    """Where the hops that are asked lead around in circles of `size` nodes."""
    return _likeliest(nodes, size, asked) if size < nodes <= EXACT else _left_over(nodes, size, asked)


Runs = tuple[tuple[int, int], ...]
"""(length, how many) of the runs of nodes whose answers are known, in the order of lengths. A node of which nothing is
known is a run of one; a circle that is closed is none any more."""


def _likeliest(nodes: int, size: int, asked: int) -> float:
    """Share of the answers that are the likeliest node: over all ways in which the runs may yet close to circles of
    `size` nodes. Of who is asked, each node is as likely, and what is known is a number of runs of each length."""
    right, states = 0.0, defaultdict[Runs, float](float, {((1, nodes),): 1.0})
    for before in range(asked):
        after = defaultdict[Runs, float](float)
        for runs, share in states.items():
            whole = _circles(runs, size)
            for own, many in runs:
                here = share * many / (nodes - before)
                rest = _with(runs, {own: -1})
                if own == size:  # nothing is left but its own first node
                    right += here
                    after[rest] += here
                    continue
                joined = {n: _with(rest, {n: -1, own + n: 1}) for n, _ in rest if own + n <= size}
                chances = {n: _circles(then, size) / whole for n, then in joined.items()}
                right += here * max(chances.values())
                for n, count in rest:
                    if chances.get(n):
                        after[joined[n]] += here * count * chances[n]
        states = after
    return right / asked


def _with(runs: Runs, changes: dict[int, int]) -> Runs:
    counts = Counter(dict(runs))
    counts.update(changes)
    return tuple(sorted((length, many) for length, many in counts.items() if many))


@functools.lru_cache(maxsize=100_000)
def _circles(runs: Runs, size: int) -> int:
    """In how many ways runs close to circles of `size` nodes: whoever goes with the longest, in any order behind it."""
    if not runs:
        return 1
    longest, _ = runs[-1]
    return sum(ways * _circles(left, size) for ways, left in _company(_with(runs, {longest: -1}), size - longest, 0))


def _company(runs: Runs, room: int, chosen: int) -> Iterator[tuple[int, Runs]]:
    """(ways to choose and to order them, runs that are left) of all companies that fill `room` nodes, the longest
    first; `chosen`: how many are in it already."""
    if not room:
        yield math.factorial(chosen), runs
    elif runs:
        (length, many), fewer = runs[-1], runs[:-1]
        for taken in range(min(many, room // length) + 1):
            kept = ((length, many - taken),) if many > taken else ()
            for ways, left in _company(fewer, room - taken * length, chosen + taken):
                yield math.comb(many, taken) * ways, tuple(sorted((*left, *kept)))


def _left_over(nodes: int, size: int, asked: int) -> float:
    """Share of the answers that a guess gets right among the nodes that may be it: those that begin a run of known
    answers, another than the asked node's and short enough that the two fit into a circle; or the own one, where it is
    the whole circle."""
    if size == nodes:
        return statistics.fmean(1 / max(1, nodes - before - 1) for before in range(asked))
    rng, right, rounds = np.random.default_rng(0), 0.0, max(1, min(GUESSED // asked, WALKED // nodes))
    for _ in range(rounds):
        begins, lengths = list(range(nodes)), [1] * nodes  # of the run that ends with a node
        ends = list(range(nodes))  # of the run that begins with it
        runs = Counter({1: nodes})
        for node in rng.permutation(nodes)[:asked].tolist():
            answer, own = (node + nodes // size) % nodes, lengths[node]
            fitting = sum(count for length, count in runs.items() if own + length <= size) - (2 * own <= size)
            right += 1 / max(1, fitting)
            if begins[node] == answer:
                continue
            end, begin = ends[answer], begins[node]
            runs.subtract([own, lengths[end]])
            lengths[end] += own
            runs[lengths[end]] += 1
            begins[end], ends[begin] = begin, end
    return right / rounds / asked
