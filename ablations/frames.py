"""Records as pandas frames: `ablations.load("runs")`, a row for each trial; `ablations.curves(frame)`, its step logs.

A place is a runs folder, results/, one published result or the folder of one run. Nothing is kept: a frame is what the
records say now.
"""

import contextlib
import functools
import os
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ablations.config.trialkeys import TRIAL_GROUPS
from ablations.judge.result import is_score
from ablations.record.record import FORMAT, RECORD
from ablations.record.sources import Source, Use, of_run, sources
from ablations.record.steplog import STEPS, read_steps
from models.base.reading import visible
from models.base.typed import ConfigError, closest

if typing.TYPE_CHECKING:
    import pandas

T = typing.TypeVar("T")

OWN = ("id", "seed", "status", "reason")
OF_THE_SWEEP = ("sweep", "run", "arm", "phase", "share", "guards", "uses")
ENVIRONMENT = "environment."


class Trial(msgspec.Struct):
    """Of a record (ablations/record/record.py) what stands in a row; the rest is passed over."""

    id: str
    seed: int
    status: str
    config: dict[str, msgspec.Raw]
    reason: str | None = None
    metrics: dict[str, float] = {}
    scores: dict[str, dict[str, Any]] = {}
    timings: dict[str, float] = {}
    environment: msgspec.Raw = msgspec.Raw(b"{}")
    format: int = FORMAT


class Curves(msgspec.Struct):
    """Of a record its curves, at most 200 points."""

    history: dict[str, list[float]] = {}


def load(place: str | Path = "runs", sweep: str | None = None, everything: bool = False) -> "pandas.DataFrame":
    """One row for each trial of `place` (of one `sweep`, where that is named), by sweep, run, arm and seed.

    Columns: `id`, `seed`, `status`, `reason`; what the trial is in the sweep that uses it (`sweep`, `run`, `arm`,
    `phase`: confirm or search, `share` of the tokens, `guards`: passed, or which are not), in `uses` all that it is,
    since sweeps share trials; every key of its configuration by its dotted name; metrics and `task/metric` scores by
    theirs; `train_s`, `eval_s`, `tokens_per_second`; `environment.*`; and the `path` of the record. What a trial does
    not have is missing (NaN or None).

    Without `everything` they are the trials that tables are made of: whole trainings of the confirmation. The others
    are scored on another split (search), on fewer tokens (a `share`), or not at all (trunks), and spoil a mean.

    Raises ConfigError, with one line, where there are no records or one cannot be read.
    """
    try:
        folder = Path(os.path.expanduser(place)).resolve()
        folder.is_dir()
    except (TypeError, ValueError, OSError):  # no text, a zero in it, a name that is too long
        raise ConfigError(
            f"load: expected the path of a runs folder, of results/ or of one result, not {place!r}"
        ) from None
    if not isinstance(everything, bool):
        raise ConfigError(f"load: everything={everything!r}: must be True or False")
    found = list(sources(folder))
    known = sorted({use.sweep for source in found for uses in source.uses.values() for use in uses})
    if sweep is not None and sweep not in known:
        raise ConfigError(
            f"sweep={sweep}: no trial of it under {place}{closest(str(sweep), known)} (there is: {known})"
        )
    frame = _frame(found, sweep, everything)
    if frame.empty:
        raise ConfigError(f"{place}: holds no record of a trial yet")
    return frame


def published(folder: Path, sweep: str, run: str) -> "pandas.DataFrame":
    """Everything in a result that is being published, still under another name. Its paths say nothing to others."""
    return _frame([of_run(folder, (sweep, run))], None, True).drop(columns="path")


def _frame(found: Iterable[Source], sweep: str | None, everything: bool) -> "pandas.DataFrame":
    import pandas

    read = (_row(path, source.uses, sweep, everything) for source in found for path in source.records)
    rows = [row for row in read if row is not None]
    if not rows:
        return pandas.DataFrame()
    return pandas.DataFrame(_columns(rows)).sort_values(
        ["sweep", "run", "arm", "phase", "seed", "id"], ignore_index=True
    )


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of the same keys are turned as one: to look up each cell would take longer than to read the records."""
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        alike.setdefault(tuple(row), []).append(row)
    turned = [
        (len(group), dict(zip(keys, zip(*map(dict.values, group), strict=True), strict=True)))
        for keys, group in alike.items()
    ]
    return {
        name: [value for count, columns in turned for value in columns.get(name, (None,) * count)]
        for name in sorted(set().union(*alike), key=_place)
    }


def curves(frame: "pandas.DataFrame") -> "pandas.DataFrame":
    """The steps of every trial in `frame` (from `load`), one row for each: `id`, `sweep`, `run`, `arm`, `seed`, `step`
    (from 1), `tokens` seen, `loss`, `lr`, ... A runs folder has every step, a published record at most 200 of them."""
    import pandas

    own = ["id", "sweep", "run", "arm", "seed"]
    if not isinstance(frame, pandas.DataFrame):
        raise ConfigError(f"curves: expected the rows of `ablations.load`, not {type(frame).__name__}")
    if lacking := [name for name in (*own, "path") if name not in frame.columns]:
        raise ConfigError(f"curves: the frame has no column {lacking[0]}; give the rows of `ablations.load` whole")
    parts = []
    for trial in frame[[*own, "path"]].itertuples(index=False):
        if not isinstance(trial.path, str):
            raise ConfigError(f"curves: path={trial.path}: no record's place; give the rows of `ablations.load` whole")
        columns = _steps(Path(trial.path))
        try:
            steps = pandas.DataFrame(columns)
        except ValueError as error:
            raise ConfigError(f"{trial.path}: its curves make no table ({error}); restore it, or remove it") from None
        parts.append(steps.assign(**{name: getattr(trial, name) for name in own}))
    joined = pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=own)
    return joined[[*own, *(name for name in joined.columns if name not in own)]]


def _steps(record: Path) -> list[dict[str, Any]] | dict[str, list[float]]:
    steps = record.parent / STEPS
    if record.name == RECORD and steps.is_file():
        rows, lines = read_steps(steps), len(steps.read_bytes().splitlines())
        if len(rows) < lines - 1:  # the last one may be on its way
            raise ConfigError(f"{steps}: line {len(rows) + 1} of {lines} is damaged; restore it, or remove its trial")
        return rows
    return _decoded(record, Curves).history


def _place(column: str) -> tuple[int, str]:
    """Identity, sweep, metrics, scores, timings, configuration, environment; those of a kind by name."""
    if column in OWN + OF_THE_SWEEP:
        return (0, f"{(OWN + OF_THE_SWEEP).index(column):02}")
    if column == "path":
        return (9, "")
    if column.startswith(ENVIRONMENT):
        return (4, column)
    return (
        3 if column.split(".")[0] in (*TRIAL_GROUPS, "stages", "taught", "until") else 2 if "/" in column else 1,
        column,
    )


def _row(path: Path, uses: Mapping[str, list[Use]], sweep: str | None, everything: bool) -> dict[str, Any] | None:
    """None where the trial is not asked for."""
    trial = _decoded(path, Trial)
    if trial.format != FORMAT:
        raise ConfigError(f"{path}: format={trial.format}: this version reads format {FORMAT}")
    if trial.id != (path.parent.name if path.name == RECORD else path.stem):
        raise ConfigError(f"{path}: is the record of trial {trial.id}; restore it, or remove it")
    own = [use for use in uses.get(trial.id, ()) if sweep in (None, use.sweep) and (everything or use.tabled)]
    if not own and (sweep is not None or not everything):
        return None
    first = own[0] if own else None
    row = {name: _cell(getattr(trial, name)) for name in OWN}
    row |= {name: _cell(getattr(first, name, None)) for name in OF_THE_SWEEP[:-1]}
    row["uses"] = _cell([str(use) for use in own])
    with _reading(path):
        # What came before the last stage is told by the number of stages, and the teacher by that of its own.
        row["stages"] = _stages(path, "before", trial) + 1
        row["taught"] = _stages(path, "teacher", trial)
        for name, group in trial.config.items():
            if name not in ("before", "teacher"):
                _add(row, _leaves(name, bytes(group)), path)
        environment = _cells(ENVIRONMENT, bytes(trial.environment))
    measured = trial.metrics | {
        f"{task}/{name}": value
        for task, scores in trial.scores.items()
        for name, value in scores.items()
        if is_score(name, value)
    }
    for values in (measured, trial.timings):
        _add(row, {_visible(name): value for name, value in values.items()}, path)
    return row | environment | {"path": _cell(str(path))}


def _add(row: dict[str, Any], values: dict[str, Any], path: Path) -> None:
    """Raises ConfigError where a column would stand for two things."""
    if not row.keys().isdisjoint(values) or "path" in values or "uses" in values:
        twice = next(name for name in values if name in row or name in ("path", "uses"))
        raise ConfigError(f"{path}: {twice}: names two things in the record, or what a row says of its trial")
    row |= values


def _stages(path: Path, name: str, trial: Trial) -> int:
    stages = msgspec.json.decode(trial.config[name]) if name in trial.config else []
    if not isinstance(stages, list):
        raise ConfigError(f"{path}: config.{name}: must be a list of stages")
    return len(stages)


_visible = functools.lru_cache(maxsize=1 << 16)(visible)
"""Of a text: trials share nearly all of theirs."""


@functools.lru_cache(maxsize=1 << 12)
def _leaves(name: str, group: bytes) -> dict[str, Any]:
    """A group of a configuration by its leaves' dotted names. Trials share nearly all of theirs."""
    found: dict[str, Any] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for below, inner in value.items():
                walk(f"{name}.{below}", inner)
        else:
            found[_visible(name)] = _cell(value)

    walk(name, msgspec.json.decode(group))
    return found


@functools.lru_cache(maxsize=1 << 12)
def _cells(prefix: str, group: bytes) -> dict[str, Any]:
    """A flat group, as `_leaves`."""
    return {_visible(prefix + name): _cell(value) for name, value in msgspec.json.decode(group, type=dict).items()}


def _cell(value: Any) -> Any:
    """What can be shown, compared and grouped by."""
    if isinstance(value, dict):
        return tuple(sorted((name, _cell(part)) for name, part in value.items()))
    return tuple(map(_cell, value)) if isinstance(value, list) else _visible(value) if isinstance(value, str) else value


def _decoded(path: Path, cls: type[T]) -> T:
    with _reading(path):
        return msgspec.json.decode(path.read_bytes(), type=cls)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: no record ({error}); restore it, or remove it") from None
