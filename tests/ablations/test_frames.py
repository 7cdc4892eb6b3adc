"""Records as pandas frames: what a row holds, which trials are meant, and what cannot be read."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ablations
import ablations.frames
from ablations.files import read_json, write_json
from ablations.home import ROOT
from ablations.judge.gather import load_result
from ablations.record.documents import ConfirmTrial, SweepState
from ablations.record.record import read_record
from ablations.record.steplog import COLUMNS
from ablations.report import publish, write_frame
from models.base.typed import ConfigError


def test_a_row_is_a_trial_with_its_keys_metrics_and_scores(finished_run: Path) -> None:
    frame = ablations.load(finished_run)
    assert len(frame) == 36 and frame["id"].is_unique and set(frame["phase"]) == {"confirm"}
    row = frame[(frame["arm"] == "bias") & (frame["seed"] == 3)].iloc[0]
    record = read_record(Path(row["path"]))
    assert (row["sweep"], row["run"], row["status"], row["guards"]) == ("moe_balance", "cpu", "complete", "passed")
    assert row["loss"] == record.metrics["loss"] and row["train_s"] == record.timings["train_s"]
    assert row["python_cloze/acc"] == record.scores["python_cloze"]["acc"]
    assert (
        row["model.moe.top_k"] == 4
        and row["environment.threads"] == 1
        and row["uses"] == ("moe_balance/cpu/bias/confirm",)
    )
    assert not [name for name in frame if "stderr" in name or name.endswith(("/items", "/chance"))]


def test_a_mean_over_rows_is_the_tables(finished_run: Path) -> None:
    """Trials of the search, on another split, are no rows unless they are asked for."""
    from ablations.judge.gather import load_result

    result = load_result(finished_run, "moe_balance", "cpu")
    means = ablations.load(finished_run).groupby("arm")["loss"].mean()
    assert means.to_dict() == pytest.approx({name: arm.mean("loss") for name, arm in result.arms.items()})


def searched(runs: Path) -> SweepState:
    """A run with a trial of the search, a shorter training and a trunk on record."""
    folder = runs / "moe_balance" / "cpu"
    state = SweepState.read(folder)
    record = read_json(runs / "trials" / state.confirm[0].id / "record.json")
    for id in ("aux_loss001000", "shorter", "trunk"):
        write_json(runs / "trials" / id / "record.json", record | {"id": id})
    state.confirm.append(ConfirmTrial("aux_loss", 0, "shorter", 0.5))
    state.write(folder)
    return state


def test_other_trials_are_rows_where_everything_is_asked_for(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=2)
    searched(tmp_path)
    assert len(ablations.load(tmp_path)) == 12
    frame = ablations.load(tmp_path, everything=True).set_index("id")
    assert len(frame) == 15
    assert frame.loc["aux_loss001000", "phase"] == "search" and frame.loc["shorter", "share"] == 0.5
    assert frame.loc["trunk", ["sweep", "arm"]].isna().all()


def test_a_trial_of_several_sweeps_is_one_row_that_names_them(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path, seeds=2)
    shutil.copytree(folder, tmp_path / "zz_other" / "cpu")
    frame = ablations.load(tmp_path)
    assert len(frame) == 12 and set(frame["sweep"]) == {"moe_balance"}
    assert frame["uses"].iloc[0] == ("moe_balance/cpu/aa/confirm", "zz_other/cpu/aa/confirm")
    assert set(ablations.load(tmp_path, sweep="zz_other")["sweep"]) == {"zz_other"}


@pytest.mark.usefixtures("without_figures")
def test_every_kind_of_place(sweep_run: Any, tmp_path: Path) -> None:
    folder = sweep_run(tmp_path / "runs", seeds=2)
    published = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    frames = [
        ablations.load(place).drop(columns="path")
        for place in (tmp_path / "runs", folder, published, tmp_path / "results")
    ]
    for frame in frames[1:]:
        assert frame.equals(frames[0])


def test_what_cannot_be_loaded_is_one_line(sweep_run: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no records here; name a runs folder, results/, or one result"):
        ablations.load(tmp_path)
    folder = sweep_run(tmp_path, seeds=2)
    with pytest.raises(ConfigError, match="sweep=moe_balanc: no trial of it .* did you mean moe_balance"):
        ablations.load(tmp_path, sweep="moe_balanc")
    with pytest.raises(ConfigError, match="sweep=3: no trial of it"):
        ablations.load(tmp_path, sweep=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="load: everything='no': must be True or False"):
        ablations.load(tmp_path, everything="no")  # type: ignore[arg-type]
    place = tmp_path / "trials" / SweepState.read(folder).confirm[1].id / "record.json"
    whole = place.read_bytes()
    for damaged, said in (
        (whole[:300], "no record"),
        (b'{"format": 9, "id": "a", "seed": 1, "status": "", "config": {}}', "format=9"),
    ):
        place.write_bytes(damaged)
        with pytest.raises(ConfigError, match=f"record.json: {said}") as caught:
            ablations.load(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_published_result_that_was_changed_is_not_loaded(
    sweep_run: Any, without_figures: None, tmp_path: Path
) -> None:
    """By its hashes, which are cheap; what else was changed, reproducing it says."""
    sweep_run(tmp_path / "runs", seeds=2)
    published = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    record = sorted((published / "records").glob("*.json"))[0]
    whole = record.read_bytes()
    record.write_bytes(whole.replace(b"0", b"1", 1))
    with pytest.raises(ConfigError, match=f"{record.name}: changed since it was published"):
        ablations.load(tmp_path / "results")
    record.unlink()
    with pytest.raises(ConfigError, match=f"{record.name}: missing since it was published"):
        ablations.load(published)
    record.write_bytes(whole)
    os.mkfifo(record.parent / "pipe.json")  # to read it would never end
    assert len(ablations.load(published)) > 0
    (record.parent / "ffff.json").write_bytes(whole)
    with pytest.raises(ConfigError, match="ffff.json: not in its manifest since it was published"):
        ablations.load(published)


def test_curves_of_a_damaged_log_are_refused_and_its_last_line_may_be_on_its_way(finished_run: Path) -> None:
    frame = ablations.load(finished_run).head(1)
    steps = Path(frame["path"].iloc[0]).parent / "steps.jsonl"
    row = json.dumps(dict.fromkeys(COLUMNS, 1.0) | {"step": 1})
    try:
        steps.write_text(f"{row}\n{row}\n{row[:20]}")
        assert len(ablations.curves(frame)) == 2
        steps.write_text(f"{row}\n{row[:20]}\n{row}\n")
        with pytest.raises(ConfigError, match=r"steps.jsonl: line 2 of 3 is damaged"):
            ablations.curves(frame)
    finally:
        steps.unlink()


@pytest.mark.parametrize("place", [3, None, "a\0b", "x" * 300])
def test_what_is_no_path_is_one_line(place: Any) -> None:
    with pytest.raises(
        ConfigError, match="load: expected the path of a runs folder, of results/ or of one result, not"
    ):
        ablations.load(place)


def test_curves_need_the_rows_of_load() -> None:
    import pandas

    with pytest.raises(ConfigError, match="curves: expected the rows of `ablations.load`, not NoneType"):
        ablations.curves(None)  # type: ignore[arg-type]
    whole = dict.fromkeys(("id", "sweep", "run", "arm", "seed"), "a")
    for path, said in ((3.5, "path=3.5: no record's place"), ("/nope.json", "^/nope.json: cannot be read [(]No such")):
        with pytest.raises(ConfigError, match=said):
            ablations.curves(pandas.DataFrame([whole | {"path": path}]))
    with pytest.raises(ConfigError, match="curves: the frame has no column path; give the rows"):
        ablations.curves(pandas.DataFrame({name: [] for name in ("id", "sweep", "run", "arm", "seed")}))


def test_curves_are_every_step_of_a_run_and_the_history_of_a_published_one(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=2)
    frame = ablations.load(tmp_path)
    bias = frame[frame["arm"] == "bias"]
    history = read_record(Path(bias["path"].iloc[0])).history
    curves = ablations.curves(bias)
    assert set(curves["seed"]) == {0, 1} and list(curves.columns[:6]) == [
        "id",
        "sweep",
        "run",
        "arm",
        "seed",
        "aux_loss",
    ]
    assert curves[curves["seed"] == 0]["loss"].tolist() == history["loss"]
    rows = [dict.fromkeys(COLUMNS, step) | {"loss": loss} for step, loss in ((1, 6.5), (2, 6.25))]
    log = Path(bias["path"].iloc[0]).parent / "steps.jsonl"
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert ablations.curves(bias)[lambda c: c["seed"] == 0]["loss"].tolist() == [6.5, 6.25]
    assert ablations.curves(bias[:0]).empty


def test_a_trial_does_not_depend_on_frames() -> None:
    """A prompt's convenience changes no id, and a worker imports no pandas for it."""
    from ablations.trial.closure import import_closure

    assert ROOT / "ablations" / "frames.py" not in import_closure("ablations.trial.train", ROOT)
    script = "import sys, ablations; print([n for n in ('pandas', 'msgspec', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
    assert {"load", "curves"} <= set(dir(ablations))
    with pytest.raises(AttributeError, match="module ablations has no attribute lode"):
        ablations.lode  # noqa: B018


@pytest.mark.usefixtures("without_figures")
def test_a_copy_says_whose_it_is(sweep_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    published = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results")
    shutil.copytree(published, tmp_path / "mine" / "a_copy")
    assert set(ablations.load(tmp_path / "mine" / "a_copy")["sweep"]) == {"moe_balance"}
    monkeypatch.chdir(published)
    assert set(ablations.load(".")["run"]) == {"cpu"}


def test_a_chain_and_its_teacher_are_numbers_in_a_row(sweep_run: Any, tmp_path: Path) -> None:
    """What they are trained with fits into no column."""
    sweep_run(tmp_path, seeds=2)
    id = SweepState.read(tmp_path / "moe_balance" / "cpu").confirm[0].id
    path = tmp_path / "trials" / id / "record.json"
    record = read_json(path)
    stage = {"model": {"d_model": 8}, "until": 1, "teacher": []}
    write_json(path, record | {"config": record["config"] | {"before": [stage], "teacher": [stage, stage]}})
    frame = ablations.load(tmp_path)
    row = frame[frame["id"] == id].iloc[0]
    assert (row["stages"], row["taught"]) == (2, 2) and not {"teacher", "before"} & set(frame)
    frame.to_parquet(tmp_path / "rows.parquet", index=False)


def test_rows_of_different_keys_keep_their_cells() -> None:
    """They are turned into columns together with those that have the same."""
    draw = random.Random(0)
    names = [f"k{n}" for n in range(9)]
    rows: list[dict[str, Any]] = [
        {name: (at, name) for name in draw.sample(names, draw.choice((3, 9)))} for at in range(60)
    ]
    columns = ablations.frames._columns(rows)
    assert len({len(row) for row in rows}) == 2 and set(columns) == set(names)
    found = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    found = [{name: cell for name, cell in row.items() if cell is not None} for row in found]
    assert sorted(found, key=str) == sorted(rows, key=lambda row: str(dict(sorted(row.items()))))


def test_a_damaged_group_is_named_and_a_text_in_a_list_obeys_nothing(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=2)
    path = tmp_path / "trials" / SweepState.read(tmp_path / "moe_balance" / "cpu").confirm[0].id / "record.json"
    record = read_json(path)
    write_json(path, record | {"config": record["config"] | {"eval": {"tasks": ["\x1b[2J"], "items": {}}}})
    row = ablations.load(tmp_path).set_index("path").loc[str(path)]
    assert row["eval.tasks"] == ("\\x1b[2J",) and row["eval.items"] == ()
    path.write_text(json.dumps(record | {"config": {"eval": 1}}).replace('"eval": 1', '"eval": {"a": 01}'))
    with pytest.raises(ConfigError, match=r"record\.json: no record"):
        ablations.load(tmp_path)
    path.write_text(json.dumps(record | {"environment": [1]}))
    with pytest.raises(ConfigError, match=r"record\.json: no record"):
        ablations.load(tmp_path)


def first_record(runs: Path) -> Path:
    return runs / "trials" / SweepState.read(runs / "moe_balance" / "cpu").confirm[0].id / "record.json"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r | {"metrics": r["metrics"] | {"arm": 3.0}}, "arm: names two things"),
        (lambda r: r | {"metrics": r["metrics"] | {"optim.lr": 3.0}}, "optim.lr: names two things"),
        (lambda r: r | {"timings": r["timings"] | {"loss": 3.0}}, "loss: names two things"),
        (lambda r: r | {"config": r["config"] | {"path": 1}}, "path: names two things"),
        (lambda r: r | {"config": r["config"] | {"seed": {}}}, "seed: names two things"),
        (lambda r: r | {"id": "0" * 16}, "is the record of trial 0000000000000000"),
    ],
)
def test_a_record_is_of_its_trial_and_its_names_are_of_one_thing(
    sweep_run: Any, tmp_path: Path, change: Any, said: str
) -> None:
    sweep_run(tmp_path, seeds=2)
    path = first_record(tmp_path)
    write_json(path, change(read_json(path)))
    with pytest.raises(ConfigError, match=said):
        ablations.load(tmp_path)


def test_bytes_that_are_no_text_are_no_record(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=2)
    path = first_record(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"complete", b"compl\xffte"))
    with pytest.raises(ConfigError, match="no record"):
        ablations.load(tmp_path)


def test_curves_of_unequal_length_and_of_a_record_that_is_gone(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path, seeds=2)
    path = first_record(tmp_path)
    frame = ablations.load(tmp_path).query("path == @path.__str__()")
    (path.parent / "steps.jsonl").unlink(missing_ok=True)
    write_json(path, read_json(path) | {"history": {"loss": [1.0, 2.0], "tokens": [1.0]}})
    with pytest.raises(ConfigError, match="its curves make no table"):
        ablations.curves(frame)
    with pytest.raises(ConfigError, match="cannot be read"):
        ablations.curves(frame.assign(path=str(tmp_path / "none.json")))


@pytest.mark.usefixtures("without_figures")
def test_arms_that_changed_places_in_a_published_state_are_noticed(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    place = publish(tmp_path / "runs", "moe_balance", "cpu", tmp_path / "results") / "state.json"
    ablations.load(tmp_path / "results")
    place.write_text(place.read_text().replace('"bias"', '"x"').replace('"none"', '"bias"').replace('"x"', '"none"'))
    with pytest.raises(ConfigError, match=r"state\.json: changed since it was published"):
        ablations.load(tmp_path / "results")
    (place.parent / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match=r"plan\.json: changed since it was published"):
        ablations.load(tmp_path / "results")


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize("value", ["true", 10**30], ids=["text", "huge"])
def test_records_that_make_no_table_are_said_to(sweep_run: Any, tmp_path: Path, value: Any) -> None:
    sweep_run(tmp_path / "runs", seeds=2)
    path = first_record(tmp_path / "runs")
    record = read_json(path)
    record["config"]["optim"]["lr"] = value
    write_json(path, record)
    result = load_result(tmp_path / "runs", "moe_balance", "cpu")
    with pytest.raises(ConfigError, match="its records make no table"):
        write_frame(tmp_path, result, tmp_path / "runs" / "moe_balance" / "cpu")
    assert not (tmp_path / "records.parquet").exists()
