"""What tables say of a guard comes from its facts; its sentence is for people, and may say anything."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ablations.judge.gather import load_result
from ablations.record.documents import PlanDocument, SweepState
from ablations.record.guardresult import Fact, GuardResult
from ablations.show.sections.pipeline import pipeline_table
from ablations.show.sections.precision import precision_table

SENTENCE = "gradients differ by 9.9e-01 at most, through scales that tokens share"
LEAK = (
    "bias: in FP8 training, later tokens change earlier logits by up to 4.5e-01, through scales that tokens share; "
    "evaluation is in BF16."
)


def guarded(folder: Path, name: str, passed: bool, facts: dict[str, Fact], **changes: Any) -> None:
    """`bias` has this one guard."""
    state = dataclasses.replace(SweepState.read(folder), **changes)
    state.guards["bias"] = [GuardResult(name, passed, SENTENCE, facts)]
    state.write(folder)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"largest_change": 0.45, "shared_scales": True}, True),
        ({"largest_change": 0.45, "shared_scales": False, "limit": 1e-4}, False),
        ({"largest_change": 6e-7, "limit": 1e-4}, False),
        ({}, False),
    ],
)
def test_the_leak_through_shared_scales(sweep_run: Any, tmp_path: Path, facts: dict[str, Fact], said: bool) -> None:
    guarded(sweep_run(tmp_path, seeds=2), "causality", True, facts)
    note = precision_table(load_result(tmp_path, "moe_balance", "cpu")).note
    assert (LEAK in note, "scales that tokens share" in note) == (said, said)


@pytest.mark.parametrize(
    ("passed", "facts", "cell"),
    [
        (True, {"gradient_difference": 5.1e-16}, "yes (5.1e-16)"),
        (True, {"gradient_difference": 0}, "yes (0.0e+00)"),
        (False, {"gradient_difference": 0.02}, "NO (2.0e-02)"),
        (False, {}, "NO"),
    ],
)
def test_whether_a_schedule_has_the_same_gradients(
    sweep_run: Any, tmp_path: Path, passed: bool, facts: dict[str, Fact], cell: str
) -> None:
    folder = sweep_run(tmp_path, seeds=2)
    plan = PlanDocument.read(folder)
    schedule = {"schedule": "1f1b", "stages": 2, "microbatches": 4}
    own = dataclasses.replace(plan.arms["bias"], set={f"model.pipeline.{key}": v for key, v in schedule.items()})
    dataclasses.replace(plan, arms={**plan.arms, "bias": own}).write(folder)
    seconds = {kind: [0.01, 0.01] for kind in "fbiw"}
    guarded(folder, "schedule", passed, facts, chunks={"bias": seconds})
    (row,) = pipeline_table(load_result(tmp_path, "moe_balance", "cpu")).rows
    assert row[:4] == ["bias", "2", "4", cell]


@pytest.mark.parametrize(("fact", "number"), [(0.5, 0.5), (3, 3.0), (0, 0.0), (True, None), ("0.5", None)])
def test_a_number_among_facts(fact: Fact, number: float | None) -> None:
    guard = GuardResult("start", True, facts={"loss": fact})
    assert guard.number("loss") == number and guard.number("absent") is None
