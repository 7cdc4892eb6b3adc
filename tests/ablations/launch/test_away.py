"""Trials on a machine that does not see the runs folder: what they need goes there once, what they leave comes home."""

import dataclasses
import errno
import io
import itertools
import os
import signal
import tarfile
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import forked
import pytest

from ablations.config.schema import TrackConfig
from ablations.launch import parcels
from ablations.launch.away import AwayHost, own_folder
from ablations.launch.freight import Sender, Shipment
from ablations.launch.host import Message, Order
from ablations.launch.job import Job
from ablations.launch.parcels import pack, unpack
from ablations.record.record import RECORD, Record, read_record
from ablations.sweep.freight import OfTrials
from ablations.trial.job import TrialJob
from ablations.trial.mirror import WHOLE
from ablations.trial.recorder import RESUME
from ablations.trial.requests import Labels, TrialRequest
from ablations.trial.requests import job as request_job
from ablations.trial.train import run_trial
from ablations.trial.uploads import FALLBACK, fall_back, fallen_back
from models.base.files import remove, unfinished_in


class Shelf:
    """A store in memory; pickled it would be another one, as nothing here is."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.got: Counter[int] = Counter()

    def put(self, piece: bytes) -> int:
        self.pieces.append(piece)
        return len(self.pieces) - 1

    def get(self, name: int) -> bytes:
        self.got[name] += 1
        return self.pieces[name]


class Machines:
    """The scheduler's runs folder, and another machine that has none."""

    def __init__(self, runs: Path) -> None:
        self.runs, self.shelf, self.hosts = runs, Shelf(), list[AwayHost]()
        self.sender = Sender(OfTrials(runs), self.shelf)

    def host(self, name: str) -> AwayHost:
        variables, kinds = {"OMP_NUM_THREADS": "1"}, "ablations.sweep.jobs"
        order = Order(str(self.runs / "logs"), variables, kinds, runs=str(self.runs), mark="not-there")
        self.hosts.append(AwayHost(order, name, self.shelf))
        return self.hosts[-1]

    @property
    def there(self) -> Path:
        return own_folder(str(self.runs))

    def run(
        self,
        host: AwayHost,
        trial: TrialJob,
        heard: Callable[[Message], None] = lambda said: None,
        track: Literal["disabled", "offline"] = "disabled",
    ) -> Message:
        """As a launcher does it, once the worker is ready."""
        labels = Labels("toy", "smoke", "bias", 1, "confirm")
        asked = request_job(trial.id, "trial", TrialRequest(trial, labels, TrackConfig(track)))
        job, shipment = self.sender.send(asked, str(self.there))
        host.take(job, shipment)
        while True:
            for message in host.messages():
                heard(message)
                if message["type"] in ("result", "error", "died"):
                    self.sender.take_home(asked, message["home"], message["type"] != "died")
                    host.cleared()
                    return message


@pytest.fixture
def machines(tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machines]:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    made = Machines(runs)
    yield made
    for host in made.hosts:
        host.stop()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that train need not import anew what trains."""
    monkeypatch.setattr("ablations.launch.process.subprocess.Popen", forked.Served)


def in_runs(machines: Machines, trial: TrialJob, name: str, **changes: Any) -> TrialJob:
    folder, cache = str(machines.runs / "trials" / name), str(machines.runs / "data")
    return dataclasses.replace(trial, id=name, folder=folder, cache=cache, **changes)


def numbers(trial: TrialJob) -> Record:
    return dataclasses.replace(read_record(Path(trial.folder) / RECORD), id="", timings={})


def ready(host: AwayHost) -> AwayHost:
    while not any(message["type"] == "ready" for message in host.messages()):
        pass
    return host


@pytest.mark.usefixtures("served")
def test_a_branch_is_trained_away_and_what_it_needs_goes_there_once(machines, job, monkeypatch):
    given = job(changes={"optim.lr": 0.004})
    keys = dataclasses.replace(given.keys, before=[dataclasses.replace(job().keys.stages[0], until=0.5)])
    trunk = in_runs(machines, dataclasses.replace(given, keys=keys.trunk), "trunk", keep=True)
    run_trial(trunk, lambda event: None)
    here = dataclasses.replace(given, keys=keys, folder=str(machines.runs.parent / "here"), trunk=trunk.folder)
    run_trial(here, lambda event: None)

    one, other = (ready(machines.host(f"worker-{i}")) for i in range(2))
    first = in_runs(machines, dataclasses.replace(given, keys=keys), "first", trunk=trunk.folder)
    steps: list[int] = []

    def heard(message: Message) -> None:
        if message["type"] == "event" and message["event"]["event"] == "step":
            steps.append(message["event"]["step"])

    assert machines.run(one, first, heard)["type"] == "result"
    assert numbers(first) == numbers(here)
    assert min(steps) > 6, "the trunk was not trained again"
    assert not (machines.there / "trials/first").exists(), "what came home is there no more"
    data = machines.there / "data"
    assert {p.name for p in data.glob("[!.]*")} - {"evals"} == {p.name for p in data.glob("given-*")}
    fetched = dict(machines.shelf.got)
    second = in_runs(machines, first, "second", trunk=trunk.folder)
    assert machines.run(other, second, track="offline")["type"] == "result"
    assert numbers(second) == numbers(here)
    again = {name: count for name, count in machines.shelf.got.items() if count > fetched.get(name, 0)}
    assert sum(len(machines.shelf.pieces[name]) for name in again) < 500_000, "text and trunk are there already"

    (run,) = (machines.runs / "wandb").glob("offline-run-*/run-*.wandb")
    assert run.stat().st_size > 10_000 and not list(machines.there.glob("wandb/*run-*"))

    monkeypatch.setattr("ablations.launch.away.time.sleep", lambda seconds: None)
    assert not one.leave(), "the other one still uses it"
    assert other.leave() and not machines.there.exists()


@pytest.mark.usefixtures("served")
def test_one_that_died_comes_home_with_its_checkpoint_and_goes_on_elsewhere(machines, job, monkeypatch):
    here = dataclasses.replace(job(), folder=str(machines.runs.parent / "here"))
    run_trial(here, lambda event: None)
    host = ready(machines.host("worker-0"))
    trial = in_runs(machines, job(), "killed")

    def kill(message: Message) -> None:
        if message["type"] == "event" and message["event"].get("step", 0) >= 7:
            os.kill(host._worker.process.pid, signal.SIGKILL)

    assert machines.run(host, trial, kill, track="offline")["type"] == "died"
    assert (Path(trial.folder) / RESUME).is_file() and not (Path(trial.folder) / RECORD).exists()
    monkeypatch.setattr(tempfile, "tempdir", str(machines.runs.parent / "tmp/other"))
    (machines.runs.parent / "tmp/other").mkdir()
    steps: list[int] = []
    message = machines.run(
        ready(machines.host("worker-1")),
        trial,
        lambda said: steps.append(said.get("event", {}).get("step", 99)),
        track="offline",
    )
    assert message["type"] == "result" and min(steps) > 3
    (run,) = (machines.runs / "wandb").glob("offline-run-*")
    assert (run / WHOLE).is_file(), "one, which is whole, as where the folder is seen"
    assert numbers(trial) == numbers(here)
    assert sorted(p.name for p in Path(trial.folder).iterdir()) == sorted(p.name for p in Path(here.folder).iterdir())


def no_space(path: Path, to: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(to))


@pytest.mark.usefixtures("served")
def test_what_could_not_be_taken_home_is_there_the_next_time(machines, job, monkeypatch):
    host, trial = ready(machines.host("worker-0")), in_runs(machines, job(), "kept")
    with monkeypatch.context() as full, pytest.raises(OSError, match="No space"):
        full.setattr("ablations.sweep.freight.move", no_space)
        machines.run(host, trial)
    assert not (Path(trial.folder) / RECORD).exists() and not unfinished_in(machines.runs)
    host.stop()
    remove(machines.there / "jobs")  # the lock, which ends with its process
    steps: list[Message] = []
    again = ready(machines.host("worker-1"))
    assert machines.run(again, trial, lambda said: steps.append(said))["type"] == "result"
    assert read_record(Path(trial.folder) / RECORD).status == "complete"
    assert not any(said["type"] == "event" for said in steps), "it is not trained again"
    assert not (machines.there / "trials/kept").exists()


def test_the_folder_is_its_users_alone(machines, monkeypatch):
    machines.host("worker-0")
    assert machines.there.parent.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(PermissionError, match="is not this user's"):
        own_folder(str(machines.runs))


def test_what_has_changed_is_sent_anew(machines):
    """A text that was edited has the name that it had on a machine that has not got the corpus."""
    host = machines.host("worker-0")
    place, here = machines.there / "data/given-x", machines.runs / "texts"
    here.mkdir()
    for text in ("old", "new", "new"):
        (here / "train.txt").write_text(text)
        os.utime(here / "train.txt", ns=(0, len(text) + (text == "new")))
        host._unload(Shipment({"data/given-x": machines.sender._given("data/given-x", here)}, [], ()), machines.there)
        assert (place / "train.txt").read_text() == text
    assert len(machines.shelf.pieces) == 2 and set(machines.shelf.got.values()) == {1}


def sent(machines: Machines, trial: TrialJob) -> tuple[Any, Shipment]:
    labels = Labels("toy", "smoke", "bias", 1, "confirm")
    asked = request_job(trial.id, "trial", TrialRequest(trial, labels, TrackConfig("disabled")))
    return machines.sender.send(asked, str(machines.there))


def begun(trial: TrialJob) -> dict[str, bytes]:
    """A trial that was interrupted."""
    for name in (RESUME, "steps.jsonl"):
        (Path(trial.folder) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(trial.folder) / name).write_bytes(os.urandom(50_000))
    return files_in(Path(trial.folder))


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("way", ["full disk", "killed"])
def test_what_was_sent_in_part_does_not_come_home(way, machines, job, monkeypatch):
    monkeypatch.setattr(parcels, "PIECE", 10_000)
    trial, host = in_runs(machines, job(), "sent"), machines.host("worker-0")
    before, get, count = begun(trial), machines.shelf.get, itertools.count()

    def fails(name: int) -> bytes:
        if next(count) == len(machines.shelf.pieces) - 3:
            if way == "full disk":
                raise OSError(errno.ENOSPC, "No space left on device")
            host._worker.process.kill()
            said.extend(ended(host))
        return get(name)

    monkeypatch.setattr(machines.shelf, "get", fails)
    said: list[Message] = []
    host.take(*sent(machines, trial))
    (last,) = said or ended(host)
    assert last["type"] == ("error" if way == "full disk" else "died") and "home" not in last
    assert (last.get("full") == "") == (way == "full disk")
    there = files_in(machines.there / "trials/sent")
    assert there == ({} if way == "full disk" else before), "whole or absent"
    assert not unfinished_in(machines.there)


def ended(host: AwayHost) -> list[Message]:
    while True:
        if found := [message for message in host.messages() if message["type"] in ("error", "died")]:
            return found


def test_a_trial_that_two_commands_send_is_done_by_one_after_the_other(machines, job):
    """They share the folder there, and one would write over what the other is at."""
    trial = in_runs(machines, job(), "both")
    before = begun(trial)
    one, other = (machines.host(f"worker-{i}") for i in range(2))
    one.take(*sent(machines, trial))
    log = machines.there / "trials/both/steps.jsonl"
    log.write_bytes(b"its own")
    second = threading.Thread(target=other.take, args=sent(machines, trial))
    second.start()
    while not any(m.get("event", {}).get("event") == "waiting" for m in other.messages()):
        pass
    assert log.read_bytes() == b"its own"
    one._worker.process.kill()
    assert ended(one)[0]["home"]
    second.join()
    assert files_in(log.parent) == before


def test_what_w_and_b_fell_back_to_is_known_on_all_machines(machines, job):
    trial, there = in_runs(machines, job(), "tracked"), own_folder(str(machines.runs)) / "wandb" / FALLBACK
    asked = request_job(
        trial.id, "trial", TrialRequest(trial, Labels("toy", "smoke", "bias", 1, "confirm"), TrackConfig("offline"))
    )
    host = machines.host("worker-0")
    host.take(*sent(machines, trial))
    fall_back(there.parent, "online", "no network")
    host._worker.process.kill()
    machines.sender.take_home(asked, ended(host)[0]["home"], False)
    assert "no network" in str(fallen_back(machines.runs)) and not there.exists()
    machines.host("worker-1").take(*sent(machines, trial))
    assert there.is_file()


def test_an_error_comes_with_its_log(machines, tmp_path, monkeypatch):
    """Whose name it says is the scheduler's."""
    environment = {"PYTHONPATH": str(Path(__file__).parent)}
    order = Order(str(machines.runs / "logs"), environment, "pool_kinds", runs=str(machines.runs), mark="not-there")
    machines.hosts.append(host := AwayHost(order, "worker-0", machines.shelf))
    for first in (True, False):
        said = list(host.until_done(Job("a", "fail", {"calls": str(tmp_path / "calls")}))) if first else None
        if said is None:
            host.take(Job("b", "fail", {"calls": str(tmp_path / "calls")}))
            said = host.messages()
        assert said[-1]["error"] == f"ValueError: two lines (log: {machines.runs / 'logs/worker-0.log'})"
        assert said[-1]["log"].count("Traceback") == 1 and said[-1]["log"].startswith("--- a" if first else "--- b")


def test_a_machine_that_sees_the_folder_is_sent_nothing(tmp_path):
    (tmp_path / "mark").touch()
    order = Order(str(tmp_path / "logs"), {}, "pool_kinds", runs=str(tmp_path), mark="mark")
    host = AwayHost(order, "worker-0", Shelf())
    assert host.messages()[0]["runs"] == str(tmp_path)
    host.stop()


@pytest.fixture(params=["filtered", "checked"])
def any_python(request, monkeypatch):
    """Python before 3.11.4 has no filters."""
    if request.param == "checked":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    elif not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python has no filters")


def test_pieces_are_small_and_make_the_same_files(tmp_path, monkeypatch, any_python):
    monkeypatch.setattr(parcels, "PIECE", 1000)
    (tmp_path / "from/a/b").mkdir(parents=True)
    content = os.urandom(12_345)
    (tmp_path / "from/a/b/file").write_bytes(content)
    for name in (".owner", ".x.part", "other"):
        (tmp_path / "from/a" / name).touch()
    (tmp_path / "from/a/log").symlink_to("/var/log")
    (tmp_path / "from/a/near").symlink_to("b/file")
    (tmp_path / "to").mkdir()
    pieces: list[bytes] = []
    assert pack(tmp_path / "from", ["a", "not there"], pieces.append) and not pack(tmp_path, ["none"], pieces.append)
    assert {len(piece) for piece in pieces[:-1]} == {1000}
    unpack(pieces, tmp_path / "to")
    names = {str(path.relative_to(tmp_path / "to")) for path in tmp_path.glob("to/**/*")}
    assert names == {"a", "a/b", "a/b/file", "a/near", "a/other"}
    assert (tmp_path / "to/a/b/file").read_bytes() == content


def test_what_others_remove_or_have_half_written_is_not_packed(tmp_path, monkeypatch):
    monkeypatch.setattr(parcels, "PIECE", 1000)
    (tmp_path / "a/.checkpoint.x.part").mkdir(parents=True)
    for name in ("first", "second", ".checkpoint.x.part/weights"):
        (tmp_path / "a" / name).write_bytes(os.urandom(3 << 20))
    pieces: list[bytes] = []

    def put(piece: bytes) -> None:
        pieces.append(piece)
        (tmp_path / "a/second").unlink(missing_ok=True)

    pack(tmp_path, ["a"], put)
    (tmp_path / "to").mkdir()
    unpack(pieces, tmp_path / "to")
    assert files_in(tmp_path / "to").keys() == {"a/first"}


@pytest.mark.parametrize(
    ("name", "kind", "to"),
    [
        ("../out", None, ""),
        ("link/out", tarfile.SYMTYPE, ".."),
        ("link/out", tarfile.SYMTYPE, "{}"),
        ("a", tarfile.LNKTYPE, "../secret"),
        ("a", tarfile.FIFOTYPE, ""),
    ],
)
def test_nothing_is_written_outside_of_the_folder(name, kind, to, tmp_path, any_python):
    (tmp_path / "to").mkdir()
    (tmp_path / "secret").touch()
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        if kind is not None:
            first = tarfile.TarInfo("link")
            first.type, first.linkname = kind, to.format(tmp_path)
            tar.addfile(first)
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(tarfile.TarError):
        unpack([content.getvalue()], tmp_path / "to")
    assert not (tmp_path / "out").exists()
