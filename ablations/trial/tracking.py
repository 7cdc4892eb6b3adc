"""The runs of Weights & Biases that mirror trials: which there are, where they lie, how they are opened and named.

A trial that two sweeps use has a run in each, and one that was interrupted has one history.
"""

import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.config.schema import TrackConfig
from ablations.files import sha
from ablations.numbers import settings as settings_of
from ablations.record.record import RECORD, read_record
from ablations.record.steplog import STEPS, read_steps
from ablations.trial.mirror import PAIRED, WHOLE, Mirror, define_metrics, goals
from ablations.trial.requests import Labels, TrialRequest
from ablations.trial.uploads import Settled, fall_back, mode_now, resolve_mode

log = logging.getLogger(__name__)

Report = Callable[[dict[str, Any]], None]

PLACE = "place"
"""In a run's config: 0 for the baseline, 1 for other arms, so that it can be sorted first."""


def open_mirror(request: TrialRequest, report: Report = lambda event: None) -> Mirror:
    """The mirror of a trial, or one that does nothing.

    What fails first takes all trials of this command a step down, from online to offline and from there to nothing, so
    that no other waits for the same network; `report` hears of it as a `note`.
    """
    mode = mode_now(resolve_mode(request.track.mode), runs_of(request) / "wandb")
    mirror = _mirror_in(mode, request, report)
    if mirror.is_open or mode != "online":
        return mirror
    with contextlib.suppress(Exception, SystemExit):  # its service holds on to the id of what it could not open
        import wandb

        wandb.teardown()
    return _mirror_in("offline", request, report)


def _mirror_in(mode: Settled, request: TrialRequest, report: Report) -> Mirror:
    folder, own = runs_of(request) / "wandb", run_id(request)
    steps = request.trial.keys.trained_steps
    against = None if request.against is None else Path(request.against) / RECORD

    def failed(reason: str) -> None:
        text = fall_back(folder, mode, reason.replace(f" for run {own}", ""))
        log.warning(text)
        report({"event": "note", "text": text})

    def open_run() -> Any:
        if mode == "offline":
            remove_partial(folder, request)
        return _open(mode, folder.parent, own, request)

    return Mirror(None if mode == "disabled" else open_run, steps, failed, against)


def mirror_record(request: TrialRequest, report: Report) -> None:
    """Write the run of a trial that is on record, from its record and its step log."""
    folder = Path(request.trial.folder)
    record = read_record(folder / RECORD)
    thinned = [dict(zip(record.history, row, strict=True)) for row in zip(*record.history.values(), strict=True)]
    mirror = open_mirror(request, report)
    mirror.replay(read_steps(folder / STEPS) or thinned, record.validation)
    mirror.finish(record)


def _open(mode: Settled, runs: Path, own: str, request: TrialRequest) -> Any:
    labels, trial = request.labels, request.trial
    run = begin_run(
        mode,
        runs,
        own,
        request.track,
        name=name_of(labels),
        group=f"{labels.sweep}/{labels.scale}/{labels.arm}",
        job_type=labels.phase,
        tags=[labels.sweep, labels.scale, labels.arm],
        config={
            **asdict(trial.keys),
            **asdict(labels),
            "trial": trial.id,
            "goals": goals(),
            PLACE: int(labels.arm != labels.baseline),
        },
    )
    define_metrics(run)
    return run


def name_of(labels: Labels) -> str:
    """Of a trial's run: arm, seed, the share of its tokens if that is not all, and searched values."""
    share = [] if labels.share == 1 else [f"{labels.share:.0%} of the tokens"]
    return " ".join([f"{labels.arm} s{labels.seed}", *share, *([settings_of(labels.values)] if labels.values else [])])


def begin_run(mode: Settled, runs: Path, own: str, track: TrackConfig, **what: Any) -> Any:
    """A run of W&B under `runs`, of an id of our own; opened again it goes on where there is a server. `what`: as
    `wandb.init` takes it."""
    import wandb

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
        resume="allow",
        reinit="create_new",
        settings=settings,
        **what,
    )


def runs_of(request: TrialRequest) -> Path:
    """runs_dir of a trial."""
    return Path(request.trial.folder).parent.parent


def run_id(request: TrialRequest) -> str:
    """A trial may be used by several sweeps, and by several arms of one; each use is a run of its own."""
    return id_of(request.labels, request.trial.id)


def id_of(labels: Labels, trial: str) -> str:
    return sha([labels.sweep, labels.scale, labels.arm, labels.seed, labels.phase, trial])[:16]


def is_mirrored(request: TrialRequest) -> bool:
    return any(_is_whole(folder, request) for folder in folders_of(runs_of(request) / "wandb", run_id(request)))


def remove_partial(folder: Path, request: TrialRequest) -> None:
    """Runs that a new one is the whole of: the trial was interrupted, or had nothing to be compared with yet."""
    for earlier in folders_of(folder, run_id(request)):
        if not _is_whole(earlier, request):
            shutil.rmtree(earlier, ignore_errors=True)


def _is_whole(folder: Path, request: TrialRequest) -> bool:
    """Whether everything is in it, what the trial is compared with too."""
    place = folder / WHOLE
    return place.is_file() and (request.against is None or place.read_text() == PAIRED)


def folders_of(folder: Path, run: str) -> list[Path]:
    """W&B's own of a run, online and offline; a second one of a name gets a number."""
    return [*folder.glob(f"*run-*-{run}"), *folder.glob(f"*run-*-{run}-*")]
