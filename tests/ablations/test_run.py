"""The whole command: what it says, what it refuses, how it stops, and that a kill changes nothing in the table."""

import gzip
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import pytest
from processes import HERE, SWEEP, is_alive, numbers, records, started, training_now, wait_until, words, workers_of

from ablations import run
from ablations.files import read_json
from ablations.home import ROOT
from ablations.launch.lock import single_owner
from ablations.record.documents import PLAN, STATE, SweepState


def tree(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_help_and_the_composed_keys(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["--help"]) == 0
    assert "python -m ablations.run" in capsys.readouterr().out
    assert run.main(["sweep=moe_balance", "--cfg", "job", "optim.lr=0.007"]) == 0
    out = capsys.readouterr().out
    assert "lr: 0.007" in out and "n_routed_experts:" in out
    assert tree(tmp_path) == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "ablations.sweep.conductor.Conductor.run", lambda self: pytest.fail("dry_run=true conducts nothing")
    )
    assert run.main([*words(tmp_path / "runs"), "dry_run=true"]) == 0
    out, err = capsys.readouterr()
    for part in ("Question", "aux_loss", "(baseline)", "control", "aa", "fresh, 4 trials per arm", "Expected  about"):
        assert part in out
    assert (err, tree(tmp_path)) == ("", [])


def test_the_help_pays_for_no_heavy_import():
    script = "import sys; from ablations.run import main; main(['--help']); print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    heavy = {"torch", "lightning", "lm_eval", "datasets", "transformers", "matplotlib", "wandb", "optuna", "scipy"}
    assert heavy & set(done.stdout.splitlines()[-1].split()) == set()


def text_file(folder: Path, content: bytes, name: str = "corpus.txt") -> str:
    (folder / name).write_bytes(content)
    return f"data.path={folder / name}"


REFUSED: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "unknown sweep": (lambda _: ["sweep=moe_balanc"], "sweep=moe_balanc: no such sweep; did you mean moe_balance?"),
    "no sweep": (lambda _: ["sweep="], "sweep=NAME is required"),
    "unknown scale": (lambda _: ["scale=smok"], "did you mean smoke?"),
    "unknown key": (lambda _: ["model.moe.topk=2"], "did you mean model.moe.top_k?"),
    "unknown arm": (lambda _: ["arms=biass"], "arms=biass: no such arm; did you mean bias?"),
    "wrong type": (lambda _: ["train.tokens=many"], "train.tokens=many"),
    "wrong choice": (lambda _: ["search=publish"], "did you mean published?"),
    "top_k above the experts": (lambda _: ["model.moe.top_k=9"], "model.moe.top_k=9: a token cannot choose more"),
    "search seed": (lambda _: ["seeds=[1000,1001]"], "seeds=[1000, 1001]: 1000 is a search seed"),
    "no workers": (lambda _: ["launch.workers=0"], "launch.workers=0"),
    "no such launcher": (lambda _: ["launch=rai"], "launch.kind=rai: expected one of local, ray, slurm"),
    "an address for nobody": (lambda _: ["launch.address=auto"], "launch.address=auto: of no use with launch=local"),
    "an address for Slurm": (lambda _: ["launch=slurm", "launch.address=auto"], "try them out on this machine"),
    "options for nobody": (lambda _: ["launch.slurm={mem: 8G}"], "launch.slurm={'mem': '8G'}: options of sbatch"),
    "hours for minutes": (lambda _: ["launch=slurm", "launch.slurm={time: 1:00}"], "launch.slurm.time=1:00: expected"),
    "how many at once": (lambda _: ["launch=slurm", "launch.workers=null"], "launch.workers=null: launch=slurm: how"),
    "no sweeps folder": (lambda d: [f"sweeps_dir={d / 'none'}"], "none"),
    "short corpus": (lambda d: ["data.source=text", text_file(d, b"def f(): pass\n" * 9)], "data.seq_len=32"),
    "long sequence": (
        lambda _: ["data.seq_len=100000", "eval.tokens=100000", "train.tokens=1600000", "yes_really=true"],
        "data.seq_len=100000: one sequence needs 100001 tokens",
    ),
    "empty corpus": (lambda d: ["data.source=text", text_file(d, b"")], "data.path="),
    "empty folder": (lambda d: ["data.source=text", f"data.path={d}"], "the folder holds no .txt"),
    "missing corpus": (lambda d: ["data.source=text", f"data.path={d / 'none.txt'}"], "No such file"),
    "torn gzip": (
        lambda d: ["data.source=text", text_file(d, gzip.compress(b"x" * 99)[:20], "c.txt.gz")],
        "is not a whole gzip file",
    ),
    "not text": (lambda d: ["data.source=text", text_file(d, b"\xff\xfe" * 99)], "is not UTF-8 text"),
    "not JSON": (lambda d: ["data.source=text", text_file(d, b"{\n", "c.jsonl")], "line 1 is not JSON"),
    "no text": (lambda _: ["data.source=text"], "data.source=text: needs data.path=FILE_OR_FOLDER"),
    "runs in a file": (lambda d: [text_file(d, b"").replace("data.path", "runs_dir") + "/runs"], "runs_dir="),
    "runs is a file": (lambda d: [text_file(d, b"").replace("data.path", "runs_dir")], "is not a folder"),
    "unknown task": (lambda _: ["eval.tasks=[python_cloz]"], "no such task; did you mean python_cloze?"),
}


@pytest.mark.parametrize(("launch", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_that_is_not_installed_is_one_line(launch, package, runs, tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else find(name))
    before = tree(tmp_path)
    assert run.main(words(runs, f"launch={launch}")) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: launch={launch}: {package} is not installed; `pip install -r requirements-cluster")
    assert error.count("\n") == 1 and tree(tmp_path) == before


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["launch=ray"], "Launch    ray, a cluster of this machine alone: 1 at once, each with 1 CPU\n"),
        (["launch=slurm", "launch.slurm={partition: long, time: 60}", "launch.workers=200"],
         "Launch    slurm (partition=long, time=60): 200 at once, each with 1 CPU\n"),
        (["launch=local"], None),
    ],
)  # fmt: skip
def test_a_plan_says_where_its_trials_run(given, line, runs, capsys):
    assert run.main([*words(runs, *given), "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert line in out if line else "Launch" not in out


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_line_and_nothing_is_written(case, runs, tmp_path, monkeypatch, capsys):
    # lm-eval's own index costs seconds; what is asked of it here is only that it does not have the task.
    monkeypatch.setattr("tasks.evals.known._standard_tasks", lambda: SimpleNamespace(all_tasks=["hellaswag"]))
    make, part = REFUSED[case]
    (tmp_path / "input").mkdir()
    given = words(runs, *make(tmp_path / "input"))
    before = tree(tmp_path), tree(runs / "data")
    assert run.main(given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    assert part in error
    assert (tree(tmp_path), tree(runs / "data")) == before


def test_bad_input_from_a_shell(tmp_path):
    command = [sys.executable, "-m", "ablations.run", "sweep=moe_balance", "model.moe.top_k=99"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, tree(tmp_path)) == (2, "", [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "model.moe.top_k=99" in done.stderr


def test_two_schedulers_at_once(runs, pool, capsys):
    with single_owner(runs / "toy/smoke"):
        before = tree(runs)
        assert run.main(words(runs)) == 2
        assert f"process {os.getpid()} is already at work here" in capsys.readouterr().err
        assert (tree(runs), pool.ran) == (before, {})


FULL = "the disk is full; nothing finished is lost: free some space and run the same command again"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(28, "No space left on device", "/disk/x"), f"error: /disk: {FULL}\n"),
        (BrokenPipeError(), ""),
    ],
)
def test_a_disk_that_is_full_and_a_reader_that_is_gone(runs, monkeypatch, capsys, error, line):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("ablations.sweep.workplace.prepare_data", fail)
    assert run.main(words(runs)) == 2
    assert capsys.readouterr().err == line


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost more than the trials; the report's own tests draw them."""
    monkeypatch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])


@pytest.fixture
def no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are no part of what is compared, and each arm's memory takes a process."""
    monkeypatch.setattr("ablations.sweep.conductor.Conductor._speed", lambda *_: None)


@pytest.fixture
def training(pool: Any) -> Any:
    """The pool in this process, with the real jobs; guards look at whole sweeps in their own tests."""
    import quick_kinds

    pool.kinds.update(quick_kinds.KINDS)
    return pool


@pytest.mark.usefixtures("no_figures", "no_speed")
def test_a_diverged_trial_is_shown_and_the_sweep_goes_on(training, runs, capsys):
    trial = training.kinds["trial"]

    def wild(arguments: dict[str, Any], report: Any) -> Any:
        if (arguments["labels"]["arm"], arguments["labels"]["seed"]) == ("bias", 1):
            arguments["trial"]["keys"]["optim"]["lr"] = 1e20
        return trial(arguments, report)

    training.kinds["trial"] = wild
    given = words(runs, "optim.lr=0.005", "model.moe.balance.alpha=0.01", "model.moe.balance.update_speed=0.01")
    assert run.main([*given, "seeds=3"]) == 0
    out = capsys.readouterr().out
    folder = runs / "toy/smoke"
    assert "1/3 of bias diverged" in (folder / "table.md").read_text()
    assert "2/3, 1 diverged" in " ".join(out.split())
    assert len(list(runs.glob("trials/*/record.json"))) == 12
    statuses = [read_json(p)["status"] for p in runs.glob("trials/*/record.json")]
    assert sorted(statuses) == ["complete"] * 11 + ["diverged"]
    for name in (PLAN, STATE, "table.csv", "timings.csv", "page.html"):
        assert (folder / name).is_file() and str(folder / name) in out


@pytest.mark.usefixtures("no_figures")
def test_a_failed_trial_ends_in_exit_code_1(pool, runs, capsys):
    def broken(arguments: dict[str, Any], report: Any) -> Any:
        raise RuntimeError("out of memory")

    pool.kinds["trial"] = broken
    assert run.main(words(runs)) == 1


QUICK = """
import functools, sys
import ablations.show.figures.every
import ablations.sweep.conductor, ablations.sweep.workplace
from ablations.run import main
ablations.show.figures.every.draw_figures = lambda result: []
ablations.sweep.conductor.Conductor._speed = lambda *_: None
ablations.sweep.workplace.Pool = functools.partial(ablations.sweep.workplace.Pool, kinds_module="quick_kinds")
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("no_figures", "no_speed")
def test_kill_9_of_worker_and_scheduler_changes_nothing(training, tmp_path, data_cache):
    whole, killed = tmp_path / "whole/runs", tmp_path / "killed/runs"
    for runs in (whole, killed):
        runs.mkdir(parents=True)
        (runs / "data").symlink_to(data_cache)
    assert run.main(words(whole, *SWEEP)) == 0, "undisturbed, in this very process"

    given = words(killed, *SWEEP)
    with started(["-c", QUICK, *given], killed.parent) as scheduler:
        (victim,) = wait_until(lambda: records(killed) and training_now(killed))
        (worker,) = workers_of(scheduler.pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: "retry" in (killed.parent / "out.txt").read_text())
        workers = wait_until(lambda: workers_of(scheduler.pid))
        scheduler.kill()
        scheduler.wait()
        wait_until(lambda: not any(map(is_alive, workers)), 5)
    before = records(killed)
    assert 0 < len(before) < 4, "it was killed amid the search"
    assert not (killed / "toy/smoke/table.csv").exists()

    log = "".join(path.read_text() for path in killed.glob("toy/smoke/logs/*.log"))
    begun = [victim, *(path.parent.name for path in before)]
    assert [log.count(f"--- {name}\n") for name in begun] == [1] * len(begun)

    assert run.main(given) == 0, "goes on, in this very process"
    after = records(killed)
    assert {path: after[path] for path in before} == before, "no finished trial ran again"
    assert len(after) == 4 + 8

    for name in ("table.csv", PLAN):
        assert (killed / "toy/smoke" / name).read_bytes() == (whole / "toy/smoke" / name).read_bytes()
    assert numbers(killed) == numbers(whole)
    one, other = (SweepState.read(runs / "toy/smoke") for runs in (killed, whole))
    for key in ("search", "chosen", "mistuning", "confirm", "guards", "deviations", "plan_sha"):
        assert getattr(one, key) == getattr(other, key), key


@pytest.mark.usefixtures("no_figures", "no_speed")
@pytest.mark.parametrize(
    ("design", "trials"), [("", 8), ("design: branch\nbranch_at: 0.5\n", 10)], ids=["scratch", "off a trunk"]
)
def test_two_sweeps_with_the_same_trials_at_once(training, tmp_path, data_cache, design, trials):
    """Each trial is trained once, by one of them, trunks too; the tables are those of one after the other, in this very
    process."""
    (tmp_path / "sweeps").mkdir()
    for name in ("one", "other"):
        (tmp_path / f"sweeps/{name}.yaml").write_text((HERE / "sweeps/toy.yaml").read_text() + design)
    own = ("optim.lr=0.005", "model.moe.balance.alpha=0.01", "model.moe.balance.update_speed=0.01")
    own += ("train.tokens=1536", "train.checkpoint_every=0.1", f"sweeps_dir={tmp_path / 'sweeps'}")
    runs = {name: tmp_path / name / "runs" for name in ("turns", "once")}
    for folder in runs.values():
        folder.mkdir(parents=True)
        (folder / "data").symlink_to(data_cache)
    for name in ("one", "other"):
        assert run.main(words(runs["turns"], f"sweep={name}", *own)) == 0
    one = forked.start(words(runs["once"], "sweep=one", *own), runs["once"].parent, tmp_path / "ledger")
    try:
        wait_until(lambda: records(runs["once"]) or training_now(runs["once"]))
        assert run.main(words(runs["once"], "sweep=other", *own)) == 0, "amid its trials, in this very process"
        one.join(180)
        assert one.exitcode == 0
    finally:
        one.kill()
    assert numbers(runs["once"]) == numbers(runs["turns"]) and len(records(runs["once"])) == trials
    logs = "".join(path.read_text() for path in runs["once"].glob("*/smoke/logs/*.log"))
    assert "Traceback" not in logs
    for name in ("one", "other"):
        for file in ("table.md", "table.csv"):
            assert (runs["once"] / name / "smoke" / file).read_bytes() == (
                runs["turns"] / name / "smoke" / file
            ).read_bytes()


STAND_IN = """
import functools, sys
import ablations.sweep.conductor, ablations.sweep.workplace
from ablations.run import main
ablations.sweep.workplace.Pool = functools.partial(ablations.sweep.workplace.Pool, kinds_module="stand_in_kinds")
sys.exit(main(sys.argv[1:]))
"""


def test_ctrl_c_says_how_to_go_on(runs, tmp_path):
    given = words(runs, *SWEEP)
    with started(["-c", STAND_IN, *given], tmp_path, TRIAL_SECONDS="60") as scheduler:
        (pid,) = wait_until(lambda: list(runs.glob("trials/*/worker.pid")))
        worker = int(wait_until(pid.read_text))
        os.killpg(scheduler.pid, signal.SIGINT)  # a terminal's reaches the workers too
        assert scheduler.wait(timeout=45) == 130
    assert not is_alive(worker)
    lines = (tmp_path / "err.txt").read_text().splitlines()
    assert lines[-2] == "stopped; nothing finished is lost. The same command goes on from here:"
    assert shlex.split(lines[-1]) == ["python", "-m", "ablations.run", *given]
    assert "Traceback" not in "\n".join(lines)
    assert records(runs) == {}
    assert SweepState.read(runs / "toy/smoke").guards


def test_a_polite_kill_is_as_clean(runs, pool, capsys):
    def terminated(arguments: dict[str, Any], report: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    pool.kinds["trial"] = terminated
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run.main(words(runs)) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("moment", ["ablations.sweep.planning.make_plan", "ablations.report.write_report"])
def test_ctrl_c_outside_the_trials_is_as_clean(moment, runs, pool, monkeypatch, capsys):
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moment, stop)
    assert run.main(words(runs)) == 130
    assert "goes on from here" in capsys.readouterr().err
