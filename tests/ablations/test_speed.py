"""What is measured of arms apart from their trials."""

from collections.abc import Callable
from typing import Any

import pytest

from ablations.memory import training_memory
from ablations.speed import training_speed
from ablations.trial import open_data
from ablations.trialkeys import typed_trial

LARGER = {"model.d_model": 128, "model.vocab_size": 4096}


def test_memory_is_that_of_the_arm_alone(arguments: Callable[..., Any]) -> None:
    """The same arm needs the same, whatever was measured before it; a larger model needs at least what its parameters,
    gradients and two moments weigh more."""
    small, large = (arguments(changes=changes) for changes in ({}, LARGER))
    arms = {"first": small["keys"], "large": large["keys"], "again": small["keys"]}
    for given in (small, large):  # as the speed of the same arms, measured before, has done
        keys = typed_trial(given["keys"])
        open_data(keys.data, keys.model.vocab_size, given["cache_dir"])
    peak = training_memory(arms, small["cache_dir"])
    assert 0 < peak["first"] < peak["large"] and peak["again"] == pytest.approx(peak["first"], rel=0.1)
    assert peak["large"] - peak["first"] > 16 * 2 * (4096 - 512) * 64


def test_an_arm_whose_process_dies_is_left_out(arguments: Callable[..., Any], capfd: Any) -> None:
    given = arguments(changes={})
    keys = {**given["keys"], "model": {**given["keys"]["model"], "d_model": -1}}
    found = training_memory({"impossible": keys, "possible": given["keys"]}, given["cache_dir"])
    assert set(found) == {"possible"}
    assert "no memory of impossible: its process ended with exit code 1" in capfd.readouterr().err


def test_speed_counts_tokens_of_every_arm(arguments: Callable[..., Any]) -> None:
    small = arguments(changes={})
    found = training_speed({"one": small["keys"], "other": small["keys"]}, small["cache_dir"])
    assert set(found) == {"one", "other"} and all(arm["tokens_per_second"] > 0 for arm in found.values())
