"""What is measured of arms apart from their trials."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ablations.trial import requests
from ablations.trial.fitting import open_data
from ablations.trial.job import TrialJob
from ablations.trial.memory import training_memory
from ablations.trial.requests import SpeedRequest
from ablations.trial.speed import TRAINING_ROUNDS, training_speed

LARGER = {"model.d_model": 256}


def test_memory_is_that_of_the_arm_alone_and_one_whose_process_dies_is_left_out(
    job: Callable[..., TrialJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same arm needs the same, whatever was measured before it; a larger model needs at least what its parameters,
    gradients and two moments weigh more. Under a TMPDIR whose path is too long for a socket's name."""
    (tmp_path / ("x" * 130)).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 130)))
    (small, large), places, said = (job(changes=changes) for changes in ({}, LARGER)), list[str](), list[str]()
    impossible = dataclasses.replace(small.keys, model=dataclasses.replace(small.keys.model, d_model=-1))
    arms = {"first": small.keys, "impossible": impossible, "large": large.keys, "again": small.keys}
    for given in (small, large):  # as the speed of the same arms, measured before, has done
        open_data(given.keys, given.cache)
    peak = training_memory(arms, small.cache, places.append, said.append)
    assert places == ["", *arms] and set(peak) == {*arms} - {"impossible"}
    assert said == ["no memory of impossible: its process ended with exit code 1"]
    assert 0 < peak["first"] < peak["large"] and peak["again"] == pytest.approx(peak["first"], rel=0.1)
    assert peak["large"] - peak["first"] > 16 * 2 * 512 * (256 - 32), "of embedding and head alone"


def test_where_no_process_can_be_started_memory_alone_is_given_up(
    job: Callable[..., TrialJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ablations.sweep.jobs import KINDS

    given, events = job(), list[dict[str, Any]]()
    monkeypatch.setattr("ablations.trial.memory.sys.executable", "/bin/false")
    asked = requests.job("speed", "speed", SpeedRequest({"one": given.keys}, given.cache))
    found = KINDS["speed"](asked.arguments, events.append)
    assert found["one"]["tokens_per_second"] > 0 and found["one"]["peak_training_bytes"] is None
    notes = [event["text"] for event in events if event["event"] == "note"]
    assert notes == ["no memory of one: the process that measures them has ended"]
    steps = [event for event in events if event["event"] == "step"]
    assert steps[0]["what"] == "first step of one" and steps[-1]["what"] == "memory: importing"
    assert [event["step"] for event in steps] == list(range(len(steps))) and len(steps) <= steps[0]["steps"]


def test_speed_counts_tokens_of_every_arm(job: Callable[..., TrialJob]) -> None:
    small = job()
    found = training_speed({"one": small.keys, "other": small.keys}, small.cache)
    assert set(found) == {"one", "other"} and all(len(seconds) == TRAINING_ROUNDS for seconds in found.values())
    assert all(second > 0 for seconds in found.values() for second in seconds)
