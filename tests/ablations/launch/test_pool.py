"""The pool with real processes: what they return, how they die, and that none is left behind."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.home import ROOT
from ablations.launch.environment import thread_environment
from ablations.launch.lock import single_owner
from ablations.launch.pool import Job, Pool
from models.base.locks import Held, Owner
from models.base.typed import ConfigError

HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(ROOT), str(HERE)])


class Events(list[tuple[str, dict[str, Any]]]):
    def __call__(self, key: str, event: dict[str, Any]) -> None:
        self.append((key, event))

    def names(self, key: str) -> list[str]:
        return [event["event"] for k, event in self if k == key]


def pool(tmp_path: Path, workers: int = 1, **options: Any) -> Pool:
    environment = {"PYTHONPATH": str(HERE), **options.pop("environment", {})}
    return Pool(workers, tmp_path / "logs", environment, **{"kinds_module": "pool_kinds", **options})


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.01)
    return met


def is_free(lock: Path) -> bool:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_results_come_back_by_key_from_processes_that_stay(tmp_path):
    events = Events()
    with pool(tmp_path, environment=thread_environment(3)) as workers:
        first = workers.run([Job(f"j{i}", "echo", {"value": i}) for i in range(5)], events)
        second = workers.run([Job("again", "echo", {"value": None})], events)
    assert [(key, o.result["value"], o.error) for key, o in first.items()] == [(f"j{i}", i, None) for i in range(5)]
    assert len({o.result["pid"] for o in [*first.values(), *second.values()]}) == 1
    assert first["j0"].result["threads"] == "3"
    assert events.names("j3") == ["started", "step", "done"]
    assert events[2][1]["error"] is None and events[2][1]["seconds"] >= 0


def test_it_tells_how_many_workers_are_ready(tmp_path):
    heard = list[tuple[int, int]]()
    with pool(tmp_path, workers=2, on_workers=lambda *ready: heard.append(ready)) as workers:
        assert heard == [(0, 2)]
        workers.run([Job("nap", "nap", {"seconds": 0.0})], Events(), limit=1)
    assert heard == [(0, 2), (1, 2), (2, 2)]


def test_a_worker_that_stops_without_ending_was_not_killed_by_others(tmp_path):
    with pool(tmp_path, retries=0) as workers:
        outcome = workers.run([Job("hangs", "closes_its_pipe", {})], Events())["hangs"]
    assert "stopped without ending, and was ended" in outcome.error


def test_prints_do_not_reach_the_protocol(tmp_path):
    events = Events()
    with pool(tmp_path) as workers:
        outcome = workers.run([Job("chatter", "chatter", {})], events)["chatter"]
    assert outcome.result == {"stdin": ""}
    assert events.names("chatter") == ["started"] + ["step"] * 20 + ["done"]
    log = (tmp_path / "logs/worker-0.log").read_text()
    assert log.count("from C") == log.count("warning") == log.count('{"type"') == 20


def test_megabytes_pass_both_ways_at_once(tmp_path):
    size = 4_000_000
    jobs = [Job(f"l{i}", "large", {"text": "x" * size, "answer": size}) for i in range(4)]
    with pool(tmp_path, workers=2) as workers:
        outcomes = workers.run(jobs, Events())
    assert all(o.result == {"length": size, "text": "y" * size} for o in outcomes.values())


def test_an_exception_ends_its_job_once_and_the_log_has_the_traceback(tmp_path):
    calls, events = tmp_path / "calls", Events()
    jobs = [
        Job("bad", "fail", {"calls": str(calls)}),
        Job("odd", "unserialisable", {}),
        Job("unknown", "os.system", {}),
        Job("good", "echo", {"value": 1}),
    ]
    with pool(tmp_path, retries=3) as workers:
        outcomes = workers.run(jobs, events)
    log = tmp_path / "logs/worker-0.log"
    assert outcomes["bad"].error == f"ValueError: two lines (log: {log})" and outcomes["bad"].result is None
    assert outcomes["odd"].error.startswith("TypeError: Object of type object is not JSON serializable")
    assert "no kind of job 'os.system'" in outcomes["unknown"].error
    assert outcomes["good"].result["value"] == 1
    assert calls.read_text() == "x" and events.names("bad") == ["started", "done"]
    assert "Traceback" in log.read_text() and "--- bad" in log.read_text()


def test_a_worker_leaves_interrupts_to_the_scheduler(tmp_path):
    with pool(tmp_path) as workers:
        assert workers.run([Job("a", "interrupt", {})], Events())["a"].result == {}


def test_a_killed_worker_is_replaced_and_its_job_tried_again(tmp_path):
    events = Events()
    jobs = [Job("victim", "die", {"calls": str(tmp_path / "calls"), "times": 1}), Job("next", "echo", {"value": 2})]
    with pool(tmp_path) as workers:
        outcomes = workers.run(jobs, events)
    assert outcomes["victim"].result == {"calls": 2} and outcomes["next"].result["value"] == 2
    assert events.names("victim") == ["started", "retry", "started", "done"]
    assert "SIGKILL" in events[1][1]["reason"]


def test_a_worker_whose_other_process_is_killed_is_as_one_that_is(tmp_path):
    events = Events()
    with pool(tmp_path) as workers:
        outcomes = workers.run([Job("victim", "lose", {"calls": str(tmp_path / "calls")})], events)
    assert outcomes["victim"].result == {"calls": 2}
    assert events.names("victim") == ["started", "retry", "started", "done"] and "SIGKILL" in events[1][1]["reason"]
    assert "rank 1 was ended" in (tmp_path / "logs/worker-0.log").read_text()


@pytest.mark.parametrize(("number", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_job_that_always_kills_its_worker_ends_with_the_signal(tmp_path, number, name):
    arguments = {"calls": str(tmp_path / "calls"), "times": 9, "signal": number}
    with pool(tmp_path, retries=0) as workers:
        outcomes = workers.run([Job("victim", "die", arguments), Job("next", "echo", {"value": 2})], Events())
    assert outcomes["next"].result["value"] == 2
    assert name in outcomes["victim"].error and "worker-0.log" in outcomes["victim"].error
    assert (tmp_path / "calls").read_text() == "x"


def test_a_worker_without_memory_ends_that_job_alone(tmp_path):
    jobs = [Job(name, "hungry", {"bytes": size}) for name, size in (("large", 1 << 40), ("small", 8))]
    with pool(tmp_path) as workers:
        outcomes = workers.run(jobs, Events())
    assert outcomes["large"].error.startswith("MemoryError: (log: ") and outcomes["small"].result == {"length": 8}


def test_a_worker_killed_between_runs_costs_no_attempt(tmp_path):
    with pool(tmp_path, retries=0) as workers:
        pid = workers.run([Job("a", "echo", {"value": 1})], Events())["a"].result["pid"]
        os.kill(pid, signal.SIGKILL)
        workers._workers[0].process.wait()
        outcome = workers.run([Job("b", "echo", {"value": 2})], Events())["b"]
    assert outcome.error is None and outcome.result["pid"] != pid


def test_workers_that_cannot_import_end_every_job(tmp_path):
    with pool(tmp_path, kinds_module="pool_kindz", workers=2) as workers:
        outcomes = workers.run([Job("a", "echo", {}), Job("b", "echo", {})], Events())
    assert all(
        "no worker could start: ModuleNotFoundError: No module named 'pool_kindz'" in o.error for o in outcomes.values()
    )


@pytest.mark.parametrize(("limit", "at_once"), [(None, 2), (1, 1)])
def test_the_limit_holds(tmp_path, limit, at_once):
    with pool(tmp_path, workers=2) as workers:
        workers.run([Job("warm", "echo", {"value": 0})], Events(), limit=1)  # returns once both have imported
        jobs = [Job(f"n{i}", "nap", {"seconds": 0.1}) for i in range(4)]
        naps = [o.result for o in workers.run(jobs, Events(), limit=limit).values()]
    overlaps = max(sum(a["start"] <= b["start"] < a["end"] for a in naps) for b in naps)
    assert overlaps == at_once and len({n["pid"] for n in naps}) == at_once


def test_a_limited_run_waits_until_all_have_imported(tmp_path):
    marker = tmp_path / "marker"
    seen: list[str] = []
    with pool(tmp_path, workers=2, environment={"SLOW_IMPORT": str(marker)}) as workers:
        workers.run([Job("a", "echo", {"value": 0})], lambda key, event: seen.append(marker.read_text()), limit=1)
    assert seen[0] == "imported"


def test_a_worker_that_reads_nothing_holds_up_no_other(tmp_path):
    """Its job is larger than a pipe holds."""
    order: list[str] = []
    with pool(tmp_path, workers=2) as workers:
        naps = workers.run([Job(f"n{i}", "nap", {"seconds": 0.1}) for i in range(2)], Events())
        pids = [o.result["pid"] for o in naps.values()]
        os.kill(pids[0], signal.SIGSTOP)
        wake = threading.Timer(1.5, lambda: order.append("awake") or os.kill(pids[0], signal.SIGCONT))
        wake.start()

        def on_event(key: str, event: dict[str, Any]) -> None:
            if event["event"] == "done":
                order.append(key)
                if len(order) == 4:
                    wake.cancel()
                    os.kill(pids[0], signal.SIGCONT)

        large = {"text": "x" * 1_000_000, "answer": 1}
        workers.run([Job(f"l{i}", "large", large) for i in range(5)], on_event)
    assert len(order) == 5 and "awake" not in order


def test_an_exception_in_the_scheduler_stops_the_workers(tmp_path):
    lock = tmp_path / "lock"

    def interrupt(key: str, event: dict[str, Any]) -> None:
        if event["event"] == "locked":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pool(tmp_path) as workers:
        try:
            workers.run([Job("busy", "busy", {"lock": str(lock)})], interrupt)
        finally:
            assert is_free(lock)
    with pytest.raises(RuntimeError, match="closed"):
        workers.run([], Events())


SCHEDULER = """
import sys
from pathlib import Path
from ablations.launch.pool import Job, Pool
folder = Path(sys.argv[1])
with Pool(2, folder / "logs", kinds_module="pool_kinds") as pool:
    print("up", flush=True)
    on_event = lambda key, event: event["event"] == "locked" and print("locked", flush=True)
    pool.run([Job(f"busy{i}", "busy", {"lock": str(folder / f"lock{i}")}) for i in range(2)], on_event)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_a_killed_scheduler(tmp_path, number):
    """SIGINT goes to the whole process group, as a terminal's Ctrl-C does; the others to the scheduler alone."""
    scheduler = subprocess.Popen(
        [sys.executable, "-c", SCHEDULER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert [scheduler.stdout.readline() for _ in range(3)] == ["up\n", "locked\n", "locked\n"]
        locks = [tmp_path / "lock0", tmp_path / "lock1"]
        assert not any(map(is_free, locks))
        begin = time.monotonic()
        (os.killpg if number == signal.SIGINT else os.kill)(scheduler.pid, number)
        _, errors = scheduler.communicate(timeout=5)
    finally:
        scheduler.kill()  # its workers, who never rest, end with it
    assert wait_until(lambda: all(map(is_free, locks)), 2.0)
    assert time.monotonic() - begin < 2.0
    assert scheduler.returncode == -number
    assert errors.strip().endswith("KeyboardInterrupt") == (number == signal.SIGINT)
    logs = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert "Traceback" not in logs


def test_a_directory_has_one_owner(tmp_path):
    code = f"""
from pathlib import Path
from ablations.launch.lock import single_owner
with single_owner(Path({str(tmp_path / "runs")!r})):
    print("mine", flush=True)
    input()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": PATHS},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(ConfigError, match=f"process {other.pid} is already") as caught, single_owner(tmp_path / "runs"):
        pass
    assert "\n" not in str(caught.value)
    other.kill()
    other.communicate()
    (tmp_path / "runs/.owner").write_text("9" * 20 + "\n")
    for _ in range(2):  # the file that the dead process left means nothing, and neither does our own
        with single_owner(tmp_path / "runs"):
            assert (tmp_path / "runs/.owner").read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_an_owner_on_another_machine_is_named_with_what_can_be_done(tmp_path, monkeypatch):
    def held(*_):
        raise Held(Owner("node7", 4711))

    monkeypatch.setattr("ablations.launch.lock.hold", held)
    with pytest.raises(ConfigError) as caught, single_owner(tmp_path):
        pass
    lock = tmp_path / ".owner"
    assert str(caught.value) == (
        f"{tmp_path}: process 4711 on node7 is already at work here; wait for it, stop it there (kill 4711), or choose "
        f"another folder (it renews {lock}: should it be gone, wait 30 s, or remove that file)"
    )


def test_a_directory_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), single_owner(tmp_path / "file" / "runs"):
        pass


def test_two_jobs_with_one_key_are_refused(tmp_path):
    with pool(tmp_path) as workers, pytest.raises(ValueError, match="share a key"):
        workers.run([Job("a", "echo", {}), Job("a", "echo", {})], Events())
