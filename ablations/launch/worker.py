"""The worker: `python -m ablations.launch.worker MODULE` runs jobs for the scheduler until the scheduler is gone.

Jobs come in as JSON lines on stdin, and JSON lines go out on a private copy of stdout; file descriptor 1 itself is
turned to the log, so that whatever a library prints cannot corrupt the protocol. MODULE holds the fixed table
`KINDS: dict[str, Callable[[arguments, report], result]]`. It may import heavy libraries at its top: it is loaded once
per process, as soon as the process starts.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import queue
import signal
import sys
import threading
import traceback
from typing import Any

from ablations.launch.job import RankKilled
from ablations.launch.lean import lean
from ablations.launch.space import full_place


def main(module: str) -> None:
    """Serve jobs until stdin ends; never returns normally."""
    # Ctrl-C in a terminal reaches the whole process group; only the scheduler decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # os.dup makes copies that no child process inherits, so the pipes close when this process dies, whatever it left.
    requests, replies = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable()  # a segmentation fault leaves its Python stack in the log

    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(requests, jobs), daemon=True).start()
    send = _Sender(replies)
    try:
        with lean():
            kinds = importlib.import_module(module).KINDS
    except BaseException as error:
        _log(traceback.format_exc())
        send({"type": "broken", "error": _one_line(error)})
        os._exit(1)
    send({"type": "ready"})

    while True:
        job = jobs.get()
        key = job["key"]
        _log(f"--- {key}")
        try:
            if job["kind"] not in kinds:
                raise KeyError(f"no kind of job {job['kind']!r} in {module} (known: {', '.join(kinds)})")

            def report(event: dict[str, Any], key: str = key) -> None:
                send({"type": "event", "key": key, "event": event})

            send({"type": "result", "key": key, "result": kinds[job["kind"]](job["arguments"], report)})
        except RankKilled as error:
            _log(traceback.format_exc())
            os.kill(os.getpid(), error.signal)
        except BaseException as error:
            _log(traceback.format_exc())
            send({"type": "error", "key": key, "error": _one_line(error), "full": full_place(error)})


def _receive(descriptor: int, jobs: "queue.SimpleQueue[dict[str, Any]]") -> None:
    """Queue the scheduler's jobs. When its end of the pipe closes, leave at once, even amid a training step."""
    with contextlib.suppress(OSError), os.fdopen(descriptor, "rb") as lines:
        for line in lines:
            jobs.put(json.loads(line))
    os._exit(0)


class _Sender:
    """Writes one JSON line per call, whole, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "wb")
        self._lock = threading.Lock()

    def __call__(self, message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._lock:
                self._file.write(line)
                self._file.flush()
        except BrokenPipeError:
            os._exit(0)  # the scheduler is gone


def _log(text: str) -> None:
    """On a full disk the log cannot be written either; the worker lives to say so."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def _one_line(error: BaseException) -> str:
    """The last line of a traceback, cut to a length that fits a message."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 400 else text[:400] + "..."


if __name__ == "__main__":
    main(sys.argv[1])
