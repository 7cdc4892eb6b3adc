"""The result's run holds the table to the last bit, names its trials, is there once, and fails nothing."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from wandb_double import ENTITY, Refusal, logged_in

from ablations import report, run
from ablations.board import result_run
from ablations.board.links import links_of
from ablations.board.result_run import JOB_TYPE, _remove, mirror_result, result_id, trial_runs
from ablations.config.schema import Mode, TrackConfig
from ablations.judge.gather import load_result
from ablations.record.record import RECORDS
from ablations.show.figures.every import Picture
from ablations.show.page import Link
from ablations.trial.mirror import URL, WHOLE
from ablations.trial.uploads import TRACK, remember, remembered

Tracked = Callable[[Mode], Path]


@pytest.fixture
def tracked(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    """A copy of runs/, whose trials' runs went where `mode` says."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)

    def remembering(mode: Mode) -> Path:
        remember(runs / "moe_balance/cpu", TrackConfig(mode, "p"))
        return runs

    return remembering


def copies(runs: Path) -> int:
    """Files that wait for an upload."""
    return sum(path.is_file() for path in (runs / "wandb/.home").rglob("*"))


def reported(runs: Path) -> None:
    assert report.main(["sweep=moe_balance", f"runs_dir={runs}", f"results_dir={runs.parent / 'none'}"]) == 0


def inspect(folder: Path) -> list[dict[str, Any]]:
    """The records of an offline run's file."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ)).stdout
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A figure in place of ours, whose drawing is most of a report's time."""
    png = io.BytesIO()
    Image.new("RGB", (2, 2)).save(png, "png")
    picture = Picture("loss", "", b"<svg xmlns='http://www.w3.org/2000/svg'/>", png.getvalue())
    monkeypatch.setattr("ablations.show.figures.every.draw_figures", lambda result: [picture])


def rows_of(folder: Path, history: dict[str, Any], name: str) -> list[dict[str, Any]]:
    table = json.loads((folder / "files" / history[f"{name}.path"]).read_text())
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


@pytest.mark.usefixtures("drawn")
def test_the_run_holds_the_result_and_a_report_replaces_it(
    tracked: Tracked, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tracked("offline")
    reported(runs)
    copied = copies(runs)
    reported(runs)
    (folder,) = (runs / "wandb").glob("offline-run-*")
    assert copied and copies(runs) == copied
    assert f"W&B run of the result: {folder}\n" in capsys.readouterr().out
    assert (folder / WHOLE).is_file() and folder.name.endswith(result_id(load_result(runs, "moe_balance", "cpu")))
    lines = inspect(folder)
    (told,) = [line["run"] for line in lines if line["type"] == "run"]
    assert (told["job_type"], told["project"], told["display_name"]) == (JOB_TYPE, "p", "moe_balance cpu")
    (history,) = [line["history"]["item"] for line in lines if line["type"] == "history"]

    written = list(csv.DictReader((runs / "moe_balance/cpu/table.csv").open()))
    rows = rows_of(folder, history, "table")
    numbers = 0
    assert len(rows) == len(written) == 6
    for row, wanted in zip(rows, written, strict=True):
        for name, text in wanted.items():
            if isinstance(row[name], int | float):
                numbers += 1
                assert float(text) == pytest.approx(row[name], rel=1e-9), f"{wanted['arm']}: {name}"
            else:
                assert (row[name] or "") == text
    assert numbers > 300

    result = load_result(runs, "moe_balance", "cpu")
    verdicts = rows_of(folder, history, "verdicts")
    assert [(row["outcome"], row["why"]) for row in verdicts] == [(v.outcome, v.why) for v in result.verdicts]
    for row, verdict in zip(verdicts, result.verdicts, strict=True):
        assert verdict.difference is not None
        assert (row["mean"], row["low"], row["high"]) == tuple(
            getattr(verdict.difference, n) for n in ("mean", "low", "high")
        )

    page = runs / "moe_balance/cpu/page.html"
    assert (folder / "files" / history["page.path"]).read_text() == page.read_text()
    figure = page.parent / "figures" / "loss.png"  # beside those of who shares this run
    assert (folder / "files" / history["figures/loss.path"]).read_bytes() == figure.read_bytes()

    assert told["config"]["update"]["trials"] == result.state.trial_ids
    (artifact,) = [line["artifact"] for line in lines if "artifact" in line and line["artifact"]["type"] == JOB_TYPE]
    kept = {entry["path"] for entry in artifact["manifest"]["contents"]}
    there = {f"{RECORDS}/{path.name}.json" for path in (runs / "trials").iterdir()}
    assert kept == {"plan.json", "state.json", "table.csv", "timings.csv", "page.html"} | there
    assert json.loads(artifact["metadata"])["trials"].keys() == trial_runs(result).keys()
    assert lines[-1]["exit"]["exit_code"] == 0
    assert "WANDB_DATA_DIR" not in os.environ


@pytest.mark.usefixtures("without_figures")
def test_a_page_leads_to_the_runs_that_are_on_a_server(tracked: Tracked) -> None:
    runs = tracked("disabled")
    result = load_result(runs, "moe_balance", "cpu")
    own = {(trial["arm"], trial["seed"]): id for id, trial in trial_runs(result).items()}
    said = {0: "https://host/team/p/runs/a?b&c", 1: "javascript:alert(1)", 2: 'https://host/"><script>'}
    for seed, url in said.items():
        folder = runs / "wandb" / f"run-20260101_000000-{own['bias', seed]}"
        folder.mkdir(parents=True)
        (folder / URL).write_text(url)
    reported(runs)
    page = (runs / "moe_balance/cpu/page.html").read_text()
    section = page[page.index(">Runs in Weights &amp; Biases</h2>") :].partition("<h2")[0]
    assert re.findall('<a href="(.*?)">(.*?)</a>', section) == [
        ("https://host/team/p/runs/a?b&amp;c", "seed 0"),
        ("https://host/&quot;&gt;&lt;script&gt;", "seed 2"),
    ]
    assert "<dt>bias</dt>" in section and "<dt>none</dt>" not in section


def test_what_was_written_within_the_same_second_is_not_taken_for_the_earlier_one(tmp_path: Path) -> None:
    earlier, own = tmp_path / "offline-run-1-a", tmp_path / "offline-run-2-a"
    for folder in (earlier, own):
        folder.mkdir()
    _remove([earlier, own], but=own)
    assert own.is_dir() and not earlier.exists()


@pytest.mark.usefixtures("drawn")
def test_checkpoints_go_along_where_they_are_asked_for(tracked: Tracked) -> None:
    runs = tracked("offline")
    confirm = sorted({trial.id for trial in load_result(runs, "moe_balance", "cpu").state.confirm})
    for trial in confirm[:2]:
        (runs / "trials" / trial / "checkpoint").mkdir()
        (runs / "trials" / trial / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    for asked in (False, True):
        remember(runs / "moe_balance/cpu", TrackConfig("offline", "p", checkpoints=asked))
        reported(runs)
        (folder,) = (runs / "wandb").glob("offline-run-*")
        told = [line["artifact"] for line in inspect(folder) if "artifact" in line]
        (artifact,) = [one for one in told if one["type"] == JOB_TYPE]
        kept = [entry["path"] for entry in artifact["manifest"]["contents"] if "model" in entry["path"]]
        assert kept == [f"checkpoints/{trial}/model.safetensors" for trial in confirm[:2] if asked]


@pytest.mark.usefixtures("without_figures")
def test_runs_that_went_nowhere_have_none(tracked: Tracked, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tracked("disabled")
    reported(runs)
    (runs / "moe_balance/cpu" / TRACK).unlink()
    reported(runs)
    assert "W&B" not in capsys.readouterr().out and not (runs / "wandb").exists()


def test_whatever_fails_is_one_note(tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tracked("online")
    result, tried = load_result(runs, "moe_balance", "cpu"), list[str]()

    def refuse(mode: str, *_: Any) -> str:
        tried.append(mode)
        raise TimeoutError(f"no\n{mode}")

    monkeypatch.setattr(result_run, "_write", refuse)
    said = mirror_result(result, runs, tmp_path)
    assert tried == ["online", "offline"]
    assert said == (
        "note: the result's W&B run could not be written online: TimeoutError: no online; "
        "the result's W&B run could not be written offline: TimeoutError: no offline"
    )
    remembered_as = remembered(runs / "moe_balance/cpu")
    assert remembered_as is not None and remembered_as.mode == "online", "the next report tries again"
    (runs / "moe_balance/cpu" / TRACK).write_text("{")
    assert (said := mirror_result(result, runs, tmp_path)) and said.startswith("note: no W&B run of the result: ")


def test_on_a_server_it_is_one_run_and_without_it_an_offline_one(
    tracked: Tracked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    runs = tracked("online")
    for trial in sorted((runs / "trials").iterdir())[3:]:
        shutil.rmtree(trial)  # the fewer files, the quicker
    (runs / "moe_balance/cpu/page.html").write_text("<p>page</p>")
    result = load_result(runs, "moe_balance", "cpu")
    own = result_id(result)
    for name in ("WANDB_SWEEP_ID", "WANDB_RUN_ID"):  # of an agent around the command
        monkeypatch.setenv(name, "foreign")
    with logged_in(monkeypatch) as double:
        said = [mirror_result(result, runs, tmp_path) for _ in range(2)]
        assert said == [f"W&B run of the result: {double.url}/{ENTITY}/p/runs/{own}"] * 2
        assert double.runs.keys() == {own} and double.runs[own]["jobType"] == JOB_TYPE
        assert double.operations.count("RunResumeStatus") == 2, "opened again, not made anew"
        (folder,) = (runs / "wandb").glob(f"run-*-{own}*")
        place = f"{double.url}/{ENTITY}/p/runs/{own}"
        assert links_of(result, runs) == {"all": [Link("result", place)]}
        double.refused["UpsertBucket"] = Refusal(403, "may not")
        note = mirror_result(result, runs, tmp_path)
    assert os.environ["WANDB_RUN_ID"] == "foreign"
    (folder,) = (runs / "wandb").glob(f"*run-*-{own}*")
    assert note is not None and note.endswith(str(folder)) and folder.name.startswith("offline-")
    assert "could not be written online: CommError: may not; W&B run of the result: " in note
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("without_figures")
def test_a_sweep_s_end_writes_it(tracked: Tracked, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tracked("offline")
    config = SimpleNamespace(results_dir=tmp_path, track=TrackConfig("offline"))
    plan = SimpleNamespace(sweep=SimpleNamespace(name="moe_balance"), config=config)
    assert run._report(SimpleNamespace(plan=plan, runs=runs, folder=runs / "moe_balance/cpu")) == 0
    (folder,) = (runs / "wandb").glob("offline-run-*")
    lines = capsys.readouterr().out.splitlines()
    assert f"W&B run of the result: {folder}" in lines
    assert lines[-1].startswith("W&B runs, offline: 1; to upload them")
