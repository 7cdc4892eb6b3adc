"""What workers are asked for, typed on both sides of the pipe between: a dictionary is only what is in it."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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


@dataclass(frozen=True)
class TrialRequest:
    """Train a trial, or mirror one that is on record."""

    trial: TrialJob
    labels: Labels
    track: TrackConfig
    against: str | None = None
    """The folder of the baseline's trial of the same seed, which it will be compared with."""


@dataclass(frozen=True)
class GuardsRequest:
    """The guards of one arm, or of its data alone."""

    keys: TrialKeys
    seed: int
    cache: str


@dataclass(frozen=True)
class SpeedRequest:
    """Time arms in turn; those with a checkpoint (a folder) decode as well."""

    arms: dict[str, TrialKeys]
    cache: str
    checkpoints: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PlaceRequest:
    """Whether what trials need is there, on another machine than the scheduler's."""

    mark: str
    """A file that the scheduler has written into its runs_dir."""
    bits: dict[str, Any]
    """What makes the scheduler's trials the ones that they are (ablations/trial/identity.py)."""
    device: str


def job(key: str, kind: str, request: TrialRequest | GuardsRequest | SpeedRequest | PlaceRequest) -> Job:
    """As the pool sends it."""
    arguments: dict[str, Any] = asdict(request)
    return Job(key, kind, arguments)
