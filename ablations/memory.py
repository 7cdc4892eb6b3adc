"""Peak memory of training each arm, in a new process of its own.

A process keeps what earlier work made it grow by: of arms that follow one another in one process, each shows what the
largest so far has needed.
"""

import contextlib
import resource
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ablations.guards import train_steps
from ablations.trial import build_model, open_data
from ablations.trialkeys import typed_trial


def training_memory(arms: Mapping[str, Any], cache_dir: str) -> dict[str, float]:
    """{arm: bytes} that two training steps (or the only one) need at their peak: parameters, gradients, moments and
    activations, on a CPU also what libraries keep for themselves. An arm whose process dies is left out."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # room for the other processes
    context = get_context("forkserver")  # one process imports everything once, the others begin as its copies
    context.set_forkserver_preload([__name__])
    found = {}
    for name, arm in arms.items():
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_measure, args=(arm, cache_dir, sender), daemon=True)
        process.start()
        sender.close()
        try:
            found[name] = receiver.recv()
        except EOFError:
            process.join()
            print(f"no memory of {name}: its process ended with exit code {process.exitcode}", file=sys.stderr)
        process.join()
    return found


def _measure(arm: Mapping[str, Any], cache_dir: str, sender: Connection) -> None:
    sender.send(_peak_bytes(arm, cache_dir))


def _peak_bytes(arm: Mapping[str, Any], cache_dir: str) -> float:
    keys = typed_trial(arm)
    torch.set_num_threads(keys.train.threads)
    before = reset_peak()
    batch = open_data(keys.data, keys.model.vocab_size, cache_dir).train_batch(0, 0).to(keys.train.device)
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
