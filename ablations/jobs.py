"""What a worker can do: the fixed table of job kinds. Imported once per worker process."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ablations.guards import arm_guards, separation, train_steps
from ablations.trial import build_model, open_data, peak_memory, reset_peak_memory, run_trial
from ablations.trialkeys import typed_trial

Report = Callable[[dict[str, Any]], None]
SPEED_ROUNDS = 7


def trial(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    _use_threads(arguments["keys"])
    return run_trial(arguments, report)


def guards(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Causality, start and determinism of one arm: {"guards": [...]}."""
    _use_threads(arguments["keys"])
    keys = typed_trial(arguments["keys"])
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    return {"guards": [result.as_dict() for result in arm_guards(keys, arguments["seed"], data)]}


def data_guard(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Separation of the splits, once for all arms."""
    keys = typed_trial(arguments["keys"])
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    return {"guards": [separation(data).as_dict()]}


def speed(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Training speed of all arms in one process, in turn: {arm: {"tokens_per_second", "peak_rss_bytes"}}.

    Trials contend for the machine, so their own rates are no comparison. Each round takes one step of every arm.
    """
    arms: Mapping[str, Any] = arguments["arms"]
    running, seconds = {}, {}
    peaks = {}
    for name, arm in arms.items():
        _use_threads(arm)
        keys = typed_trial(arm)
        data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
        device = keys.train.device
        batch = data.train_batch(0, 0).to(device)
        reset_peak_memory()
        module = build_model(keys, 0).to(device)
        train_steps(module, [batch], keys)
        peaks[name] = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated()
        running[name], seconds[name] = (module, batch, keys), list[float]()
    for _ in range(SPEED_ROUNDS):
        for name, (module, batch, keys) in running.items():
            started = time.perf_counter()
            train_steps(module, [batch], keys)
            if keys.train.device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {
            "tokens_per_second": running[name][2].tokens_per_step / statistics.median(seconds[name]),
            "peak_rss_bytes": float(peaks[name]),
        }
        for name in arms
    }


def _use_threads(keys: Mapping[str, Any]) -> None:
    torch.set_num_threads(int(keys["train"]["threads"]))


KINDS: dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {
    "trial": trial,
    "guards": guards,
    "data_guard": data_guard,
    "speed": speed,
}
