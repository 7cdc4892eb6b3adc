"""Where a trial's numbers go while it trains: our own JSONL, which is the truth, and Weights & Biases, its mirror.

A run of W&B's holds what the step log and the record of a trial say, and nothing else: while the trial trains it is fed
from them; it can be written from them later as well. A trial that two sweeps use has a run in each, and one that was
interrupted has one history.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.files import sha
from ablations.record.record import RECORD, Record, read_record
from ablations.record.steplog import read_steps
from ablations.trial.requests import TrialRequest
from ablations.trial.uploads import Settled, fall_back, mode_now, resolve_mode

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]
POINTS = 200
"""Steps of a trial that its run shows, at most about."""
WHOLE = "whole"
"""The file that marks a run's folder when everything is in it."""


class Mirror:
    """A trial as a W&B run. Whatever fails in it is passed to `failed`, once, and the trial goes on without.

    open_run: opens it (None: there is none). steps: of the whole training.
    """

    def __init__(
        self, open_run: Callable[[], Any] | None, steps: int = 1, failed: Callable[[str], None] = log.warning
    ) -> None:
        self._run: Any = None
        self._every, self._steps, self._failed = max(1, steps // POINTS), steps, failed
        if open_run is not None:
            self._try(lambda: setattr(self, "_run", open_run()))

    @property
    def is_open(self) -> bool:
        return self._run is not None

    def replay(self, rows: Sequence[Mapping[str, Any]], validation: Mapping[str, Sequence[float]]) -> None:
        """What a step log and a record's validation hold, in order."""
        columns = (validation.get(name, []) for name in ("step", "loss", "max_vio_global"))
        found = {int(step): (loss, vio) for step, loss, vio in zip(*columns, strict=True)}
        for row in rows:
            self.step(row)
            if row["step"] in found:
                self.validation(row["step"], *found[row["step"]])

    def step(self, row: Mapping[str, Any]) -> None:
        """A row of the step log."""
        if row["step"] % self._every == 0 or row["step"] == self._steps:
            layers = enumerate(row.get("max_vio_layers", []), start=1)
            values = {
                "train/loss": row["loss"],
                "train/aux_loss": row["aux_loss"],
                "train/max_vio_batch": row["max_vio"],
                "train/lr": row["lr"],
                **{f"train/max_vio_batch_layer{i}": value for i, value in layers},
            }
            self._log(values, row["step"])

    def validation(self, step: int, loss: float, max_vio: float) -> None:
        self._log({"validation/loss": loss, "validation/max_vio_global": max_vio}, step)

    def finish(self, record: Record | None) -> None:
        """End the run with what the record says; None: the trial failed, or was stopped."""
        if self._run is not None and record is not None:
            self._try(lambda: self._run.summary.update(_summary(record)))
        if self._run is not None:
            self._try(lambda: self._run.finish(exit_code=0 if record and record.status == "complete" else 1))
        if self._run is not None and record is not None:
            self._try(lambda: (Path(self._run.dir).parent / WHOLE).touch())
        self._run = None

    def _log(self, values: dict[str, float], step: int) -> None:
        if self._run is not None:
            self._try(lambda: self._run.log(values, step=step))

    def _try(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # a tracker must never fail a trial, whatever it raises
            self._run = None
            self._failed(" ".join(f"{type(error).__name__}: {error}".split())[:200])


def _summary(record: Record) -> dict[str, Any]:
    scores = {
        f"{task}/{name}": value
        for task, row in record.scores.items()
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("n", "chance")
    }
    reason = {"reason": record.reason} if record.reason else {}
    return {"status": record.status, **reason, **record.metrics, **scores, **record.timings}


def open_mirror(request: TrialRequest, report: Report = lambda event: None) -> Mirror:
    """The mirror of a trial, or one that does nothing.

    Group = sweep, job_type = arm. What fails first takes all trials of this command a step down, from online to offline
    and from there to nothing, so that no other waits for the same network; `report` hears of it as a `note`.
    """
    mode = mode_now(resolve_mode(request.track.mode), runs_of(request) / "wandb")
    mirror = _mirror_in(mode, request, report)
    if mirror.is_open or mode != "online":
        return mirror
    with contextlib.suppress(Exception):  # W&B's service holds on to the id of the run that it could not open
        import wandb

        wandb.teardown()
    return _mirror_in("offline", request, report)


def _mirror_in(mode: Settled, request: TrialRequest, report: Report) -> Mirror:
    folder, own = runs_of(request) / "wandb", run_id(request)
    steps = request.trial.keys.trained_steps

    def failed(reason: str) -> None:
        text = fall_back(folder, mode, reason.replace(f" for run {own}", ""))
        log.warning(text)
        report({"event": "note", "text": text})

    def open_run() -> Any:
        for earlier in _folders(folder, own) if mode == "offline" else []:
            if not (earlier / WHOLE).exists():  # of a trial that was interrupted; its rows are logged again
                shutil.rmtree(earlier, ignore_errors=True)
        return _open(mode, folder.parent, own, request)

    return Mirror(None if mode == "disabled" else open_run, steps, failed)


def mirror_record(request: TrialRequest, report: Report) -> None:
    """Write the run of a trial that is on record, from its record and its step log."""
    folder = Path(request.trial.folder)
    record = read_record(folder / RECORD)
    thinned = [dict(zip(record.history, row, strict=True)) for row in zip(*record.history.values(), strict=True)]
    mirror = open_mirror(request, report)
    mirror.replay(read_steps(folder / "steps.jsonl") or thinned, record.validation)
    mirror.finish(record)


def _open(mode: Settled, runs: Path, own: str, request: TrialRequest) -> Any:
    import wandb

    track, labels, trial = request.track, request.labels, request.trial
    (runs / "wandb").mkdir(parents=True, exist_ok=True)  # W&B would take a folder of the system's without a word
    settings = wandb.Settings(
        silent=True,
        console="off",
        x_disable_stats=True,
        x_disable_meta=True,
        disable_git=True,
        disable_code=True,
        x_disable_machine_info=True,
        init_timeout=20,
        finish_timeout=60,
        finish_timeout_raises=True,
    )
    return wandb.init(
        mode="online" if mode == "online" else "offline",
        dir=str(runs),
        project=track.project,
        entity=track.entity,
        id=own,
        name=f"{labels.arm}-s{labels.seed}",
        group=labels.sweep,
        job_type=labels.arm,
        tags=[labels.scale, labels.phase],
        config={**asdict(trial.keys), **asdict(labels), "trial": trial.id},
        resume="allow",
        reinit="create_new",
        settings=settings,
    )


def runs_of(request: TrialRequest) -> Path:
    """runs_dir of a trial."""
    return Path(request.trial.folder).parent.parent


def run_id(request: TrialRequest) -> str:
    """A trial may be used by several sweeps, and by several arms of one; each use is a run of its own."""
    return sha([asdict(request.labels), request.trial.id])[:16]


def is_mirrored(request: TrialRequest) -> bool:
    folders = _folders(runs_of(request) / "wandb", run_id(request))
    return any((folder / WHOLE).exists() for folder in folders)


def _folders(folder: Path, run: str) -> list[Path]:
    """W&B's own, online and offline; a second one of a name gets a number."""
    return [*folder.glob(f"*run-*-{run}"), *folder.glob(f"*run-*-{run}-*")]
