"""What a worker can do: the fixed table of job kinds. Imported once per worker process."""

import gc
import itertools
import platform
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from ablations.guards.arm import GUARDS, arm_guards
from ablations.guards.text import separation
from ablations.record.documents import Speed
from ablations.trial.fitting import open_data
from ablations.trial.identity import bits, code_hash
from ablations.trial.memory import training_memory
from ablations.trial.requests import GuardsRequest, PlaceRequest, SpeedRequest, TrialRequest
from ablations.trial.speed import DECODING_ROUNDS, TRAINING_ROUNDS, chunk_costs, decoding_speed, training_speed
from ablations.trial.tracking import mirror_record, open_mirror
from ablations.trial.train import run_trial
from models.base.typed import ConfigError, build

Report = Callable[[dict[str, Any]], None]


def trial(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{"status", "loss", "reason"}"""
    request = build(TrialRequest, arguments)
    torch.set_num_threads(request.trial.keys.train.threads)
    record = run_trial(request.trial, report, lambda: open_mirror(request, report))
    _free()
    return {"status": record.status, "loss": record.metrics.get("loss"), "reason": record.reason}


def guards(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """All guards of one arm: {"guards": [...]}."""
    request = build(GuardsRequest, arguments)
    torch.set_num_threads(request.keys.train.threads)
    data = open_data(request.keys, request.cache)
    results = arm_guards(request.keys, request.seed, data, at=_counted(report, len(GUARDS)))
    _free()
    return {"guards": [asdict(result) for result in results]}


def data_guard(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Separation of the splits, once for all arms that learn from the same text."""
    request = build(GuardsRequest, arguments)
    return {"guards": [asdict(separation(open_data(request.keys, request.cache)))]}


def speed(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{arm: `Speed`} of training, and of decoding where `checkpoints` says with what."""
    request = build(SpeedRequest, arguments)
    arms, cache = request.arms, request.cache
    decoded = len(arms) * DECODING_ROUNDS if request.checkpoints else 0
    at = _counted(report, len(arms) + TRAINING_ROUNDS + 1 + len(arms) + decoded)
    measured: dict[str, dict[str, Any]] = {
        name: {"tokens_per_second": 1 / min(seconds), "seconds_per_token": seconds}
        for name, seconds in training_speed(arms, cache, at).items()
    }
    peaks = training_memory(
        arms,
        cache,
        lambda name: at(f"memory of {name}" if name else "memory: importing"),
        lambda text: report({"event": "note", "text": text}),
    )
    for name, peak in peaks.items():
        measured[name]["peak_training_bytes"] = peak
    for name, found in decoding_speed(arms, request.checkpoints, cache, at).items():
        measured[name] |= found
    return {name: asdict(Speed(**found)) for name, found in measured.items()}


def chunks(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """{arm: seconds of its pipeline's chunks}."""
    request = build(SpeedRequest, arguments)
    return dict(chunk_costs(request.arms, request.cache))


def mirror(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """The W&B run of a trial that is on record."""
    mirror_record(build(TrialRequest, arguments), report)
    return {}


def place(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    """Raises ConfigError where this machine's trials would not be the scheduler's."""
    request, node = build(PlaceRequest, arguments), platform.node()
    here = {**bits(), "code": code_hash()}
    for name, value in request.bits.items():
        if here.get(name) != value:
            raise ConfigError(
                f"{name}: {str(here.get(name))[:12]} on node {node}, {str(value)[:12]} where the sweep began: its "
                "trials would be other ones than their ids say; start it on a machine like that node, or do without it"
            )
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"train.device=cuda: torch sees no CUDA device on node {node}")
    return {}


def _free() -> None:
    """A trainer and its model hold each other, and Python looks for such rings once its objects have become a quarter
    more: few objects, and many megabytes. Left to itself a worker grew by 70 MB a trial, to 3 GB."""
    gc.collect()


def _counted(report: Report, count: int) -> Callable[[str], None]:
    """Reports each of `count` things that a job comes to as a step."""
    steps = itertools.count()
    return lambda what: report({"event": "step", "step": next(steps), "steps": count, "what": what})


KINDS: dict[str, Callable[[dict[str, Any], Report], dict[str, Any]]] = {
    "trial": trial,
    "guards": guards,
    "data_guard": data_guard,
    "speed": speed,
    "chunks": chunks,
    "mirror": mirror,
    "place": place,
}
