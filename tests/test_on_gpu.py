"""The command for a GPU, without one: sections in processes of their own, one file, and what it says went wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ablations.home import ROOT
from benchmarks import on_gpu
from benchmarks.on_gpu import TASKS, Report, Section, Task, run_section
from benchmarks.on_gpu_report import markdown
from benchmarks.on_gpu_trials import VARIANTS, trained
from models.base.typed import ConfigError


def python(text: str, seconds: float = 60, needs: tuple[str, ...] = ()) -> Task:
    return Task("A test", seconds, ("-c", "raise SystemExit('not the quick one')"), ("-c", text), needs)


@pytest.mark.parametrize(
    ("task", "status", "reason", "found"),
    [
        (python("print('{\"a\": 1}'); print('{\"a\": 2}')"), "done", "", {"a": 2}),
        (python("print('3 passed')"), "done", "", {"said": "3 passed"}),
        (python("print('{\"a\": 1}'); print(1 / 0)"), "failed", "ZeroDivisionError: division by zero", {"a": 1}),
        (python("import sys; print('no GPU', file=sys.stderr); sys.exit(2)"), "skipped", "no GPU", {}),
        (python("print('never')", needs=("json", "not_there")), "skipped", "not_there cannot be imported here", {}),
        (python("import os; os.abort()"), "failed", "exit code -6", {}),
    ],
)
def test_what_comes_of_a_section(task: Task, status: str, reason: str, found: dict[str, Any]) -> None:
    section = run_section("one", task, quick=True)
    assert (section.status, section.reason, section.found) == (status, reason, found)


def test_a_section_ends_with_its_budget_and_all_that_it_started() -> None:
    """What it had printed until then is kept, but for a line that it was in the middle of."""
    text = """
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"child": child.pid}))
sys.stdout.write('{"half": ')
sys.stdout.flush()
time.sleep(600)
"""
    section = run_section("slow", python(text, seconds=3 / on_gpu.SLOWER), quick=True)
    assert section.status == "cut" and section.reason.startswith("not done after its 3 s; ")
    assert section.found.keys() == {"child"} and section.seconds >= 3
    stat, until = Path(f"/proc/{section.found['child']}/stat"), time.monotonic() + 30
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < until, "it lives"
        time.sleep(0.05)


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["on_gpu", *words])
    return on_gpu.main()


def test_a_section_that_fails_stops_no_other_and_the_file_is_whole_at_any_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, seen = tmp_path / "found.json", list[list[str]]()
    real = on_gpu.run_section

    def watched(*arguments: Any) -> Section:
        seen.append([section.name for section in Report.read(out).sections] if out.exists() else [])
        return real(*arguments)

    monkeypatch.setattr(on_gpu, "run_section", watched)
    tasks = {"bad": python("1 / 0"), "good": python("print('{\"waits\": {}}')")}
    monkeypatch.setattr(on_gpu, "TASKS", tasks)
    assert run(monkeypatch, "--quick", "--sections", "bad,good", "--out", str(out)) == 1
    assert seen == [[], ["bad"]], "the file is there from the beginning"
    assert [(s.name, s.status) for s in Report.read(out).sections] == [("bad", "failed"), ("good", "done")]
    assert run(monkeypatch, "--quick", "--sections", "good", "--out", str(out)) == 0
    capsys.readouterr()
    assert run(monkeypatch, "--render", str(out)) == 0
    assert "no number here says anything of a GPU" in capsys.readouterr().out


def test_wrong_words_and_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other.json").write_text('{"device": "x", "sections": [], "turns": 1}')
    for path, words in {"other.json": "turns: no such key", "none.json": "No such file"}.items():
        assert run(monkeypatch, "--render", str(tmp_path / path)) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1 and words in said[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(monkeypatch, "--out", str(tmp_path / "x.json")) == 2
    assert "--quick tries the way on a CPU" in capsys.readouterr().err and not (tmp_path / "x.json").exists()
    monkeypatch.setattr(on_gpu, "run_section", lambda *_: pytest.fail("it has begun"))
    assert run(monkeypatch, "--quick", "--out", str(tmp_path)) == 2
    assert f"--out {tmp_path}: Is a directory; name a file" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--sections", "steps")
    assert "--sections steps: must be among tests, waits" in capsys.readouterr().err


def test_all_of_it_fits_into_eight_minutes() -> None:
    assert sum(task.seconds for task in TASKS.values()) < 480


FOUND: dict[str, dict[str, Any]] = {
    "tests": {"said": "12 passed"},
    "waits": {"steps": 3, "waits": {"MoE": {}}, "known": {"loop": {"tolist at models/moe.py:1": 6}}},
    "accumulator": {
        "accumulator": {"bias": {"positive": {"128": {"mean": -1e-4, "frobenius": 2e-4, "largest": 3e-4}}}}
    },
    "gemm": {"square": {"4096": {"forward": {"bf16": {"ms": 0.2, "tflops": 700, "ratio": 1.0, "error": 2e-3}}}}},
    "step": {"tokens_per_second": {"ours": 1000, "theirs": 500}, "ratio": 2.0, "gflops_per_second": 9.5},
    "trials": {"trials": {"bf16": {"status": "complete", "loss": 4.5}, "fp8": {"status": "failed", "reason": "x | y"}}},
    "decode": {"contexts": {"512": {"tokens_per_s": {"mla": 17.5}}}},
}


def test_every_section_is_shown_with_its_numbers_and_the_rest_with_its_reason() -> None:
    sections = [Section(name, "done", 1.5, 30, "python -m x", found=found) for name, found in FOUND.items()]
    text = markdown(Report("Some GPU", "2.11", "13.0", False, sections))
    for words in (
        "12 passed",
        "models/moe.py:1",
        "-1.0e-04",
        "4096 forward",
        "| 700 |",
        "1,000",
        "x \\| y",
        "17.5",
    ):
        assert words in text, words
    assert "Not run" not in text and "no number here" not in text
    for name, found in (("decode", {"contexts": {}}), ("step", {"tokens_per_second": {}, "ratio": 1})):
        assert "| " + next(iter(found)) in markdown(
            Report("x", "2", "13", False, [Section(name, "done", 1, 1, "y", found=found)])
        )
    cut = Section("gemm", "cut", 110, 110, "python -m y", "not done after its 110 s", {"another": "form"})
    text = markdown(Report("Some GPU", "2.11", "13.0", False, [cut]))
    assert "not done after its 110 s" in text and "| another | form |" in text
    assert "Not run: tests, waits, accumulator, step, trials, decode." in text


def test_a_trial_under_a_recipe(tmp_path: Path) -> None:
    found = trained(VARIANTS["fp8_row emulated"], True, tmp_path / "t")
    assert found["status"] == "complete" and found["loss"] > 0 and found["tokens_per_second"] > 0


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ConfigError):
        Report.read(tmp_path / "bad.json")


def test_it_does_without_what_a_machine_that_only_trains_lacks(tmp_path: Path) -> None:
    """The command, its report, and a trial under a recipe, in one; `test_house.py` imports them in every run."""
    script = f"""
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("wandb", "optuna", "hydra", "omegaconf", "lm_eval", "datasets", "msgspec"):
            raise ModuleNotFoundError(name + " is out of reach", name=name)
sys.meta_path.insert(0, Gone())
from ablations.launch.lean import lean
with lean():
    import lightning
from pathlib import Path
import benchmarks.on_gpu, benchmarks.on_gpu_report, benchmarks.waits, benchmarks.train_step, benchmarks.decode
import json
from benchmarks.on_gpu_trials import VARIANTS, trained
print(json.dumps(trained(VARIANTS["fp8_row emulated"], True, Path({str(tmp_path / "t")!r}))))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == "complete" and found["loss"] > 0 and found["tokens_per_second"] > 0
