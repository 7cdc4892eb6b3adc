"""Whatever becomes of what a command prints, it ends with its exit code and without a traceback."""

import os
import subprocess
import sys

import pytest

from ablations.home import ROOT

SCRIPT = """
import sys
from models.base.streams import spoken
def main():
    print("Läßt sich das ändern?" + " " * 100_000)
    return 3
sys.exit(spoken(main))
"""


def ended(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The script in a shell's line, where PYTHON stands for how it is started."""
    variables = {**os.environ, "SCRIPT": SCRIPT, **environment}
    line = shell.replace("PYTHON", f'"{sys.executable}" -c "$SCRIPT"')
    return subprocess.run(["bash", "-c", line], cwd=ROOT, env=variables, capture_output=True)


def test_letters_that_a_terminal_has_not_are_escaped() -> None:
    done = ended("PYTHON", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.startswith(rb"L\xe4\xdft sich das \xe4ndern?")
    assert ended("PYTHON", PYTHONIOENCODING="utf-8").stdout.decode().startswith("Läßt")


@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ("PYTHON >&-", 3),
        ("PYTHON >&- 2>&-", 3),
        ("PYTHON <&- >&- 2>&-", 3),
        ("PYTHON | head -c 5 >/dev/null; exit ${PIPESTATUS[0]}", 2),
        ("PYTHON >/dev/full", 2),
    ],
)
def test_a_stream_that_takes_nothing_gives_no_traceback(shell: str, code: int) -> None:
    done = ended(shell)
    assert (done.returncode, done.stderr) == (code, b"")


def test_what_is_opened_later_is_not_taken_for_a_closed_stdout() -> None:
    script = (
        "import sys; from models.base.streams import steady; steady(); print('lost'); "
        "print(open('/dev/null').fileno() > 2, file=sys.stderr)"
    )
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{script}" >&-'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == "True\n"
