"""The model that a stage learns from: trained as a trial of its own, by whoever needs it first."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ablations.config.trialkeys import Stage, TrialKeys
from ablations.record.record import RECORD, Record, finished
from ablations.record.trialdir import STATE, TEACHER
from ablations.trial.job import TrialJob
from ablations.trial.resume import weights_in
from models.decoding.sampling import draw
from models.module import LanguageModel
from models.post_training.distil import Distilling
from models.transformer import Transformer
from tasks.config import END_OF_TEXT_ID
from tasks.prepared import Data
from tasks.problems.taught import TaughtData, Writer


class Untaught(Exception):
    """The teacher's training has come to nothing."""


@dataclass(frozen=True)
class Teacher:
    model: Transformer
    flops: float
    """Of its whole training."""


def teacher_of(job: TrialJob, train: Callable[[TrialJob], Record], said: Callable[[str], None]) -> Teacher | None:
    """What the trial's stages learn from; None where none has a teacher. `train` makes the record of another trial,
    where there is none; `said` hears of a damaged one. Raises Untaught."""
    keys = job.keys.taught_by
    if keys is None:
        return None
    given = None if job.teacher is None else _left_in(Path(job.teacher), keys, job.seed, said)
    if given is not None:
        return given
    folder = Path(job.folder) / TEACHER
    if (own := _left_in(folder, keys, job.seed, said)) is None:
        (folder / RECORD).unlink(missing_ok=True)
        train(TrialJob(f"{job.id}-teacher", keys, job.seed, str(folder), job.cache, keep=True))
        own = _left_in(folder, keys, job.seed, said)
    if own is None:
        raise Untaught(f"the teacher's training left nothing that can be read in {folder}")
    return own


def _left_in(folder: Path, keys: TrialKeys, seed: int, said: Callable[[str], None]) -> Teacher | None:
    record = finished(folder / RECORD)
    if record is None:
        return None
    if record.status != "complete":
        raise Untaught(f"the teacher {record.status}: {record.reason}")
    weights = weights_in(folder / STATE, seed, said)
    if weights is None:
        return None
    model = Transformer(keys.model)
    model.load_state_dict(weights)
    return Teacher(model.to(keys.train.device).eval(), math.fsum(stage.flops for stage in record.stages))


def learn_from(teacher: Transformer, stage: Stage, module: LanguageModel, data: Data) -> Data:
    """Have the module learn from the teacher as the stage says; returns what its batches are of."""
    distil = stage.distil
    if distil.loss != "tokens":
        module.executor = Distilling(module.transformer, teacher, distil, stage.microbatches, stage.document_end)
    if distil.answers == "data":
        return data
    writer = writer_of(teacher, distil.answer_temperature)
    return TaughtData(stage.data, stage.model.vocab_size, writer, distil.chosen)


def writer_of(model: Transformer, temperature: float) -> Writer:
    """Who answers as the model does."""

    def write(prompts: list[NDArray[np.int64]], room: int, seed: int) -> NDArray[np.int64]:
        device = model.lm_head.weight.device
        rows = [torch.from_numpy(row).to(device) for row in prompts]
        generator = torch.Generator(device).manual_seed(seed)
        drawn = draw(model, rows, room, END_OF_TEXT_ID, generator, temperature=temperature)
        found: NDArray[np.int64] = drawn.tokens_BN.cpu().numpy()
        return found

    return write
