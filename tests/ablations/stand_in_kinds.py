"""Jobs without training: trials whose losses follow from their keys by a formula, and guards that pass.

For the scheduler's tests, in this process (`conduct`) or in the pool's real workers (PYTHONPATH, kinds_module).
"""

import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ablations.config.trialkeys import TrialKeys
from ablations.launch.job import Job
from ablations.record.documents import Speed
from ablations.record.guardresult import GuardResult
from ablations.record.record import RECORD, Record
from ablations.trial.requests import GuardsRequest, PlaceRequest, SpeedRequest, TrialRequest
from models.base.typed import build

Report = Callable[[dict[str, Any]], None]
BEST_RATE = 0.005
GUARDS = ("causality", "start", "determinism")


def asked(job: Job) -> TrialRequest:
    """What a job of the kinds `trial` and `mirror` is to do."""
    return build(TrialRequest, job.arguments)


def loss_of(keys: TrialKeys, seed: int) -> float:
    """A parabola in ln(lr) around BEST_RATE; fewer tokens, a stronger loss and another seed cost something."""
    noise = random.Random(f"{seed} {keys.train.perturb}").gauss(0, 0.001)
    harm = 1 - keys.train.token_fraction + 0.1 * keys.model.moe.balance.alpha
    return 4 + 0.05 * math.log(keys.optim.lr / BEST_RATE) ** 2 + harm + noise


def max_vio_of(keys: TrialKeys) -> float:
    """Stronger balancing, evener load."""
    balance = keys.model.moe.balance
    strength = {"aux_loss": balance.alpha, "bias": balance.update_speed}.get(balance.kind, 0.0)
    return 2.0 / (1 + 500 * strength)


def trial(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    own = build(TrialRequest, arguments).trial
    keys, folder = own.keys, Path(own.folder)
    report({"event": "step", "step": 1, "steps": 2, "loss": 5.0, "max_vio": 1.0, "tokens_per_second": 1e4})
    if seconds := os.environ.get("TRIAL_SECONDS"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "worker.pid").write_text(str(os.getpid()))
        time.sleep(float(seconds))
    loss, max_vio = loss_of(keys, own.seed), max_vio_of(keys)
    most = keys.model.moe.n_routed_experts / keys.model.moe.top_k - 1
    metrics = {"loss": loss, "bits_per_byte": loss / 2, "max_vio_global": max_vio, "max_vio_max": most}
    metrics |= {"max_vio_batch": max_vio, "max_vio_floor": 0.01, "routing_entropy": 2.0}
    Record(own.id, own.seed, "complete", asdict(keys), metrics=metrics).write(folder / RECORD)
    return {"status": "complete", "loss": loss, "reason": None}


def guards(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    build(GuardsRequest, arguments)
    return {"guards": [asdict(GuardResult(name, True)) for name in GUARDS]}


def data_guard(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    build(GuardsRequest, arguments)
    return {"guards": [asdict(GuardResult("separation", True))]}


def speed(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    return {name: asdict(Speed(1e4, peak_training_bytes=1e8)) for name in build(SpeedRequest, arguments).arms}


def place(arguments: dict[str, Any], report: Report) -> dict[str, Any]:
    build(PlaceRequest, arguments)
    return {}


KINDS = {f.__name__: f for f in (trial, guards, data_guard, speed, place)}
