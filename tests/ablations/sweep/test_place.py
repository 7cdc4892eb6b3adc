"""A worker on another machine trains nothing where its trials would be other ones than the scheduler's."""

from dataclasses import asdict
from typing import Any

import pytest
import torch

from ablations.sweep.jobs import place
from ablations.sweep.workplace import _order
from ablations.trial.identity import bits, code_hash
from ablations.trial.requests import PlaceRequest
from models.base.typed import ConfigError

HERE = {**bits(), "code": code_hash()}


def line(known: dict[str, Any] = HERE, device: str = "cpu") -> str:
    """What the worker says; empty where it is fit."""
    try:
        assert place(asdict(PlaceRequest(known, device)), lambda event: None) == {}
    except ConfigError as error:
        return str(error)
    return ""


def test_a_place_like_the_schedulers_is_taken():
    assert line() == ""


@pytest.mark.parametrize("name", ["code", "torch", "instruction_set"])
def test_other_bits_are_refused_by_name(name):
    said = line(HERE | {name: "another"})
    assert said.startswith(f"{name}: {str(HERE[name])[:12]} on node ") and "another where the sweep began" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_place_without_a_gpu_is_refused():
    assert line(device="cuda").startswith("train.device=cuda: torch sees no CUDA device on node ")


def test_the_scheduler_asks_for_what_it_is(plan, runs):
    with _order(plan(), runs, runs / "logs", {}) as order:
        assert order.greeting.kind == "place" and place(order.greeting.arguments, lambda event: None) == {}
        assert (runs / order.mark).is_file() and order.is_seen
        assert {runs / place for place in order.places.values()} <= {runs / "wandb/.home"}
    assert not order.is_seen
