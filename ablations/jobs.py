"""What a worker can do: the fixed table of job kinds. Imported once per worker process."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ablations.guards import GUARDS, arm_guards, separation
from ablations.memory import training_memory
from ablations.speed import DECODING_ROUNDS, TRAINING_ROUNDS, chunk_costs, decoding_speed, training_speed
from ablations.tracking import mirror_record
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
    results = arm_guards(keys, arguments["seed"], data, at=_places(report, len(GUARDS)))
    return {"guards": [result.as_dict() for result in results]}


def data_guard(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Separation of the splits, once for all arms."""
    keys = typed_trial(arguments["keys"])
    data = open_data(keys.data, keys.model.vocab_size, arguments["cache_dir"])
    return {"guards": [separation(data).as_dict()]}


def speed(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{arm: measurements} of training, and of decoding where `checkpoints` says with what."""
    arms: Mapping[str, Any] = arguments["arms"]
    decoded = len(arms) * DECODING_ROUNDS if arguments.get("checkpoints") else 0
    at = _places(report, len(arms) + TRAINING_ROUNDS + 1 + len(arms) + decoded)
    measured = training_speed(arms, arguments["cache_dir"], at)
    peaks = training_memory(
        arms,
        arguments["cache_dir"],
        lambda name: at(f"memory of {name}" if name else "memory: importing"),
        lambda text: report({"event": "note", "text": text}),
    )
    for name, peak in peaks.items():
        measured[name]["peak_training_bytes"] = peak
    if arguments.get("checkpoints"):
        for name, found in decoding_speed(arms, arguments["checkpoints"], arguments["cache_dir"], at).items():
            measured[name] |= found
    return measured


def chunks(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{arm: seconds of its pipeline's chunks}."""
    return chunk_costs(arguments["arms"], arguments["cache_dir"])


def mirror(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """The W&B run of a trial that is on record."""
    mirror_record(arguments, typed_trial(arguments["keys"]).steps, report)
    return {}


def _places(report: Report, count: int) -> Callable[[str], None]:
    """Reports each of `count` places that a job comes to as a step."""
    steps = itertools.count()
    return lambda what: report({"event": "step", "step": next(steps), "steps": count, "what": what})


def _use_threads(keys: Mapping[str, Any]) -> None:
    torch.set_num_threads(int(keys["train"]["threads"]))


KINDS: dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {
    "trial": trial,
    "guards": guards,
    "data_guard": data_guard,
    "speed": speed,
    "chunks": chunks,
    "mirror": mirror,
}
