"""What workers are asked for, typed on both sides of the pipe between: a dictionary is only what is in it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

from ablations.config.schema import TrackConfig
from ablations.config.trialkeys import TrialKeys
from ablations.launch.job import Job
from ablations.trial.job import TrialJob


@dataclass(frozen=True)
class Labels:
    """Whose a trial is: a trial may be used by several sweeps."""

    sweep: str
    scale: str
    arm: str
    seed: int
    phase: Literal["search", "confirm"]
    baseline: str = ""
    """The arm that this one is compared with."""
    plan: str = ""
    """SHA-256 of the plan.json that asks for it."""
    values: dict[str, float] = field(default_factory=dict)
    """Searched keys."""
    share: float = 1.0
    """Of the tokens, where the arm is finished at several lengths."""


Move = Callable[[str], str]
"""Of a path: where the same lies on another machine."""


@dataclass(frozen=True)
class TrialRequest:
    """Train a trial, or mirror one that is on record."""

    trial: TrialJob
    labels: Labels
    track: TrackConfig
    against: str | None = None
    """The folder of the baseline's trial of the same seed, which it will be compared with."""

    def moved(self, to: Move) -> Self:
        return replace(self, trial=self.trial.moved(to), against=None if self.against is None else to(self.against))


@dataclass(frozen=True)
class GuardsRequest:
    """The guards of one arm, or of its data alone."""

    keys: TrialKeys
    seed: int
    cache: str

    def moved(self, to: Move) -> Self:
        return replace(self, cache=to(self.cache))


@dataclass(frozen=True)
class SpeedRequest:
    """Time arms in turn; those with a checkpoint (a folder) decode as well."""

    arms: dict[str, TrialKeys]
    cache: str
    checkpoints: dict[str, str] = field(default_factory=dict)

    def moved(self, to: Move) -> Self:
        checkpoints = {name: to(path) for name, path in self.checkpoints.items()}
        return replace(self, cache=to(self.cache), checkpoints=checkpoints)


@dataclass(frozen=True)
class PlaceRequest:
    """Whether what trials need is there, on another machine than the scheduler's."""

    bits: dict[str, Any]
    """What makes the scheduler's trials the ones that they are (ablations/trial/identity.py)."""
    device: str


Request = TrialRequest | GuardsRequest | SpeedRequest
"""Of what has to do with the runs folder."""


def job(key: str, kind: str, request: Request | PlaceRequest) -> Job:
    """As the pool sends it."""
    arguments: dict[str, Any] = asdict(request)
    return Job(key, kind, arguments)
