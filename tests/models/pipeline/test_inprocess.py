"""A schedule in one process: the same numbers as plain microbatching, and its toggle."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pipelines import MICROBATCHES, SHORT, V3_LIKE, batch, largest_difference, piped, train, variant
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models.base.typed import ConfigError
from models.config import BalanceConfig, ModelConfig, MTPConfig, PipelineConfig
from models.module import Course, LanguageModel
from models.pipeline.chosen import executor_of
from models.pipeline.inprocess import Pipelined
from models.pipeline.measure import chunk_seconds
from models.pipeline.rules import check_pipeline
from models.pipeline.schedules import SCHEDULES, Action
from models.pipeline.stages import Chunks, Stage, stages_of
from models.rules import validate
from models.training.config import OptimConfig
from models.training.executor import Microbatching
from models.transformer import Transformer, initialise

Change = Callable[[ModelConfig], ModelConfig]


def built(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    initialise(model, 3, config.std)
    return model.train()


def trained(
    config: ModelConfig, steps: int, document_end: int | None = None, masked: bool = False
) -> tuple[Transformer, Any, Any]:
    model = built(config)
    executor = executor_of(model, MICROBATCHES, document_end=document_end)
    return model, *train(model, executor, steps, masked)


unpiped = functools.cache(trained)
"""What all schedules of a config are compared with; not to be changed."""


@pytest.mark.parametrize(("name", "ranks"), [*((name, 2) for name in SCHEDULES), ("zbv", 4), ("dualpipe", 4)])
def test_steps_are_those_of_plain_microbatching(name: str, ranks: int) -> None:
    """MLA, experts with a bias and an auxiliary loss, an MTP module, clipping: FP64 within 1e-12."""
    config = variant("fp64", ranks)
    plain, gradients, results = unpiped(config, 2)
    model, own_gradients, own_results = trained(piped(name, ranks, config), 2)
    assert own_gradients.keys() == gradients.keys()
    assert largest_difference(own_gradients, gradients) < 1e-12
    assert largest_difference(dict(model.state_dict()), dict(plain.state_dict())) < 1e-12
    for own, result in zip(own_results, results, strict=True):
        assert own.losses.keys() == result.losses.keys()
        for term, value in result.losses.items():
            assert float(own.losses[term]) == pytest.approx(float(value), rel=1e-12)
        assert torch.equal(own.load_LE, result.load_LE) and torch.equal(own.last_load_LE, result.last_load_LE)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_masked_step_is_that_of_the_whole_batch(name: str) -> None:
    """Microbatches with no target that counts, with some and with all: every chunk's share is its targets'."""
    _, gradients, results = unpiped(SHORT, 1, masked=True)
    _, own, own_results = trained(piped(name, 2, SHORT), 1, masked=True)
    assert largest_difference(own, gradients) < 1e-12
    for ours, theirs in zip(own_results, results, strict=True):
        for term, value in theirs.losses.items():
            assert float(ours.losses[term]) == pytest.approx(float(value), rel=1e-12)
    _, unmasked, _ = unpiped(SHORT, 1)
    assert largest_difference(unmasked, gradients) > 1e-3


CHANGES: dict[str, Change] = {
    "no MTP": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=0)),
    "two MTP modules": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=2)),
    "an MTP module after the norm": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=1, hidden="after_norm")),
    "two MTP modules after the norm": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=2, hidden="after_norm")),
    "parallel heads": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=2, style="parallel")),
    "linear heads": lambda c: dataclasses.replace(c, mtp=MTPConfig(depth=2, style="linear")),
    "dense": lambda c: dataclasses.replace(c, feed_forward="dense"),
    "microbatch load": lambda c: dataclasses.replace(
        c, moe=dataclasses.replace(c.moe, balance=BalanceConfig(update_speed=0.02, load_scope="microbatch"))
    ),
}


@pytest.mark.parametrize("name", ["zbv", "dualpipe"])  # between them they have every action: F, B, I and W
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_kind_of_model_can_be_piped(name: str, change: Change) -> None:
    plain, gradients, results = unpiped(change(SHORT), 1, document_end=7)
    model, own, own_results = trained(change(piped(name, 2, SHORT)), 1, document_end=7)
    assert own.keys() == gradients.keys() and largest_difference(own, gradients) < 1e-12
    for ours, theirs in zip(own_results, results, strict=True):
        assert torch.equal(ours.load_LE, theirs.load_LE)
    assert largest_difference(dict(model.state_dict()), dict(plain.state_dict())) < 1e-12


@pytest.mark.parametrize(
    ("name", "numbers"),
    [(name, "fp32") for name in SCHEDULES] + [(name, "fp8") for name in ("1f1b", "zbv", "dualpipe")],
)
def test_in_fp32_and_with_fp8_one_step_differs_by_rounding_alone(name: str, numbers: str) -> None:
    config = variant(numbers, 2)
    _, gradients, _ = unpiped(config, 1)
    _, own, _ = trained(piped(name, 2, config), 1)
    assert largest_difference(own, gradients) < 1e-5


def chunks_of(config: ModelConfig, stages: int) -> tuple[Transformer, Chunks]:
    model = built(config)
    return model, Chunks(stages_of(model, stages), batch(0)[:2], 1, 0.0)


def forward(chunks: Chunks, stages: int) -> None:
    hidden: Tensor | None = None
    for stage in range(stages):
        hidden = chunks.run(Action("F", stage, 0), hidden)


def test_i_gives_no_weight_its_gradient_and_w_all_of_them() -> None:
    model, chunks = chunks_of(V3_LIKE, 4)
    forward(chunks, 4)
    gradient = None
    for stage in (3, 2, 1, 0):
        gradient = chunks.run(Action("I", stage, 0), gradient)
        assert all(p.grad is None for p in model.parameters())
    for stage in (3, 2, 1, 0):
        assert chunks.run(Action("W", stage, 0), None) is None
    assert all(p.grad is not None for p in model.parameters()) and not chunks.waiting


@pytest.mark.parametrize("numbers", ["fp64", "fp8"])
def test_i_and_w_multiply_no_more_than_b(numbers: str) -> None:
    """A linear layer whose two gradients came from one Function would be computed twice."""

    def flops(kinds: str) -> list[int]:
        _, chunks = chunks_of(dataclasses.replace(variant(numbers), mtp=MTPConfig()), 4)
        forward(chunks, 4)
        found, gradient = [], None
        for stage in (3, 2, 1, 0):
            with FlopCounterMode(display=False) as counter:
                gradient = chunks.run(Action(kinds[0], stage, 0), gradient)  # type: ignore[arg-type]
                if kinds == "IW":
                    chunks.run(Action("W", stage, 0), None)
            found.append(counter.get_total_flops())
        return found

    assert flops("IW") == flops("B") and min(flops("B")) > 0


def test_chunks_are_timed_stage_by_stage_and_no_gradient_is_left() -> None:
    model = built(V3_LIKE)
    seconds = chunk_seconds(model, 4, batch(0)[:2], rounds=1)
    assert {kind: len(times) for kind, times in seconds.items()} == dict.fromkeys("fbiw", 4)
    assert all(0 < second < 60 for times in seconds.values() for second in times)
    assert all(p.grad is None for p in model.parameters())


def test_off_no_code_of_a_pipeline_is_on_the_path() -> None:
    assert isinstance(LanguageModel(V3_LIKE, OptimConfig(), Course(4), 0).executor, Microbatching)
    piped_module = LanguageModel(piped("1f1b", 4), OptimConfig(), Course(4, microbatches=8), 0)
    assert isinstance(piped_module.executor, Pipelined)
    assert len(stages_of(piped_module.transformer, 4)) == 4


def test_every_parameter_is_in_a_stage_and_routers_know_their_rows() -> None:
    model = built(V3_LIKE)
    held = [p for stage in range(4) for p in Stage(model, stage, 4).parameters]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert [router.row for router in model.routers()] == list(range(8)) and V3_LIKE.routers == 8


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "odd": ({"schedule": "dualpipe", "stages": 5}, "model.pipeline.stages=5: dualpipe needs an even number"),
    "odd chunks": ({"schedule": "zbv", "stages": 5}, "model.pipeline.stages=5: zbv has two stages on each rank"),
    "one": ({"schedule": "1f1b"}, "model.pipeline.stages=1: .* needs 2 or more"),
    "layers": ({"schedule": "1f1b", "stages": 9}, "model.pipeline.stages=9: more than model.n_layers=8"),
    "few": ({"schedule": "dualpipev", "stages": 8}, "model.pipeline.microbatches=4: dualpipev on 4 ranks needs 8"),
    "unused": ({"stages": 4}, "model.pipeline.stages=4: has no effect with model.pipeline.schedule=none"),
    "unused microbatches": ({"microbatches": 4}, "model.pipeline.microbatches=4: has no effect"),
    "none": ({"schedule": "1f1b", "stages": 4, "microbatches": 0}, "model.pipeline.microbatches=0: must be at least 1"),
}


@pytest.mark.parametrize(("pipeline", "words"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_built(pipeline: dict[str, Any], words: str) -> None:
    config = dataclasses.replace(V3_LIKE, pipeline=PipelineConfig(**pipeline))
    with pytest.raises(ConfigError, match=words):
        validate(config)
        check_pipeline(config, 4)


def test_an_auxiliary_loss_over_the_whole_batch_is_refused() -> None:
    moe = dataclasses.replace(V3_LIKE.moe, balance=BalanceConfig(kind="aux_loss", scope="batch"))
    with pytest.raises(ConfigError, match="model.moe.balance.scope=batch: needs the whole batch's load"):
        check_pipeline(dataclasses.replace(piped("1f1b", 4), moe=moe))
