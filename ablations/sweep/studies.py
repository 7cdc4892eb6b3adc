"""The search as Optuna's tools show it: one study per arm in a JournalFile, which mirrors the records and decides
nothing. `optuna-dashboard runs/<sweep>/<scale>/optuna.journal` watches it while it runs."""

import datetime
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.judge.choice import Choice
from ablations.judge.grid import Measured, Point
from ablations.record.documents import JOURNAL
from ablations.record.record import Record
from ablations.sweep.plan import Arm, Plan
from models.base.files import set_aside

CHOSEN = "chosen"
"""The study's attribute that says what was taken: the number of the trial that it stands on, and the values."""


class Studies:
    """Only this process opens them.

    A journal that is damaged is set aside, and a new one is filled from the records as they are told again. One that
    fails while trials run (another program may write in it too) is told no more until the next start.
    """

    def __init__(self, plan: Plan, journal: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self._rule, self._note, self._works = plan.sweep.search, note, True
        journal.parent.mkdir(parents=True, exist_ok=True)
        _mend(journal)
        try:
            self._studies = _open(plan, journal)
        except OSError:
            raise
        except Exception as error:  # whatever the replay of a damaged journal ends in
            aside = set_aside(journal)
            note(
                f"{journal.name} is damaged ({type(error).__name__}): set aside as {aside.name}, made anew from records"
            )
            self._studies = _open(plan, journal)

    def _try(self, act: Callable[[], None]) -> None:
        if self._works:
            try:
                act()
            except Exception as error:  # it decides nothing, so nothing of it ends a search
                self._works = False
                self._note(f"{JOURNAL} is told no more: {' '.join(f'{type(error).__name__}: {error}'.split())[:200]}")

    def tell(self, arm: Arm, points: Sequence[Point], point: Point, found: Measured, records: Sequence[Record]) -> None:
        """A point of `points`, all of whose trials have ended; one that the study has from the same trials is left
        alone. A diverged point is told as pruned: it stopped itself.

        In one write, so that a kill leaves it told or untold. Its duration is that of its trials, one after the other.
        """
        self._try(lambda: self._tell(arm, points, point, found, records))

    def _tell(
        self, arm: Arm, points: Sequence[Point], point: Point, found: Measured, records: Sequence[Record]
    ) -> None:
        from optuna.distributions import FloatDistribution
        from optuna.trial import TrialState, create_trial

        study, finite = self._studies[arm.name], math.isfinite(found.loss)
        ids = [record.id for record in records]
        if (ids, found.loss if finite else None) in [(t.user_attrs.get("trials"), t.value) for t in study.trials]:
            return
        limit = self._rule.constraint_max if arm.search else None
        told = create_trial(
            state=TrialState.COMPLETE if finite else TrialState.PRUNED,
            value=found.loss if finite else None,
            params=dict(point),
            distributions={name: FloatDistribution(**_range(points, name)) for name in point},
            constraints={str(self._rule.constraint_metric): found.constraint - limit} if finite and limit else None,
            user_attrs={"trials": ids, "constraint_share_of_max": found.constraint if finite else None},
        )
        seconds = sum(record.timings.get(name, 0.0) for record in records for name in ("train_s", "eval_s"))
        told.datetime_complete = datetime.datetime.now()
        told.datetime_start = told.datetime_complete - datetime.timedelta(seconds=seconds)
        study.add_trial(told)

    def mark(self, choices: Mapping[str, Choice]) -> None:
        """What was taken: Optuna's best trial, with the learning rate of the vertex."""
        self._try(lambda: self._mark(choices))

    def _mark(self, choices: Mapping[str, Choice]) -> None:
        for name, choice in choices.items():
            study = self._studies[name]
            numbers = [trial.number for trial in study.trials if trial.params == choice.best]
            chosen = {"trial": numbers[-1], **choice.point} if numbers else None
            if chosen and study.user_attrs.get(CHOSEN) != chosen:
                study.set_user_attr(CHOSEN, chosen)


def _open(plan: Plan, journal: Path) -> dict[str, Any]:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    return {
        arm.name: optuna.create_study(
            storage=storage,
            study_name=f"{plan.sweep.name}/{plan.config.scale}/{arm.name}",
            direction="minimize",
            load_if_exists=True,
        )
        for arm in plan.searched_arms
    }


def _mend(journal: Path) -> None:
    """Undo what a kill amid a write leaves: a lock that nobody holds (Optuna would wait 30 s for it), half a line."""
    journal.with_name(journal.name + ".lock").unlink(missing_ok=True)
    if journal.is_file():
        content = journal.read_bytes()
        os.truncate(journal, content.rfind(b"\n") + 1)


def _range(points: Sequence[Point], name: str) -> dict[str, Any]:
    values = [point[name] for point in points]
    return {"low": min(values), "high": max(values), "log": min(values) > 0}
