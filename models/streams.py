"""Output that cannot end a command: a terminal without our letters, a closed stream, a reader that has gone."""

import io
import os
import sys
from collections.abc import Callable


def spoken(main: Callable[[], int]) -> int:
    """Run a command and return its exit code, whatever becomes of what it prints."""
    steady()
    code = 2
    try:
        code = main()
        sys.stdout.flush()
    except OSError:  # whoever read the output has gone, or its disk is full
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would try again at its end, and complain
    return code


def steady() -> None:
    """Letters that a stream cannot write are escaped, and what is said to a closed one is lost."""
    for place in (0, 1, 2):
        try:
            os.fstat(place)
        except OSError:  # or the next file that is opened would be taken for standard output
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
