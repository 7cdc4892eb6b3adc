"""Structural counts against the built model, and FLOPs against torch's own counter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from models.config import ModelConfig
from models.cost import cost
from models.executor import Microbatching
from models.transformer import Transformer

Built = Callable[..., Transformer]
SHAPES: dict[str, dict[str, Any]] = {
    "mla": {},
    "mla, compressed queries": {"attention.q_lora_rank": 20},
    "mha": {"attention.kind": "mha", "attention.head_dim": 20},
    "all dense": {"first_k_dense": 3},
    "all experts": {"first_k_dense": 0, "moe.n_shared_experts": 2},
    "no shared experts": {"moe.n_shared_experts": 0, "moe.top_k": 1},
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def model(request: pytest.FixtureRequest, built: Built) -> Transformer:
    """Experts many enough that forgetting the router would show."""
    return built({"d_model": 48, "moe.n_routed_experts": 40, "moe.moe_intermediate_size": 24} | request.param)


def test_parameters_are_those_of_the_built_model(model: Transformer) -> None:
    found, m = cost(model.config, 32), model.config.moe
    named = dict(model.named_parameters())
    routed = sum(p.numel() for name, p in named.items() if ".experts." in name and "shared" not in name)
    total = sum(p.numel() for p in named.values())
    assert found.total_params == total
    assert found.active_params == total - routed * (m.n_routed_experts - m.top_k) // m.n_routed_experts
    assert (found.active_params == total) == (model.config.first_k_dense == 3)


@pytest.mark.parametrize("length", [16, 96])
def test_flops_are_those_that_torch_counts(model: Transformer, tokens: Callable[..., Tensor], length: int) -> None:
    """Forward and backward of a step. torch counts all T x T scores, masked ones too: as many per token as a causal
    sequence of 2T - 1 has on average. The weighted sum of a token's experts is left out of `cost`: under 2 %."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = tokens(2, length + 1)
    with FlopCounterMode(display=False) as counter:
        Microbatching(model, 1).step(batch)
    per_token = counter.get_total_flops() / (2 * length)
    expected = cost(model.config, 2 * length - 1).flops_per_token
    assert expected == pytest.approx(per_token, rel=0.02)
    assert expected <= per_token * (1 + 1e-9)


def test_causal_scores_cost_half(tiny: Callable[..., ModelConfig]) -> None:
    """By hand: 3 layers of 3 heads, 14 wide keys and 10 wide values, (T + 1) / 2 pairs a token, 2 FLOPs, times 3."""
    short, long = (cost(tiny(), length).flops_per_token for length in (1, 101))
    assert long - short == pytest.approx(6 * 3 * 3 * (14 + 10) * 50)


def test_counting_needs_no_memory() -> None:
    """V3's published shape: 671 B parameters, 37 B active."""
    from models.typed import build

    attention = {"n_heads": 128, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
                 "qk_rope_head_dim": 64, "v_head_dim": 128}  # fmt: skip
    moe = {"n_routed_experts": 256, "n_shared_experts": 1, "top_k": 8, "moe_intermediate_size": 2048}
    v3 = build(ModelConfig, {"vocab_size": 129280, "d_model": 7168, "n_layers": 61, "first_k_dense": 3,
                             "intermediate_size": 18432, "attention": attention, "moe": moe})  # fmt: skip
    found = cost(v3, 4096)
    assert found.total_params / 1e9 == pytest.approx(671, abs=0.5)
    assert found.active_params / 1e9 == pytest.approx(37, abs=1)


def test_cost_depends_on_no_random_state(built: Built) -> None:
    config = built().config
    torch.manual_seed(1)
    assert cost(config, 8) == cost(config, 8)
