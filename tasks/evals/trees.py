"""Requests that begin alike, as trees: the tokens that they share are read once.

The four endings of a question have its context in common; the two sentences of a minimal pair their first words.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TreeLogits = Callable[[Tensor, Tensor | None, Tensor | None, Tensor, Tensor], Iterable[Tensor]]
"""As models/decoding/trees.py has it, of one model: (tokens_BT, depths_BT, sees_BTT, rows_N, columns_N) -> (N, V), in
parts of some rows."""
LEAST_SHARED = 0.25
"""Of a text's tokens: with less in common with the text before it, it begins a tree of its own."""
LARGEST = 512
"""Tokens of a tree that further texts are added to: attention looks at all pairs of them."""


@dataclass(frozen=True)
class Window:
    """One row: the logits at its last len(targets) positions predict `targets`."""

    request: int
    inputs: list[int]
    targets: list[int]


@dataclass
class Tree:
    """Texts with a common beginning."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    segments: list[tuple[int, int, int]] = field(default_factory=list)
    """(first, end, parent) of tokens in a row that follow each other; the parent is -1 where they begin a text."""
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """(request, the token after which, the target) of everything to be predicted."""
    path: list[int] = field(default_factory=list)
    """The tokens of the last text, by their places here."""

    def add(self, window: Window, shared: int) -> None:
        """A text of which the first `shared` tokens are those of the last one."""
        first, rest = len(self.tokens), window.inputs[shared:]
        if rest:
            self.segments.append((first, first + len(rest), self.path[shared - 1] if shared else -1))
        self.tokens += rest
        self.depths += range(shared, shared + len(rest))
        self.path = [*self.path[:shared], *range(first, first + len(rest))]
        places = self.path[len(window.inputs) - len(window.targets) :]
        self.asked += [(window.request, place, target) for place, target in zip(places, window.targets, strict=True)]

    @property
    def branches(self) -> bool:
        return len(self.segments) > 1

    def sees(self, length: int) -> Tensor:
        """(length, length) booleans: each token itself and what precedes it in its text."""
        seen = torch.eye(length, dtype=torch.bool)
        for first, end, parent in self.segments:
            if parent >= 0:
                seen[first:end, : parent + 1] = seen[parent, : parent + 1]
            seen[first:end, first:end] = torch.ones(end - first, end - first, dtype=torch.bool).tril()
        return seen


def grown(windows: Sequence[Window]) -> list[Tree]:
    """Trees of all windows."""
    trees, before = list[Tree](), list[int]()
    for window in sorted(windows, key=lambda window: window.inputs):
        shared = _common(before, window.inputs)
        joins = shared >= max(1, LEAST_SHARED * len(window.inputs))
        if not trees or not joins or len(trees[-1].tokens) + len(window.inputs) - shared > LARGEST:
            trees.append(Tree())
            shared = 0
        trees[-1].add(window, shared)
        before = window.inputs
    return trees


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    for i, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return i
    return min(len(left), len(right))


@dataclass(frozen=True)
class Forward:
    """What one call of a model answers."""

    tokens_BT: Tensor
    depths_BT: Tensor | None
    sees_BTT: Tensor | None
    rows_N: Tensor
    columns_N: Tensor
    targets_N: Tensor
    requests_N: Tensor


def forwards(trees: Sequence[Tree], batch_tokens: int, fill: int) -> Iterator[Forward]:
    """Trees of like sizes together, filled up on the right with the token `fill`: at most `batch_tokens` at once."""
    for branching in (True, False):
        batch: list[Tree] = []
        for tree in sorted((t for t in trees if t.branches == branching), key=lambda tree: -len(tree.tokens)):
            if batch and (len(batch) + 1) * len(batch[0].tokens) > batch_tokens:
                yield _forward(batch, fill)
                batch = []
            batch.append(tree)
        if batch:
            yield _forward(batch, fill)


def _forward(batch: Sequence[Tree], fill: int) -> Forward:
    longest = len(batch[0].tokens)
    filled = [(longest - len(tree.tokens)) for tree in batch]
    tokens = torch.tensor([tree.tokens + [fill] * more for tree, more in zip(batch, filled, strict=True)])
    depths = sees = None
    if batch[0].branches:
        depths = torch.tensor([tree.depths + [0] * more for tree, more in zip(batch, filled, strict=True)])
        sees = torch.stack([tree.sees(longest) for tree in batch])
    asked = torch.tensor(
        [(row, place, target, request) for row, tree in enumerate(batch) for request, place, target in tree.asked]
    )
    rows, columns, targets, requests = asked.unbind(1)
    return Forward(tokens, depths, sees, rows, columns, targets, requests)
