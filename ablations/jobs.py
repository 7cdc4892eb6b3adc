"""What a worker can do: the fixed table of job kinds. Imported once per worker process."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from ablations.guards import arm_guards, separation
from ablations.memory import training_memory
from ablations.speed import chunk_costs, decoding_speed, training_speed
from ablations.trial import open_data, run_trial
from ablations.trialkeys import typed_trial

Report = Callable[[dict[str, Any]], None]


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
    """{arm: measurements} of training, and of decoding where `checkpoints` says with what."""
    arms: Mapping[str, Any] = arguments["arms"]
    measured = training_speed(arms, arguments["cache_dir"])
    for name, peak in training_memory(arms, arguments["cache_dir"]).items():
        measured[name]["peak_training_bytes"] = peak
    if arguments.get("checkpoints"):
        for name, found in decoding_speed(arms, arguments["checkpoints"], arguments["cache_dir"]).items():
            measured[name] |= found
    return measured


def chunks(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{arm: seconds of its pipeline's chunks}."""
    return chunk_costs(arguments["arms"], arguments["cache_dir"])


def _use_threads(keys: Mapping[str, Any]) -> None:
    torch.set_num_threads(int(keys["train"]["threads"]))


KINDS: dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {
    "trial": trial,
    "guards": guards,
    "data_guard": data_guard,
    "speed": speed,
    "chunks": chunks,
}
