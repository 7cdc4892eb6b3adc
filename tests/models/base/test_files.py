"""Files that are whole or absent, with the umask's permissions."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.base.files import (
    move,
    passing_folder,
    remove_unfinished,
    set_aside,
    whole_file,
    whole_folder,
    write_atomically,
)
from models.checkpoint import save_checkpoint
from models.transformer import Transformer


def inside(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def permissions(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o002])
def test_permissions_are_the_umasks(
    built: Callable[..., Transformer], tmp_path: Path, umask: Callable[[int], int], mask: int
) -> None:
    """Also of what libraries write: safetensors and fsspec make their files 0600."""
    umask(mask)
    write_atomically(tmp_path / "text" / "a.json", "{}")
    save_checkpoint(tmp_path / "checkpoint", built({"dtype": "float32"}))
    with whole_folder(tmp_path / "folder") as fresh:
        save_file({"a": torch.zeros(2)}, fresh / "model.safetensors")
        (fresh / "deeper").mkdir(0o700)
        (fresh / "deeper" / "b").write_text("b")
    with whole_file(tmp_path / "file") as temporary:
        temporary.unlink()
        save_file({"a": torch.zeros(2)}, temporary)
    found = permissions(tmp_path)
    assert len(found) == 10
    for name, mode in found.items():
        assert mode == (0o777 if (tmp_path / name).is_dir() else 0o666) & ~mask, name


@pytest.mark.parametrize("made", [whole_file, whole_folder, passing_folder])
def test_an_error_names_what_was_to_be_written_and_no_temporary(made: Callable[[Path], Any]) -> None:
    place = Path("/proc/somewhere.json")  # where nobody may make a file, root neither
    with pytest.raises(OSError) as caught, made(place):
        pass
    assert caught.value.filename == str(place)


def test_a_write_that_fails_leaves_the_old_and_nothing_else(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "old")
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "file") as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    with whole_folder(tmp_path / "folder") as fresh:
        (fresh / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), whole_folder(tmp_path / "folder") as fresh:
        (fresh / "new").write_text("new")
        raise ZeroDivisionError
    assert inside(tmp_path) == ["file", "folder", "folder/old"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_takes_the_place_of_another_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        with whole_folder(tmp_path / "folder") as fresh:
            (fresh / name).write_text(name)
    assert inside(tmp_path) == ["folder", "folder/two"]

    def once(source: Path, target: Path) -> None:
        if target == tmp_path / "folder":
            monkeypatch.setattr("os.rename", rename)
            raise OSError("the disk")
        rename(source, target)

    rename = os.rename
    monkeypatch.setattr("os.rename", once)
    with pytest.raises(OSError, match="the disk"), whole_folder(tmp_path / "folder") as fresh:
        (fresh / "three").write_text("three")
    assert inside(tmp_path) == ["folder", "folder/two"], "the old one is back"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as one, whole_file(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "file").read_text() == "one" and inside(tmp_path) == ["file"]


def test_what_reaches_its_place_was_on_the_disk_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        done.append("folder" if Path(f"/proc/self/fd/{descriptor}").resolve() == tmp_path else "content")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", synced)
    monkeypatch.setattr("os.replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_atomically(tmp_path / "file", b"\0")
    assert done == ["content", "rename", "folder"]


def test_what_a_kill_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("old")
    code = (
        "import os, sys; from pathlib import Path; from models.base.files import whole_file, whole_folder\n"
        "with whole_file(Path(sys.argv[1]) / 'file') as a, whole_folder(Path(sys.argv[1]) / 'folder') as b:\n"
        "    (b / 'c').write_text('c'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)])
    assert len(inside(tmp_path)) == 4
    remove_unfinished(tmp_path / "file")
    remove_unfinished(tmp_path / "folder")
    assert inside(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "old"


def test_what_was_set_aside_is_not_written_over_where_an_earlier_one_is_gone(tmp_path: Path) -> None:
    for name, text in (("file.damaged2", "second"), ("file", "third")):
        (tmp_path / name).write_text(text)
    assert set_aside(tmp_path / "file").name == "file.damaged"
    (tmp_path / "file").write_text("fourth")
    assert set_aside(tmp_path / "file").name == "file.damaged3"
    assert (tmp_path / "file.damaged2").read_text() == "second"


def test_what_is_set_aside_is_never_lost(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / "file").write_text(str(i))
        set_aside(tmp_path / "file")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "file.damaged": "0", "file.damaged2": "1", "file.damaged3": "2"
    }  # fmt: skip


def test_a_file_moves_to_another_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "from").write_text("new")
    replace = os.replace

    def other_disk(path: Path, to: Path) -> None:
        if path == tmp_path / "from":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(path, to)

    monkeypatch.setattr(os, "replace", other_disk)
    move(tmp_path / "from", tmp_path / "there/to")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "there").iterdir()] == [("to", "new")]


def test_what_is_linked_into_a_folder_keeps_its_permissions(tmp_path: Path) -> None:
    """It is the file of others too."""
    (tmp_path / "theirs").write_text("a")
    (tmp_path / "theirs").chmod(0o640)
    with whole_folder(tmp_path / "folder") as fresh:
        os.link(tmp_path / "theirs", fresh / "linked")
    assert stat.S_IMODE((tmp_path / "theirs").stat().st_mode) == 0o640


def test_a_folder_may_hold_a_link_to_nothing(tmp_path: Path) -> None:
    """Downloads of a hub are links."""
    with whole_folder(tmp_path / "folder") as fresh:
        (fresh / "link").symlink_to("gone")
    assert (tmp_path / "folder/link").is_symlink()
