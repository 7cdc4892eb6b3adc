"""One trial, as whoever trains it is told of it."""

from dataclasses import dataclass

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
