"""The record: what one trial leaves behind. Tables, figures and pages are built from records and the plan alone."""

import bisect
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablations.files import read_json, write_json
from models.base.typed import ConfigError, build

FORMAT = 1
RECORD = "record.json"
RECORDS = "records"
"""The folder of a published result's records, each by its trial's id."""


@dataclass(frozen=True)
class Needles:
    """Passkeys that are asked for at the end of real text: each context of `lengths` x each of `depths`."""

    lengths: list[int]
    """Tokens, in ascending order."""
    depths: list[float]
    """Where in the text a passkey stands: 0 at its beginning, 1 at its end."""
    nats: list[list[float]]
    """Of a token of the passkey, asked for."""
    margins: list[list[float]]
    """By how many nats it is likelier than another drawn token in its place: 0 where nothing is found."""


@dataclass(frozen=True)
class StageRecord:
    """What one stage of a trial did."""

    steps: int
    tokens: int
    """That it learned from."""
    drawn: int
    """Tokens that were written to learn from, by the model itself or its teacher."""
    flops: float
    """Of learning and drawing, and of reading with the reference model or the teacher; not of validation, and not of
    the teacher's own training."""


@dataclass(frozen=True)
class Record:
    """One trial's outcome, written once, at its end, to `runs/trials/<id>/record.json`."""

    id: str
    seed: int
    status: Literal["complete", "diverged", "failed"]
    config: dict[str, Any]
    """The resolved model, data, optim, train and eval keys: everything that can change the numbers."""
    reason: str | None = None
    """Why it diverged (with the step) or failed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """By the names of `ablations/metrics.py`, on `eval.split`; `max_vio_batch` and its layers on the last tenth of
    training. `max_vio_*_layer<i>` count MoE layers from 1."""
    load: list[list[float]] = field(default_factory=list)
    """Per MoE layer, per expert: load / mean load on the whole of `eval.split`."""
    needles: Needles | None = None
    """Where `eval.lengths` names any."""
    history: dict[str, list[float]] = field(default_factory=dict)
    """Columns of equal length: `step` (from 1), `tokens` seen, `loss`, `aux_loss`, `max_vio` (batch), `lr`; at most 200
    points."""
    validation: dict[str, list[float]] = field(default_factory=dict)
    """Columns of equal length: `step`, `tokens`, `loss`, `max_vio_global`."""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """lm-eval task -> {metric: value, metric_stderr: value or null, `items`: per-item results as a string of 0/1,
    `documents`: columns of nats and of what perplexities divide them by}, and more (tasks/evals/score.py)."""
    stages: list[StageRecord] = field(default_factory=list)
    """Each of them, in order."""
    answering: dict[str, list[float]] = field(default_factory=dict)
    """Of stages that learn from rewards: columns of equal length, `step` and OF_ANSWERS
    (models/post_training/config.py); at most 200 points."""
    timings: dict[str, float] = field(default_factory=dict)
    """`train_s`, `eval_s`, `tokens_per_second`. Never compared for equality."""
    data: dict[str, Any] = field(default_factory=dict)
    """The data fingerprint and sizes."""
    environment: dict[str, Any] = field(default_factory=dict)
    """Versions, instruction set, threads, data type, processor name, code hash."""
    format: int = FORMAT

    @property
    def chained(self) -> bool:
        """Whether a stage began with the weights that another had finished with: one history has losses of several
        things."""
        return any(stage["until"] == 1 for stage in self.config.get("before", []))

    @property
    def text_history(self) -> dict[str, list[float]]:
        """The history up to the first step that learned from rewards: from there on its loss is none of text."""
        if not self.answering:
            return self.history
        kept = bisect.bisect_left(self.history.get("step", []), self.answering["step"][0])
        return {name: column[:kept] for name, column in self.history.items()}

    def write(self, path: Path) -> None:
        write_json(path, dataclasses.asdict(self))


def read_record(path: Path) -> Record:
    """Raises ConfigError where the file is no record, OSError where it cannot be read."""
    values = read_json(path)
    if isinstance(values, dict) and values.get("format", FORMAT) != FORMAT:
        raise ConfigError(f"{path}: format={values['format']}: this version reads format {FORMAT}")
    record = build(Record, values, str(path))
    if (wrong := _wrong(record)) is not None:
        raise ConfigError(f"{path}: {wrong}")
    return record


def _wrong(record: Record) -> str | None:
    """What its types do not say, and whoever reads it relies on: the part, and the rule that it breaks."""
    before = record.config.get("before", [])
    if not isinstance(before, list) or not all(isinstance(stage, dict) and "until" in stage for stage in before):
        return "config.before: must be a list of stages, each with its `until`"
    for name in ("history", "validation", "answering"):
        if len({len(column) for column in getattr(record, name).values()}) > 1:
            return f"{name}: its columns must be of one length"
    if record.answering and not record.answering.get("step"):
        return "answering.step: is missing"
    needles = record.needles
    if needles is not None:
        shape = [len(needles.depths)] * len(needles.lengths)
        if any([len(row) for row in rows] != shape for rows in (needles.nats, needles.margins)):
            return "needles: needs a row for each of its lengths, with a number for each of its depths"
    return None


def finished(*paths: Path) -> Record | None:
    """The first record among `paths` of a trial that is complete or has diverged: a failed one is tried again."""
    records = (read_record(path) for path in paths if path.is_file())
    return next((record for record in records if record.status != "failed"), None)


def recorded_at(*paths: Path) -> Path | None:
    """The first among `paths` with the record of a finished trial, or else the last with that of its failure."""
    there = [path for path in paths if path.is_file()]
    return next((path for path in there[:-1] if finished(path)), there[-1] if there else None)
