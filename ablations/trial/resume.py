"""Where a trial that was interrupted goes on, and where one does whose first stages others have trained."""

import contextlib
import logging
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.record.steplog import STEPS, read_steps
from ablations.record.trialdir import RESUME, STATE, whole
from ablations.trial.chain import BASE, readable_base
from ablations.trial.recorder import Columns, Recorder
from models.base.files import set_aside, whole_file

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


def resume_of(
    folder: Path, keys: TrialKeys, seed: int, trunk: Path | None, said: Callable[[str], None] = log.warning
) -> Resume:
    """From the trial's own checkpoint; without one, after the stages that the trunk's trial has trained. A damaged
    checkpoint, or one of another seed, is set aside, which is `said`."""
    own = _resumable(folder, keys, seed, said)
    further = [BASE] if keys.has_base else []
    if own.path is not None or trunk is None or not all((trunk / name).is_file() for name in (STATE, STEPS)):
        return own
    if further and not readable_base(trunk):
        return own
    if _readable(trunk / STATE, seed, "who goes on from it trains that part too", said) is None:
        return own
    for name in (STEPS, *further):
        copy_whole(trunk / name, folder / name)
    copy_whole(trunk / STATE, folder / RESUME)
    return _resumable(folder, keys, seed, said)


def weights_in(path: Path, seed: int, said: Callable[[str], None] = log.warning) -> dict[str, Tensor] | None:
    """A model's, of a state that a trial of this seed has left; None where there is none, or a damaged one, which is
    set aside."""
    saved = _readable(path, seed, "it is trained again", said)
    return None if saved is None else _of_model(saved)


class OfAnotherSeed(Exception):
    """A checkpoint that no trial with this seed can have left."""


def _readable(path: Path, seed: int, then: str, said: Callable[[str], None]) -> dict[str, Any] | None:
    """What a checkpoint holds; None where it is missing or cannot be read, or damaged or of another seed and set
    aside."""
    try:
        if not whole(path):
            raise zipfile.BadZipFile("not what was written")
        found: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        _place_in(found)
        if (other := found["callbacks"][Recorder.__qualname__].get("seed", seed)) != seed:
            raise OfAnotherSeed(f"of seed {other}, and not {seed}")
        return found
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except OSError as error:  # the system's fault, and perhaps gone the next time
        said(f"{path}: cannot be read ({error.strerror or error}); {then}")
        return None
    except Exception as error:  # torch raises many kinds for a damaged file
        with contextlib.suppress(FileNotFoundError):  # another that needs it has been here
            aside = set_aside(path)
            what = str(error) if isinstance(error, OfAnotherSeed) else f"damaged ({type(error).__name__})"
            said(f"{path}: {what}, set aside as {aside.name}; {then}")
        return None


def _place_in(saved: dict[str, Any]) -> tuple[int, int]:
    """The stage, from 0, and how many of its steps are done."""
    return int(saved["callbacks"][Recorder.__qualname__]["stage"]), int(saved["global_step"])


def _of_model(saved: dict[str, Any]) -> dict[str, Tensor]:
    state = saved.get("state_dict", {})
    return {name.removeprefix(MODEL): value for name, value in state.items() if name.startswith(MODEL)}


def _resumable(folder: Path, keys: TrialKeys, seed: int, said: Callable[[str], None]) -> Resume:
    """The resumable checkpoint, where there is a readable one with its step log."""
    path = folder / RESUME
    saved = _readable(path, seed, "the trial starts over", said)
    if saved is None:
        return Resume()
    stage, own = _place_in(saved)
    step = keys.done_before(stage)[0] + own
    logged = sum(1 for row in read_steps(folder / STEPS) if row["step"] <= step)
    if logged != step:
        aside = f"set aside as {set_aside(folder / STEPS).name}" if (folder / STEPS).exists() else "gone"
        said(f"{folder / STEPS}: holds {logged} of its checkpoint's {step} steps, {aside}; the trial starts over")
        return Resume()
    return Resume(path, stage, step, own == keys.stages[stage].stop, saved)


def copy_whole(source: Path, target: Path) -> None:
    with whole_file(target) as temporary:
        shutil.copyfile(source, temporary)
