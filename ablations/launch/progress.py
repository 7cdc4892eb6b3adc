"""What a person sees while trials run: a live table on a terminal, calm lines anywhere else."""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TextIO

from ablations.launch.phase import Phase, TrialState, duration


class Progress:
    """Shows phases of jobs, as a context manager. Events may come from any thread.

    mode: `auto` takes `rich` on a terminal that can move its cursor and show UTF-8, else `plain`; `none` is silent.
    stream: standard output by default. heartbeat: seconds between two plain lines about running trials.
    """

    def __init__(
        self,
        mode: Literal["auto", "rich", "plain", "none"],
        title: str,
        stream: TextIO | None = None,
        heartbeat: float = 10.0,
    ) -> None:
        stream = stream or sys.stdout
        capable = os.environ.get("TERM") not in ("dumb", "unknown") and "utf" in (stream.encoding or "").lower()
        if mode == "auto":
            mode = "rich" if stream.isatty() else "plain"
        if mode == "rich" and not capable:
            mode = "plain"
        self._drawing: _Silent = {"rich": _Rich, "plain": _Plain, "none": _Silent}[mode](title, stream, heartbeat)
        self._phase: Phase | None = None
        self._noted = set[str]()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_phase()
        self._drawing.close()

    def phase(
        self,
        name: str,
        jobs: Mapping[str, tuple[str, int]],
        seconds: Mapping[str, float] | float | None = None,
        workers: int | None = None,
    ) -> None:
        """Begin a phase, ending the one before. jobs: key -> (arm, seed). seconds: what a job is expected to take.

        workers: how many run at once; by default as many as are seen to.
        """
        self._end_phase()
        self._phase = Phase(name, jobs, seconds, workers)
        self._drawing.begin(self._phase)

    def event(self, key: str, event: dict[str, Any]) -> None:
        """Take in `started`, `step`, `retry` or `done` of one job, and a `note` of any, which is shown once; other
        events are none of the display's business. A step may say `what` is being done."""
        if event["event"] == "note" and event["text"] not in self._noted:
            self._noted.add(event["text"])
            self.note(event["text"])
        if self._phase is None or key not in self._phase.trials:
            return
        with self._drawing.lock:
            self._phase.event(key, event)
        self._drawing.event(self._phase, self._phase.trials[key], event)

    def workers(self, ready: int, of: int) -> None:
        """How many workers have imported what they need. That takes seconds, on a busy machine a minute."""
        self._drawing.workers(ready, of)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._drawing.line(text)

    def _end_phase(self) -> None:
        if self._phase is not None:
            phase, self._phase = self._phase, None
            self._drawing.end(phase)


class _Silent:
    """The display that shows nothing, and the slots that the others fill."""

    def __init__(self, title: str, stream: TextIO, heartbeat: float) -> None:
        self.title, self.stream, self.heartbeat = title, stream, heartbeat
        self.phase: Phase | None = None
        self.lock = threading.Lock()
        self.starting: tuple[int, int, float] | None = None
        """Workers that are ready, of how many, and since when they are waited for; None where none is."""

    def workers(self, ready: int, of: int) -> None:
        since = self.starting[2] if self.starting is not None else time.monotonic()
        self.starting = (ready, of, since) if ready < of else None

    def waiting(self) -> str:
        """Which workers are waited for, and for how long."""
        starting = self.starting  # another thread sets it
        if starting is None:
            return ""
        ready, of, since = starting
        return f"workers start (imports): {ready} of {of} ready, {duration(time.monotonic() - since)}"

    def begin(self, phase: Phase) -> None: ...

    def event(self, phase: Phase, trial: TrialState, event: Mapping[str, Any]) -> None: ...

    def end(self, phase: Phase) -> None: ...

    def line(self, text: str) -> None: ...

    def close(self) -> None: ...


class _Plain(_Silent):
    """A line when a trial starts or ends, and one about a running trial, each in turn, every `heartbeat` seconds."""

    def __init__(self, title: str, stream: TextIO, heartbeat: float) -> None:
        super().__init__(title, stream, heartbeat)
        self._stop = threading.Event()
        self._turn = itertools.count()
        self._thread: threading.Thread | None = None
        self._quiet_since = time.monotonic()

    def workers(self, ready: int, of: int) -> None:
        super().workers(ready, of)
        if self.starting is not None:
            self.line(f"wait   {self.waiting()}")
            self._watch()

    def _watch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()

    def begin(self, phase: Phase) -> None:
        left = phase.time_left()
        about = f", about {duration(left)}" if left else ""
        self.line(f"{self.title} {phase.name}: {len(phase.trials)} to run{about}")
        self.phase = phase
        self._watch()

    def event(self, phase: Phase, trial: TrialState, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "started":
                self.line(self._about("start", phase, trial))
            case "retry":
                self.line(self._about("retry", phase, trial) + f": {event['reason']}")
            case "done" if event.get("error"):
                self.line(self._about("FAILED", phase, trial) + f": {event['error']}")
            case "done":
                self.line(self._about("done", phase, trial) + f"  took {duration(trial.seconds)}")

    def end(self, phase: Phase) -> None:
        self.phase = None
        self.line(f"{self.title} {phase.summary()}")

    def line(self, text: str) -> None:
        with self.lock:
            self._quiet_since = time.monotonic()
            print(text, file=self.stream, flush=True)

    def close(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _beat(self) -> None:
        while not self._stop.wait(max(self._quiet_since + self.heartbeat - time.monotonic(), 0.02)):
            phase = self.phase
            if time.monotonic() < self._quiet_since + self.heartbeat:
                continue
            with self.lock:
                running = phase.running if phase is not None else []
                self._quiet_since = time.monotonic()
            waiting = self.waiting()
            try:
                if phase is None or not running:
                    if waiting:
                        self.line(f"wait   {waiting}")
                    continue
                self.line(self._about("step", phase, running[next(self._turn) % len(running)]))
            except (OSError, ValueError):  # nobody reads any more
                return

    def _about(self, word: str, phase: Phase, trial: TrialState) -> str:
        with self.lock:
            parts = [f"{word:6} {trial.name:8}  {trial.label}  seed {trial.seed}"]
            for label, value in (
                ("step", trial.where),
                ("loss", trial.number("loss", ".3f")),
                ("MaxVio", trial.number("max_vio", ".3f")),
                ("tokens/s", trial.number("tokens_per_second", ",.0f")),
            ):
                parts += [f"{label} {value}"] * bool(value)
            left = phase.time_left()
            parts += [f"{phase.ended}/{len(phase.trials)} done"]
            parts += [f"left {duration(left)}"] if left is not None else []
        return "  ".join(parts)


class _Rich(_Silent):
    """One live table: a row per running trial, and the whole below it."""

    def __init__(self, title: str, stream: TextIO, heartbeat: float) -> None:
        super().__init__(title, stream, heartbeat)
        from rich.console import Console

        self.console = Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._live: Any = None

    def begin(self, phase: Phase) -> None:
        from rich.live import Live

        self.phase = phase
        self._live = Live(console=self.console, get_renderable=self._draw, refresh_per_second=4, transient=True)
        self._live.start()

    def event(self, phase: Phase, trial: TrialState, event: Mapping[str, Any]) -> None:
        what = f"{trial.name} {trial.arm} seed {trial.seed}"
        if event["event"] == "retry":
            self.line(f"retry {what}: {event['reason']}", style="yellow")
        if event.get("error"):
            self.line(f"FAILED {what}: {event['error']}", style="red")

    def end(self, phase: Phase) -> None:
        self._live.stop()
        self.line(phase.summary())

    def line(self, text: str, style: str | None = None) -> None:
        # The terminal wraps, not rich, so that a path stays one piece.
        self.console.print(text, style=style, soft_wrap=True)

    def _draw(self) -> Any:
        """The table as it is now; called by the refreshing thread too."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        phase, width = self.phase, min(self.console.width - 1, 100)
        if phase is None:
            return ""
        trials = Table(box=None, width=width, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
        columns = [column for column in _COLUMNS if width >= column.from_width]
        longest_arm = max((len(trial.label) for trial in phase.trials.values()), default=0)
        widest = 40 if any("what" in trial.step for trial in phase.running) else 18
        for name, _, least, _ in columns:
            trials.add_column(
                name,
                justify="left" if name in ("trial", "arm", "") else "right",
                no_wrap=True,
                overflow="ellipsis",
                min_width=None if width < 64 else min(longest_arm, widest) if name == "arm" else least,
                max_width=min(widest, width // 2) if name == "arm" else None,
                ratio=1 if name == "" else None,
            )
        with self.lock:
            running, most = phase.running, max(self.console.height - 5, 1)
            for trial in running[:most]:
                trials.add_row(
                    *(
                        column.cell(trial) if column.name or not trial.where else ProgressBar(1.0, trial.fraction)
                        for column in columns
                    )
                )
            left, total = phase.time_left(), len(phase.trials)
            done = phase.ended + sum(trial.fraction for trial in running)
            heading = f"{self.title} {phase.name}  " * (width >= 50) + f"{phase.ended}/{total}"
        whole = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
        whole.width = width
        whole.add_column(no_wrap=True, overflow="ellipsis")
        whole.add_column(ratio=1)
        whole.add_column(no_wrap=True, justify="right", min_width=16 if width >= 60 else None)
        time_left = "" if left is None else f"left {duration(left)}"
        whole.add_row(heading, ProgressBar(max(total, 1), done), time_left)
        rest = [f"and {len(running) - most} more running"] if len(running) > most else []
        rest += [self.waiting()] if self.starting is not None else []
        return Group(trials, *rest, whole)


class _Column(NamedTuple):
    name: str
    from_width: int
    """What a narrow terminal can do without goes first."""
    least: int
    """Held free, so that columns stay where they are while numbers change."""
    cell: Callable[[TrialState], str]


_COLUMNS = (
    _Column("trial", 64, 8, lambda t: t.name),
    _Column("arm", 0, 0, lambda t: t.label),
    _Column("seed", 42, 4, lambda t: str(t.seed)),
    _Column("", 72, 8, lambda t: ""),
    _Column("step", 34, 7, lambda t: t.where),
    _Column("loss", 0, 5, lambda t: t.number("loss", ".3f")),
    _Column("MaxVio", 50, 6, lambda t: t.number("max_vio", ".3f")),
    _Column("tokens/s", 58, 8, lambda t: t.number("tokens_per_second", ",.0f")),
)
