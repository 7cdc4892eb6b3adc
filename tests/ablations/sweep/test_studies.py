"""What Optuna's journal holds: every point once, whatever was killed or damaged."""

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ablations.judge.choice import choose
from ablations.judge.grid import Measured, Point, key_of
from ablations.record.record import Record
from ablations.sweep.studies import Studies

RATE = "optim.lr"


def one(loss: float, share: float = 0.0) -> Measured:
    """A point with one search seed."""
    return Measured({1000: loss}, share)


class Journal:
    """One arm's study over restarts of the scheduler."""

    def __init__(self, plan: Any, path: Path) -> None:
        self.plan, self.path = plan, path
        self.arm = plan.arms["bias"]
        self.points = self.arm.grid(plan.shared)
        self.measured = {key_of(p): one(4.0 + i, 0.1) for i, p in enumerate(self.points)}
        self.ids = {key_of(p): [f"trial{i}"] for i, p in enumerate(self.points)}

    def open(self) -> Any:
        return Studies(self.plan, self.path)

    def tell(self, ended: Sequence[Point] | None = None, note: Callable[[str], None] = lambda text: None) -> Any:
        """As a started scheduler does of the points that have `ended` (None: all); returns the study."""
        studies = Studies(self.plan, self.path, note)
        for point in self.points if ended is None else ended:
            key = key_of(point)
            records = [Record(i, 1000, "complete", {}, timings={"train_s": 2.0, "eval_s": 1.0}) for i in self.ids[key]]
            studies.tell(self.arm, self.points, point, self.measured[key], records)
        return studies._studies["bias"]

    def rows(self) -> list[tuple[str, Any, Any, Any]]:
        study = self.open()._studies["bias"]
        return [(t.state.name, t.params, t.value, t.user_attrs.get("trials")) for t in study.trials]

    @property
    def expected(self) -> list[tuple[str, Any, Any, Any]]:
        return [("COMPLETE", p, 4.0 + i, [f"trial{i}"]) for i, p in enumerate(self.points)]


@pytest.fixture
def journal(plan, tmp_path) -> Journal:
    return Journal(plan("search=fresh"), tmp_path / "study" / "optuna.journal")


def test_points_are_told_once(journal):
    for _ in range(2):
        journal.tell()
        assert journal.rows() == journal.expected and len(journal.points) == 4


def test_a_search_killed_amid_telling_is_completed(journal):
    journal.tell(journal.points[:2])
    study = journal.tell()
    assert journal.rows() == journal.expected
    assert study.best_params == journal.points[0]


def test_a_point_lasts_as_long_as_its_trials_and_keeps_the_limit_or_not(journal):
    limit = journal.plan.sweep.search.constraint_max
    shares = [limit + 0.05, limit, limit - 0.05, limit + 0.1]
    journal.measured = {key_of(p): one(4.0 + i, shares[i]) for i, p in enumerate(journal.points)}
    journal.ids[key_of(journal.points[0])] = ["one", "two"]
    study = journal.tell()
    assert [trial.duration.total_seconds() for trial in study.trials] == [6.0, 3.0, 3.0, 3.0]
    name = journal.plan.sweep.search.constraint_metric
    assert [trial.constraints[name] for trial in study.trials] == pytest.approx([0.05, 0, -0.05, 0.1])
    choice = choose("bias", journal.measured, limit)
    assert choice.best == study.best_params == journal.points[1], "Optuna's best is ours"


def test_the_chosen_point_is_marked_once(journal):
    journal.tell()
    choice = dataclasses.replace(choose("bias", journal.measured, None), point={**journal.points[0], RATE: 0.003})
    for _ in range(2):
        studies = journal.open()
        studies.mark({"bias": choice})
    assert studies._studies["bias"].user_attrs == {"chosen": {"trial": 0, **choice.point}}
    assert journal.path.read_text().count('"chosen"') == 1


def test_a_diverged_point_is_told_once_and_as_no_value(journal):
    journal.measured[key_of(journal.points[1])] = one(math.inf, math.inf)
    journal.tell()
    journal.tell()
    states = [(state, params) for state, params, _, _ in journal.rows()]
    assert states == [("PRUNED" if i == 1 else "COMPLETE", p) for i, p in enumerate(journal.points)]


def test_a_lock_and_half_a_line_of_a_killed_scheduler_do_no_harm(journal):
    journal.tell()
    journal.path.with_name("optuna.journal.lock").symlink_to(journal.path)
    with journal.path.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    journal.points.append({RATE: 0.02, "model.moe.balance.update_speed": 0.003})
    point = key_of(journal.points[-1])
    journal.measured[point], journal.ids[point] = one(8.0, 0.1), ["trial4"]
    journal.tell()  # would wait for 30 s, then read a broken line
    assert journal.rows() == journal.expected


def test_a_point_measured_by_other_trials_is_told_anew(journal):
    journal.tell()
    old = journal.expected
    journal.ids = {key: [f"new{i}"] for i, key in enumerate(journal.ids)}
    journal.tell()
    assert journal.rows()[:4] == old
    assert [ids for _, _, _, ids in journal.rows()[4:]] == [[f"new{i}"] for i in range(4)]


DAMAGES: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "no JSON in it": lambda lines: [*lines[:3], b"{oops\n", *lines[3:]],
    "bytes that are no text": lambda lines: [*lines[:3], b"\xff\xfe\x00\n", *lines[3:]],
    "another's": lambda lines: [b'{"name": "x"}\n'],
    "a list": lambda lines: [b"[1, 2]\n"],
    "an unknown operation": lambda lines: [*lines, b'{"op_code": 99, "worker_id": "a"}\n'],
    "blocks lost": lambda lines: [b"\0" * 4096 + b"\n", *lines[len(lines) // 2 :]],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_set_aside_and_made_anew_from_what_is_told(journal, damage):
    journal.tell()
    damaged = b"".join(DAMAGES[damage](journal.path.read_bytes().splitlines(keepends=True)))
    journal.path.write_bytes(damaged)
    said: list[str] = []
    journal.tell(note=said.append)
    assert journal.rows() == journal.expected
    (line,) = said
    assert line.startswith("optuna.journal is damaged (") and "set aside as optuna.journal.damaged, made anew" in line
    assert journal.path.with_name("optuna.journal.damaged").read_bytes() == damaged
    journal.tell()
    assert journal.rows() == journal.expected


@pytest.mark.parametrize("operation", [0, 4])
def test_lines_that_are_lost_are_told_again(journal, operation):
    """Optuna passes over what hangs in the air: studies, trials."""
    journal.tell()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(b"".join(line for line in lines if json.loads(line)["op_code"] != operation))
    journal.tell()
    assert [row for row in journal.rows() if row in journal.expected] == journal.expected


def test_a_value_that_is_not_the_records_is_told_anew(journal):
    journal.tell()
    changed = (
        journal.path.read_bytes().replace(b'"value": 4.0', b'"value": 3.0').replace(b'"value":4.0', b'"value":3.0')
    )
    journal.path.write_bytes(changed)
    journal.tell()
    assert [value for _, _, value, _ in journal.rows()] == [3.0, 5.0, 6.0, 7.0, 4.0]


def test_a_journal_that_fails_while_trials_run_is_told_no_more(journal):
    """As where a study is deleted in a dashboard: it decides nothing, so it ends nothing."""
    import optuna

    said: list[str] = []
    studies = Studies(journal.plan, journal.path, said.append)
    study = studies._studies["bias"]
    optuna.delete_study(study_name=study.study_name, storage=study._storage)
    for point in journal.points:
        record = Record("trial", 1000, "complete", {})
        studies.tell(journal.arm, journal.points, point, journal.measured[key_of(point)], [record])
    studies.mark({"bias": choose("bias", journal.measured, None)})
    (line,) = said
    assert line.startswith("optuna.journal is told no more: ")
    journal.tell()
    assert journal.rows() == journal.expected, "and all of it at the next start"


def test_a_journal_that_cannot_be_read_is_no_damaged_one(journal, monkeypatch):
    def refused(*_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(journal.path))

    monkeypatch.setattr("ablations.sweep.studies._open", refused)
    with pytest.raises(PermissionError):
        journal.open()
    assert list(journal.path.parent.glob("*damaged*")) == []
