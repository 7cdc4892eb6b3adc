"""The trials that a plan asks for, seen from the scheduler: each is run once, and what it leaves is its record."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ablations.config.trialkeys import Stage, TrialKeys, with_overrides
from ablations.launch.job import Launcher
from ablations.launch.progress import Progress
from ablations.record.documents import PLAN, Point, sha_of
from ablations.record.manifest import MANIFEST, Manifest
from ablations.record.record import RECORD, RECORDS, Record, finished, read_record
from ablations.record.trialdir import STATE, clear_after_a_kill, finished_in, give_up_torn, owned, whole
from ablations.sweep.horizons import at_share
from ablations.sweep.plan import Arm, Plan, results_dir
from ablations.trial.identity import environment, trial_id
from ablations.trial.job import TrialJob
from ablations.trial.requests import Labels, TrialRequest, job
from ablations.trial.uploads import resolve_mode
from models.base.typed import ConfigError


@dataclass(frozen=True)
class Trial:
    """A trial that the plan asks for."""

    id: str
    arm: str
    phase: Literal["search", "confirm"]
    seed: int
    keys: TrialKeys
    point: Point
    against: str | None = None
    """The id of the trial of the same seed that it is compared with."""
    keep: bool = False
    """Whether others go on from what it has come to."""
    share: float = 1.0
    """Of the tokens, where the arm is finished at several lengths."""


def keys_of(
    plan: Plan, arm: Arm, phase: Literal["search", "confirm"], point: Mapping[str, float], share: float = 1.0
) -> TrialKeys:
    """What a trial of the arm is trained with, at searched values and on a share of the tokens."""
    changes: dict[str, Any] = dict(point)
    if phase == "search":
        changes |= {"eval.split": "validation", "eval.tasks": [], "eval.run_model_code": False}
    keys = with_overrides(arm.keys, changes, f"arm {arm.name}")
    return at_share(keys, share, plan.sweep.horizons) if phase == "confirm" and plan.sweep.horizons else keys


class Trials:
    """Makes a plan's trials and runs them in the pool, in `runs/trials`; `run` returns a record for every one of them,
    whether it is complete, has diverged or failed."""

    def __init__(
        self,
        plan: Plan,
        runs: Path,
        run: str,
        fingerprint: Callable[[Stage], dict[str, Any]],
        pool: Launcher,
        progress: Progress,
    ) -> None:
        """`run`: the name of this run's folder. `fingerprint`: of the data that a stage learns from."""
        self.plan, self.runs, self.fingerprint, self.pool, self.progress = plan, runs, fingerprint, pool, progress
        self.cache = str(runs / "data")
        self.plan_sha = ""
        """Of plan.json, once that is written."""
        published = results_dir(plan.config) / plan.sweep.name / run
        partial = (published / MANIFEST).is_file() and Manifest.read(published).partial
        self._unfinished = [published / RECORDS] if partial else []

    def folder(self, id: str) -> Path:
        return self.runs / "trials" / id

    def places_before(self, id: str) -> list[Path]:
        """Where a record of the trial may be that was not made for this plan: here, and in what is published unfinished
        of another one."""
        plans = {folder: folder.parent / PLAN for folder in self._unfinished}
        others = [folder for folder, plan in plans.items() if plan.is_file() and sha_of(plan) != self.plan_sha]
        return [self.folder(id) / RECORD, *(folder / f"{id}.json" for folder in others)]

    def of(
        self,
        arm: Arm,
        phase: Literal["search", "confirm"],
        seed: int,
        point: Mapping[str, float],
        share: float = 1.0,
    ) -> Trial:
        """`share`: of the tokens, one of the sweep's horizons or all."""
        keys = keys_of(self.plan, arm, phase, point, share)
        return Trial(
            trial_id(keys, seed, [self.fingerprint(stage) for stage in keys.all_stages]),
            arm.name,
            phase,
            seed,
            keys,
            dict(point),
            share=share,
        )

    def run(
        self, name: str, trials: list[Trial], ended: Callable[[Trial, Record], None] = lambda trial, record: None
    ) -> dict[str, Record]:
        """Run what has no record yet, as the phase `name`; returns all records by id. `ended` hears of each as soon as
        it is there."""
        records = dict[str, Record]()

        def keep(id: str, record: Record | None) -> None:
            if record is not None and id not in records:
                records[id] = record
                for trial in trials:
                    if trial.id == id:
                        ended(trial, record)

        for id, kept in {trial.id: trial.keep for trial in trials}.items():
            if kept:
                self._give_up_torn(id)
            keep(id, self._record(id))
        todo = {t.id: t for t in trials if t.id not in records}
        if records and todo:
            self.progress.note(f"{name}: {len(records)} of {len(trials)} trials are on record already")
        trunks = {trunk.id: trunk for t in todo.values() for trunk in (self.trunk(t), self.teacher(t)) if trunk}
        if trunks:  # what of them is not there afterwards, those who need it train themselves
            phase = name if name.startswith("trunks of ") else f"trunks of {name}"
            trained = self.run(phase, list(trunks.values()))
            for id in todo.keys() & trained.keys():  # a trunk may be asked for by itself
                keep(id, trained[id])
            todo = {id: trial for id, trial in todo.items() if id not in records}
        if todo:
            seconds = {
                t.id: self.plan.trial_seconds(replace(self.plan.arms[t.arm], keys=t.keys), bool(t.keys.eval.tasks))
                for t in todo.values()
            }
            self.progress.phase(
                name, {t.id: (t.arm, t.seed) for t in todo.values()}, seconds, workers=self.plan.workers
            )
            jobs = [job(t.id, "trial", self.request(t)) for t in todo.values()]

            def heard(id: str, event: dict[str, Any]) -> None:
                if event["event"] == "waiting":
                    self._say_waiting(todo[id], event["owner"])
                if event["event"] == "done":
                    keep(id, self._record(id))
                self.progress.event(id, event)

            outcomes = self.pool.run(jobs, heard)
            for trial in todo.values():
                if trial.id not in records:
                    keep(trial.id, self._outcome(trial, outcomes[trial.id].error))
        for trial in trials:
            record = records[trial.id]
            if record.status != "complete":
                self.progress.note(f"{trial.arm} seed {trial.seed}: {record.status}: {record.reason}")
        return records

    def trunk(self, trial: Trial) -> Trial | None:
        """The trial whose state this one goes on from; None where it begins by itself."""
        keys = self._shared(trial.keys) or trial.keys.trunk
        whose = self.plan.sweep.baseline if trial.keys.branched and not self.plan.sweep.horizons else trial.arm
        return None if keys is None else self._kept(keys, whose, trial)

    def teacher(self, trial: Trial) -> Trial | None:
        """The trial whose model this one, or what it goes on from, learns from."""
        keys = trial.keys.taught_by
        return None if keys is None else self._kept(keys, trial.arm, trial)

    def _kept(self, keys: TrialKeys, arm: str, trial: Trial) -> Trial:
        texts = [self.fingerprint(stage) for stage in keys.all_stages]
        return Trial(trial_id(keys, trial.seed, texts), arm, trial.phase, trial.seed, keys, {}, keep=True)

    def _shared(self, keys: TrialKeys) -> TrialKeys | None:
        """All of a trial's stages, where others go on from them: it is then scored, and nothing more."""
        whole = TrialKeys.unscored(keys.stages, keys.eval)
        return whole if whole != keys and whole in self.plan.trunks else None

    def _record(self, id: str) -> Record | None:
        """A finished trial's record: of this machine, or of a sweep that was published unfinished and goes on here. (A
        finished published result is there to be checked, so its trials do run again.) A failed one is tried again."""
        folder = self.folder(id)
        try:
            own = finished(folder / RECORD)
        except ConfigError:
            with owned(folder, lambda owner: self.progress.note(f"process {owner} is at trial {id}; waiting")):
                own = finished_in(folder, self.progress.note)
        if own is not None:
            clear_after_a_kill(folder)
        return own or finished(*(folder / f"{id}.json" for folder in self._unfinished))

    def _give_up_torn(self, id: str) -> None:
        """What others go on from is trained once for all of them, also where it was damaged."""
        folder = self.folder(id)
        if not whole(folder / STATE):
            with owned(folder, lambda owner: self.progress.note(f"process {owner} is at trial {id}; waiting")):
                give_up_torn(folder, self.progress.note)

    def _outcome(self, trial: Trial, error: str | None) -> Record:
        """The record of a trial that was run; where it ended in an `error`, a failed one, unless another sweep that
        asks for the same trial has finished it meanwhile."""
        folder = self.folder(trial.id)
        if error is None:
            return read_record(folder / RECORD)
        with owned(folder, lambda owner: self._say_waiting(trial, owner)):
            record = finished(folder / RECORD)
            if record is None:
                record = _failed(trial, error)
                record.write(folder / RECORD)
        return record

    def _say_waiting(self, trial: Trial, owner: str) -> None:
        self.progress.note(
            f"{trial.arm} seed {trial.seed}: process {owner} is at this very trial, for another sweep; its record will "
            "be taken"
        )

    def request(self, trial: Trial) -> TrialRequest:
        """For the jobs `trial` and `mirror`."""
        trunk, teacher = (
            None if other is None else str(self.folder(other.id)) for other in (self.trunk(trial), self.teacher(trial))
        )
        folder = str(self.folder(trial.id))
        own = TrialJob(trial.id, trial.keys, trial.seed, folder, self.cache, trunk, trial.keep, teacher)
        sweep, scale, track = self.plan.sweep, self.plan.config.scale, self.plan.config.track
        labels = Labels(
            *(sweep.name, scale, trial.arm, trial.seed, trial.phase, sweep.baseline, self.plan_sha, trial.point),
            share=trial.share,
        )
        against = None if trial.against is None else str(self.folder(trial.against))
        # What others go on from is the beginning of their own runs, and would be one more of the arm that it is of.
        mode = "disabled" if trial.keep else resolve_mode(track.mode)
        return TrialRequest(own, labels, replace(track, mode=mode), against)


def _failed(trial: Trial, reason: str) -> Record:
    base = Record(id=trial.id, seed=trial.seed, status="failed", config=asdict(trial.keys))
    return replace(base, reason=reason, environment=environment(trial.keys))
