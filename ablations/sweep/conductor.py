"""Conducts a sweep: data, guards, search, confirmation, speed, report. Everything it does can be killed and continued:
what is finished is a record on disk, and the rest follows from the plan."""

import itertools
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from ablations.judge.distinct import apart
from ablations.judge.gather import load_result
from ablations.launch.job import Launcher
from ablations.launch.lock import single_owner
from ablations.launch.progress import Progress
from ablations.launch.space import DiskFull, full_place
from ablations.record.documents import (
    JOURNAL,
    PLAN,
    STATE,
    ConfirmTrial,
    PlanDocument,
    Point,
    SearchTrial,
    Speed,
    SweepState,
    sha_of,
)
from ablations.record.record import RECORD, RECORDS, finished
from ablations.record.rundir import differing, folder_of, listed
from ablations.sweep.disk import check_room
from ablations.sweep.guarding import Guarding, stop_at_failures
from ablations.sweep.plan import Plan, results_dir
from ablations.sweep.registration import registered
from ablations.sweep.search import search
from ablations.sweep.trials import Trial, Trials
from ablations.sweep.workplace import TextOf, check_writable, prepared_texts, started_pool
from ablations.trial.requests import SpeedRequest, job
from ablations.trial.tracking import is_mirrored
from ablations.trial.uploads import begin_tracking, fallen_back, remember, resolve_mode
from models.base.files import remove_left, set_aside
from models.base.typed import ConfigError, build


class Conductor:
    """One run of one sweep at one scale, in `runs_dir/<sweep>/<scale>`, or beside it where another plan's result is
    there (ablations/record/rundir.py); trials are in `runs_dir/trials`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.runs = Path(plan.config.runs_dir).absolute()
        self.folder = self.usual = self.runs / plan.sweep.name / plan.config.scale
        self.state = SweepState()
        self.fingerprint: TextOf
        self.progress: Progress
        self.pool: Launcher
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
            self.fingerprint = prepared_texts(self.plan, self.runs / "data", self.progress.note)
            document = registered(self.plan, self.fingerprint(self.plan.baseline.keys))
            self.folder = folder_of(self.runs, results_dir(self.plan.config), document)
            with (
                single_owner(self.folder),
                started_pool(self.plan, self.runs, self.folder / "logs", self.progress) as self.pool,
            ):
                for place in (self.runs, self.folder, self.folder / "figures"):
                    remove_left(place)
                self.trials = Trials(self.plan, self.runs, self.folder.name, self.fingerprint, self.pool, self.progress)
                self._open_state(document)
                check_room(self.plan, self.runs, self._confirmed())
                begin_tracking(self.runs)
                earlier = self.state.minutes
                try:
                    self._guards()
                    self.state.started = True
                    self._save()
                    chosen = self._search()
                    self._confirm(chosen)
                    self._mirror(chosen)
                    self._speed(chosen)
                finally:
                    fallen = fallen_back(self.runs)  # the worker that saw it has said so
                    if fallen and fallen not in self.state.deviations:
                        self.state.deviations.append(fallen)
                    self.state.minutes = earlier + (time.monotonic() - started) / 60
                    self._save()

    def _open_state(self, document: PlanDocument) -> None:
        """Write the plan before anything is trained; keep what an earlier run under it has done."""
        self._read_state()
        earlier = self._earlier(document)
        if earlier is None or differing(earlier, document):
            if earlier is not None and self.state.begun:  # since the folder was chosen
                raise ConfigError(f"{self.folder}: another plan has just begun here; start this one again")
            self.state = SweepState(deviations=self.state.deviations)
            document.write(self.folder)
        remember(self.folder, self.plan.config.track)
        self.state.plan_sha = self.trials.plan_sha = sha_of(self.folder / PLAN)
        if self.folder != self.usual and (self.usual / PLAN).is_file():
            others = listed(differing(PlanDocument.read(self.usual), document))
            self.progress.note(
                f"{self.usual} holds the result of another plan ({others}), which stays; this one goes to {self.folder}"
            )
            if earlier is None:
                self._note(f"trials had run under another plan of this sweep before this one was made: {others}")
        self._save()

    def _read_state(self) -> None:
        """A damaged one is set aside: what it said is in the records, but for what only it knew."""
        try:
            self.state = SweepState.read(self.folder)
        except ConfigError as error:
            aside = set_aside(self.folder / STATE)
            self.progress.note(str(error))
            self.state = SweepState(started=True)
            self._note(f"{STATE} was damaged; what it had to say of this result until then is in {aside.name}")

    def _earlier(self, document: PlanDocument) -> PlanDocument | None:
        """The plan that is there. A damaged one is set aside and written anew where the state knows it for this very
        plan, to the byte."""
        if not (self.folder / PLAN).is_file():
            return None
        try:
            return PlanDocument.read(self.folder)
        except ConfigError as error:
            if self.state.plan_sha != document.sha:
                raise
            aside = set_aside(self.folder / PLAN)
            self.progress.note(f"{error}; set aside as {aside.name}, and written anew, the same to the byte")
            document.write(self.folder)
            return document

    def _confirmed(self) -> int:
        """How many of the confirmation's trials have been run."""
        return sum((self.trials.folder(trial.id) / RECORD).is_file() for trial in self.state.confirm)

    def _save(self) -> None:
        self.state.write(self.folder)

    def _note(self, text: str) -> None:
        """A deviation or a remark that the result must show."""
        if text not in self.state.deviations:
            self.state.deviations.append(text)
        self.progress.note(text)

    def _guards(self) -> None:
        guarding = Guarding(self.plan, self.fingerprint, self.trials.cache, self.pool, self.progress)
        try:
            guarding.look(self.state)
        finally:
            self._save()

    def _search(self) -> dict[str, Point]:
        """The chosen values of every arm; A/A and control take the baseline's."""
        plan = self.plan
        if plan.published is not None:
            chosen = {arm.name: plan.published.chosen[arm.name] for arm in plan.searched_arms}
            self.state.search = [trial for trial in plan.published.search if trial.arm in chosen]
            self.state.mistuning = {n: nats for n, nats in plan.published.mistuning.items() if n in chosen}
        else:
            choices, notes = search(plan, self.trials, self.folder / JOURNAL, self._keep_search)
            for note in notes:
                self._note(note)
            chosen = {name: choice.point for name, choice in choices.items()}
            self.state.mistuning = {name: choice.mistuning for name, choice in choices.items()}
        chosen |= {name: chosen[plan.sweep.baseline] for name, arm in plan.arms.items() if arm.kind != "arm"}
        self.state.chosen = chosen
        self._save()
        for arm in plan.searched_arms:
            used = apart({trial.seed for trial in self.state.search if trial.arm == arm.name}, plan.seeds)
            stop_at_failures({arm.name: [used] if used is not None else []})
        return chosen

    def _keep_search(self, trials: list[SearchTrial]) -> None:
        self.state.search = trials
        self._save()

    def _confirm(self, chosen: Mapping[str, Point]) -> None:
        """Seed by seed over all arms, so that a run that is stopped early is balanced; up to the first look at the
        claims that leaves none open, where there are several."""
        if not self.state.confirm:
            self._say_trained_before([trial.id for trial, _ in self._wanted(chosen)])
        for look in [n for n in self.plan.looks if n >= self.state.looked] or [0]:
            self.state.looked = look
            wanted = self._wanted(chosen)
            self.state.confirm = [ConfirmTrial(trial.arm, trial.seed, trial.id, share) for trial, share in wanted]
            self._save()
            self.trials.run("confirmation", [trial for trial, _ in wanted])
            if look and look < self.plan.looks[-1] and self._open_claims(look):
                continue
            self.state.settled = True
            self._save()
            return

    def _say_trained_before(self, ids: Collection[str]) -> None:
        """A plan may be made of what its trainings have shown, where they ran for another sweep or another plan."""
        try:
            made = (self.folder / PLAN).stat().st_mtime_ns
        except FileNotFoundError:  # the folder has vanished; the next command makes its plan anew and says it
            return
        there = sum(any(_written_before(made, path) for path in self.trials.places_before(id)) for id in ids)
        if there:
            self._note(f"{there} of {len(ids)} trainings were on record before this plan was made")

    def _open_claims(self, look: int) -> int:
        """How many claims that can be judged here more seeds may settle, as far as can be seen."""
        sweep, run = self.plan.sweep.name, self.folder.name
        result = load_result(self.runs, sweep, run, results_dir(self.plan.config) / sweep / run / RECORDS)
        judged = [v for c, v in zip(result.expected, result.verdicts, strict=True) if self.plan.can_judge(c)]
        count = sum(v.open for v in judged)
        self.progress.note(f"after {look} seeds {count} of {len(judged)} claims are open")
        return count

    def _wanted(self, chosen: Mapping[str, Point]) -> list[tuple[Trial, float]]:
        """The confirmation's trials up to this look, and on what share of the tokens."""
        plan, shares = self.plan, [*sorted(self.plan.sweep.horizons), 1.0]
        places = list(itertools.product(plan.seeds[: self.state.looked or None], plan.arms.values(), shares))
        made = {
            (seed, arm.name, share): self.trials.of(arm, "confirm", seed, chosen[arm.name], share)
            for seed, arm, share in places
        }
        wanted = []
        for (seed, name, share), trial in made.items():
            rival = made.get((seed, plan.rival(name), share))
            against = rival.id if rival is not None and rival.id != trial.id else None
            wanted.append((replace(trial, against=against), share))
        return wanted

    def _mirror(self, chosen: Mapping[str, Point]) -> None:
        """A run for each trial that this sweep uses and has none for yet: another sweep has trained it, or W&B was not
        there when it was."""
        if resolve_mode(self.plan.config.track.mode) == "disabled":
            return
        arms = {arm.name: arm for arm in self.plan.arms.values()}
        used = [self.trials.of(arms[s.arm], "search", s.seed, s.point) for s in self.state.search]
        used += [trial for trial, _ in self._wanted(chosen)]
        jobs, shown = [], {}
        for trial in used:
            request, key = self.trials.request(trial), f"mirror:{trial.arm}:{trial.id}"
            if finished(self.trials.folder(trial.id) / RECORD) and not is_mirrored(request):
                jobs.append(job(key, "mirror", request))
                shown[key] = (trial.arm, trial.seed)
        if jobs:
            self.progress.phase("W&B", shown, 1.0, workers=self.plan.workers)
            for key, outcome in self.pool.run(jobs, self.progress.event).items():
                if outcome.error is not None:
                    self._note(f"{key} was not written: {outcome.error}")

    def _speed(self, chosen: Mapping[str, Point]) -> None:
        """What is timed: by one job after another, arms in turn in one worker, while the others rest. A kind of job has
        its own key in the state. Of an arm with a pipeline only the chunks are: all its ranks run in one process here,
        which says nothing about their time on as many devices."""
        seed = self.plan.seeds[0]
        trials = {arm.name: self.trials.of(arm, "confirm", seed, chosen[arm.name]) for arm in self.plan.arms.values()}
        piped = {n: t.keys for n, t in trials.items() if t.keys.model.pipeline.schedule != "none"}
        timed = {"speed": self._training_and_decoding({n: t for n, t in trials.items() if n not in piped})}
        if piped:
            timed["chunks"] = SpeedRequest(piped, self.trials.cache)
        known = {"speed": set(self.state.speed), "chunks": set(self.state.chunks)}
        todo = {kind: request for kind, request in timed.items() if known[kind] != set(request.arms)}
        if not todo:
            return
        self.progress.phase("speed", dict.fromkeys(todo, ("all arms", 0)), None)
        jobs = [job(kind, kind, request) for kind, request in todo.items()]
        for kind, outcome in self.pool.run(jobs, self.progress.event, limit=1).items():
            if outcome.result is None:
                self._note(f"{kind} was not measured: {outcome.error}")
            elif kind == "speed":
                self.state.speed = {name: build(Speed, found) for name, found in outcome.result.items()}
            else:
                self.state.chunks = outcome.result

    def _training_and_decoding(self, trials: Mapping[str, Trial]) -> SpeedRequest:
        """Decoding with these trials' checkpoints, where arms differ in what it depends on."""
        arms = {name: trial.keys for name, trial in trials.items()}
        decoders = {(keys.model.attention, keys.model.mtp) for keys in arms.values()}
        folders = {name: str(self.trials.folder(trial.id) / "checkpoint") for name, trial in trials.items()}
        return SpeedRequest(arms, self.trials.cache, folders if len(decoders) > 1 else {})


def _written_before(time: int, path: Path) -> bool:
    return path.is_file() and path.stat().st_mtime_ns < time
