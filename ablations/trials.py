"""The trials that a plan asks for, seen from the scheduler: each is run once, and what it leaves is its record."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.config import with_overrides
from ablations.files import read_json
from ablations.identity import environment, trial_id
from ablations.launch.pool import Job, Pool
from ablations.launch.progress import Progress
from ablations.plan import Arm, Plan, results_dir
from ablations.records import Record, read_record
from ablations.tracking import resolve_mode


@dataclass(frozen=True)
class Trial:
    """A trial that the plan asks for."""

    id: str
    arm: str
    phase: str
    """`search` or `confirm`."""
    seed: int
    keys: dict[str, Any]
    point: dict[str, float]


class Trials:
    """Makes a plan's trials and runs them in the pool, in `runs/trials`; `run` returns a record for every one of them,
    whether it is complete, has diverged or failed."""

    def __init__(
        self,
        plan: Plan,
        runs: Path,
        fingerprint: Callable[[Mapping[str, Any]], dict[str, Any]],
        pool: Pool,
        progress: Progress,
    ) -> None:
        """`fingerprint`: of the data that a trial with these keys learns from."""
        self.plan, self.runs, self.fingerprint, self.pool, self.progress = plan, runs, fingerprint, pool, progress
        self.cache = str(runs / "data")
        published = results_dir(plan.config) / plan.sweep.name / plan.config.scale
        manifest = published / "manifest.json"
        partial = manifest.is_file() and read_json(manifest).get("partial") is True
        self._unfinished = published / "records" if partial else None

    def folder(self, id: str) -> Path:
        return self.runs / "trials" / id

    def of(self, arm: Arm, phase: str, seed: int, point: Mapping[str, float]) -> Trial:
        changes: dict[str, Any] = dict(point)
        if phase == "search":
            changes |= {"eval.split": "validation", "eval.tasks": []}
        keys = with_overrides(arm.keys, changes, f"arm {arm.name}")
        return Trial(trial_id(keys, seed, self.fingerprint(keys)), arm.name, phase, seed, keys, dict(point))

    def run(self, name: str, trials: list[Trial]) -> dict[str, Record]:
        """Run what has no record yet, as the phase `name`; returns all records by id."""
        records = {t.id: r for t in trials if (r := self._record(t.id)) is not None}
        todo = {t.id: t for t in trials if t.id not in records}
        if records and todo:
            self.progress.note(f"{name}: {len(records)} of {len(trials)} trials are on record already")
        if todo:
            seconds = {
                t.id: self.plan.trial_seconds(self.plan.arms[t.arm], bool(t.keys["eval"]["tasks"]))
                for t in todo.values()
            }
            self.progress.phase(
                name, {t.id: (t.arm, t.seed) for t in todo.values()}, seconds, workers=self.plan.workers
            )
            jobs = [Job(t.id, "trial", self.arguments(t)) for t in todo.values()]
            outcomes = self.pool.run(jobs, self.progress.event)
            for trial in todo.values():
                outcome, path = outcomes[trial.id], self.folder(trial.id) / "record.json"
                if outcome.error is not None:
                    _failed(trial, outcome.error).write(path)
                records[trial.id] = read_record(path)
        for trial in trials:
            record = records[trial.id]
            if record.status != "complete":
                self.progress.note(f"{trial.arm} seed {trial.seed}: {record.status}: {record.reason}")
        return records

    def _record(self, id: str) -> Record | None:
        """A finished trial's record: of this machine, or of a sweep that was published unfinished and goes on here. (A
        finished published result is there to be checked, so its trials do run again.) A failed one is tried again."""
        mine = self.folder(id) / "record.json"
        for path in (mine, self._unfinished / f"{id}.json") if self._unfinished else (mine,):
            if path.is_file():
                record = read_record(path)
                if record.status != "failed":
                    return record
                if path == mine:
                    path.unlink()
        return None

    def arguments(self, trial: Trial) -> dict[str, Any]:
        """Of the jobs `trial` and `mirror`."""
        track = self.plan.config.track
        return {
            "id": trial.id,
            "keys": trial.keys,
            "seed": trial.seed,
            "trial_dir": str(self.folder(trial.id)),
            "cache_dir": self.cache,
            "labels": {
                "sweep": self.plan.sweep.name,
                "scale": self.plan.config.scale,
                "arm": trial.arm,
                "seed": trial.seed,
                "phase": trial.phase,
            },
            "track": {"mode": resolve_mode(track.mode), "project": track.project, "entity": track.entity},
        }


def _failed(trial: Trial, reason: str) -> Record:
    base = Record(id=trial.id, seed=trial.seed, status="failed", config=trial.keys)
    return replace(base, reason=reason, environment=environment(trial.keys))
