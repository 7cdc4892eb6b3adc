"""Peak memory of training each arm, in a new process of its own.

A process keeps what earlier work made it grow by: of arms that follow one another in one process, each shows what the
largest so far has needed. `python -m ablations.trial.memory` imports everything once and then measures one arm after
another, each in a fork of itself, over plain pipes.
"""

import contextlib
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import TrialKeys
from ablations.home import ROOT
from models.base.typed import build

Say = Callable[[str], None]


def training_memory(
    arms: Mapping[str, TrialKeys], cache: str, at: Say = lambda name: None, say: Say = lambda text: None
) -> dict[str, float]:
    """{arm: bytes} that two training steps (or the only one) need at their peak: parameters, gradients, moments and
    activations, on a CPU also what libraries keep for themselves. What cannot be measured is left out and said.

    at: hears each arm's name before its turn, and "" while everything is imported. say: hears what was left out, and
    why.
    """
    _make_room()
    found: dict[str, float] = {}
    command = [sys.executable, "-P", "-m", "ablations.trial.memory"]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    at("")
    try:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}, text=True
        ) as process:
            assert process.stdin is not None
            try:
                _answer(process)  # it has imported everything
                for name, keys in arms.items():
                    at(name)
                    process.stdin.write(json.dumps({"keys": dataclasses.asdict(keys), "cache": cache}) + "\n")
                    process.stdin.flush()
                    answer = _answer(process)
                    if "bytes" in answer:
                        found[name] = answer["bytes"]
                    else:
                        say(f"no memory of {name}: its process {answer['ended']}")
            finally:
                with contextlib.suppress(OSError):
                    process.stdin.close()
    except OSError as error:  # it could not be started, or is gone
        say(f"no memory of {', '.join(name for name in arms if name not in found)}: {error}")
    return found


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ChildProcessError("the process that measures them has ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _make_room() -> None:
    """On the GPU, for the other processes."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _serve() -> None:
    """Answer each line {"keys", "cache"} with a line {"bytes"} or {"ended"}."""
    from ablations.launch.lean import lean

    with lean():
        import ablations.trial.bare
        import ablations.trial.train  # noqa: F401  both for the forks, whose own memory they would else be

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_in_a_fork(json.loads(line))), file=answers, flush=True)


def _in_a_fork(question: Mapping[str, Any]) -> dict[str, Any]:
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writable, json.dumps(_peak_bytes(build(TrialKeys, question["keys"]), question["cache"])).encode())
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
    os.close(writable)
    with os.fdopen(readable) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said and code == 0:
        return {"bytes": json.loads(said)}
    return {"ended": f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"}


def _peak_bytes(keys: TrialKeys, cache: str) -> float:
    import torch

    from ablations.trial.bare import train_steps
    from ablations.trial.fitting import build_model, open_data
    from models.training.batch import Batch

    torch.set_num_threads(keys.train.threads)
    before = reset_peak()
    batch = Batch.of(open_data(keys, cache).train_batch(0, 0)).to(keys.train.device)
    train_steps(build_model(keys, 0).to(keys.train.device), [batch] * min(2, keys.steps), keys)
    if keys.train.device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return float(peak_resident() - before)


def reset_peak() -> int:
    """`peak_resident` from here on: where the system can (Linux) no more than what is resident now."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_resident()


def peak_resident() -> int:
    """Bytes of this process's memory at its peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    _serve()
