"""How a command ends: with an exit code, and with one line for a person where it cannot be obeyed.

Output cannot end it: neither a terminal without our letters, nor a closed stream, nor a reader that has gone.
"""

import io
import os
import sys
from collections.abc import Callable

from models.base.reading import one_line
from models.base.typed import ConfigError


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


def obeyed(work: Callable[[], int], stopped: str = "stopped") -> int:
    """The exit code of `work`; 2 with one line on stderr for what cannot be obeyed; 130 and `stopped` after Ctrl-C."""
    try:
        return work()
    except ConfigError as error:
        said = one_line(error)
    except BrokenPipeError:  # whoever read the output has gone
        return 2
    except OSError as error:
        said = one_line(f"{error.filename or 'files'}: {error.strerror or error}")
    except KeyboardInterrupt:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    print(f"error: {said}", file=sys.stderr)
    return 2


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
