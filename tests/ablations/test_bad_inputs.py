"""Whatever is typed that cannot be obeyed: exit code 2, one line that says what and why, and nothing on the disk."""

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bad_files
import bad_sweeps
import pytest
import yaml
from bad_inputs import ROWS
from least_sweep import SWEEP

from ablations.home import ROOT
from ablations.report import publish

MODULES = {"audit": "ablations.audit.__main__", "cost": "models.cost", "convert": "models.convert"}
"""Of commands that are not ablations/<command>.py."""
CASES = [
    (prefix, *line.split(" -> ")) for prefix, lines in ROWS.items() for line in lines.strip().split("\n")
]  # fmt: skip
SWEEPS = [line.split(" -> ") for line in bad_sweeps.ROWS.strip().split("\n")]


class AcceptedError(BaseException):
    """The command would have begun its work."""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, finished_run: Path) -> dict[str, str]:
    area = tmp_path_factory.mktemp("bad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])
        published = publish(finished_run, "moe_balance", "cpu", area / "results")
    return bad_files.make(area / "in", published, finished_run)


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """lm-eval's index is not built, and nothing is begun."""

    def begun(*_: Any, **__: Any) -> None:
        raise AcceptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.evals.known._standard_tasks", lambda: SimpleNamespace(all_tasks=["hellaswag"]))
        patch.setattr("ablations.sweep.conductor.Conductor", begun)
        patch.setattr("ablations.trial.ranked.prepared", begun)
        patch.setenv("WANDB_MODE", "offline")
        yield


def tree(*folders: Path) -> list[tuple[str, int, int]]:
    found = [(path, path.lstat()) for folder in folders for path in folder.rglob("*")]
    return sorted((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)


@pytest.fixture
def refused(
    places: dict[str, str], quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., str]:
    """`refused(command, words)`: the line that it earns."""
    monkeypatch.chdir(tmp_path)
    folders = (tmp_path, *(Path(places[name]) for name in ("in", "runs", "published")))

    def call(command: str, words: list[str]) -> str:
        before = tree(*folders)
        main = importlib.import_module(MODULES.get(command, f"ablations.{command}")).main
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert err.startswith("error: ") and err.count("\n") == 1 and len(err) < 1500, err
        assert all(sign.isprintable() for sign in err[:-1]), err
        assert tree(*folders) == before
        if command != "reproduce":  # which says first what it finds in the folder
            assert out == ""
        return str(err)

    return call


def test_the_table_is_long_and_says_nothing_twice() -> None:
    rows = [(prefix, words) for prefix, words, _ in CASES]
    assert len(rows) == len(set(rows)) and len(rows) + len(SWEEPS) > 400
    assert {prefix.split()[0] for prefix, _ in rows} == {
        *("run", "report", "compare", "dashboard", "reproduce", "eval", "audit", "timeline", "ranks"),
        *("cost", "convert"),
    }


def filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    return text


@pytest.mark.parametrize(("prefix", "words", "said"), CASES, ids=[f"{p} {w}"[:60] for p, w, _ in CASES])
def test_a_word_that_cannot_be_obeyed(
    prefix: str, words: str, said: str, refused: Callable[..., str], places: dict[str, str]
) -> None:
    command, *more = prefix.split()
    typed = [word.replace(r"\x1b", "\x1b") for word in shlex.split(filled(words, places))]
    assert filled(said, places) in refused(command, [*more, *typed])


@pytest.mark.parametrize(("change", "said"), SWEEPS, ids=[change[:60] for change, _ in SWEEPS])
def test_a_sweep_that_cannot_be_obeyed(change: str, said: str, refused: Callable[..., str], tmp_path: Path) -> None:
    content = yaml.safe_dump({**SWEEP, **yaml.safe_load(change)}, allow_unicode=True)
    (tmp_path / "mine.yaml").write_text(content)
    assert said in refused("run", ["sweep=mine", f"sweeps_dir={tmp_path}", "scale=smoke"])


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("ablations.timeline", "schedule=1F1B stages=8 microbatches=8", "did you mean 1f1b?"),
        ("models.cost", "tiny smal", "size=smal: no such size; did you mean small?"),
        ("benchmarks.noise", "recipes=[pilo]", "recipes=pilo: no such recipe; did you mean pilot?"),
        (
            "benchmarks.noise",
            "scale=smoke",
            "results/noise: its table is of scale=cpu, not of smoke; name another folder",
        ),
        ("benchmarks.skills", "skills=[stra]", "skills=stra: no such skill"),
    ],
)
def test_files_of_the_current_directory_are_not_taken_for_pythons(
    module: str, words: str, said: str, tmp_path: Path
) -> None:
    """`-m` puts it first on the path, where somebody's random.py would be imported by NumPy."""
    for name in ("random", "typing", "json", "datasets", "pathlib", "statistics"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the current directory')\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    command = [sys.executable, "-m", module, *shlex.split(words)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr


@pytest.mark.parametrize("module", ["models.cost tiny", "ablations.timeline schedule=1f1b stages=2 microbatches=4"])
def test_a_current_directory_that_was_removed_is_no_matter(module: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("PYTHONSAFEPATH", None)
    (gone := tmp_path / "gone").mkdir()
    line = f'cd "{gone}" && rmdir "{gone}" && exec "{sys.executable}" -m {module}'
    done = subprocess.run(["sh", "-c", line], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        ("ablations.timeline", "schedule=1F1B stages=8 microbatches=8", "did you mean 1f1b?"),
        ("models.convert", "to_hf a b", "invalid choice: 'to_hf'"),
        ("models.cost", "tiny smal", "size=smal: no such size; did you mean small?"),
    ],
)
def test_from_a_shell(module: str, words: str, said: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-m", module, *shlex.split(words)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, tree(tmp_path)) == (2, "", [])
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and said in done.stderr
