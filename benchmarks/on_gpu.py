"""All that only a GPU can show, in one command of at most eight minutes, into one JSON file (docs/gpu.md).

    python -m benchmarks.on_gpu                        # on_gpu.json
    python -m benchmarks.on_gpu --sections waits,step --out FILE
    python -m benchmarks.on_gpu --quick                # small sizes on a CPU: does it run
    python -m benchmarks.on_gpu --render FILE          # the file as markdown, on any machine

Every section is a command of its own, with a budget of seconds: one that fails, or is cut off, stops no other. The file
is written anew after each, so that a run that is cut off keeps what it has; of a section that is cut off it has the
last JSON object that was printed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from ablations.files import read_json, write_json
from ablations.home import ROOT
from models.base.typed import ConfigError, build

Status = Literal["done", "skipped", "failed", "cut"]
FORMAT: Final = 1
REFUSED = 2
"""The exit code of a command that this machine cannot run; its last line says why."""
SLOWER = 5
"""How much longer a section may take in small on a CPU."""


@dataclass(frozen=True)
class Task:
    """A section as it is run."""

    about: str
    seconds: float
    """Its budget."""
    command: Sequence[str]
    """Arguments of python."""
    quick: Sequence[str]
    """The same in small, on a CPU."""
    needs: Sequence[str] = ()
    """Packages that it cannot do without."""


_TESTS = ("-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--show-capture=no", "-m", "gpu")
TASKS: dict[str, Task] = {
    "tests": Task(
        "Tests that are skipped without a GPU",
        60,
        (*_TESTS, "tests/models"),
        (*_TESTS, "tests/models/test_waits.py"),
        ("pytest", "xdist"),
    ),
    "waits": Task(
        "Where a training step makes the host wait",
        40,
        ("-m", "benchmarks.waits", "--device", "cuda"),
        ("-m", "benchmarks.waits", "--quick"),
    ),
    "accumulator": Task(
        "What the tensor core keeps of FP8 products that it adds up",
        30,
        ("-m", "benchmarks.fp8_gemm", "--accumulator"),
        ("-m", "benchmarks.fp8_gemm", "--emulated"),
    ),
    "gemm": Task(
        "FP8 products, dense and by expert, against BF16",
        110,
        ("-m", "benchmarks.fp8_gemm", "--rounds", "10"),
        ("-m", "benchmarks.fp8_gemm", "--quick"),
        ("triton",),
    ),
    "step": Task(
        "A training step against transformers' and torchtitan's, as they are and compiled",
        80,
        ("-m", "benchmarks.train_step", "--device", "cuda", "--compile"),
        ("-m", "benchmarks.train_step", "--quick"),
        ("transformers",),
    ),
    "trials": Task(
        "A short trial of scale=gpu under each precision recipe",
        110,
        ("-m", "benchmarks.on_gpu_trials"),
        ("-m", "benchmarks.on_gpu_trials", "--quick"),
    ),
    "decode": Task(
        "Decoding with a cache, by kind of attention",
        40,
        ("-m", "benchmarks.decode", "--device", "cuda"),
        ("-m", "benchmarks.decode", "--quick"),
    ),
}


@dataclass(frozen=True)
class Section:
    """What came of one."""

    name: str
    status: Status
    seconds: float
    budget_s: float
    command: str
    reason: str = ""
    """Why it was skipped, or the last line of what failed."""
    found: dict[str, Any] = field(default_factory=dict)
    """The last JSON object that it printed; `said`, its last line, where there was none."""


@dataclass(frozen=True)
class Report:
    """The file."""

    device: str
    torch: str
    cuda: str
    quick: bool
    sections: list[Section] = field(default_factory=list)
    format: Literal[1] = FORMAT

    def write(self, path: Path) -> None:
        write_json(path, asdict(self))

    @staticmethod
    def read(path: Path) -> "Report":
        """Raises ConfigError where the file holds something else, OSError where it cannot be read."""
        return build(Report, read_json(path), str(path))


def run_section(name: str, task: Task, quick: bool) -> Section:
    """Its command, in a process of its own that ends with its budget."""
    arguments, budget_s = list(task.quick if quick else task.command), task.seconds * (SLOWER if quick else 1)
    begun = Section(name, "skipped", 0.0, budget_s, "python " + " ".join(arguments))
    if missing := [package for package in task.needs if find_spec(package) is None]:
        return replace(begun, reason=f"{' and '.join(missing)} cannot be imported here")
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        variables = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=err, env=variables, start_new_session=True
        )
        try:
            code: int | None = process.wait(budget_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
        texts = [_lines(file) for file in (out, err)]
    printed, complained = texts
    section = replace(begun, seconds=round(time.monotonic() - started, 1), found=_last_object(printed))
    last = (complained or printed or ["nothing was printed" if code is None else f"exit code {code}"])[-1]
    if code is None:
        return replace(section, status="cut", reason=f"not done after its {budget_s:g} s; {last}")
    if code == REFUSED:
        return replace(section, reason=last)
    if code:
        return replace(section, status="failed", reason=(printed if "pytest" in arguments else [last])[-1])
    return replace(section, status="done")


def _end(process: subprocess.Popen[bytes]) -> None:
    """It and whatever it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _lines(file: Any) -> list[str]:
    file.seek(0)
    return [line.strip() for line in file.read().splitlines() if line.strip()]


def _last_object(lines: list[str]) -> dict[str, Any]:
    """A line that was cut off in the middle is none."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found: dict[str, Any] = json.loads(line)
                return found
            except ValueError:
                continue
    return {"said": lines[-1]} if lines else {}


def machine(quick: bool) -> Report:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return Report(device, torch.__version__, str(torch.version.cuda), quick)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sections", default=",".join(TASKS), help=f"of {', '.join(TASKS)} (all)")
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"), help="the file (on_gpu.json)")
    parser.add_argument("--quick", action="store_true", help="small sizes on a CPU: does it run")
    parser.add_argument("--render", type=Path, metavar="FILE", help="print such a file as markdown, and run nothing")
    arguments = parser.parse_args()
    if arguments.render:
        from benchmarks.on_gpu_report import markdown

        try:
            print(markdown(Report.read(arguments.render)))
        except (ConfigError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            return REFUSED
        return 0
    names = arguments.sections.split(",")
    if unknown := [name for name in names if name not in TASKS]:
        parser.error(f"--sections {unknown[0]}: must be among {', '.join(TASKS)}")
    report = machine(arguments.quick)
    if report.device == "none" and not arguments.quick:
        print("on_gpu: torch sees no CUDA device on this machine; --quick tries the way on a CPU", file=sys.stderr)
        return REFUSED
    try:
        report.write(arguments.out)  # or eight minutes would pass before it is known that nothing can be kept
    except OSError as error:
        print(f"on_gpu: --out {arguments.out}: {error.strerror}; name a file that can be written", file=sys.stderr)
        return REFUSED
    for name in names:
        print(f"{name}: up to {TASKS[name].seconds:g} s", file=sys.stderr, flush=True)
        section = run_section(name, TASKS[name], arguments.quick)
        report = replace(report, sections=[*report.sections, section])
        report.write(arguments.out)
        print(f"{name}: {section.status} in {section.seconds:g} s  {section.reason}", file=sys.stderr, flush=True)
    print(f"{arguments.out}: python -m benchmarks.on_gpu --render {arguments.out}")
    return 1 if any(section.status in ("failed", "cut") for section in report.sections) else 0


if __name__ == "__main__":
    sys.exit(main())
