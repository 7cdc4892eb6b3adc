"""One trial, as whoever trains it is told of it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

from ablations.config.trialkeys import TrialKeys


@dataclass(frozen=True)
class TrialJob:
    id: str
    keys: TrialKeys
    """Resolved: nothing in them is left to the machine."""
    seed: int
    folder: str
    """Takes what the trial leaves."""
    cache: str
    """Prepared corpora, evaluation items, downloads."""
    trunk: str | None = None
    """The folder of the trial that trains the stages before the last one, where it has done so already: its state is
    taken over. What comes of it is the same."""
    keep: bool = False
    """Whether others go on from what it has come to."""
    teacher: str | None = None
    """The folder of the trial that trains the teacher, where a stage has one. Where nobody has, this trial does, and
    what comes of it is the same."""

    def moved(self, to: Callable[[str], str]) -> Self:
        """The same trial on another machine. `to`: where a path lies there."""
        trunk, teacher = (None if path is None else to(path) for path in (self.trunk, self.teacher))
        return replace(self, folder=to(self.folder), cache=to(self.cache), trunk=trunk, teacher=teacher)
