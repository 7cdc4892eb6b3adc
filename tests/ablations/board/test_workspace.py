"""The workspace as code: its shape, and that its panels ask for what runs hold."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from ablations.board.sections import CURVES, PAIRED, TEST, sections_of
from ablations.board.workspace import overview, specification, sweep_view, trials_of
from ablations.files import write_json
from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.metrics import METRICS
from ablations.metrics import metric as metric_of
from ablations.show.figures.palette import COLOURS, INK, MUTED
from ablations.trial.mirror import Mirror
from models.post_training.config import OF_ANSWERS

pytest.importorskip("wandb_workspaces")


@pytest.fixture(scope="module")
def result(finished_run: Path) -> Result:
    return load_result(finished_run, "moe_balance", "cpu")


@pytest.fixture
def view(result: Result) -> dict[str, Any]:
    return specification(sweep_view(result, "team", "p"))


def section_of(view: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = view["spec"]["section"]
    return found


def panels_of(view: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    bank = section_of(view)["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in bank}


def colours_of(view: dict[str, Any]) -> dict[tuple[str, ...], str]:
    """By the values of the groups, from the outermost."""
    from wandb_workspaces.workspaces._run_color_groups import parse_run_color_group_key

    found = {}
    for key, colour in section_of(view)["customRunColors"].items():
        parsed = parse_run_color_group_key(key)
        assert parsed is not None and parsed["runset_id"] == section_of(view)["runSets"][0]["id"]
        found[tuple(entry["value"] for entry in parsed["path"])] = colour
    return found


def test_sections_are_those_that_the_sweep_has_metrics_of(view: dict[str, Any]) -> None:
    assert list(panels_of(view)) == ["answer", "loss", "balance", "speed"]


def test_every_metric_has_its_topic() -> None:
    of = {name: metric_of(name).topic for name in [metric.name for metric in METRICS if metric.index is None]}
    assert {of[name] for name in ("loss", "bits_per_byte", "train_loss")} == {"loss"}
    assert {of[name] for name in ("max_vio_global", "routing_entropy")} == {"balance"}
    assert {of[name] for name in ("gradient_cosine", "loss_error")} == {"precision"}
    assert metric_of("mtp_tokens_per_forward").topic == metric_of("mtp_acceptance_1").topic == "speed"
    assert metric_of("python_cloze/acc").topic is None
    assert None not in of.values(), "or a new metric would be shown nowhere but beside the answer"


def test_runs_are_grouped_by_arm_the_baseline_first(view: dict[str, Any], result: Result) -> None:
    (runs,) = section_of(view)["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["arm.value"]
    assert [(key["key"]["name"], key["ascending"]) for key in runs["sort"]["keys"]] == [
        ("place", True),
        ("arm", True),
    ]
    sweep, trials = runs["filters"]["filters"]
    assert (sweep["key"]["name"], sweep["value"]) == ("sweep", "moe_balance")
    assert (trials["op"], trials["value"]) == ("IN", trials_of(result)) and len(trials["value"]) == 36


def test_arms_have_the_colours_of_our_figures(view: dict[str, Any]) -> None:
    assert colours_of(view) == {
        ("aux_loss",): INK,
        ("batch_aux_loss",): COLOURS[0],
        ("bias",): COLOURS[1],
        ("none",): COLOURS[2],
        ("control",): MUTED,
        ("aa",): MUTED,
    }


def test_panels_are_means_and_bands_over_tokens_and_differences_come_first(view: dict[str, Any]) -> None:
    panels = panels_of(view)
    lines = [p["config"] for own in panels.values() for p in own if "Line Plot" in p["viewType"]]
    bars = [p["config"] for own in panels.values() for p in own if "Bar Chart" in p["viewType"]]
    assert {line["xAxis"] for line in lines} == {"tokens"} and section_of(view)["settings"]["xAxis"] == "tokens"
    assert {(c["groupAgg"], c["groupArea"]) for c in [*lines, *bars]} == {("mean", "minmax")}
    for own in panels.values():
        keys = [p["config"]["metrics"][0] for p in own if "metrics" in p["config"]]
        for kind in (CURVES["loss"], {key: "" for key in keys if TEST in key}):
            paired = ["paired/" in key for key in keys if key in kind]
            assert paired == sorted(paired, reverse=True)
    assert panels["answer"][0]["config"]["value"].startswith("**Does auxiliary-loss-free")
    assert panels["answer"][1]["config"]["metrics"] == ["paired/test/loss"]
    assert "15,200" in panels["speed"][0]["config"]["value"], "what was timed apart is in no trial's run"
    places = [(p["layout"]["x"], p["layout"]["y"]) for p in panels["loss"]]
    assert len(set(places)) == len(places)


def test_the_same_result_gives_the_same_view(view: dict[str, Any], result: Result) -> None:
    """So that what is saved again replaces what was saved before."""
    again = specification(sweep_view(result, "team", "p"))
    assert json.dumps(again, sort_keys=True) == json.dumps(view, sort_keys=True)
    assert view["name"].startswith("nw-") and view["name"].endswith("-v")
    other = dataclasses.replace(result, run="cpu@1f3a9c2e")
    assert specification(sweep_view(other, "team", "p"))["name"] != view["name"]


def test_the_second_view_has_all_sweeps(result: Result) -> None:
    plan = dataclasses.replace(result.plan, sweep="gating", baseline="bias")
    view = specification(overview([result, dataclasses.replace(result, plan=plan)], "team", "p"))
    (runs,) = section_of(view)["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["sweep.value", "arm.value"]
    colours = colours_of(view)
    assert len(colours) == 12
    assert (colours["moe_balance", "aux_loss"], colours["gating", "bias"]) == (INK, INK)


def test_a_model_that_does_not_read_back_is_refused(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import internal

    view = sweep_view(result, "team", "p")
    other = sweep_view(dataclasses.replace(result, run="other"), "team", "p")._to_model()
    monkeypatch.setattr(internal.View, "model_validate_json", lambda _: other)
    with pytest.raises(ValueError, match="does not read back"):
        specification(view)


class Kept:
    """A run that keeps the names of what it is given."""

    def __init__(self) -> None:
        self.logged, self.summary, self.dir = set[str](), dict[str, Any](), "/nowhere/files"

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged |= values.keys()

    def finish(self, exit_code: int) -> None: ...


def test_panels_ask_for_what_runs_hold(result: Result, tmp_path: Path) -> None:
    """Of a trial that trains, and is compared with the baseline's of its seed."""
    curve = {"step": [1.0], "tokens": [256.0], "loss": [1.0], "max_vio_global": [0.5]}
    record, base = (
        dataclasses.replace(next(iter(result.arms[arm].records.values())), history=curve, validation=curve)
        for arm in ("bias", "aux_loss")
    )
    write_json(tmp_path / "record.json", dataclasses.asdict(base))
    run = Kept()
    mirror = Mirror(lambda: run, against=tmp_path / "record.json")
    row = {"aux_loss": 0.0, "max_vio": 0.5, "lr": 0.1, "loss": 1.0}
    mirror.step({**row, "step": 1, "tokens": 256})
    assert "train/policy_loss" not in run.logged
    mirror.step({**row, "step": 2, "tokens": 512, **dict.fromkeys(OF_ANSWERS, 0.5)})
    mirror.validation(2, 512, 1.0, 0.5)
    mirror.finish(record)
    assert {key for curves in CURVES.values() for key in curves} <= run.logged
    bars = {key for section in sections_of([result]) for key in section.bars}
    assert bars <= run.summary.keys() and {PAIRED + "loss", TEST + "loss"} <= bars


def test_rewards_have_panels_where_something_was_rewarded(result: Result) -> None:
    arm = result.arms["bias"]
    seed, record = next(iter(arm.records.items()))

    def panels(answering: dict[str, list[float]]) -> set[str]:
        drawn = dataclasses.replace(record, metrics={**record.metrics, "pass_1": 0.5}, answering=answering)
        arms = {**result.arms, "bias": dataclasses.replace(arm, records={**arm.records, seed: drawn})}
        changed = dataclasses.replace(result, arms=arms, differences={**result.differences, "pass_1": {}})
        return {key for section in sections_of([changed]) for key in section.curves}

    assert "train/reward" not in panels({}) and "train/reward" in panels({"step": [2.0]})
