"""Conducts a sweep: data, guards, search, confirmation, speed, report. Everything it does can be killed and continued:
what is finished is a record on disk, and the rest follows from the plan."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablations.config import with_overrides
from ablations.files import read_json, write_json
from ablations.guards import GuardResult, distinct
from ablations.identity import environment, sha, trial_id
from ablations.launch.lock import single_owner
from ablations.launch.pool import Job, Outcome, Pool, thread_environment
from ablations.launch.progress import Progress
from ablations.plan import AA, CONTROL, Arm, Plan, config_guards, plan_document, results_dir
from ablations.records import Record, read_record
from ablations.study import MAX_WIDENINGS, Choice, Measured, Studies, choose, key_of, measure, widened
from models.typed import ConfigError
from tasks.batches import prepare

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
"""glibc returns large buffers to the kernel after every use; keeping them saves 7,000 page faults per training step."""
QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


class GuardFailed(Exception):
    """An arm is not what it claims to be; nothing is trained."""


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


class Conductor:
    """One run of one sweep at one scale, in `runs_dir/<sweep>/<scale>`; trials are in `runs_dir/trials`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs = Path(plan.config.runs_dir).absolute()
        self.folder = self.runs / plan.sweep.name / plan.config.scale
        published = results_dir(plan.config) / plan.sweep.name / plan.config.scale
        manifest = published / "manifest.json"
        partial = manifest.is_file() and read_json(manifest).get("partial") is True
        self.unfinished = published / "records" if partial else None
        self.fingerprints: dict[str, dict[str, Any]] = {}
        self.state: dict[str, Any] = {}
        self.progress: Progress
        self.pool: Pool

    def run(self) -> None:
        """Conduct the sweep to its end. Raises ConfigError, GuardFailed, KeyboardInterrupt."""
        check_writable(self.runs)
        started = time.monotonic()
        with Progress(self.plan.config.launch.progress, self.plan.sweep.name) as self.progress:
            self._prepare_data()
            with single_owner(self.folder), self._started_pool() as self.pool:
                self._open_state()
                earlier = float(self.state.get("minutes") or 0.0)
                try:
                    self._guards()
                    chosen = self._search()
                    self._confirm(chosen)
                    self._speed(chosen)
                finally:
                    self.state["minutes"] = earlier + (time.monotonic() - started) / 60
                    self._save()

    def _prepare_data(self) -> None:
        for arm in self.plan.arms.values():
            keys = arm.typed
            key = sha([arm.keys["data"], keys.model.vocab_size])
            if key not in self.fingerprints:
                data = prepare(
                    keys.data, keys.model.vocab_size, self.runs / "data", lambda text: self.progress.note(text)
                )
                self.fingerprints[key] = data.fingerprint
                tokens = data.fingerprint["tokens"]
                pinned = "" if data.fingerprint.get("pinned", True) else " (not the pinned versions: other bytes)"
                self.progress.note(
                    f"data {keys.data.source}{pinned}: {tokens['train']:,} training, {tokens['validation']:,} "
                    f"validation, {tokens['test']:,} test tokens"
                )

    @contextlib.contextmanager
    def _started_pool(self) -> Iterator[Pool]:
        variables = {**thread_environment(self.plan.config.train.threads), **MALLOC, **QUIET}
        # Tables wait for `wandb sync` beside the offline runs, not in the user's home.
        variables |= {"WANDB_DATA_DIR": os.environ.get("WANDB_DATA_DIR", str(self.runs / "wandb"))}
        # Where the user has not said otherwise: no look-ups at a hub for tasks that need none.
        if all(task.startswith("python_") for task in self.plan.config.eval.tasks):
            variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        with Pool(self.plan.workers, self.folder / "logs", variables) as pool:
            yield pool

    def _text(self, arm: Arm) -> str:
        """A name for the tokens that an arm learns from, which several may share."""
        return "data-" + sha(self._fingerprint(arm.keys))[:8]

    def _fingerprint(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        return self.fingerprints[sha([keys["data"], keys["model"]["vocab_size"]])]

    def _open_state(self) -> None:
        """Write the plan before anything is trained; keep what an earlier run under it has done."""
        document = plan_document(self.plan, self._fingerprint(self.plan.baseline.keys))
        path, state_path = self.folder / "plan.json", self.folder / "trials.json"
        earlier = read_json(path) if path.is_file() else None
        self.state = read_json(state_path) if state_path.is_file() else {}
        if earlier is not None and earlier != document:
            if self.state.get("search") or self.state.get("confirm"):
                changed = sorted(k for k in {*earlier, *document} if earlier.get(k) != document.get(k))
                note = f"the plan was changed after trials had run under another: {', '.join(changed)}"
                self.state["deviations"] = [*self.state.get("deviations", []), note]
            self.state = {"deviations": self.state.get("deviations", [])}
        write_json(path, document)
        self.state["plan_sha"] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.state.setdefault("deviations", [])
        self._save()

    def _save(self) -> None:
        write_json(self.folder / "trials.json", self.state)

    def _note(self, text: str) -> None:
        """A deviation or a remark that the result must show."""
        if text not in self.state["deviations"]:
            self.state["deviations"].append(text)
        self.progress.note(text)

    # --- guards

    def _guards(self) -> None:
        """All guards of all arms; those whose trial keys have passed before are not run again."""
        known, state = self.state.get("guard_keys", {}), self.state.setdefault("guards", {})
        wanted = {name: sha([arm.keys, environment(arm.keys)]) for name, arm in self.plan.arms.items()}
        arms = [a for n, a in self.plan.arms.items() if known.get(n) != wanted[n] or not _passed(state.get(n, []))]
        if arms:
            jobs = [
                Job(
                    f"guards:{a.name}", "guards", {"keys": a.keys, "seed": self.plan.seeds[0], "cache_dir": self._cache}
                )
                for a in arms
            ]
            texts = {self._text(arm): arm for arm in arms}  # arms may learn from rearranged documents
            jobs += [
                Job(f"guards:{text}", "data_guard", {"keys": a.keys, "cache_dir": self._cache})
                for text, a in texts.items()
            ]
            shown = {job.key: (job.key.split(":")[1], self.plan.seeds[0]) for job in jobs}
            self.progress.phase("guards", shown, None, workers=self.plan.workers)
            outcomes = self.pool.run(jobs, self.progress.event)
            for arm in arms:
                rows = [guard.as_dict() for guard in config_guards(self.plan, arm)]
                rows += _rows(outcomes[f"guards:{self._text(arm)}"], "separation")
                state[arm.name] = [*_rows(outcomes[f"guards:{arm.name}"], "causality"), *rows]
            self._refuse_twins(state)
            self.state["guard_keys"] = wanted
            self._save()
        failures = [f"{n}: {g['name']}: {g['detail']}" for n in self.plan.arms for g in state[n] if not g["passed"]]
        if failures:
            raise GuardFailed("; ".join(failures))

    def _refuse_twins(self, state: dict[str, list[dict[str, Any]]]) -> None:
        """Replace the fingerprints of arms with a named precision by what their comparison says."""
        rows = {
            arm.name: (arm.keys["model"]["precision"], GuardResult(**row))
            for arm in self.plan.arms.values()
            for row in state.get(arm.name, [])
            if row["name"] == "distinct" and row["passed"] and arm.kind == "arm"
        }
        for name, result in distinct(rows).items():
            state[name] = [result.as_dict() if row["name"] == "distinct" else row for row in state[name]]

    # --- search

    def _search(self) -> dict[str, dict[str, float]]:
        """The chosen values of every arm; A/A and control take the baseline's."""
        plan = self.plan
        if plan.published is not None:
            chosen = {arm.name: plan.published.chosen[arm.name] for arm in plan.searched_arms}
            self.state |= {
                "search": [row for row in plan.published.search if row["arm"] in chosen],
                "mistuning": {n: b for n, b in plan.published.mistuning.items() if n in chosen},
            }
        else:
            choices = self._fresh_search()
            chosen = {name: choice.point for name, choice in choices.items()}
            self.state["mistuning"] = {name: choice.mistuning for name, choice in choices.items()}
        chosen |= dict.fromkeys((CONTROL, AA), chosen[plan.sweep.baseline])
        self.state["chosen"] = chosen
        self._save()
        return chosen

    def _fresh_search(self) -> dict[str, Choice]:
        plan, shared = self.plan, self.plan.shared
        if not any(arm.grid(shared)[0] for arm in plan.searched_arms):
            return {arm.name: Choice({}, None, None) for arm in plan.searched_arms}
        studies = Studies(plan, self.folder / "optuna.journal")
        for generation in range(MAX_WIDENINGS + 1):
            trials = [
                self._trial(arm, "search", seed, point)
                for arm in plan.searched_arms
                for point in arm.grid(shared)
                for seed in plan.search_seeds(arm)
            ]
            records = self._run_trials("search" + " widened" * bool(generation), trials)
            self.state["search"] = [
                {
                    "arm": t.arm,
                    "point": t.point,
                    "seed": t.seed,
                    "id": t.id,
                    "loss": _metric(records[t.id], "loss"),
                    "max_vio_global": _metric(records[t.id], "max_vio_global"),
                }
                for t in trials
            ]
            self._save()
            choices = {arm.name: self._choose(arm, trials, records, shared, studies) for arm in plan.searched_arms}
            wider = widened(shared, choices)
            if wider is None:
                break
            if generation == MAX_WIDENINGS:
                on_edge = ", ".join(name for name, choice in choices.items() if choice.edge)
                self._note(f"after {MAX_WIDENINGS} widenings the best learning rate is still on the edge for {on_edge}")
                break
            self.progress.note(f"an optimum is on the edge: learning rates widened to {wider['optim.lr']} for all arms")
            shared = wider
        for choice in choices.values():
            if choice.note:
                self._note(choice.note)
        return choices

    def _choose(
        self,
        arm: Arm,
        trials: list[Trial],
        records: Mapping[str, Record],
        shared: Mapping[str, list[float]],
        studies: Studies,
    ) -> Choice:
        rule = self.plan.sweep.search
        measured: dict[Any, Measured] = {}
        ids: dict[Any, list[str]] = {}
        for point in arm.grid(shared):
            own = [t for t in trials if t.arm == arm.name and t.point == point]
            shares = [_share_of_max(records[t.id], rule.constraint_metric) for t in own]
            measured[key_of(point)] = measure([_metric(records[t.id], "loss") for t in own], shares)
            ids[key_of(point)] = [t.id for t in own]
        studies.tell(arm, arm.grid(shared), measured, ids)
        return choose(arm, measured, rule.constraint_max if rule.constraint_metric else None)

    # --- confirmation

    def _confirm(self, chosen: Mapping[str, Mapping[str, float]]) -> None:
        """Seed by seed over all arms, so that a run that is stopped early is balanced."""
        trials = [
            self._trial(arm, "confirm", seed, dict(chosen[arm.name]))
            for seed in self.plan.seeds
            for arm in self.plan.arms.values()
        ]
        self.state["confirm"] = [{"arm": t.arm, "seed": t.seed, "id": t.id} for t in trials]
        self._save()
        self._run_trials("confirmation", trials)

    def _speed(self, chosen: Mapping[str, Mapping[str, float]]) -> None:
        """Speed of all arms in turn, in one worker, while the others rest: of training, and of decoding with the first
        seed's checkpoints where arms differ in what decoding depends on."""
        if set(self.state.get("speed", {})) == set(self.plan.arms):
            return
        seed = self.plan.seeds[0]
        trials = {a.name: self._trial(a, "confirm", seed, dict(chosen[a.name])) for a in self.plan.arms.values()}
        arms = {name: trial.keys for name, trial in trials.items()}
        decoders = {json.dumps([keys["model"]["attention"], keys["model"]["mtp"]]) for keys in arms.values()}
        folders = {name: str(self.runs / "trials" / trial.id / "checkpoint") for name, trial in trials.items()}
        self.progress.phase("speed", {"speed": ("all arms", 0)}, None)
        checkpoints = folders if len(decoders) > 1 else {}
        job = Job("speed", "speed", {"arms": arms, "checkpoints": checkpoints, "cache_dir": self._cache})
        outcome = self.pool.run([job], self.progress.event, limit=1)["speed"]
        if outcome.result is None:
            self._note(f"speed was not measured: {outcome.error}")
        else:
            self.state["speed"] = outcome.result

    # --- trials

    @property
    def _cache(self) -> str:
        return str(self.runs / "data")

    def _trial(self, arm: Arm, phase: str, seed: int, point: dict[str, float]) -> Trial:
        changes: dict[str, Any] = dict(point)
        if phase == "search":
            changes |= {"eval.split": "validation", "eval.tasks": []}
        keys = with_overrides(arm.keys, changes, f"arm {arm.name}")
        return Trial(trial_id(keys, seed, self._fingerprint(keys)), arm.name, phase, seed, keys, point)

    def _run_trials(self, name: str, trials: list[Trial]) -> dict[str, Record]:
        """Run what has no record yet; returns all records by id."""
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
            jobs = [Job(t.id, "trial", self._arguments(t)) for t in todo.values()]
            outcomes = self.pool.run(jobs, self.progress.event)
            for trial in todo.values():
                outcome = outcomes[trial.id]
                if outcome.error is not None:
                    _failed(trial, outcome.error).write(self.runs / "trials" / trial.id / "record.json")
                records[trial.id] = read_record(self.runs / "trials" / trial.id / "record.json")
        for trial in trials:
            record = records[trial.id]
            if record.status != "complete":
                self.progress.note(f"{trial.arm} seed {trial.seed}: {record.status}: {record.reason}")
        return records

    def _record(self, id: str) -> Record | None:
        """A finished trial's record: of this machine, or of a sweep that was published unfinished and goes on here. (A
        finished published result is there to be checked, so its trials do run again.) A failed one is tried again."""
        mine = self.runs / "trials" / id / "record.json"
        for path in (mine, self.unfinished / f"{id}.json") if self.unfinished else (mine,):
            if path.is_file():
                record = read_record(path)
                if record.status != "failed":
                    return record
                if path == mine:
                    path.unlink()
        return None

    def _arguments(self, trial: Trial) -> dict[str, Any]:
        track = self.plan.config.track
        return {
            "id": trial.id,
            "keys": trial.keys,
            "seed": trial.seed,
            "trial_dir": str(self.runs / "trials" / trial.id),
            "cache_dir": self._cache,
            "labels": {
                "sweep": self.plan.sweep.name,
                "scale": self.plan.config.scale,
                "arm": trial.arm,
                "seed": trial.seed,
                "phase": trial.phase,
            },
            "track": {"mode": track.mode, "project": track.project, "entity": track.entity},
        }


def check_writable(folder: Path) -> None:
    """Raise ConfigError where `folder` cannot be made or written, without making it."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError(f"runs_dir={folder}: {place} is not a folder that can be written; choose another runs_dir")


def _passed(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(row["passed"] for row in rows)


def _rows(outcome: Outcome, name: str) -> list[dict[str, Any]]:
    if outcome.result is None:
        return [{"name": name, "passed": False, "detail": f"did not run: {outcome.error}"}]
    rows: list[dict[str, Any]] = outcome.result["guards"]
    return rows


def _metric(record: Record, name: str) -> float | None:
    return record.metrics.get(name) if record.status == "complete" else None


def _share_of_max(record: Record, name: str | None) -> float | None:
    value = _metric(record, name) if name else None
    most = record.metrics.get("max_vio_max") if name and name.startswith("max_vio") else 1.0
    return None if value is None else value / (most or 1.0)


def _failed(trial: Trial, reason: str) -> Record:
    base = Record(id=trial.id, seed=trial.seed, status="failed", config=trial.keys)
    return replace(base, reason=reason, environment=environment(trial.keys))
