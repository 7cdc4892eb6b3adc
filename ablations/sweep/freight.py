"""What the jobs of a sweep need of the runs folder, and what they leave in it, for machines that do not see it."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from ablations.config.trialkeys import Stage
from ablations.launch.freight import Cargo
from ablations.launch.job import Job
from ablations.record.record import RECORD, finished
from ablations.record.trialdir import OWNER
from ablations.trial.requests import GuardsRequest, Request, SpeedRequest, TrialRequest
from ablations.trial.tracking import remove_partial, run_id
from ablations.trial.uploads import FALLBACK
from models.base.files import move, remove
from models.base.locks import Held, hold
from models.base.typed import build
from tasks.prepared import packed_names

KINDS: Mapping[str, type[Request]] = {
    "trial": TrialRequest,
    "mirror": TrialRequest,
    "guards": GuardsRequest,
    "data_guard": GuardsRequest,
    "speed": SpeedRequest,
    "chunks": SpeedRequest,
}
"""What each kind of job is asked with (ablations/sweep/jobs.py)."""


class OfTrials:
    """The freight of a runs folder; see `ablations.launch.freight.Freight`."""

    def __init__(self, runs: Path) -> None:
        self.runs = runs

    def cargo(self, job: Job) -> Cargo:
        request = build(KINDS[job.kind], job.arguments)
        match request:
            case TrialRequest():
                return self._of_trial(request, trained=job.kind == "trial")
            case GuardsRequest():
                return Cargo(self._texts(request.keys.all_stages, request.cache))
            case SpeedRequest():
                stages = [stage for keys in request.arms.values() for stage in keys.all_stages]
                return Cargo(self._texts(stages, request.cache) | self._folders(request.checkpoints.values()))
        raise ValueError(f"{job.kind}: it needs nothing of a runs folder")

    def moved(self, job: Job, runs: str) -> Job:
        request = build(KINDS[job.kind], job.arguments)
        return replace(job, arguments=asdict(request.moved(lambda path: str(Path(runs) / self._below(path)))))

    def settle(self, job: Job, arrived: Path, ended: bool) -> None:
        """A trial that is on record meanwhile stays as it is. Somebody else who is at it is waited for, for the sake of
        a record; what is less is then of no use."""
        request = build(TrialRequest, job.arguments)
        came = arrived / self._below(request.trial.folder)
        folder = Path(request.trial.folder)
        if came.is_dir():
            waiting = (lambda owner: None) if ended else None
            with contextlib.suppress(Held), hold(folder / OWNER, waiting):
                if finished(folder / RECORD) is None:
                    _replace(folder, came)
        if any((arrived / "wandb").glob("offline-run-*")):  # there it did not find what is here
            remove_partial(self.runs / "wandb", request)
        for path in sorted((arrived / "wandb").rglob("*")):
            if path.is_file():
                move(path, self.runs / path.relative_to(arrived))

    def _of_trial(self, request: TrialRequest, trained: bool) -> Cargo:
        trial = request.trial
        own, wandb = self._below(trial.folder), (f"wandb/*run-*-{run_id(request)}*", f"wandb/{FALLBACK}")
        goes = [
            own,
            f"wandb/{FALLBACK}",
            *([] if request.against is None else [f"{self._below(request.against)}/{RECORD}"]),
        ]
        others = [folder for folder in (trial.trunk, trial.teacher) if folder is not None]
        given = self._texts(trial.keys.all_stages, trial.cache) | self._folders(others)
        return Cargo(given, tuple(goes), (own, *wandb) if trained else wandb)

    def _texts(self, stages: Iterable[Stage], cache: str) -> dict[str, str]:
        below, found = self._below(cache), dict[str, str]()
        for stage in stages:
            names = packed_names(stage.data, stage.model.vocab_size, Path(cache))
            if names is not None:
                found[f"{below}/{names[0]}"] = f"{below}/{names[1]}"
        return found | self._folders([f"{cache}/huggingface"])

    def _folders(self, folders: Iterable[str]) -> dict[str, str]:
        return {name: name for folder in folders for name in [self._below(folder)]}

    def _below(self, path: str) -> str:
        return str(Path(path).relative_to(self.runs))


def _replace(folder: Path, came: Path) -> None:
    """All files of a trial, its record last; what has come to its end on the other machine ends here too."""
    found = {path.relative_to(came) for path in came.rglob("*") if path.is_file()}
    for name in sorted(found, key=lambda name: (str(name) == RECORD, str(name))):
        move(came / name, folder / name)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        if path.relative_to(folder) not in found and path.name != OWNER:
            remove(path)
