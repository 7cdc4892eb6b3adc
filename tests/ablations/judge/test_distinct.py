"""A toggle that did nothing, a perturbation that was ignored, seeds that chose what they judge: nothing is claimed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json, write_json
from ablations.judge.distinct import apart, distinct
from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.record.documents import SweepState


def found(runs: Path) -> Result:
    return load_result(runs, "moe_balance", "cpu")


def give(runs: Path, arm: str, numbers_of: str, seeds: int = 3) -> None:
    """The arm's records get the other one's numbers, and have keys of their own."""
    state = SweepState.read(runs / "moe_balance" / "cpu")
    ids = {(trial.arm, trial.seed): trial.id for trial in state.confirm}
    for seed in range(seeds):
        own, other = (runs / "trials" / ids[name, seed] / "record.json" for name in (arm, numbers_of))
        theirs = read_json(other)
        write_json(own, {**read_json(own), **{key: theirs[key] for key in ("metrics", "load")}, "config": {"of": arm}})


def outcome(result: Result, arm: str, metric: str = "loss") -> list[tuple[str, str]]:
    return [(v.outcome, v.why) for v in result.verdicts if (v.arm, v.metric) == (arm, metric)]


def guard(result: Result, arm: str) -> Any:
    return next(g for g in result.arms[arm].guards if g.name == "distinct")


CLAIMS: list[dict[str, Any]] = [
    {"arm": "bias", "kind": "equal", "margin": 0.5, "paper": "x"},
    {"arm": "none", "kind": "not_worse", "margin": 0.5, "paper": "x"},
    {"arm": "none", "against": "bias", "kind": "not_worse", "margin": 0.5, "paper": "x"},
]


def test_a_dead_toggle_is_void_and_no_agreement(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    assert [v.outcome for v in found(tmp_path).verdicts] == ["agrees"] * 3
    assert guard(found(tmp_path), "bias").passed and guard(found(tmp_path), "bias").facts["compared"] == 5
    give(tmp_path, "bias", "aux_loss")
    result = found(tmp_path)
    assert not guard(result, "bias").passed and guard(result, "bias").facts["twin"] == "aux_loss"
    ((void, why),) = outcome(result, "bias")
    assert void == "void" and why.startswith("the toggle did nothing: bias ends in the same bits as aux_loss")
    assert [v.outcome for v in result.verdicts] == ["void", "agrees", "void"], "the baseline is none the worse for it"


def test_one_seed_that_differs_is_enough(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    give(tmp_path, "bias", "aux_loss", seeds=2)
    assert guard(found(tmp_path), "bias").passed and outcome(found(tmp_path), "bias")[0][0] == "agrees"


def test_twins_beside_the_baseline_are_both_void(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    give(tmp_path, "bias", "none")
    assert [v.outcome for v in found(tmp_path).verdicts] == ["void"] * 3


def test_a_perturbation_that_was_ignored_voids_all_but_identity(sweep_run: Any, tmp_path: Path) -> None:
    identity = {"arm": "none", "kind": "identical", "margin": 1e-9, "paper": "x"}
    sweep_run(tmp_path, seeds=3, expected=[*CLAIMS, identity])
    give(tmp_path, "aa", "aux_loss")
    result = found(tmp_path)
    assert [v.outcome for v in result.verdicts] == ["void", "void", "void", "disagrees"]
    assert "its perturbation did nothing" in result.verdicts[0].why and not guard(result, "aa").passed


def test_arms_that_are_claimed_to_be_identical_may_be(sweep_run: Any, tmp_path: Path) -> None:
    claims = [{"arm": arm, "kind": "identical", "margin": 1e-9, "paper": "x"} for arm in ("bias", "none")]
    sweep_run(tmp_path, seeds=3, expected=claims)
    for arm in ("bias", "none"):
        give(tmp_path, arm, "aux_loss")
    result = found(tmp_path)
    assert [v.outcome for v in result.verdicts] == ["agrees", "agrees"]
    assert guard(result, "bias").passed, "to each other as well"


def test_arms_whose_search_led_to_the_same_keys_are_one_by_right(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    give(tmp_path, "bias", "aux_loss")
    result = found(tmp_path)
    assert not distinct(result.arms, result.plan)["bias"].passed
    same = {seed: dataclasses.replace(record) for seed, record in result.arms["aux_loss"].records.items()}
    arms = {**result.arms, "bias": dataclasses.replace(result.arms["bias"], records=same)}
    assert distinct(arms, result.plan)["bias"].passed


def change(runs: Path, arm: str, seed: int, **changes: Any) -> None:
    """A record of the arm gets other values."""
    trial = next(t for t in SweepState.read(runs / "moe_balance" / "cpu").confirm if (t.arm, t.seed) == (arm, seed))
    place = runs / "trials" / trial.id / "record.json"
    write_json(place, {**read_json(place), **changes})


def test_a_metric_of_its_own_and_no_load_make_no_other_arm(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    give(tmp_path, "bias", "aux_loss")
    for seed in range(3):
        metrics = found(tmp_path).arms["bias"].records[seed].metrics
        change(tmp_path, "bias", seed, metrics={**metrics, "mtp_loss_1": 5.0}, load=[])
    assert outcome(found(tmp_path), "bias")[0][0] == "void"


def test_an_arm_that_diverges_where_the_other_does_not_is_another(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS, diverged=(("bias", 2),))
    give(tmp_path, "bias", "aux_loss", seeds=2)
    assert guard(found(tmp_path), "bias").passed and outcome(found(tmp_path), "bias")[0][0] == "disagrees"


def test_an_aa_arm_that_diverges_measures_no_noise(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=3, expected=CLAIMS, diverged=(("aa", 1),))
    result = found(tmp_path)
    assert [(v.outcome, v.caveat) for v in result.verdicts] == [("void", "the A/A arm diverged")] * 3
    assert "1/3 of aa diverged" in result.verdicts[0].why


@pytest.mark.parametrize(
    ("used", "confirmed", "passed"),
    [([1000, 1001], [0, 1], True), ([1000, 1], [0, 1], False), ([], [0, 1], None)],
)
def test_seeds_of_the_search_are_no_seeds_of_the_confirmation(used: Any, confirmed: Any, passed: bool | None) -> None:
    result = apart(used, confirmed)
    assert (None if result is None else result.passed) is passed
    if passed is False:
        assert result is not None and "1 in both" in result.detail and result.facts["shared"] == "1"


def test_seeds_are_looked_at_again_when_the_report_is_made(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path, seeds=3, expected=CLAIMS)
    state = SweepState.read(folder)
    state.search = [dataclasses.replace(t, seed=2 if t.arm == "none" else t.seed) for t in state.search]
    state.write(folder)
    result = found(tmp_path)
    assert [v.outcome for v in result.verdicts] == ["agrees", "void", "void"]
    assert "2 in both" in result.verdicts[1].why
