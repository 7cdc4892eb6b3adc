"""What breaks around a sweep costs a line and the cell that it hit: nothing that is finished is lost."""

import errno
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.judge.gather import load_result
from ablations.launch.space import DiskFull
from ablations.record.documents import PLAN, STATE
from ablations.record.record import RECORD
from ablations.show.render import table_csv
from models.base import files
from models.base.files import beside, unfinished_in
from models.base.typed import ConfigError

FRESH = ("search=fresh", "search_points=2", "search_seeds=1")
JSON = ["", "{", "[]", '{"format": 2}']


def table(runs: Path) -> str:
    return table_csv(load_result(runs, "toy", "smoke"))


def trained(pool: Any) -> list[str]:
    return [job.key for job in pool.ran.get("trial", [])]


@pytest.mark.parametrize("content", JSON)
def test_a_damaged_record_is_set_aside_and_its_cell_runs_again(conduct, pool, runs, heard, content):
    lost, kept = conduct(*FRESH).state.confirm[2].id, table(runs)
    path = runs / "trials" / lost / RECORD
    path.write_text(content)
    with pytest.raises(ConfigError, match=lost):
        table(runs)
    pool.ran.clear()
    heard.clear()
    conduct(*FRESH)
    assert trained(pool) == [lost] and table(runs) == kept
    assert path.with_name("record.json.damaged").read_text() == content
    (line,) = [line for line in heard if "damaged" in line]
    assert line.startswith("damaged, set aside as record.json.damaged, and its trial runs again: ") and lost in line


@pytest.mark.parametrize("content", JSON)
def test_a_damaged_state_is_set_aside_and_no_trial_runs_again(conduct, pool, runs, heard, content):
    conduct(*FRESH)
    folder = runs / "toy/smoke"
    (folder / STATE).write_text(content)
    with pytest.raises(ConfigError, match=STATE):
        table(runs)
    pool.ran.clear()
    again = conduct(*FRESH)
    assert trained(pool) == [] and (folder / "state.json.damaged").read_text() == content
    said = f"{STATE} was damaged; what it had to say of this result until then is in state.json.damaged"
    assert said in heard and load_result(runs, "toy", "smoke").deviations[0] == said == again.state.deviations[0]


def test_under_a_damaged_state_another_plan_gets_a_folder_of_its_own(conduct, runs):
    conduct(*FRESH)
    (runs / "toy/smoke" / STATE).write_text("{")
    assert conduct(*FRESH, "seeds=3").folder.name.startswith("smoke@")
    assert (runs / "toy/smoke" / STATE).read_text() == "{"


def test_a_damaged_plan_is_written_anew_where_it_is_known_to_the_byte(conduct, pool, runs, heard):
    first, folder = conduct(*FRESH), runs / "toy/smoke"
    plan, kept = (folder / PLAN).read_bytes(), table(runs)
    (folder / PLAN).write_bytes(plan[: len(plan) // 2])
    pool.ran.clear()
    again = conduct(*FRESH)
    assert pool.ran == {} and (folder / PLAN).read_bytes() == plan and table(runs) == kept
    assert (folder / "plan.json.damaged").read_bytes() == plan[: len(plan) // 2]
    assert again.state.deviations == first.state.deviations
    assert [
        line
        for line in heard
        if line.endswith("set aside as plan.json.damaged, and written anew, the same to the byte")
    ]


def failing_from(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """The disk fails from this write on, counted from 1; returns how many there were."""
    settle, writes = files._settle, [0]

    def settled(path: Path, mode: int) -> None:
        writes[0] += 1
        if writes[0] >= number:
            raise OSError(code, os.strerror(code), str(path))
        settle(path, mode)

    monkeypatch.setattr(files, "_settle", settled)
    return lambda: writes[0]


@pytest.mark.parametrize(("code", "kind"), [(errno.ENOSPC, DiskFull), (errno.EROFS, OSError), (errno.EIO, OSError)])
def test_a_disk_that_fails_at_any_write_loses_nothing(conduct, runs, monkeypatch, code, kind):
    """Full, read-only, broken: one line, and the same command goes on."""
    with monkeypatch.context() as patch:
        count = failing_from(10**6, code, patch)
        conduct(*FRESH)
    kept, writes = table(runs), count()
    assert writes > 20
    for number in (1, 2, 3, *range(4, writes, 14), writes) if kind is DiskFull else (2, writes // 2):
        for name in ("toy", "trials"):
            shutil.rmtree(runs / name)
        with monkeypatch.context() as patch:
            failing_from(number, code, patch)
            with pytest.raises(kind) as caught:
                conduct(*FRESH)
        assert caught.value.filename.startswith(str(runs)) and caught.value.errno == code
        finished = {path: path.stat().st_mtime_ns for path in runs.glob(f"trials/*/{RECORD}")}
        assert unfinished_in(runs) == []
        conduct(*FRESH)
        assert table(runs) == kept, number
        assert finished.items() <= {p: p.stat().st_mtime_ns for p in runs.glob(f"trials/*/{RECORD}")}.items()


@pytest.mark.parametrize("gone", ["toy", "toy/smoke/logs", "trials"])
def test_a_folder_that_vanishes_costs_what_was_in_it(conduct, pool, runs, gone):
    conduct(*FRESH)
    kept, trial, calls = table(runs), pool.kinds["trial"], []

    def vanishing(arguments: dict[str, Any], report: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            shutil.rmtree(runs / gone, ignore_errors=True)
        return trial(arguments, report)

    shutil.rmtree(runs / "trials")
    shutil.rmtree(runs / "toy")
    pool.kinds["trial"] = vanishing
    conduct(*FRESH)
    conduct(*FRESH)
    assert table(runs) == kept


def test_a_clock_that_goes_back_changes_nothing(conduct, runs, monkeypatch):
    conduct(*FRESH)
    kept, now = table(runs), [time.time()]

    def back() -> float:
        now[0] -= 3600
        return now[0]

    for name in ("toy", "trials"):
        shutil.rmtree(runs / name)
    monkeypatch.setattr(time, "time", back)
    state = conduct(*FRESH).state
    assert table(runs) == kept and 0 < state.minutes < 5


def test_what_dead_writers_left_goes_and_what_living_ones_write_stays(conduct, runs):
    """A report may be written while another command begins here."""
    conduct(*FRESH)
    folder = runs / "toy/smoke"
    code = "import sys, pathlib; from models.base.files import beside; print(beside(pathlib.Path(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, str(folder / "table.csv")], capture_output=True, text=True)
    dead, living, unknown = Path(done.stdout.strip()), beside(folder / "table.csv"), folder / ".table.md.0123.part"
    for path in (dead, living, unknown):
        path.write_text("")
    conduct(*FRESH)
    assert sorted(unfinished_in(runs)) == sorted([living, unknown]) and str(os.getpid()) in living.name


def test_what_a_kill_left_in_a_finished_trial_goes(conduct, runs):
    folder = runs / "trials" / conduct(*FRESH).state.confirm[0].id
    for name in ("resume.ckpt", "trained.json", ".owner", ".record.json.0123.part"):
        (folder / name).write_text("")
    conduct(*FRESH)
    assert [path.name for path in folder.iterdir()] == [RECORD]
