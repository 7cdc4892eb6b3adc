"""Jobs of no work, for what the scheduler alone can do: a trial is its record, and nothing was trained for it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.record.record import RECORD, Record
from ablations.trial.requests import TrialRequest
from models.base.typed import build


def trial(arguments: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    own = build(TrialRequest, arguments).trial
    Record(own.id, own.seed, "complete", asdict(own.keys)).write(Path(own.folder) / RECORD)
    return {}


KINDS = {"trial": trial}
