"""Where a trial that was interrupted goes on, and where one does whose first stages others have trained."""

import logging
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.record.steplog import STEPS, read_steps
from ablations.trial.chain import BASE, readable_base
from ablations.trial.recorder import RESUME, Columns, Recorder
from models.files import whole_file

STATE = "state.ckpt"
"""What a trial leaves for others to go on from."""
MODEL = "transformer."
"""Before the names of a model's values in a checkpoint."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resume:
    """Without a checkpoint, at the trial's beginning."""

    path: Path | None = None
    stage: int = 0
    steps: int = 0
    """Of all stages so far."""
    ended: bool = False
    """The stage has come to its last step; the next one goes on."""
    saved: dict[str, Any] = field(default_factory=dict)
    """What the checkpoint holds."""

    @property
    def weights(self) -> dict[str, Tensor] | None:
        """The model's, where a stage has ended with them."""
        return _of_model(self.saved) if self.ended else None

    @property
    def validation(self) -> Columns:
        """What had been found by then."""
        columns: Columns = self.saved["callbacks"][Recorder.__qualname__]["validation"] if self.saved else {}
        return columns


def resume_of(folder: Path, keys: TrialKeys, trunk: Path | None) -> Resume:
    """From the trial's own checkpoint; without one, after the stages that the trunk's trial has trained."""
    own = _resumable(folder, keys)
    further = [BASE] if keys.has_base else []
    if own.path is not None or trunk is None or not all((trunk / name).is_file() for name in (STATE, STEPS)):
        return own
    if further and not readable_base(trunk):
        return own
    for name in (STEPS, *further):
        copy_whole(trunk / name, folder / name)
    copy_whole(trunk / STATE, folder / RESUME)
    return _resumable(folder, keys)


def weights_in(path: Path) -> dict[str, Tensor] | None:
    """A model's, of a state that a trial has left; None where that cannot be read."""
    try:
        return _of_model(torch.load(path, weights_only=True, map_location="cpu"))
    except Exception as error:  # torch raises many kinds for a damaged file
        log.warning("%s is not readable (%s)", path, error)
        return None


def _of_model(saved: dict[str, Any]) -> dict[str, Tensor]:
    state = saved.get("state_dict", {})
    return {name.removeprefix(MODEL): value for name, value in state.items() if name.startswith(MODEL)}


def _resumable(folder: Path, keys: TrialKeys) -> Resume:
    """The resumable checkpoint, where there is a readable one with its step log."""
    path = folder / RESUME
    if not path.is_file():
        return Resume()
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        stage, own = int(saved["callbacks"][Recorder.__qualname__]["stage"]), int(saved["global_step"])
    except Exception as error:  # torch raises many kinds for a damaged file; the trial then starts over
        log.warning("%s is not readable (%s); the trial starts over", path, error)
        return Resume()
    step = keys.done_before(stage)[0] + own
    logged = sum(1 for row in read_steps(folder / STEPS) if row["step"] <= step)
    return Resume(path, stage, step, own == keys.stages[stage].stop, saved) if logged == step else Resume()


def copy_whole(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)
