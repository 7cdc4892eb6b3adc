"""The dashboard's command against a stand-in for a server: what is made, sent once, and refused in one line."""

import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from wandb_double import ENTITY, Double, Refusal, logged_in

from ablations import dashboard
from ablations.board.links import links_of
from ablations.board.result_run import begin_run, mirror_result, result_id, trial_runs
from ablations.board.server import offline_runs
from ablations.config.schema import TrackConfig
from ablations.dashboard import SPECIFICATION, main
from ablations.judge.gather import load_result
from ablations.show.page import Link
from ablations.trial.mirror import WHOLE
from ablations.trial.uploads import remember

pytest.importorskip("wandb_workspaces")


@pytest.fixture
def runs(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a finished sweep's runs/, tracked offline, without a login."""
    for name in (
        "WANDB_MODE",
        "WANDB_API_KEY",
        "WANDB_BASE_URL",
        "WANDB_ENTITY",
        "WANDB_DATA_DIR",
        "WANDB_DIR",
        "NETRC",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    runs = tmp_path / "runs"
    shutil.copytree(finished_run, runs)
    remember(runs / "moe_balance/cpu", TrackConfig("offline", "p"))
    return runs


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    with logged_in(monkeypatch) as double:
        yield double


@pytest.fixture
def asked(runs: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], list[str]]]:
    def ask(*words: str) -> tuple[int, list[str], list[str]]:
        """Exit code, and the lines of both streams."""
        code = main([*(words or ("sweep=moe_balance",)), f"runs_dir={runs}"])
        said = capsys.readouterr()
        return code, said.out.splitlines(), said.err.splitlines()

    return ask


def offline_run(runs: Path, own: str, name: str, whole: bool = True) -> Path:
    run = begin_run("offline", runs, own, TrackConfig("offline", "p"), name=name, job_type="confirm")
    run.log({"tokens": 256, "train/loss": 1.0}, step=1)
    folder = Path(run.dir).parent
    run.finish()
    if whole:
        (folder / WHOLE).write_text("")
    return folder


def test_without_a_login_the_specification_is_written(asked: Any, runs: Path) -> None:
    code, out, err = asked("sweep=moe_balance", "report=true", "entity=team")
    place = runs / "moe_balance/cpu" / SPECIFICATION
    assert (code, err) == (0, [])
    assert out[:2] == [str(place), "nothing was uploaded: no login (`wandb login`), and so no report"]
    assert len(out) == 3 and "wandb leet" in out[2]
    written = json.loads(place.read_text())
    assert list(written) == ["all sweeps, cpu", "moe_balance, cpu"]
    assert {view["entity"] for view in written.values()} == {"team"}
    assert {view["project"] for view in written.values()} == {"p"}, "where the run's trials went"


def test_whose_trials_went_to_a_team_goes_there_too(asked: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert asked("sweep=moe_balance")[0] == 0
    written = json.loads((runs / "moe_balance/cpu" / SPECIFICATION).read_text())
    assert {view["entity"] for view in written.values()} == {"team"}


def test_a_key_goes_to_no_host_that_an_answer_names(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a proxy before a server answers, which wants another login first."""
    seen = list[tuple[str, str | None]]()

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(302)
            self.send_header("Location", "/login")
            self.end_headers()

        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[1]")

        def log_message(self, *_: Any) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        code, out, (line,) = asked()
        proxy.shutdown()
    assert (code, out, line.count("not reached")) == (2, [], 1)
    assert [(path, bool(key)) for path, key in seen] == [("/graphql", True), ("/login", False)]


def test_offline_is_obeyed_with_a_login_too(asked: Any, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, out, _ = asked()
    assert code == 0 and out[1] == "nothing was uploaded: WANDB_MODE=offline" and double.operations == []


def test_of_views_that_are_saved_in_part_the_message_says_how_many(
    asked: Any, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes one view and no second one."""
    view = double._view
    monkeypatch.setattr(double, "_view", lambda given: {} if double.views else view(given))
    code, out, err = asked()
    assert (code, out, len(err), len(double.views)) == (2, [], 1, 1)
    assert err[0].startswith("error: project=p: ") and err[0].endswith(
        "1 of 2 views were saved, and the same command replaces them"
    )


def test_views_runs_and_report_are_there_once(asked: Any, runs: Path, double: Double) -> None:
    """Twice the same command: what is there is replaced or skipped."""
    double.projects.clear()
    result = load_result(runs, "moe_balance", "cpu")
    first, second, *_ = (own for own, trial in trial_runs(result).items() if trial["phase"] == "confirm")
    whole = offline_run(runs, first, "bias s0")
    begun = offline_run(runs, second, "bias s1", whole=False)
    foreign = offline_run(runs, "0" * 16, "of another sweep")
    (runs / "moe_balance/cpu/page.html").write_text("<p>page</p>")
    assert "note" not in str(mirror_result(result, runs, runs / "none"))
    waiting, there = offline_runs(result, runs)
    assert len(waiting) == 2 and there == 0 and whole in waiting and begun not in waiting and foreign not in waiting

    code, out, err = asked("sweep=moe_balance", "report=true")
    assert (code, err) == (0, [])
    assert out[0] == "uploading 2 runs, 0 are there"
    assert [line.rpartition("?")[0] for line in out[1:3]] == [f"{double.url}/{ENTITY}/p"] * 2
    assert "/reports/" in out[3] and len(out) == 4
    assert double.projects == {"p"} and double.runs.keys() == {first, result_id(result)}
    assert [row["train/loss"] for row in double.runs[first]["history"]] == [1.0]
    assert "moe_balance-cpu" in [artifact["artifactCollectionName"] for artifact in double.artifacts]
    kinds = [view["type"] for view in double.views.values()]
    assert kinds == ["project-view", "project-view", "runs"]
    assert "https" not in json.dumps(out), "nothing goes anywhere but to the stand-in"

    blocks = json.loads(double.views["view2"]["spec"])["blocks"]
    told = json.dumps(blocks)
    assert "MaxVio_global" in told and "figures/differences" in told and "paired/validation_loss" in told
    assert sum(block["type"] == "panel-grid" for block in blocks) == 5  # of four sections, and the figures

    double.operations.clear()
    code, again, err = asked("sweep=moe_balance", "report=true")
    assert (code, again, err) == (0, out[1:], [])
    assert len(double.views) == 3 and "UpsertBucket" not in double.operations
    assert offline_runs(result, runs) == ({}, 2)

    places = {own: f"{double.url}/{ENTITY}/p/runs/{own}" for own in (first, result_id(result))}
    (arm, seed) = (trial_runs(result)[first][name] for name in ("arm", "seed"))
    assert links_of(result, runs) == {
        "all": [Link("result", places[result_id(result)])],
        arm: [Link(f"seed {seed}", places[first])],
    }


REFUSALS = {
    "expired": ("Viewer", Refusal(401, "not logged in"), "does not take it (401; it may have expired)"),
    "down": ("Viewer", Refusal(503, "down"), "it answered 503"),
    "forbidden": ("UpsertView2", Refusal(403, "permission denied"), "project=p: 127.0.0.1"),
    "denied": ("UpsertView2", Refusal(200, "permission denied"), "(permission denied); name a project that you may"),
    "hidden": ("CreateProject", Refusal(200, "no permission to create"), "project=other: "),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_is_one_line_and_nothing_is_sent(name: str, asked: Any, runs: Path, double: Double) -> None:
    operation, refusal, wanted = REFUSALS[name]
    double.refused[operation] = refusal
    result = load_result(runs, "moe_balance", "cpu")
    offline_run(runs, next(iter(trial_runs(result))), "bias s0")
    code, out, err = asked("sweep=moe_balance", f"project={'other' if name == 'hidden' else 'p'}")
    assert (code, out) == (2, [])
    (line,) = err
    assert wanted in line and line.endswith("nothing was uploaded")
    assert (double.views, double.runs, double.files) == ({}, {}, {})
    assert operation in double.operations, "it was this that was refused"


def test_without_a_network_it_is_one_line(asked: Any, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        code, out, err = asked()
    assert (code, out) == (2, []) and double.operations == []
    (line,) = err
    assert "not reached ([Errno 111] Connection refused)" in line and "WANDB_MODE=offline" in line


@pytest.mark.parametrize("place", ["notaurl", "file:///etc", "http:", "ftp://host"])
def test_what_is_no_server_is_one_line(place: str, asked: Any, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", place)
    code, out, err = asked()
    assert (code, out, len(err)) == (2, [], 1) and double.operations == []
    assert f"WANDB_BASE_URL={place}" in err[0]


def test_a_server_that_does_not_answer_is_not_waited_for(
    asked: Any, double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ablations.board.server.SECONDS", 0.1)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        code, _, err = asked()
    assert code == 2 and len(err) == 1 and "not reached (timed out)" in err[0]


def test_runs_that_do_not_arrive_are_told(asked: Any, runs: Path, double: Double) -> None:
    result = load_result(runs, "moe_balance", "cpu")
    folder = offline_run(runs, next(iter(trial_runs(result))), "bias s0")
    (log,) = folder.glob("*.wandb")
    log.write_bytes(b"no log")
    code, _, err = asked()
    assert code == 2 and len(err) == 1 and "wandb sync: 1 of 1 runs were not uploaded" in err[0]
    assert len(offline_runs(result, runs)[0]) == 1


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["sweep=moe_balance", "scale=gpu"], "no run gpu under"),
        (["sweep=moe_balanse"], "moe_balanse"),
        (["sweep=moe_balance", "raport=true"], "raport: no such key; did you mean report?"),
        (["sweep=moe_balance", "report=maybe"], "report=maybe"),
        (["sweep=moe_balance", "run=../elsewhere"], "run=../elsewhere"),
        (["scale=cpu"], "sweep: name the sweep to show"),
        (["sweep=moe_balance", "entity=a/../b"], "entity=a/../b: a user's or team's name has letters"),
        (["sweep=moe_balance", "project=a/b"], "project=a/b: a project's name has 1 to 128 characters"),
    ],
)
def test_what_cannot_be_shown_is_one_line(words: list[str], wanted: str, asked: Any, runs: Path) -> None:
    code, out, err = asked(*words)
    assert (code, out) == (2, []) and len(err) == 1 and wanted in err[0]
    assert not list(runs.rglob(SPECIFICATION))


def test_a_run_without_a_trial_is_none(asked: Any, runs: Path) -> None:
    shutil.rmtree(runs / "trials")
    assert asked() == (
        2,
        [],
        ["error: sweep=moe_balance scale=cpu: no trial has ended yet, so there is nothing to show"],
    )


def test_nothing_is_added_to_a_published_result(asked: Any, runs: Path) -> None:
    (runs / "moe_balance/cpu/manifest.json").write_text("{}")
    code, out, err = asked()
    assert (code, out) == (2, []) and len(err) == 1 and "holds published results, to which nothing is added" in err[0]
    assert not list(runs.rglob(SPECIFICATION))


def test_a_missing_package_is_named(asked: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = dashboard.check_package.__globals__["importlib"].util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb_workspaces" else find(name))
    code, _, err = asked()
    assert code == 2 and len(err) == 1 and "pip install -e '.[dashboard]'" in err[0]
    assert not list(runs.rglob(SPECIFICATION))


def test_another_sweep_that_cannot_be_read_is_told(asked: Any, runs: Path) -> None:
    (runs / "old/cpu").mkdir(parents=True)
    (runs / "old/cpu/plan.json").write_text("{}")
    code, out, err = asked()
    assert code == 0 and len(out) == 3
    (line,) = err
    assert line.startswith("left out of the view of all sweeps: ")
