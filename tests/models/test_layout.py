"""What a rank of a pipeline is reckoned to hold, against models that are built, and V3's own layout."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from models.config import ModelConfig
from models.layout import Cluster, Layout, held_params, hours_per_trillion, kept_bytes, layouts, main
from models.pipeline.parts import rank_parameters
from models.pipeline.schedules import make_schedule
from models.pipeline.split import split
from models.sizes import size

Tiny = Callable[..., ModelConfig]
SHAPES: list[dict[str, Any]] = [
    {},
    {"mtp.depth": 1},
    {"mtp.depth": 2, "mtp.style": "parallel"},
    {"mtp.depth": 2, "mtp.style": "linear"},
    {"attention.kind": "mqa", "moe.n_shared_experts": 2},
    {"feed_forward": "dense", "mtp.depth": 1},
    {"first_k_dense": 3, "attention.q_lora_rank": 16},
]


@pytest.mark.parametrize("changes", SHAPES, ids=str)
@pytest.mark.parametrize("schedule", ["dualpipe", "1f1b", "zbv"])
def test_what_a_rank_holds_is_what_its_part_of_a_model_has(schedule: str, changes: dict[str, Any], tiny: Tiny) -> None:
    config = tiny({"n_layers": 6, **changes})
    made = make_schedule(schedule, 4, 8)
    stages = split(config, made.stages)
    counted = [sum(held_params(config, stages, made.held(rank))) for rank in range(len(made.ranks))]
    assert counted == rank_parameters(config, made)


def of(found: list[Layout], pipeline: int, experts: int) -> Layout:
    return next(a for a in found if (a.pipeline, a.experts) == (pipeline, experts))


def test_v3s_own_layout_is_the_one_that_is_proposed() -> None:
    """2412.19437, 3.2: 16-way pipeline parallelism, 64-way expert parallelism over 8 nodes, on 2,048 H800 of 80 GB; a
    token goes to at most 4 nodes; 3.7 days for a trillion tokens."""
    config, seq_len = size("deepseek_v3")
    found = layouts(config, seq_len, Cluster())
    assert (found[0].pipeline, found[0].experts, found[0].data, found[0].microbatches) == (16, 64, 128, 120)
    assert found[0].nodes == 4 and found[0].gigabytes < 72
    assert hours_per_trillion(config, seq_len) / 2048 / 24 == pytest.approx(3.66, abs=0.01)


def test_more_ranks_and_wider_groups_hold_less() -> None:
    config, seq_len = size("deepseek_v3")
    found = layouts(config, seq_len, Cluster())
    assert of(found, 16, 128).state_bytes < of(found, 16, 64).state_bytes < of(found, 16, 32).state_bytes
    assert of(found, 16, 64).activation_bytes == of(found, 16, 32).activation_bytes
    assert of(found, 8, 64).gigabytes > of(found, 16, 64).gigabytes
    assert of(found, 8, 64).idle < of(found, 16, 64).idle < of(found, 32, 64).idle
    small = layouts(config, seq_len, Cluster(memory=40))
    assert small[0].gigabytes == min(a.gigabytes for a in small) > 36  # none fits: the least comes first
    assert kept_bytes(config, moe=True) < kept_bytes(replace(config, d_model=2 * config.d_model), moe=True)


def test_it_prints_the_layouts_and_stops_at_what_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deepseek_v3", "gpus=2048"]) == 0
    shown = capsys.readouterr().out
    assert "<- proposed" in shown and "180,000 GPU hours for a trillion tokens" in shown
    assert main(["v2_lite_16b", "gpus=8", "memory=24", "sequences=4608"]) == 0
    assert "none of" in capsys.readouterr().out
    for words in (["gpus=7"], ["gpus=0"], ["gpus=many"], ["memory=nan"], ["gpu=8"], ["sequences=1e3"]):
        assert main(["deepseek_v3", *words]) == 2
        shown = capsys.readouterr().err
        assert shown.count("\n") == 1 and shown.startswith(f"error: {words[0].partition('=')[0]}")
