"""Star-graph planning (2403.06963): the edges of a star in random order, its centre and the end of one of its arms,
then the path between them.

    3 7 | 5 9 | 3 5 | 7 2 / 3 9 = 3 [5] 9
    `----- edges -----' start,    path: its first step is the answer
                        goal

Each step but the first follows from the one before it, by the only edge that leaves it. Next-token training learns
that, and then nothing else of the path teaches its first step, which is guessed among `degree` edges. Whoever looks
ahead finds it backwards, from the goal.

No graph of the test is trained on, in whatever order its edges are shown: of 8 nodes, two arms and a path of 4 there
are 40,320, which a million sequences hold many times.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END, END_WORD, Items, distinct
from tasks.skills.skill import behind

BAR, SLASH, EQUALS, FIRST = 1, 2, 3, 4


@dataclass(frozen=True)
class Star:
    """A sequence has one graph, with a path as long as one of `path`, all of them equally often."""

    level: ClassVar[str] = "nodes of the path"
    ceiling: ClassVar[float] = 1.0

    path: Annotated[list[int], NotEmpty(), Distinct()] = field(default_factory=lambda: [5])
    """Nodes from start to goal, both included. All arms are as long."""
    degree: Annotated[int, AtLeast(2), AtMost(100)] = 2
    """Arms of the star."""
    nodes: Annotated[int, AtLeast(5), AtMost(10_000)] = 50
    """Different nodes, of which each graph has some."""
    asked: Literal["first", "path"] = "first"
    """`first`: the first step is the answer. `path`: every step is, and an item is right where the path would be right
    that the model writes by itself, which is what the paper counts. `data.answers_only` learns the whole path with
    either."""

    @property
    def words(self) -> Sequence[str]:
        return [END_WORD, "|", "/", "=", *(str(i) for i in range(self.nodes))]

    @property
    def chance(self) -> float:
        """Of whoever follows edges and guesses among those of the start."""
        if self.asked == "first":
            return 1 / self.degree
        steps = [path - 1 for path in self.path]
        return sum(1 / self.degree + step - 1 for step in steps) / sum(steps)

    def check(self, seq_len: int) -> None:
        least, most = min(self.path), max(self.path)
        if least < 3:
            raise ConfigError(
                f"data.settings.path={self.path}: on a path of {least} nodes the goal, which is given, is the first "
                "step; at least 3"
            )
        if (wanted := 1 + self.degree * (most - 1)) > self.nodes:
            raise ConfigError(
                f"data.settings.path={self.path}: {self.degree} arms of a path of {most} nodes have {wanted} nodes, "
                f"and there are {self.nodes} (nodes={self.nodes}); raise them"
            )
        if (wanted := 3 * self.degree * (most - 1) + 2 + most) > seq_len:
            raise ConfigError(
                f"data.settings.path={self.path}: {self.degree} arms of a path of {most} nodes take {wanted} tokens of "
                f"data.seq_len={seq_len}; lower them or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.path), count)
        tokens = np.full((count, seq_len + 1), END)
        answers = np.zeros((count, seq_len), dtype=bool)
        for path in self.path:
            rows = np.flatnonzero(levels == path)
            drawn = self._of(rng, len(rows), path)
            width = drawn.shape[1]
            tokens[rows, :width] = drawn
            last = width - path + 1 if self.asked == "first" else width - 1
            answers[rows, width - path : last] = True
        return Items(tokens, answers, levels)

    def learned(self, items: Items) -> NDArray[np.bool_]:
        """The path, its start included."""
        return behind(EQUALS, items.tokens_NT1)

    def same(self, items: Items) -> NDArray[np.int64]:
        """Edges by their nodes, then start and goal."""
        found = np.full_like(items.tokens_NT1, END)
        for path in self.path:
            rows, count = np.flatnonzero(items.levels_N == path), self.degree * (path - 1)
            tokens = items.tokens_NT1[rows]
            edges = tokens[:, : 3 * count].reshape(len(rows), count, 3)
            found[rows, :count] = np.sort(edges[:, :, 0] * len(self.words) + edges[:, :, 1], axis=1)
            found[rows, count : count + 2] = tokens[:, 3 * count : 3 * count + 2]
        return found

    def _of(self, rng: np.random.Generator, rows: int, path: int) -> NDArray[np.int64]:
        """Items (rows, tokens) with paths as long. The goal is at the end of the first arm."""
        nodes = FIRST + distinct(rng, rows, self.nodes, 1 + self.degree * (path - 1))
        start, heads = nodes[:, :1], nodes[:, 1:].reshape(rows, self.degree, path - 1)
        tails = np.concatenate([np.broadcast_to(start[:, None], (rows, self.degree, 1)), heads[:, :, :-1]], axis=2)
        edges = np.stack([tails, heads, np.full_like(heads, BAR)], axis=3).reshape(rows, -1, 3)
        edges = np.take_along_axis(edges, distinct(rng, rows, edges.shape[1], edges.shape[1])[:, :, None], axis=1)
        edges[:, -1, 2] = SLASH
        equals = np.full_like(start, EQUALS)
        return np.concatenate([edges.reshape(rows, -1), start, heads[:, 0, -1:], equals, start, heads[:, 0]], axis=1)
