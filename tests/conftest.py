"""What all tests share: the slowest begin first, so that they do not run alone at the end on one of several processes;
what each process of tests has imported, the processes that it starts need not import again; and what they write stays
in memory, where there is room."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and torch are loaded: processes share the cores here

import copy
import faulthandler
import functools
import gc
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import forkserver
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import pytest

from ablations.config import help, sweepfile
from ablations.home import ROOT
from ablations.launch.lean import lean
from tests.slow import SLOW

HERE = Path(__file__).parent
FIRST = (
    "test_endurance.py",
    "test_sweeps.py",
    "test_run.py",
    "test_lean.py",
    "test_on_gpu.py",
    "test_compiled.py",
    "test_train.py",
)
"""By their longest test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    turn = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: turn.get(item.path.name, len(FIRST)))
    for item in items:
        names = SLOW.get(item.path.relative_to(HERE).as_posix(), {})
        if item.name.startswith(tuple(names)):
            item.add_marker("slow")


def pytest_configure(config: pytest.Config) -> None:
    """A shell starts what a script puts in the background deaf to Ctrl-C, and whatever it starts inherits that.

    Those that run tests import Lightning as our workers do, which saves each of them seconds."""
    if not hasattr(config, "workerinput"):
        keep_in_memory()
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        with lean():
            import lightning  # noqa: F401
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


MEMORY = Path("/dev/shm")
ROOM = 2**32
"""Bytes, several times what a whole run writes."""


def keep_in_memory() -> None:
    """Some disks take milliseconds to free a file's blocks or a directory, and a run removes thousands of both.

    Where nobody has set TMPDIR, and programs in memory may be run (tests write stand-ins for sbatch and the like)."""
    if "TMPDIR" in os.environ or not os.access(MEMORY, os.W_OK):
        return
    if os.statvfs(MEMORY).f_flag & os.ST_NOEXEC or shutil.disk_usage(MEMORY).free < ROOM:
        return
    for left in MEMORY.glob("v3-ablations-tests-*"):  # by runs that were killed
        if not Path("/proc", left.name.rpartition("-")[2]).exists():
            shutil.rmtree(left, ignore_errors=True)
    own = MEMORY / f"v3-ablations-tests-{os.getpid()}"
    own.mkdir()
    os.environ["TMPDIR"], tempfile.tempdir = str(own), None


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """What a run that passes has written is nothing to look at. It goes last, after what others remove at exit."""
    own = Path(tempfile.gettempdir())
    if own.name == f"v3-ablations-tests-{os.getpid()}" and exitstatus == pytest.ExitCode.OK:
        Finalize(None, shutil.rmtree, (own,), {"ignore_errors": True}, exitpriority=-1000)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Nothing that a test writes must outlast the machine: waiting for the disk is a fifth of a sweep's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """The project's own sweeps and scales, which thousands of commands begin with: YAML is read at 50 ms a file."""
    read = sweepfile.read_yaml

    @functools.cache
    def known(path: Path, _: int) -> dict[Any, Any]:
        return read(path)

    def read_own(path: Path) -> dict[Any, Any]:
        own = ROOT in path.parents and path.is_file()
        return copy.deepcopy(known(path, path.stat().st_mtime_ns)) if own else read(path)

    with pytest.MonkeyPatch.context() as patch:
        for module in (sweepfile, help):
            patch.setattr(module, "read_yaml", read_own)
        yield


@pytest.fixture(scope="session", autouse=True)
def server(unsynced: None) -> None:
    """What ranks are forked from begins as this process is, all modules imported, before any test has changed one.
    The garbage collector need not look through them again and again either."""
    gc.freeze()
    begin_server()


@pytest.fixture
def own_server() -> Callable[[], None]:
    """From its call on ranks write where this test does."""

    def renew() -> None:
        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        begin_server()

    return renew


def begin_server() -> None:
    forkserver.set_forkserver_preload([])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("multiprocessing.util.spawnv_passfds", forked)
        forkserver.ensure_running()


def forked(path: str, words: list[str], files: Iterable[int]) -> int:
    """In the place of a new interpreter that obeys `-c`: a fork of this process, which keeps no files but those."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    try:
        faulthandler.disable()
        first = 3
        for file in sorted(files):
            os.closerange(first, file)
            first = file + 1
        os.closerange(first, os.sysconf("SC_OPEN_MAX"))
        sys.stdout, sys.stderr = (os.fdopen(stream, "w", 1, closefd=False) for stream in (1, 2))
        exec(words[-1])
    finally:
        os._exit(0)
