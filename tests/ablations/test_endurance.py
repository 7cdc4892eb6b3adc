"""A sweep that is killed again and again, at moments that a seed draws, ends as one that nobody has disturbed."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import forked
import pytest
from processes import numbers, wait_until, words

from ablations.record.documents import PLAN, SweepState
from ablations.record.record import RECORD
from ablations.record.steplog import STEPS
from ablations.record.trialdir import OWNER, PASSING
from models.base.files import unfinished_in

SWEEP = (
    "search=fresh",
    "search_points=2",
    "search_seeds=1",
    "optim.lr=0.005",
    "train.tokens=1536",
    "train.checkpoint_every=0.3",
    "eval.tokens=512",
    "launch.workers=2",
)
"""4 search trials, 8 confirmation trials of 6 steps."""
VICTIMS = ("scheduler", "worker", "worker", "both")
SOAKED = 100
"""Kills under `pytest -m soak`."""


@dataclass
class Tormentor:
    """Runs one command over and over, killing what it runs, until it ends by itself."""

    runs: Path
    dice: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    @property
    def ledger(self) -> Path:
        return self.runs.parent / "ledger"

    def run(self, most: int) -> None:
        """To the end of the sweep, with at most this many kills on the way."""
        given = words(self.runs, *SWEEP)
        while True:
            self.starts += 1
            scheduler = forked.start(given, self.runs.parent, self.ledger)
            try:
                while scheduler.is_alive() and self.kills.total() < most:
                    self._kill(scheduler)
                scheduler.join(600)
            finally:
                scheduler.kill()
            wait_until(lambda: not self.family(), 20, 0.02)
            if scheduler.exitcode == 0:
                return
            assert scheduler.exitcode in (1, -signal.SIGKILL), (self.runs.parent / "err.txt").read_text()

    def _kill(self, scheduler: BaseProcess) -> None:
        """Somebody: at once, or after some steps and records, however long they take here."""
        for _ in range(self.dice.choice((0, 2, 5, 10, 20))):
            before = self.written()
            wait_until(lambda: self.written() != before or not scheduler.is_alive(), 120, 0.01)  # noqa: B023
        time.sleep(self.dice.uniform(0.0, 0.2))
        victim, workers = self.dice.choice(VICTIMS), [pid for pid in self.family() if pid != scheduler.pid]
        if not scheduler.is_alive() or (victim == "worker" and not workers):
            return
        self.kills[victim if workers else "scheduler"] += 1
        if victim != "scheduler" and workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.dice.choice(workers), signal.SIGKILL)
        if victim != "worker":
            scheduler.kill()
            scheduler.join()

    def written(self) -> dict[Path, int]:
        """How far the trials are: the bytes of their step logs, and their records."""
        found = dict[Path, int]()
        for name in (STEPS, RECORD):
            for path in self.runs.glob(f"trials/*/{name}"):
                with contextlib.suppress(OSError):
                    found[path] = path.stat().st_size
        return found

    def family(self) -> list[int]:
        """The living processes of this command, by where they work; a zombie works nowhere."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(place / "cwd") == str(self.runs.parent):
                    found.append(int(place.name))
        return found


def litter(runs: Path) -> Iterator[Path]:
    """What is of use only on the way."""
    yield from unfinished_in(runs)
    for name in (OWNER, *PASSING, "optuna.journal.lock"):
        yield from runs.rglob(name)


def check(tormentor: Tormentor, whole: Path) -> None:
    """As if nobody had been killed, and every trial finished once."""
    runs, lines = tormentor.runs, tormentor.ledger.read_text().splitlines()
    for name in ("table.csv", PLAN):
        assert (runs / "toy/smoke" / name).read_bytes() == (whole / "toy/smoke" / name).read_bytes(), name
    assert numbers(runs) == numbers(whole)
    one, other = (SweepState.read(each / "toy/smoke") for each in (runs, whole))
    for key in ("search", "chosen", "mistuning", "confirm", "guards", "deviations", "plan_sha"):
        assert getattr(one, key) == getattr(other, key), key
    assert not [line for line in lines if line.endswith("over a record")]
    times = Counter(line.split()[0] for line in lines if line.endswith("complete written"))
    assert set(times.values()) == {1} and times.keys() <= {path.parent.name for path in runs.glob(f"trials/*/{RECORD}")}
    # A search's trial that was killed twice counts as failed, and what is then chosen may be begun; once it has been
    # tried again nobody asks for that.
    begun = [folder for folder in runs.glob("trials/*") if not (folder / RECORD).is_file()]
    assert not begun or any(line.endswith("failed written") for line in lines), begun
    assert [path for path in litter(runs) if path.parent not in begun] == []
    assert tormentor.family() == []


def new_runs(folder: Path, data_cache: Path) -> Path:
    runs = folder / "runs"
    runs.mkdir(parents=True)
    (runs / "data").symlink_to(data_cache)
    return runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data_cache: Path) -> Path:
    """runs/ of the sweep that nobody disturbs."""
    runs = new_runs(tmp_path_factory.mktemp("whole"), data_cache)
    Tormentor(runs, random.Random(0)).run(0)
    return runs


def test_a_sweep_survives_three_kills(whole: Path, tmp_path: Path, data_cache: Path) -> None:
    tormentor = Tormentor(new_runs(tmp_path, data_cache), random.Random(3))
    tormentor.run(3)
    assert tormentor.kills.total() == 3
    check(tormentor, whole)


@pytest.mark.soak
def test_sweeps_survive_a_hundred_kills(whole: Path, tmp_path: Path, data_cache: Path) -> None:
    dice, kills, rounds, starts = random.Random(100), Counter[str](), 0, 0
    while kills.total() < SOAKED:
        tormentor = Tormentor(new_runs(tmp_path / str(rounds), data_cache), dice)
        tormentor.run(min(dice.randint(5, 20), SOAKED - kills.total()))
        check(tormentor, whole)
        kills, rounds, starts = kills + tormentor.kills, rounds + 1, starts + tormentor.starts
        print(f"{rounds} sweeps, {starts} starts, kills: {dict(kills)}", flush=True)
