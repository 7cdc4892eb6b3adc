"""A worker on a node: what it says to whoever asks from elsewhere, and that it is greeted before it gets a job."""

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ablations.launch.host import Host, Order
from ablations.launch.job import Job

HERE = Path(__file__).parent
ECHO = Job("hello", "echo", {"value": 0})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Any]:
    started: list[Host] = []

    def start(greeting: Job | None = None, kinds_module: str = "pool_kinds") -> Host:
        started.append(Host(Order(str(tmp_path), {"PYTHONPATH": str(HERE)}, kinds_module, greeting), "worker-7"))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def said(host: Host, job: Job) -> list[dict[str, Any]]:
    return list(host.until_done(job))


def test_it_says_where_it_is_and_what_its_worker_says(host):
    here, ready, event, result = said(host(), Job("a", "echo", {"value": 3}))
    assert (here, ready) == ({"type": "here", "node": platform.node(), "runs": ""}, {"type": "ready"})
    assert (event["event"]["event"], result["type"], result["result"]["value"]) == ("step", "result", 3)


def test_a_greeting_is_between_it_and_its_worker(host, tmp_path):
    messages = said(host(ECHO), Job("a", "echo", {"value": 3}))
    assert [m["type"] for m in messages] == ["here", "ready", "event", "result"]
    assert (tmp_path / "worker-7.log").read_text() == "--- hello\n--- a\n"


def test_a_worker_that_fails_its_greeting_gets_no_job(host, tmp_path):
    *_, last = said(host(Job("hello", "fail", {"calls": str(tmp_path / "calls")})), Job("a", "echo", {"value": 3}))
    assert last == {"type": "broken", "error": f"ValueError: two lines (log: {tmp_path / 'worker-7.log'})"}
    assert "--- a" not in (tmp_path / "worker-7.log").read_text()


def test_one_that_cannot_import_and_one_that_dies(host, tmp_path):
    *_, broken = said(host(kinds_module="pool_kindz"), Job("a", "echo", {}))
    assert broken["type"] == "broken" and "No module named 'pool_kindz' (log: " in broken["error"]
    *_, died = said(host(), Job("a", "die", {"calls": str(tmp_path / "calls"), "times": 1}))
    assert died["type"] == "died" and "SIGKILL" in died["reason"] and "worker-7.log" in died["reason"]


def test_megabytes_pass_both_ways(host):
    *_, result = said(host(), Job("a", "large", {"text": "x" * 3_000_000, "answer": 3_000_000}))
    assert result["result"] == {"length": 3_000_000, "text": "y" * 3_000_000}
