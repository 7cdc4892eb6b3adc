"""A full disk is one line with its folder, at once."""

import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablations.launch.pool import Job, Pool
from ablations.launch.space import DiskFull, free_bytes, full_place, size

HERE = Path(__file__).parent


def test_it_is_recognised_wherever_it_shows() -> None:
    with pytest.raises(OSError) as caught, open("/dev/full", "w") as file:
        file.write("x")
    assert full_place(caught.value) == ""
    assert full_place(OSError(errno.ENOSPC, "", "/a/file")) == "/a/file"
    assert full_place(OSError(errno.EDQUOT, "", "/a/file")) == "/a/file"
    foreign = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert full_place(foreign) == ""
    wrapped = ValueError("cannot save")
    wrapped.__cause__ = OSError(errno.ENOSPC, "", "/a/file")
    assert full_place(wrapped) == "/a/file"
    for other in (OSError(errno.EACCES, ""), ValueError("no"), MemoryError(), None):
        assert full_place(other) is None
    loop = ValueError("no")
    loop.__context__ = RuntimeError("no")
    loop.__context__.__context__ = loop
    assert full_place(loop) is None


def test_sizes_and_free_space(tmp_path: Path) -> None:
    assert [size(count) for count in (3.21e9, 41e6, 12)] == ["3.2 GB", "41 MB", "12 B"]
    assert free_bytes(tmp_path / "not/there/yet") > 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("how", ["write", "dies"])
def test_a_full_disk_ends_the_run_at_once(small_disk: Path, how: str) -> None:
    """The second job's log cannot be written either, nor could its worker say why it died."""
    heard: list[str] = []

    def on_event(key: str, event: dict[str, Any]) -> None:
        heard.append(f"{key} {event['event']}")

    jobs = [Job(name, "fill", {"folder": str(small_disk), "how": how}) for name in ("a", "b")]
    environment = {"PYTHONPATH": str(HERE)}
    started = time.monotonic()
    with (
        pytest.raises(DiskFull) as caught,
        Pool(1, small_disk / "logs", environment, kinds_module="pool_kinds") as pool,
    ):
        pool.run(jobs, on_event)
    assert caught.value.filename.startswith(str(small_disk)) and "the disk is full" in caught.value.strerror
    assert heard == ["a started"], "it is not tried again, and nothing after it is begun"
    assert time.monotonic() - started < 20


def test_a_full_disk_elsewhere_names_that_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(DiskFull) as caught,
        Pool(1, tmp_path / "logs", {"PYTHONPATH": str(HERE)}, kinds_module="pool_kinds") as pool,
    ):
        pool.run([Job("a", "full", {"path": "/elsewhere/file"})], lambda key, event: None)
    assert caught.value.filename == "/elsewhere"
