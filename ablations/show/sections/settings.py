"""What each arm's trainings are set to, otherwise than the baseline's."""

from collections.abc import Iterator, Mapping
from typing import Any

from ablations.judge.result import ArmResult, Result
from ablations.judge.sidebyside import ABSENT, changed
from ablations.show.table import Table
from models.base.typed import as_typed


def settings_table(result: Result) -> Table:
    """Every key of the records' own configuration in which an arm is not as the baseline, stage by stage."""
    base, rows = _config(result.arms[result.baseline]), []
    for arm in result.arms.values():
        own = _config(arm)
        told = _set(result, arm) if base is None or own is None else _differing(base, own)
        rows.append([arm.name, ", ".join(told) or "-"])
    note = f"Beside {result.baseline}: what else is configured is the same for all."
    return Table("What each arm sets", ["arm", "keys"], rows, note, words=(0, 1))


def _config(arm: ArmResult) -> Mapping[str, Any] | None:
    """Of a trial of the confirmation that is complete, which differ in seed alone."""
    done = arm.of_status("complete")
    return arm.records[done[0]].config if done else None


def _set(result: Result, arm: ArmResult) -> Iterator[str]:
    """Where no trial has told: what the plan sets."""
    base = result.arms[result.baseline].plan.set
    own = {key: value for key, value in arm.plan.set.items() if base.get(key) != value}
    yield from (f"{key}={as_typed(value)}" for key, value in sorted((own | arm.plan.solved | arm.chosen).items()))


def _differing(base: Mapping[str, Any], own: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """The stages before the last one are told by their numbers, and so are a teacher's."""
    for name, words, word in (
        ("before", "stages before the last", "stage"),
        ("teacher", "stages of its teacher", "teacher's stage"),
    ):
        ours, theirs = own.get(name) or [], base.get(name) or []
        if len(ours) != len(theirs):
            yield f"{at}{words}: {len(ours)} instead of {len(theirs)}"
        for i, (one, other) in enumerate(zip(theirs, ours, strict=False), start=1):
            yield from _differing(one, other, f"{at}{word} {i}: ")
    left, right = ({k: v for k, v in side.items() if k not in ("before", "teacher")} for side in (base, own))
    for key in changed(left, right):
        yield f"{at}no {key.name}" if key.other is ABSENT else f"{at}{key.name}={as_typed(key.other)}"
