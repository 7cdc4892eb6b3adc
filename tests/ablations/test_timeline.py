"""The timeline command: what it prints and writes, and that what is wrong with a command line is one line."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from ablations.home import ROOT
from ablations.timeline import TimelineConfig, checked, main, simulated
from models.base.command import parse
from models.pipeline.schedules import SCHEDULES, make_schedule
from models.pipeline.simulate import Costs, simulate

SIZE = ["stages=8", "microbatches=20"]


def test_the_keys_reach_the_simulation() -> None:
    words = ["schedule=1f1b,dualpipe", *SIZE, "f=2", "i=2.5", "w=1e0", "overlapped=4.5", "transfer=.25"]
    found = simulated(checked(parse(TimelineConfig, words)))
    costs = Costs(2.0, 2.5, 1.0, overlapped=4.5, transfer=0.25)
    assert found == {name: simulate(make_schedule(name, 8, 20), costs) for name in ("1f1b", "dualpipe")}
    assert simulated(checked(parse(TimelineConfig, ["schedule=zb1p", *SIZE])))["zb1p"] == simulate(
        make_schedule("zb1p", 8, 20), Costs(1, 1, 1)
    )


def test_every_schedule_is_drawn_and_has_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, memory = tmp_path / "new" / "timeline.svg", tmp_path / "memory.svg"
    arguments = [f"schedule={','.join(SCHEDULES)}", *SIZE, "overlapped=2.6", f"out={out}", f"memory={memory}"]
    assert main(arguments) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == [
        *("schedule", "ranks", "bubble (mean)", "bubble (longest)", "end", "peak activations by rank")
    ]
    rows = {line.split()[0]: line.split() for line in lines[: len(SCHEDULES)]}
    assert rows["1f1b"] == ["1f1b", "8", "25.93", "%", "25.93", "%", "81", "8", "7", "6", "5", "4", "3", "2", "1"]
    assert rows["dualpipev"][1] == "4" and rows["dualpipev"][-4:] == ["4.5"] * 4
    assert set(rows) == set(SCHEDULES) and lines[len(SCHEDULES) :] == [str(out), str(memory)]
    for path in (out, memory):
        text = {"".join(node.itertext()).strip() for node in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")}
        assert set(SCHEDULES) <= text
    first = out.read_bytes()
    assert main(arguments) == 0 and out.read_bytes() == first
    assert sorted(path.name for path in tmp_path.rglob("*.svg*")) == ["memory.svg", "timeline.svg"]


@pytest.mark.parametrize(("stages", "mean", "longest"), [(8, "4.91", "5.24"), (16, "5.50", "6.07")])
def test_v3s_formula_is_the_longest_bubble(
    capsys: pytest.CaptureFixture[str], stages: int, mean: str, longest: str
) -> None:
    """DualPipe's (P/2 - 1)(F&B + B - 3W), where pairs save something: not the mean over ranks."""
    f, w, pair, microbatches = 1.0, 1.0, 2.6, 4 * stages
    words = [f"stages={stages}", f"microbatches={microbatches}", f"i={f}", f"w={w}", f"overlapped={pair}"]
    assert main(["schedule=dualpipe", *words]) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row[2:6:2] == [mean, longest]
    formula = (stages // 2 - 1) * (pair + f + w - 3 * w)
    assert float(row[4]) == pytest.approx(100 * formula / float(row[6]), abs=5e-3)


def test_without_a_file_it_only_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["schedule=1f1b,1f1b", *SIZE, "out=null"]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "schedule=: expected some of gpipe, 1f1b"),
        (["schedule=1f1b,dualpip", *SIZE], "schedule=dualpip: expected some of .* did you mean dualpipe"),
        (["schedule=1f1b", "stages=8"], "microbatches: missing; give a number, as in microbatches=8"),
        (["schedule=1f1b", "stages=8.5", "microbatches=20"], r"stages=8\.5: expected a whole number"),
        (["schedule=1f1b", "stages=8", "microbatches=0"], "microbatches=0: must be at least 1"),
        (["schedule=1f1b", "stages=1", "microbatches=4"], "error: stages=1: schedule=1f1b needs 2 or more"),
        (["schedule=dualpipe", "stages=5", "microbatches=20"], "error: stages=5: dualpipe needs an even number"),
        (["schedule=dualpipe", "stages=8", "microbatches=8"], "error: microbatches=8: dualpipe .* needs 16 or more"),
        (["schedule=1f1b", *SIZE, "f=fast"], "f=fast: expected a number"),
        (["schedule=1f1b", *SIZE, "w=nan"], "w=nan: must be a finite number"),
        (["schedule=1f1b", *SIZE, "f=inf"], "f=inf: must be a finite number"),
        (["schedule=1f1b", *SIZE, "overlapped=0"], r"overlapped=0\.0: must be above 0"),
        (["schedule=1f1b", *SIZE, "transfer=-1"], r"transfer=-1\.0: must not be negative"),
        (["schedule=1f1b", *SIZE, "transfers=1"], "transfers: no such key; did you mean transfer"),
        (["schedule=1f1b", *SIZE, "out"], "out: expected out=VALUE"),
        (["schedule=1f1b", *SIZE, "out=timeline.png"], "out=timeline.png: .* must end in .svg"),
        (["schedule=1f1b", *SIZE, "out=a.svg", "memory=a.svg"], "memory=a.svg: out has the same name"),
        (["schedule=1f1b", *SIZE, "out=file/timeline.svg"], "error: .*file: "),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert re.search(words, captured.err) and captured.err.count("\n") == 1 and not captured.out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_every_key_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from ablations.timeline import main; code = main(['--help']);"
        "heavy = {'torch', 'matplotlib', 'numpy', 'yaml'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for key in ("schedule=", "stages=", "microbatches=", "f=1 i=1 w=1", "overlapped=", "transfer=", "out=", "memory="):
        assert key in done.stdout
    assert all(name in done.stdout for name in SCHEDULES)
