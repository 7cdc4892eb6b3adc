"""What a program can do in the sandbox, and that none is run without one."""

import inspect
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.base.typed import ConfigError
from tasks.evals import inside
from tasks.evals.calls import ARCHITECTURES
from tasks.evals.sandbox import Limits, Outcome, require_sandbox, run

ROOT = Path(__file__).parents[2]


boxed = pytest.mark.usefixtures("boxed")
unproven = pytest.mark.usefixtures("unproven")

ENDS: dict[str, tuple[str, Outcome]] = {
    "nothing": ("", Outcome("passed")),
    "its end": ("import math\nassert math.gcd(4, 6) == 2", Outcome("passed")),
    "a wrong answer": ("assert 1 == 2, 'so it is'", Outcome("failed", "AssertionError: so it is")),
    "no Python": ("def f(:", Outcome("failed", "SyntaxError: invalid syntax (program, line 1)")),
    "leaving in good order": ("raise SystemExit(0)", Outcome("failed", "SystemExit: 0")),
    "leaving at once": ("import os; os._exit(0)", Outcome("failed", "left before its end")),
    "a report of its own": (
        'import os\nfor n in range(1, 9):\n  try: os.write(n, b\'{"token": "", "ending": "passed", "said": ""}\')\n'
        "  except OSError: pass\nos._exit(0)",
        Outcome("failed", "left before its end"),
    ),
    "a report that is flooded": (
        "import os\nfor n in range(3, 32):\n  try: os.set_blocking(n, False)\n  except OSError: continue\n"
        "  try:\n    while True: os.write(n, b'x' * 4096)\n  except OSError: pass\nos._exit(0)",
        Outcome("failed", "left before its end"),
    ),
    "half a character": ("raise ValueError('\\ud800')", Outcome("failed", "ValueError: \\ud800")),
    "a report that is wiped out": (
        "import os\nfor n in range(3, 32):\n  try: os.ftruncate(n, 0)\n  except OSError: pass\nos._exit(0)",
        Outcome("failed", "left before its end"),
    ),
    "a crash": ("import ctypes; ctypes.string_at(0)", Outcome("killed", "by SIGSEGV")),
    "not asked anything": ("input()", Outcome("failed", "EOFError: EOF when reading a line")),
    "much to say": ("print('x' * 2**24)\nraise ValueError('y' * 999)", Outcome("failed", "ValueError: " + "y" * 188)),
}


@boxed
@pytest.mark.parametrize("case", ENDS)
def test_how_a_program_ends(case: str) -> None:
    program, outcome = ENDS[case]
    assert run(program) == outcome


@boxed
def test_chance_is_the_same_every_time() -> None:
    program = "import random; raise SystemExit((random.random(), list({'a', 'b', 'c', 'd', 'e'})))"
    assert run(program) == run(program)


BOUNDED: dict[str, tuple[str, str, str]] = {
    "an endless loop": ("while True: pass", "timed_out", "not done after 1 s of the processor"),
    "a signal that it does not heed": (
        "import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "killed",
        "by SIGKILL",
    ),
    "a process": ("import os; os.fork()", "failed", "PermissionError: [Errno 1] Operation not permitted"),
    "a fork bomb": (
        "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass",
        "timed_out",
        "not done after 1 s of the processor",
    ),
    "a thread": (
        "import _thread; _thread.start_new_thread(print, ())",
        "failed",
        "RuntimeError: can't start new thread",
    ),
    "another program": ("import subprocess; subprocess.run(['/usr/bin/env'])", "failed", "PermissionError: [Errno 1]"),
    "a namespace": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\nassert not c.unshare(0x10000000), ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "memory at once": ("x = bytearray(2**30)", "out_of_memory", ""),
    "memory bit by bit": ("x = []\nwhile True: x.append(bytearray(2**16))", "out_of_memory", ""),
    "memory that is nobody's": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\nassert c.memfd_create(b'x', 0) > 0, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "memory that is shared": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\nassert c.shmget(0, 9, 0o1600) >= 0, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "memory of a queue": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\nassert c.msgget(0, 0o1600) >= 0, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "the mode of a device": ("import os; os.chmod('/dev/null', 0o666)", "failed", "PermissionError: [Errno 1]"),
    "the times of a device": ("import os; os.utime('/dev/null')", "failed", "PermissionError: [Errno 1]"),
    "a keyring": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
        f"assert c.syscall({250 if platform.machine() == 'x86_64' else 219}, 0, -3, 0) > 0, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "another process": (
        "import ctypes, os; c = ctypes.CDLL(None, use_errno=True)\n"
        "assert c.ptrace(0x4206, os.getppid(), 0, 0) == 0, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "signals that wait": (
        "import ctypes, os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(34, 64)); c = ctypes.CDLL(None)\n"
        "done = sum(c.kill(os.getpid(), 40) == 0 for _ in range(100))\nwaiting = 0\n"
        "while signal.sigtimedwait({40}, 0): waiting += 1\nassert waiting > 90, waiting",
        "failed",
        "AssertionError: 32",
    ),
    "memory that stays": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True); c.mmap.restype = ctypes.c_void_p\n"
        "place = c.mmap(None, ctypes.c_size_t(1 << 20), 3, 0x2022, -1, ctypes.c_long(0))\n"
        "assert place != 2**64 - 1, ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "another place for files": (
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
        "assert not c.mount(b't', b'/tmp', b'tmpfs', 0, b'size=99m'), ctypes.get_errno()",
        "failed",
        "AssertionError: 1",
    ),
    "a huge file": (
        "f = open('huge', 'wb')\nwhile True: f.write(bytes(2**20))",
        "failed",
        "OSError: [Errno 27] File too large",
    ),
    "many files": (
        "for i in range(99): open(str(i), 'wb').write(bytes(2**20))",
        "failed",
        "OSError: [Errno 28] No space left on device",
    ),
    "many open files": ("x = [open('x', 'w') for _ in range(99)]", "failed", "OSError: [Errno 24] Too many open files"),
}


@boxed
@pytest.mark.parametrize("case", BOUNDED)
def test_what_a_program_may_take_is_bounded(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it has ended, no process and no file is left of it."""
    program, ending, said = BOUNDED[case]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    size = 2**23 + os.getpid()  # by which it can be told
    outcome = run(program, Limits(cpu_seconds=1, seconds=30, memory=2**26, file_bytes=size))
    assert outcome.ending == ending and outcome.said.startswith(said), outcome
    assert not list(tmp_path.iterdir())
    assert_gone(f"--size {size}")


@boxed
def test_waiting_ends_too() -> None:
    size, started = 2**23 + os.getpid(), time.monotonic()
    program = "import os, sys; os.execv(sys.executable, ['python', '-S', '-c', 'import time; time.sleep(99)'])"
    for waiting in ("import time; time.sleep(99)", program):
        outcome = run(waiting, Limits(seconds=1, file_bytes=size))
        assert outcome == Outcome("timed_out", "not done after 1 s")
        assert_gone(f"--size {size}")
    assert time.monotonic() - started < 30


def assert_gone(mark: str) -> None:
    """Of all processes none has the mark among its words, soon."""
    deadline = time.monotonic() + 5
    while left := [pid for pid, words in processes() if mark in words]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def processes() -> Iterator[tuple[str, str]]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield place.name, (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue


HIDDEN: dict[str, tuple[str, str]] = {
    "the machine": ("import os; raise SystemExit(os.uname().nodename)", "SystemExit: sandbox"),
    "users": ("open('/etc/passwd')", "FileNotFoundError"),
    "processes": ("open('/proc/self/environ')", "FileNotFoundError"),
    "devices": ("import os; raise SystemExit(os.listdir('/dev'))", "SystemExit: ['null']"),
    "the rest of the system": (
        "import os, sys; own = sys.base_prefix.split('/')[1]\n"
        "raise SystemExit({*os.listdir('/')} - {own, 'dev', 'etc', 'lib', 'lib64', 'tmp', 'usr'})",
        "SystemExit: set()",
    ),
    "what is installed": ("import torch", "ModuleNotFoundError"),
    "open files": (
        "import os, stat; found = []\n"
        "for n in range(1024):\n  try: found.append(os.fstat(n).st_mode)\n  except OSError: continue\n"
        "raise SystemExit(sorted((stat.S_ISCHR(mode), stat.S_ISFIFO(mode)) for mode in found))",
        "SystemExit: [(False, True), (True, False), (True, False), (True, False)]",  # the report, and /dev/null thrice
    ),
    "what others have left": ("import os; raise SystemExit(os.listdir('/tmp'))", "SystemExit: []"),
}


@boxed
@pytest.mark.parametrize("case", HIDDEN)
def test_what_a_program_does_not_see(case: str) -> None:
    program, said = HIDDEN[case]
    outcome = run(program)
    assert outcome.ending == "failed" and outcome.said.startswith(said), outcome


@boxed
def test_our_files_and_our_environment_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_SECRET", "told")
    (tmp_path / "secret").write_text("told")
    for place in (ROOT, Path(__file__), tmp_path / "secret"):
        assert run(f"import os; assert not os.path.exists({str(place)!r})").ending == "passed", place
    seen = run("import os; raise SystemExit(sorted(os.environ))").said
    assert seen in (
        "SystemExit: ['HOME', 'LC_CTYPE', 'PWD', 'PYTHONHASHSEED']",
        "SystemExit: ['HOME', 'PWD', 'PYTHONHASHSEED']",
    )


@boxed
def test_nothing_can_be_written_but_in_its_own_folder() -> None:
    for place in ("/", "/usr", "/dev", "/etc", sys.base_prefix):
        outcome = run(f"open({place + '/x'!r}, 'w')")
        assert outcome.ending == "failed" and "Read-only file system" in outcome.said, outcome
    name = uuid.uuid4().hex  # which nobody else has there
    assert run(f"open('{name}', 'w').write('y')\nassert open('/tmp/{name}').read() == 'y'").ending == "passed"
    assert not Path("/tmp", name).exists()


@boxed
def test_a_program_may_do_nothing_that_root_may() -> None:
    """Who asks may be root; bubblewrap then leaves the program his capabilities, unless it is told. With one to mount,
    what is there to be read could be written to."""
    asked = (
        "import ctypes, os, struct; c = ctypes.CDLL(None, use_errno=True); found = ctypes.create_string_buffer(24)\n"
        "assert c.capget(struct.pack('Ii', 0x20080522, 0), found) == 0, ctypes.get_errno()\n"
        "effective, permitted, inherited, *more = struct.unpack('6I', found.raw)\n"
        "assert not effective and not permitted and not any(more), found.raw.hex()\n"
        "c.mount(None, b'/usr', None, 32 | 4096, None)  # again, and not only to be read\n"
        "assert os.statvfs('/usr').f_flag & 1"
    )
    assert run(asked) == Outcome("passed")


@boxed
def test_no_network_is_reached() -> None:
    """There is none, and no call that would ask for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        outcome = run(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
        assert outcome.ending == "failed" and "Operation not permitted" in outcome.said, outcome
        with pytest.raises(TimeoutError):
            server.accept()


@boxed
@pytest.mark.parametrize("soon", [True, False], ids=["at once", "later"])
def test_it_does_not_outlive_us(soon: bool) -> None:
    """Whether we end while it is being made, or when it runs."""
    mark = f"--size {2**22 + os.getpid()}"
    limits = f"Limits(seconds=99, file_bytes={mark.split()[1]})"
    script = f"from tasks.evals.sandbox import Limits, run\nrun('import time; time.sleep(99)', {limits})"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as us:
        deadline = time.monotonic() + 60
        while not any(mark in words for _, words in processes()):
            assert time.monotonic() < deadline and us.poll() is None
            time.sleep(0.002)
        time.sleep(0 if soon else 1)
        us.send_signal(signal.SIGKILL)
    assert_gone(mark)


@pytest.mark.parametrize("alive", [True, False])
def test_nothing_begins_for_one_who_has_ended(alive: bool) -> None:
    """Who ends before bubblewrap's processes are bound to him would leave them; this program is harmless anywhere."""
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    if not alive:
        os.close(writing)
    asked = {"program": "pass", "token": "t", "limits": {}, "alive": reading, "begun": begins}
    command = [sys.executable, "-S", "-c", inspect.getsource(inside)]
    done = subprocess.run(command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, pass_fds=[reading, begins])
    os.close(begins)
    assert bool(os.read(begun, 1)) == alive and (b"passed" in done.stdout) == alive
    for end in (begun, reading, writing)[: 2 + alive]:
        os.close(end)


def refusal() -> str:
    with pytest.raises(ConfigError) as caught:
        require_sandbox()
    told = str(caught.value)
    assert "\n" not in told and told.startswith("eval.run_model_code=true: no sandbox can be made here (")
    with pytest.raises(ConfigError):
        run("pass")
    return told


@unproven
@pytest.mark.parametrize(
    "script",
    [
        "echo 'bwrap: No permissions to create new namespace' >&2; echo more >&2; exit 1",
        "echo 'bwrap: No permissions to create new namespace' >&2; exit 0",
        'printf \'{"ending": "passed"}\'; echo "bwrap: No permissions to create new namespace" >&2',
    ],
)
def test_one_that_does_not_work_is_refused(script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        pytest.skip("it is refused before it is tried")
    (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "(bwrap: No permissions to create new namespace); see to bubblewrap" in refusal()


@unproven
def test_without_bubblewrap_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something is run")

    monkeypatch.setattr(subprocess, "run", never)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "linux")
        patch.setattr(platform, "machine", lambda: "x86_64")
        patch.setenv("PATH", str(tmp_path))
        assert "there is no bwrap on the PATH" in refusal()
        patch.setattr(platform, "machine", lambda: "riscv64")
        assert "system calls are known of x86_64 and aarch64, not of riscv64" in refusal()
        patch.setattr(sys, "platform", "darwin")
        assert "bubblewrap needs Linux, and this is darwin" in refusal()
