"""Which layers a stage holds, against all ways there are."""

import dataclasses
import itertools
from typing import Literal

import pytest
from pipelines import V3_LIKE
from torch import nn

from models.base.typed import ConfigError
from models.config import MTPConfig
from models.pipeline.split import layer_costs, split, tail_cost
from models.sizes import size
from models.transformer import Transformer


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 8])
def test_no_other_split_has_a_cheaper_costliest_stage(depth: int, stages: int) -> None:
    config = dataclasses.replace(V3_LIKE, mtp=MTPConfig(depth=depth))
    costs = layer_costs(config)
    costs[-1] += tail_cost(config)
    found = split(config, stages)
    assert [layer for layers in found for layer in layers] == list(range(8)) and all(found)
    ways = itertools.combinations(range(1, 8), stages - 1)
    least = min(max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *cut, 8))) for cut in ways)
    assert max(sum(costs[layer] for layer in layers) for layers in found) == least


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("feed_forward", ["moe", "dense"])
def test_costs_are_the_matrices_that_a_token_is_multiplied_with(
    depth: int, feed_forward: Literal["moe", "dense"]
) -> None:
    """Counted in the built model: experts by the share that a token passes, the head once for each prediction."""
    config = dataclasses.replace(V3_LIKE, mtp=MTPConfig(depth=depth), feed_forward=feed_forward)
    model = Transformer(config)

    def passed(module: nn.Module) -> float:
        share = config.moe.top_k / config.moe.n_routed_experts
        matrices = ((name, p) for name, p in module.named_parameters() if p.ndim >= 2)
        return sum(p.numel() * (share if "experts." in name and "shared" not in name else 1) for name, p in matrices)

    assert layer_costs(config) == [passed(layer) for layer in model.model.layers]
    modules = sum(passed(module) + passed(model.lm_head) for module in (model.mtp if depth else ()))
    assert tail_cost(config) == passed(model.lm_head) + modules


def test_v3_has_one_layer_beside_its_head_and_mtp_module() -> None:
    config, _ = size("deepseek_v3")
    assert [len(layers) for layers in split(config, 16)] == [4] * 15 + [1]


def test_a_stage_without_a_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match="model.pipeline.stages=9: more than model.n_layers=8"):
        split(V3_LIKE, 9)
