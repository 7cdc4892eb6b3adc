import dataclasses
import json
from pathlib import Path

import pytest

from ablations.home import ROOT
from ablations.record.documents import PLAN, STATE, ConfirmTrial, PlanDocument, SearchTrial, Speed, SweepState, sha_of
from ablations.record.guardresult import GuardResult
from models.base.typed import ConfigError

PUBLISHED = sorted(path.parent for path in (ROOT / "results").glob("*/*/plan.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.parent.name)
def test_a_published_plan_reads_and_writes_itself(folder: Path, tmp_path: Path) -> None:
    plan = PlanDocument.read(folder)
    assert plan.arms[plan.baseline].kind == "arm" and plan.keys.model.d_model > 0
    sha = plan.write(tmp_path)
    assert sha == sha_of(tmp_path / PLAN) and PlanDocument.read(tmp_path) == plan


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    PlanDocument.read(PUBLISHED[0]).write(tmp_path)
    SweepState().write(tmp_path)
    for cls, name in ((PlanDocument, PLAN), (SweepState, STATE)):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(content | {"format": 2}))
        with pytest.raises(ConfigError, match="format=2: expected one of 1"):
            cls.read(tmp_path)


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    state = SweepState(
        plan_sha="ab",
        deviations=["one"],
        minutes=1.5,
        guards={"a": [GuardResult("start", True, "near", {"loss": 6.9, "unreached": 0})]},
        search=[
            SearchTrial("a", {"optim.lr": 0.01}, 1000, "f0", 3.9),
            SearchTrial("a", {"optim.lr": 0.02}, 1000, "f1"),
        ],
        mistuning={"a": None},
        confirm=[ConfirmTrial("a", 0, "f2"), ConfirmTrial("a", 1, "f0")],
        speed={"a": Speed(10.0, [0.1, 0.1])},
        chunks={"a": {"f": [0.1]}},
    )
    state.write(tmp_path)
    assert SweepState.read(tmp_path) == state
    assert state.begun and state.trial_ids == ["f0", "f1", "f2"]


def test_no_state_yet_is_an_empty_one(tmp_path: Path) -> None:
    state = SweepState.read(tmp_path)
    assert state == SweepState() and not state.begun


@pytest.mark.parametrize("content", ['{"sweep": "a"}', '{"unknown": 1}', "[]", "{", '{"minutes": "soon"}'])
@pytest.mark.parametrize(("cls", "name"), [(PlanDocument, PLAN), (SweepState, STATE)])
def test_another_file_is_one_line_that_names_it(cls: type, name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=name) as error:
        cls.read(tmp_path)
    assert "\n" not in str(error.value)


def test_documents_are_json_without_surprises(tmp_path: Path) -> None:
    """What is written is what the classes hold, so that another program can read it."""
    state = SweepState(mistuning={"a": 0.5})
    state.write(tmp_path)
    assert json.loads((tmp_path / STATE).read_text()) == dataclasses.asdict(state)


def test_a_baseline_that_is_no_arm_is_one_line(tmp_path: Path) -> None:
    dataclasses.replace(PlanDocument.read(PUBLISHED[0]), baseline="ghost").write(tmp_path)
    with pytest.raises(ConfigError, match=r"plan\.json: baseline=ghost: is none of its arms"):
        PlanDocument.read(tmp_path)


def test_a_fact_that_is_no_number_was_not_measured() -> None:
    result = GuardResult("start", False, "the loss is nan", {"loss": float("nan"), "largest": float("inf"), "n": 0})
    assert result.facts == {"n": 0} and result.number("loss") is None
