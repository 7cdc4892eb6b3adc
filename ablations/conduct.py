"""Conducts a sweep: data, guards, search, confirmation, speed, report. Everything it does can be killed and continued:
what is finished is a record on disk, and the rest follows from the plan."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ablations.files import read_json, write_json
from ablations.guards import GuardResult, distinct
from ablations.identity import environment, sha
from ablations.launch.lock import single_owner
from ablations.launch.pool import Job, Outcome, Pool, thread_environment
from ablations.launch.progress import Progress
from ablations.launch.space import DiskFull, full_place
from ablations.plan import AA, CONTROL, Arm, Plan, config_guards, plan_document
from ablations.records import read_record
from ablations.room import check_room
from ablations.study import search
from ablations.tracking import begin_tracking, fallen_back, is_mirrored, resolve_mode, wandb_places
from ablations.trials import Trial, Trials
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


class Conductor:
    """One run of one sweep at one scale, in `runs_dir/<sweep>/<scale>`; trials are in `runs_dir/trials`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs = Path(plan.config.runs_dir).absolute()
        self.folder = self.runs / plan.sweep.name / plan.config.scale
        self.fingerprints: dict[str, dict[str, Any]] = {}
        self.state: dict[str, Any] = {}
        self.progress: Progress
        self.pool: Pool
        self.trials: Trials

    def run(self) -> None:
        """Conduct the sweep to its end. Raises ConfigError, GuardFailed, DiskFull, KeyboardInterrupt."""
        try:
            self._run()
        except OSError as error:
            place = full_place(error)
            if place is None or isinstance(error, DiskFull):
                raise
            raise DiskFull(Path(place).parent if place else self.runs) from error

    def _run(self) -> None:
        check_writable(self.runs)
        started = time.monotonic()
        with Progress(self.plan.config.launch.progress, self.plan.sweep.name) as self.progress:
            self._prepare_data()
            with single_owner(self.folder), self._started_pool() as self.pool:
                self.trials = Trials(self.plan, self.runs, self._fingerprint, self.pool, self.progress)
                self._open_state()
                check_room(self.plan, self.runs, self._confirmed())
                begin_tracking(self.runs)
                earlier = float(self.state.get("minutes") or 0.0)
                try:
                    self._guards()
                    chosen = self._search()
                    self._confirm(chosen)
                    self._mirror(chosen)
                    self._speed(chosen)
                finally:
                    fallen = fallen_back(self.runs)  # the worker that saw it has said so
                    if fallen and fallen not in self.state["deviations"]:
                        self.state["deviations"].append(fallen)
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
        variables |= wandb_places(self.runs)
        # Where the user has not said otherwise: no look-ups at a hub for tasks that need none.
        if all(task.startswith("python_") for task in self.plan.config.eval.tasks):
            variables |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        with Pool(self.plan.workers, self.folder / "logs", variables, on_workers=self.progress.workers) as pool:
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

    def _confirmed(self) -> int:
        """How many of the confirmation's trials have been run."""
        return sum((self.trials.folder(row["id"]) / "record.json").is_file() for row in self.state.get("confirm", []))

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
            cache, seed = self.trials.cache, self.plan.seeds[0]
            jobs = [Job(f"guards:{a.name}", "guards", {"keys": a.keys, "seed": seed, "cache_dir": cache}) for a in arms]
            texts = {self._text(arm): arm for arm in arms}  # arms may learn from rearranged documents
            jobs += [
                Job(f"guards:{text}", "data_guard", {"keys": a.keys, "cache_dir": cache}) for text, a in texts.items()
            ]
            shown = {job.key: (job.key.split(":")[1], seed) for job in jobs}
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
            choices, notes = search(plan, self.trials, self.folder / "optuna.journal", self._keep_search)
            for note in notes:
                self._note(note)
            chosen = {name: choice.point for name, choice in choices.items()}
            self.state["mistuning"] = {name: choice.mistuning for name, choice in choices.items()}
        chosen |= dict.fromkeys((CONTROL, AA), chosen[plan.sweep.baseline])
        self.state["chosen"] = chosen
        self._save()
        return chosen

    def _keep_search(self, rows: list[dict[str, Any]]) -> None:
        self.state["search"] = rows
        self._save()

    # --- confirmation

    def _confirm(self, chosen: Mapping[str, Mapping[str, float]]) -> None:
        """Seed by seed over all arms, so that a run that is stopped early is balanced."""
        arms = self.plan.arms.values()
        trials = [self.trials.of(arm, "confirm", seed, chosen[arm.name]) for seed in self.plan.seeds for arm in arms]
        self.state["confirm"] = [{"arm": t.arm, "seed": t.seed, "id": t.id} for t in trials]
        self._save()
        self.trials.run("confirmation", trials)

    # --- Weights & Biases

    def _mirror(self, chosen: Mapping[str, Mapping[str, float]]) -> None:
        """A run for each trial that this sweep uses and has none for yet: another sweep has trained it, or W&B was not
        there when it was."""
        if resolve_mode(self.plan.config.track.mode) == "disabled":
            return
        arms = {arm.name: arm for arm in self.plan.arms.values()}
        used = [self.trials.of(arms[r["arm"]], "search", r["seed"], r["point"]) for r in self.state.get("search", [])]
        used += [self.trials.of(a, "confirm", s, chosen[a.name]) for s in self.plan.seeds for a in arms.values()]
        jobs, shown = [], {}
        for trial in used:
            arguments, key = self.trials.arguments(trial), f"mirror:{trial.arm}:{trial.id}"
            path = self.trials.folder(trial.id) / "record.json"
            if path.is_file() and read_record(path).status != "failed" and not is_mirrored(arguments):
                jobs.append(Job(key, "mirror", arguments))
                shown[key] = (trial.arm, trial.seed)
        if jobs:
            self.progress.phase("W&B", shown, 1.0, workers=self.plan.workers)
            for key, outcome in self.pool.run(jobs, self.progress.event).items():
                if outcome.error is not None:
                    self._note(f"{key} was not written: {outcome.error}")

    # --- speed

    def _speed(self, chosen: Mapping[str, Mapping[str, float]]) -> None:
        """What is timed: by one job after another, arms in turn in one worker, while the others rest. A kind of job has
        its own key in the state. Of an arm with a pipeline only the chunks are: all its ranks run in one process here,
        which says nothing about their time on as many devices."""
        seed = self.plan.seeds[0]
        trials = {arm.name: self.trials.of(arm, "confirm", seed, chosen[arm.name]) for arm in self.plan.arms.values()}
        piped = {n: t.keys for n, t in trials.items() if t.keys["model"]["pipeline"]["schedule"] != "none"}
        timed = {"speed": self._training_and_decoding({n: t for n, t in trials.items() if n not in piped})}
        if piped:
            timed["chunks"] = {"arms": piped, "cache_dir": self.trials.cache}
        todo = {kind: given for kind, given in timed.items() if set(self.state.get(kind, {})) != set(given["arms"])}
        if not todo:
            return
        self.progress.phase("speed", dict.fromkeys(todo, ("all arms", 0)), None)
        jobs = [Job(kind, kind, given) for kind, given in todo.items()]
        for kind, outcome in self.pool.run(jobs, self.progress.event, limit=1).items():
            if outcome.result is None:
                self._note(f"{kind} was not measured: {outcome.error}")
            else:
                self.state[kind] = outcome.result

    def _training_and_decoding(self, trials: Mapping[str, Trial]) -> dict[str, Any]:
        """Decoding with these trials' checkpoints, where arms differ in what it depends on."""
        arms = {name: trial.keys for name, trial in trials.items()}
        decoders = {json.dumps([keys["model"]["attention"], keys["model"]["mtp"]]) for keys in arms.values()}
        folders = {name: str(self.trials.folder(trial.id) / "checkpoint") for name, trial in trials.items()}
        return {"arms": arms, "checkpoints": folders if len(decoders) > 1 else {}, "cache_dir": self.trials.cache}


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
