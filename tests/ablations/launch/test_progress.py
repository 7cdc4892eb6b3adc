"""The display: estimates with a clock of our own, plain lines, and the live table in a pseudo terminal."""

import io
import os
import pty
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from ablations.launch.phase import Phase, duration, short
from ablations.launch.progress import Progress

JOBS = {"0123456789abcdef": ("bias", 1000), "fedcba9876543210": ("aux_loss_with_a_very_long_name", 1001)}
FIRST, SECOND = JOBS
LAST = "<end of the screen>"
STEP = {"event": "step", "step": 30, "steps": 120, "loss": 3.25, "max_vio": 0.5, "tokens_per_second": 15212.3}
STARTED, DONE = {"event": "started"}, {"event": "done", "seconds": 1.0, "error": None}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def phase(jobs: int, seconds: dict[str, float] | float | None, workers: int | None = None) -> tuple[Phase, Clock]:
    clock = Clock()
    return Phase("confirm", {f"t{i}": ("bias", i) for i in range(jobs)}, seconds, workers, clock), clock


def test_time_left_before_anything_ran_deals_out_the_expected_seconds():
    assert phase(5, 10.0, workers=2)[0].time_left() == 30  # the third round has one job, and takes as long
    assert phase(2, {"t0": 10.0, "t1": 4.0}, workers=2)[0].time_left() == 10
    assert phase(2, {"t0": 10.0})[0].time_left() == 20  # one worker until two are seen; an unnamed job is typical
    assert phase(3, None)[0].time_left() is None


def test_time_left_follows_the_median_of_what_was_measured():
    p, clock = phase(5, {f"t{i}": 20.0 if i == 4 else 10.0 for i in range(5)})
    for i, seconds in enumerate([20, 30, 90]):  # twice, three and nine times the expectation
        p.event(f"t{i}", STARTED)
        clock.now += seconds
        p.event(f"t{i}", DONE)
    assert p.time_left() == pytest.approx(3 * 10 + 3 * 20)


def test_a_failed_job_says_nothing_about_the_others():
    p, clock = phase(2, 10.0)
    p.event("t0", STARTED)
    clock.now += 0.1
    p.event("t0", {**DONE, "error": "ValueError: boom"})
    assert p.time_left() == 10 and p.ended == 1
    assert p.summary() == "confirm: stopped after 1 of 2 in 0.1 s, 1 failed"


def test_a_running_job_leans_on_its_own_progress_as_it_advances():
    p, clock = phase(1, 10.0)
    p.event("t0", STARTED)
    clock.now += 10
    assert p.time_left() == 0  # as expected so far, and never negative
    clock.now += 1
    assert p.time_left() == 0
    clock.now += 2
    assert p.time_left() is None  # nobody knows, and 0 s would be said for as long as it takes
    clock.now -= 3
    p.event("t0", {**STEP, "step": 60})
    assert p.time_left() == pytest.approx(7.5)  # half took 10 s: pace 1.5 against 1, and half of 15 s against 20 s
    clock.now += 4
    assert p.time_left() == pytest.approx(3.5)
    p.event("t0", {**STEP, "step": 114})
    assert p.time_left() == pytest.approx(14 / 0.95 - 14, abs=0.2)
    p.event("t0", {"event": "retry", "reason": "killed"})
    assert p.time_left() == 10  # it starts anew


def test_steps_that_were_done_before_are_not_the_jobs_own():
    """Of a branch, or of a trial that is resumed: 90 of 120 say nothing about how fast it is."""
    p, clock = phase(1, 40.0)
    p.event("t0", STARTED)
    clock.now += 10
    p.event("t0", {**STEP, "step": 105, "begun": 90})
    assert p.trials["t0"].fraction == 105 / 120 and p.trials["t0"].pace == 0.5
    assert p.time_left() == pytest.approx(15.0)  # a job of 40 s that is half done after 10: halfway between both
    p.event("t0", {**STEP, "step": 90, "begun": 90})
    assert p.time_left() == 30.0


def test_what_follows_the_last_step_is_counted():
    p, clock = phase(2, None)
    p.event("t0", STARTED)
    clock.now += 10
    p.event("t0", {**STEP, "step": 120})
    clock.now += 5  # scoring
    p.event("t0", DONE)
    p.event("t1", STARTED)
    clock.now += 10
    p.event("t1", {**STEP, "step": 120})
    assert p.time_left() == pytest.approx(5)


def test_names_and_durations():
    assert short("guards:bias") == "guards" and short(FIRST) == "01234567"
    assert [duration(s) for s in (0, 0.31, 42.4, 60, 249, 3569.0, 3600, 7500)] == [
        "0 s", "0.3 s", "42 s", "1 min", "4 min 10 s", "59 min 30 s", "1 h 00 min", "2 h 05 min",
    ]  # fmt: skip


def run_two(progress: Progress, meanwhile: Callable[[], None] = lambda: None, error: str | None = None) -> None:
    progress.phase("confirm", JOBS, 30.0)
    progress.event(FIRST, STARTED)
    progress.event(FIRST, {"event": "checkpoint"})  # none of the display's business
    progress.event("of another phase", STARTED)
    progress.event(FIRST, STEP)
    meanwhile()
    progress.event(FIRST, DONE)
    progress.event(SECOND, STARTED)
    progress.event(SECOND, {"event": "retry", "reason": "the worker died of SIGKILL"})
    progress.event(SECOND, STARTED)
    progress.event(SECOND, {**DONE, "error": error})
    progress.note("W&B is [offline]")


def test_plain_lines_stand_by_themselves():
    stream = io.StringIO()
    with Progress("auto", "moe_balance", stream) as progress:
        run_two(progress, error="ValueError: boom (log: worker-0.log)")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "moe_balance confirm: 2 to run, about 1 min"
    assert lines[1] == "start  01234567  bias  seed 1000  0/2 done  left 1 min"
    numbers = "step 30/120  loss 3.250  MaxVio 0.500  tokens/s 15,212"
    done = rf"done   01234567  bias  seed 1000  {numbers}  1/2 done  left .*  took"
    assert re.match(done, lines[2])
    assert lines[4].startswith("retry  fedcba98") and lines[4].endswith("SIGKILL")
    assert lines[6].startswith("FAILED fedcba98  aux_loss_with_a_very_long_name  seed 1001  2/2 done")
    assert lines[6].endswith("ValueError: boom (log: worker-0.log)")
    assert lines[7] == "W&B is [offline]"
    assert re.fullmatch(r"moe_balance confirm: 2 in .* s, 1 failed", lines[8]) and len(lines) == 9


def test_heartbeats_are_few_and_take_turns():
    stream, begin = io.StringIO(), time.monotonic()
    with Progress("plain", "moe_balance", stream, heartbeat=0.1) as progress:
        progress.phase("confirm", JOBS, 30.0)
        for key in JOBS:
            progress.event(key, STARTED)
        for _ in range(45):
            for key in JOBS:
                progress.event(key, STEP)
            time.sleep(0.01)
    beats = [line for line in stream.getvalue().splitlines() if line.startswith("step ")]
    assert 2 <= len(beats) <= (time.monotonic() - begin) / 0.1
    assert beats[0].split()[1:3] == ["01234567", "bias"] and beats[1].split()[1] == "fedcba98"
    assert "step 30/120  loss 3.250  MaxVio 0.500  tokens/s 15,212  0/2 done  left" in beats[0]
    count = threading.active_count()
    time.sleep(0.15)
    assert threading.active_count() == count and len(stream.getvalue().splitlines()) == 4 + len(beats)


def test_while_workers_start_something_moves():
    """Before the first phase too; and not after they have started."""
    stream = io.StringIO()
    with Progress("plain", "moe_balance", stream, heartbeat=0.1) as progress:
        progress.workers(0, 2)
        assert stream.getvalue() == "wait   workers start (imports): 0 of 2 ready, 0 s\n"
        time.sleep(0.35)
        assert stream.getvalue().count("0 of 2 ready") >= 3
        progress.phase("guards", JOBS, None)
        progress.workers(1, 2)
        time.sleep(0.25)
        assert stream.getvalue().count("1 of 2 ready") >= 2
        progress.workers(2, 2)
        time.sleep(0.15)
        lines = stream.getvalue().count("\n")
        time.sleep(0.3)
        assert stream.getvalue().count("\n") == lines


def test_a_job_says_what_it_is_at():
    stream = io.StringIO()
    with Progress("plain", "moe_balance", stream, heartbeat=0.1) as progress:
        progress.phase("speed", {"speed": ("all arms", 0)})
        progress.event("speed", STARTED)
        progress.event("speed", {"event": "step", "step": 3, "steps": 20, "what": "memory of mla"})
        time.sleep(0.25)
        progress.event("speed", DONE)
    lines = stream.getvalue().splitlines()
    assert "left" not in lines[2], "what comes next may take any time"
    assert "step   speed     all arms: memory of mla  seed 0  step 3/20  0/1 done" in lines[2]
    assert re.match(r"done   speed     all arms  seed 0  1/1 done", lines[-2])


def test_a_note_of_a_job_is_shown_once():
    stream = io.StringIO()
    with Progress("plain", "moe_balance", stream) as progress:
        progress.phase("confirm", JOBS, None)
        for key in (*JOBS, "of another phase"):
            progress.event(key, {"event": "note", "text": "W&B did not work"})
    assert stream.getvalue().count("W&B did not work") == 1


def test_none_is_silent():
    stream = io.StringIO()
    with Progress("none", "moe_balance", stream) as progress:
        run_two(progress)
    assert stream.getvalue() == ""


class Screen:
    """What has been written to a pseudo terminal."""

    def __init__(self) -> None:
        self.written = b""

    @property
    def text(self) -> str:
        return self.written.decode(errors="ignore")

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 60
        while text not in self.text and time.monotonic() < end:
            time.sleep(0.01)


@contextmanager
def terminal() -> Iterator[tuple[io.TextIOWrapper, Screen]]:
    """A stream that is a terminal, and its screen, complete once the block is left."""
    master, slave = pty.openpty()
    screen = Screen()

    def read() -> None:
        try:
            while chunk := os.read(master, 65536):
                screen.written += chunk
        except OSError:  # Linux's way of saying that the other end is closed
            pass

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield stream, screen
        stream.write(LAST)  # closing may drop what the kernel has not handed over yet
        stream.flush()
        screen.wait_for(LAST)
    reader.join()
    screen.written = screen.written.removesuffix(LAST.encode())
    os.close(master)


@pytest.mark.parametrize("columns", [140, 80, 46, 20])
@pytest.mark.parametrize("no_color", [False, True])
def test_the_live_table_fits_the_terminal(monkeypatch, columns, no_color):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1") if no_color else monkeypatch.delenv("NO_COLOR", raising=False)
    with terminal() as (stream, screen), Progress("auto", "moe_balance", stream) as progress:
        run_two(progress, meanwhile=lambda: screen.wait_for("3.25"))
    text = screen.text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert ("\x1b[2m" in text or "\x1b[38" in text) or no_color
    assert not (no_color and re.search(r"\x1b\[(3|4|9)\d", text))
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line for line in re.split(r"[\r\n]+", visible) if "SIGKILL" not in line and "confirm: 2" not in line]
    assert max(map(len, lines)) <= columns
    frame = next(line for line in lines if "3.25" in line)
    assert "bias" in frame
    if columns >= 80:
        assert frame.split() == ["01234567", "bias", "1000", *re.findall("[━╸╺]+", frame), "30/120", "3.250", "0.500",
                                 "15,212"]  # fmt: skip
        assert any(re.match(r"moe_balance confirm  0/2 .* left [0-9.]+ s", line) for line in lines)
        last_frame = text[text.rindex("moe_balance confirm  ") : text.rindex("confirm: 2")]
        assert "\x1b[1A\x1b[2K" in last_frame  # the table is wiped at the end
    tail = visible.rstrip().splitlines()[-1]
    assert re.fullmatch(r"confirm: 2 in [\d.]+ s", tail.strip()) and "W&B is [offline]" in visible


def test_many_trials_do_not_overflow_a_low_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal() as (stream, screen), Progress("rich", "moe_balance", stream) as progress:
        progress.phase("confirm", {f"t{i}": ("bias", i) for i in range(30)}, 1.0)
        for i in range(30):
            progress.event(f"t{i}", STARTED)
        screen.wait_for("more running")
    assert "and 25 more running" in screen.text and "t4 " in screen.text and "t5 " not in screen.text
    assert "confirm: stopped after 0 of 30" in screen.text


def test_the_live_table_shows_workers_that_start_and_what_a_job_is_at(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm-256color")
    with terminal() as (stream, screen), Progress("rich", "moe_balance", stream) as progress:
        progress.workers(0, 2)
        progress.phase("speed", {"speed": ("all arms", 0)})
        screen.wait_for("workers start (imports): 0 of 2 ready")
        screen.wait_for("ready, 1 s")
        progress.workers(2, 2)
        progress.event("speed", STARTED)
        progress.event("speed", {"event": "step", "step": 3, "steps": 20, "what": "memory of mla"})
        screen.wait_for("memory of mla")
    assert "0 of 2 ready, 1 s" in screen.text and "all arms: memory of mla" in screen.text


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as (stream, screen), Progress("rich", "moe_balance", stream) as progress:
        run_two(progress)
    assert "\x1b" not in screen.text and "start  01234567  bias" in screen.text
