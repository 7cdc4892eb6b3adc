"""What a skill is: something to be learned whose items are drawn, without end, from a rule.

A sequence of T inputs and their targets is one item, or several one after the other. Some targets are *answers*: what
the skill decides. All else is there to be read. Chance and ceiling of an answer are known, and how hard an item is, by
a measure of the skill's own (its level), so that scores can be read against both.
"""

from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tasks.drawn import END, Asked, Items


class Skill(Asked, Protocol):
    """A rule that items are drawn from, as its settings say. A frozen dataclass whose fields are the settings."""

    level: ClassVar[str]
    """What a level counts: `pairs`."""

    def check(self, seq_len: int) -> None:
        """Raise ConfigError, naming `data.settings.<key>`, where no item can be made so, or none fits into `seq_len`
        inputs."""

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        """`count` sequences. Everything random comes from `rng`."""


@runtime_checkable
class WrittenOut(Protocol):
    """A skill that writes more than its answers, on the way to them: `data.answers_only` learns that too."""

    def learned(self, items: Items) -> NDArray[np.bool_]:
        """(N, T): the targets to learn, the answers among them."""


@runtime_checkable
class InAnyOrder(Protocol):
    """A skill that shows a problem in one of several orders. All of them have one answer, and stand on one side."""

    def same(self, items: Items) -> NDArray[np.int64]:
        """(N, W), END where nothing stands: equal where items are the same problem."""


def mask_at(places: NDArray[np.int64], seq_len: int) -> NDArray[np.bool_]:
    """The targets at `places` (N, K) of the inputs that they follow: input t has target t."""
    mask = np.zeros((len(places), seq_len), dtype=bool)
    np.put_along_axis(mask, places, True, axis=1)
    return mask


def behind(word: int, tokens_NT1: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The targets that come behind the first `word` of each sequence, up to the end of its item."""
    passed_NT = np.cumsum(tokens_NT1[:, :-1] == word, axis=1) > 0
    within: NDArray[np.bool_] = passed_NT & (tokens_NT1[:, 1:] != END)
    return within
