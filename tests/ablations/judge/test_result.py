"""Gathering plan, trials and records: what counts, what is missing, what is never averaged."""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from ablations.files import read_json, write_json
from ablations.judge.gather import load_published, load_result
from ablations.judge.result import Result
from ablations.record.documents import PLAN, STATE, PlanDocument, SweepState
from ablations.record.record import read_record
from ablations.show.sections import costs
from ablations.show.sections.every import worth
from models.base.typed import ConfigError


def rewrite(folder: Path, **changes: Any) -> None:
    dataclasses.replace(SweepState.read(folder), **changes).write(folder)


CLAIMS: list[dict[str, Any]] = [{"arm": "bias", "kind": "better", "paper": "x"}]


def losses(runs: Path, arm: str) -> dict[int, float]:
    """Straight from the files, without the code under test."""
    confirm = json.loads((runs / "moe_balance" / "cpu" / "state.json").read_text())["confirm"]
    records = {e["seed"]: read_record(runs / "trials" / e["id"] / "record.json") for e in confirm if e["arm"] == arm}
    return {seed: record.metrics["loss"] for seed, record in records.items() if record.status == "complete"}


def test_difference_is_paired_by_seed(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    ours, base = losses(finished_run, "bias"), losses(finished_run, "aux_loss")
    paired = [ours[seed] - base[seed] for seed in ours]
    found = result.difference("bias")
    assert found is not None and found.n == 6
    assert found.mean == pytest.approx(statistics.fmean(paired), abs=1e-12)
    assert found.sd == pytest.approx(statistics.stdev(paired), rel=1e-9)
    assert found.correlation > 0.9


def test_order_and_kinds(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    assert list(result.arms) == ["aux_loss", "batch_aux_loss", "bias", "none", "control", "aa"]
    assert not result.missing and result.planned == 36


def test_verdicts_follow_the_known_effects(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    outcomes = [verdict.outcome for verdict in result.verdicts]
    # bias -0.005 at paired sd 0.005 and six seeds: too small; MaxVio 0.25 -> 0.11 and none +0.018: plain.
    assert outcomes == ["not resolved", "agrees", "agrees", "disagrees"]


def test_diverged_is_counted_and_not_averaged(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, diverged=(("bias", 1), ("bias", 3)))
    result = load_result(tmp_path, "moe_balance", "cpu")
    arm = result.arms["bias"]
    assert (len(arm.of_status("complete")), arm.of_status("diverged")) == (4, [1, 3])
    assert arm.mean("loss") == pytest.approx(statistics.fmean(losses(tmp_path, "bias").values()))
    assert not result.missing
    assert result.verdicts[0].outcome == "disagrees" and "2/6 of bias diverged" in result.verdicts[0].why


def test_all_diverged_has_no_difference_and_no_mean(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, diverged=tuple(("bias", seed) for seed in range(6)))
    result = load_result(tmp_path, "moe_balance", "cpu")
    assert result.arms["bias"].mean("loss") is None and result.difference("bias") is None
    assert result.verdicts[0].outcome == "disagrees" and result.verdicts[0].difference is None


def test_missing_records_are_listed(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, missing=(("none", 5), ("aa", 0)))
    result = load_result(tmp_path, "moe_balance", "cpu")
    assert result.missing == [("none", 5), ("aa", 0)]
    none = result.difference("none")
    assert none is not None and none.n == 5


def test_a_plan_without_trials_is_an_empty_result(sweep_run: Any, tmp_path: Path) -> None:
    (sweep_run(tmp_path) / STATE).unlink()
    result = load_result(tmp_path, "moe_balance", "cpu")
    assert len(result.missing) == 36 and {v.outcome for v in result.verdicts} == {"not resolved"}


def test_a_claim_on_an_arm_left_out(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, arms=("aux_loss", "bias", "control", "aa"))
    result = load_result(tmp_path, "moe_balance", "cpu")
    assert [v.outcome for v in result.verdicts][2:] == ["not resolved"] * 2
    assert "batch_aux_loss was not part of this run" in result.verdicts[2].why


def test_a_family_is_the_registered_one_whatever_a_run_leaves_out(sweep_run: Any, tmp_path: Path) -> None:
    """Else naming fewer arms would narrow every interval."""
    sweep_run(tmp_path / "all")
    folder = sweep_run(tmp_path / "few", arms=("aux_loss", "bias", "control", "aa"), expected=CLAIMS)
    whole, few = (load_result(tmp_path / name, "moe_balance", "cpu") for name in ("all", "few"))
    assert few.difference("bias").comparisons < whole.difference("bias").comparisons  # type: ignore[union-attr]
    plan = PlanDocument.read(folder)
    left_out = [name for name in whole.arms if name not in few.arms]
    dataclasses.replace(plan, left_out=left_out, expected=whole.plan.expected).write(folder)
    named = load_result(tmp_path / "few", "moe_balance", "cpu")
    same = [(d.comparisons, d.low, d.high) for d in map(Result.difference, (named, whole), ("bias", "bias")) if d]
    assert same[0] == same[1]
    assert ("none", "aux_loss") not in named.differences["loss"], "there is nothing to show of it"
    assert "batch_aux_loss was not part of this run" in named.verdicts[2].why


def test_two_arms_left_out_were_left_out(sweep_run: Any, tmp_path: Path) -> None:
    claim = {"arm": "none", "against": "batch_aux_loss", "kind": "better", "paper": "x"}
    sweep_run(tmp_path, arms=("aux_loss", "bias", "control", "aa"), expected=[claim])
    (verdict,) = load_result(tmp_path, "moe_balance", "cpu").verdicts
    assert verdict.why == "none and batch_aux_loss were not part of this run."


def test_optimum_on_the_edge_caps_the_verdict(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    state = SweepState.read(folder)
    slow = [trial for trial in state.search if trial.arm != "none" or trial.point["optim.lr"] < 0.01]
    rewrite(folder, mistuning=state.mistuning | {"none": None}, search=slow)
    assert load_result(tmp_path, "moe_balance", "cpu").verdicts[3].outcome == "not resolved"
    rewrite(folder, search=[])  # nothing was searched, so nothing is mistuned
    assert load_result(tmp_path, "moe_balance", "cpu").verdicts[3].outcome == "disagrees"


def test_an_aa_arm_that_differs_voids_its_metric(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    for trial in SweepState.read(folder).confirm:
        if trial.arm == "aa":
            path = tmp_path / "trials" / trial.id / "record.json"
            content = read_json(path)
            content["metrics"]["loss"] += 0.05
            write_json(path, content)
    outcomes = [verdict.outcome for verdict in load_result(tmp_path, "moe_balance", "cpu").verdicts]
    assert outcomes == ["void", "agrees", "void", "void"]  # the second is about MaxVio, where nothing differs


def test_another_plan_than_the_trials_is_a_deviation(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    assert load_result(tmp_path, "moe_balance", "cpu").deviations == []
    dataclasses.replace(PlanDocument.read(folder), question="another").write(folder)
    assert "hash differs" in load_result(tmp_path, "moe_balance", "cpu").deviations[0]


def test_tokens_equivalent_has_the_right_sign(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    worse, control = (result.tokens_equivalent(result.difference(name)) for name in ("none", "control"))
    assert worse is not None and worse < 0
    assert control == pytest.approx(1 - 1 / 0.9)  # what it was given less
    assert result.tokens_equivalent(result.difference("none", "max_vio_global")) is None


@pytest.mark.parametrize(("cost", "said"), [(0.9, "-"), (0.08, "-32.4 % (extrapolated 2.7x)"), (0.02, "-7.3 %")])
def test_beyond_the_control_worth_in_tokens_says_how_far_and_beyond_a_factor_nothing(
    sweep_run: Any, tmp_path: Path, cost: float, said: str
) -> None:
    """The control loses 0.03 on 90 % of the tokens."""
    sweep_run(tmp_path)
    result = load_result(tmp_path, "moe_balance", "cpu")
    harm, fraction = result.difference("control"), result.control_fraction
    assert harm is not None and fraction == 0.9
    d = dataclasses.replace(result.difference("none"), mean=cost * harm.mean / 0.03)
    assert worth(result, d) == said


def test_tokens_are_a_share_of_the_baselines_and_of_a_chain_worth_nothing(finished_run: Path) -> None:
    result = load_result(finished_run, "moe_balance", "cpu")
    keys = result.plan.keys
    longer = dataclasses.replace(keys, train=dataclasses.replace(keys.train, token_fraction=1.8))
    turned = dataclasses.replace(result, plan=dataclasses.replace(result.plan, keys=longer))
    assert turned.control_fraction == pytest.approx(0.5)
    arm = result.arms["bias"]
    records = {s: dataclasses.replace(r, config=r.config | {"before": [{"until": 1}]}) for s, r in arm.records.items()}
    chained = dataclasses.replace(result, arms=result.arms | {"bias": dataclasses.replace(arm, records=records)})
    assert chained.chained and not result.chained
    assert chained.control_fraction is None and chained.tokens_equivalent(chained.difference("none")) is None
    shown = costs.size_table(chained)
    assert {row[shown.columns.index("training FLOPs")] for row in shown.rows} == {"-"}, "these records know of no FLOPs"


def test_published_records_answer_for_missing_ones(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path / "runs")
    elsewhere = tmp_path / "published"
    for trial in SweepState.read(folder).confirm:
        source = tmp_path / "runs" / "trials" / trial.id / "record.json"
        write_json(elsewhere / "records" / f"{trial.id}.json", read_json(source))
        if trial.arm == "bias":
            source.unlink()
    assert len(load_result(tmp_path / "runs", "moe_balance", "cpu").missing) == 6
    assert not load_result(tmp_path / "runs", "moe_balance", "cpu", elsewhere / "records").missing
    for name in (PLAN, STATE):
        write_json(elsewhere / name, read_json(folder / name))
    assert not load_published(elsewhere).missing


@pytest.mark.parametrize(
    ("sweep", "scale", "words"),
    [
        ("moe_balanc", "cpu", "did you mean moe_balance?"),
        ("moe_balance", "gpu", "there is: cpu"),
        ("else", "cpu", "python -m ablations.run sweep=else scale=cpu"),
    ],
)
def test_no_such_run(finished_run: Path, sweep: str, scale: str, words: str) -> None:
    with pytest.raises(ConfigError, match=".") as caught:
        load_result(finished_run, sweep, scale)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_broken_file_is_one_line(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    (folder / STATE).write_text(json.dumps({"confirm": []})[:-3])
    with pytest.raises(ConfigError, match=r"state\.json: not readable as JSON"):
        load_result(tmp_path, "moe_balance", "cpu")


def test_another_rule_than_the_plans_is_a_deviation(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path)
    dataclasses.replace(PlanDocument.read(folder), decision_rule="the larger mean wins").write(folder)
    assert any(
        "decision rule of a later version" in line for line in load_result(tmp_path, "moe_balance", "cpu").deviations
    )
