"""Two trials, arms or sweeps side by side."""

import dataclasses
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from ablations.compare import CompareConfig, Side, _environment, _value, find, main
from ablations.files import read_json, write_json
from ablations.judge.result import ArmResult
from ablations.judge.sidebyside import changed, outcomes
from ablations.metrics import metric as find_metric
from ablations.record.documents import PLAN, SweepState
from ablations.record.record import Record
from ablations.report import publish
from tasks.config import DataConfig


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def record(seed: int, loss: float, key: int = 1, text: str = "a", batch_size: int = 8) -> Record:
    config = {"model": {"d": key}, "data": {"batch_size": batch_size}}
    return Record(
        f"{seed}{key}", seed, "complete", config, metrics={"loss": loss, "max_vio_max": 3.0}, data={"sha": text}
    )


def test_sides_are_paired_where_they_learned_from_the_same_batches() -> None:
    one = [record(s, x) for s, x in enumerate((4.0, 4.1, 4.2, 4.4))]
    other = [record(s, x, key=2) for s, x in enumerate((4.1, 4.19, 4.31, 4.52))]
    (found,) = outcomes(one, other)
    pairs = [b.metrics["loss"] - a.metrics["loss"] for a, b in zip(one, other, strict=True)]
    half = stats.t.isf(0.025, 3) * statistics.stdev(pairs) / 2
    assert (found.metric, found.pairs) == ("loss", 4), "what follows from sizes alone is not compared"
    assert found.difference == pytest.approx(statistics.fmean(pairs))
    assert (found.low, found.high) == pytest.approx((found.difference - half, found.difference + half))
    for changes in ({"text": "b"}, {"batch_size": 4}):
        (apart,) = outcomes(one, [record(s, r.metrics["loss"], 2, **changes) for s, r in enumerate(other)])
        assert apart.pairs == 0 and apart.high - apart.low > 3 * (found.high - found.low)
    (single,) = outcomes(one[:1], other[:1])
    assert (single.pairs, single.low, single.high) == (1, None, None)


def test_a_record_of_before_a_key_was_there_is_paired() -> None:
    one, other = ([record(seed, 4.0 + seed) for seed in range(2)] for _ in range(2))
    newer = {"data": {"batch_size": 8, "order": DataConfig().order, "epochs": DataConfig().epochs}}
    (found,) = outcomes(one, [dataclasses.replace(r, config=r.config | newer) for r in other])
    assert found.pairs == 2


def test_what_jumps_or_never_varies_has_no_interval(recwarn: pytest.WarningsRecorder) -> None:
    def scored(key: int, right: tuple[float, ...]) -> list[Record]:
        found = [record(s, 4.0, key, text=str(key)) for s in range(len(right))]
        more = [r.metrics | {"answer_accuracy": x} for r, x in zip(found, right, strict=True)]
        return [dataclasses.replace(r, metrics=metrics) for r, metrics in zip(found, more, strict=True)]

    apart = {o.metric: o for o in outcomes(scored(1, (0.1, 0.9, 0.2)), scored(2, (0.8, 0.9, 0.7)))}
    assert find_metric("answer_accuracy").jump
    assert (apart["answer_accuracy"].low, apart["answer_accuracy"].high) == (None, None)
    assert (apart["loss"].low, apart["loss"].high) == (None, None), "both sides the same in every seed"
    assert not recwarn.list


@pytest.mark.parametrize(
    ("key", "paired", "alike"),
    [("order", 0, False), ("epochs", 0, False), ("mask_documents", 2, False), ("path", 2, True), ("seq_len", 0, False)],
)
def test_text_in_another_order_is_not_paired(key: str, paired: int, alike: bool) -> None:
    """Nor is a training loss compared that is taken on another part of it."""

    def side(value: Any) -> list[Record]:
        found = [record(seed, 4.0 + seed) for seed in range(2)]
        data = {"data": {"batch_size": 8, key: value}}
        return [dataclasses.replace(r, config=r.config | data, metrics=r.metrics | {"train_loss": 3.0}) for r in found]

    found = {o.metric: o for o in outcomes(side(1), side(2))}
    assert found["loss"].pairs == paired and ("train_loss" in found) == alike
    assert "train_loss" in {o.metric for o in outcomes(side(1), side(1))}


def test_only_complete_trials_count() -> None:
    diverged = dataclasses.replace(record(2, math.inf), status="diverged")
    (found,) = outcomes([record(0, 4.0), record(1, 4.2), diverged], [record(s, 4.5) for s in range(3)])
    assert (found.one, found.pairs) == (pytest.approx(4.1), 2)


def test_changes_are_named_key_by_key() -> None:
    found = changed({"a": {"b": 1, "c": 2}, "d": []}, {"a": {"b": 1, "c": 3}, "e": None})
    assert [change.name for change in found] == ["a.c", "d", "e"]


def test_two_arms(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [f"runs_dir={finished_run}", f"results_dir={tmp_path}"]
    code, out, err = said(capsys, "moe_balance/cpu/bias", "moe_balance/cpu/none", *places)
    assert (code, err) == (0, "")
    assert "Paired by seed, 6 of them" in out and "MaxVio_global" in out and "python cloze acc" in out
    assert "moe_balance/cpu/bias" in out


def test_a_short_name_is_shown_as_what_it_was_taken_for(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that is under way comes before what is published under the same name."""
    folder = sweep_run(tmp_path / "runs", seeds=2)
    shutil.copytree(folder, folder.parent.parent / "gating" / "smoke")
    places = [f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    code, out, _ = said(capsys, "moe_balance", "gating", *places)
    assert code == 0 and "moe_balance/cpu" in out and "moe_balance/smoke" in out


def test_an_arm_of_two_machines_shows_both(finished_run: Path) -> None:
    arm = find("moe_balance/cpu/bias", CompareConfig(finished_run, finished_run)).what
    assert isinstance(arm, ArmResult)
    records = {
        seed: dataclasses.replace(r, environment={**r.environment, "cpu": seed % 2}) for seed, r in arm.records.items()
    }
    side = Side("bias", dataclasses.replace(arm, records=records))
    assert _environment(side)["cpu"] == [0, 1] and _environment(side)["torch"] == "2.13.0"


def test_two_trials_by_the_beginning_of_their_ids(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [trial.id for trial in SweepState.read(finished_run / "moe_balance" / "cpu").confirm[:2]]
    places = [f"runs_dir={finished_run}", f"results_dir={tmp_path}"]
    code, out, _ = said(capsys, ids[0][:8], ids[1], *places)
    assert code == 0 and "Not paired: no seed is common" in out
    assert said(capsys, ids[0], "ffffffffffff", *places)[::2] == (
        2,
        f"error: ffffffffffff: no such trial (under {finished_run} or {tmp_path})\n",
    )


def test_two_sweeps(sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=3)
    other = tmp_path / "runs" / "moe_balance" / "cpu@12345678"
    other.mkdir()
    plan = read_json(folder / PLAN)
    write_json(other / PLAN, plan | {"code": "e" * 40, "expected": plan["expected"][:2]})
    SweepState.read(folder).write(other)
    places = [f"runs_dir={tmp_path / 'runs'}", f"results_dir={tmp_path / 'results'}"]
    records = sorted(map(str, (tmp_path / "runs").glob("trials/*/record.json")))[:2]
    assert said(capsys, *records, *places)[0] == 0, "a trial is named by its record's file, too"
    code, out, err = said(capsys, "moe_balance/cpu", "moe_balance/cpu@12345678", *places)
    assert (code, err) == (0, "") and "eeee" in out and "3 seeds" in out
    assert out.count("bias against aux_loss: loss better") == 1 and "none against" not in out
    assert said(capsys, "moe_balance", "moe_balance/cpu", *places)[2] == (
        "error: moe_balance: fits several runs; name one of moe_balance/cpu, moe_balance/cpu@12345678\n"
    )


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["moe_balance/cpu"], ["expected two names", "not 1"]),
        (["moe_balance/cpu", ""], ["expected two names", "not an empty one"]),
        (["ab12", "cd34"], ["ab12: no sweep, arm or trial", "of a trial's id, give six digits or more"]),
        (["moe_balance/cpu", "moe_balance/cpu/bias"], ["is a sweep", "is an arm", "two of a kind"]),
        (["moe_balance/cpu/bias", "moe_balance/cpu/biass"], ["biass: no such arm", "did you mean bias"]),
        (["moe_balanc", "moe_balance/cpu"], ["no sweep, arm or trial of this name", "did you mean moe_balance"]),
        (["a", "b", "rusn_dir=x"], ["rusn_dir: no such key"]),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], parts: list[str]
) -> None:
    places = [f"runs_dir={finished_run}", f"results_dir={tmp_path}"]
    code, out, err = said(capsys, *words, *places)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for part in parts:
        assert part in err


@pytest.mark.usefixtures("without_figures")
def test_what_is_not_as_it_was_published_is_not_compared(
    sweep_run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    target = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    copy = shutil.copytree(target, tmp_path / "copy")
    assert said(capsys, str(copy), str(target))[0] == 0
    sorted((copy / "records").iterdir())[0].unlink()
    code, out, err = said(capsys, str(copy), str(target))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "missing: records/" in err and "so it is not compared" in err


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([0.00125, 0.0017677669, 0.0025, 0.0035355339, 0.005], "0.00125, 0.00176777, 0.0025, 0.00353553 and 1 more"),
        ([0.5], "0.5"),
        ([], "[]"),
        ([{"a": 1}, {"a": 2}], "2 entries"),
        (123456789, "123456789"),
        ("x" * 60, "x" * 36 + "..."),
    ],
)
def test_no_number_is_cut(value: Any, said: str) -> None:
    assert _value(value) == said
