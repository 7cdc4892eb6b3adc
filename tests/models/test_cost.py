"""Structural counts against built models, and FLOPs against torch's own counter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.attention import GroupedQueryAttention, MultiHeadLatentAttention
from models.base.typed import build
from models.config import ModelConfig
from models.cost import activation_bytes, cost, main, parts
from models.kinds import attention_of
from models.layers import RMSNorm, SwiGLU
from models.moe import Experts, MoE, Router
from models.precision.probe import saved_bytes
from models.training.executor import Microbatching
from models.transformer import Block, Transformer, initialise

Tiny = Callable[..., ModelConfig]
Built = Callable[..., Transformer]
SHAPES: dict[str, dict[str, Any]] = {
    "mla": {},
    "mla, compressed queries": {"attention.q_lora_rank": 20},
    "mha": {"attention.kind": "mha", "attention.head_dim": 20},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 2, "attention.head_dim": 10},
    "mqa": {"attention.kind": "mqa", "attention.head_dim": 20},
    "mla, queries and keys normed": {"attention.qk_norm": True, "attention.q_lora_rank": 20},
    "gqa, queries and keys normed": {"attention.kind": "gqa", "attention.n_kv_heads": 1, "attention.qk_norm": True},
    "gqa, keys and values normed": {"attention.kind": "gqa", "attention.n_kv_heads": 1, "attention.kv_norm": True},
    "mha, all normed": {"attention.kind": "mha", "attention.kv_norm": True, "attention.qk_norm": True},
    "mla, latents as they are": {"attention.kv_norm": False},
    "all dense": {"first_k_dense": 3},
    "no experts": {"feed_forward": "dense", "mtp.depth": 1},
    "all experts": {"first_k_dense": 0, "moe.n_shared_experts": 2},
    "no shared experts": {"moe.n_shared_experts": 0, "moe.top_k": 1},
    "groups": {"moe.n_group": 8, "moe.topk_group": 2},
    "mtp, chained": {"mtp.depth": 2},
    "mtp, parallel": {"mtp.depth": 3, "mtp.style": "parallel", "attention.kind": "mha"},
    "mtp, linear": {"mtp.depth": 2, "mtp.style": "linear"},
    "mtp on all dense": {"mtp.depth": 1, "first_k_dense": 3},
}


@pytest.fixture(params=list(SHAPES.values()), ids=list(SHAPES))
def model(request: pytest.FixtureRequest, built: Built) -> Transformer:
    """Experts many enough that forgetting the router would show."""
    return built({"d_model": 48, "moe.n_routed_experts": 40, "moe.moe_intermediate_size": 24} | request.param)


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def idle(model: nn.Module, m: Any) -> int:
    """Parameters of the experts that one token does not choose."""
    routed = sum(size_of(x) for x in model.modules() if isinstance(x, Experts))
    return routed * (m.n_routed_experts - m.top_k) // m.n_routed_experts


def test_parameters_are_those_of_the_built_model(model: Transformer) -> None:
    found, config = cost(model.config, 32), model.config
    mtp = size_of(model.mtp) if config.mtp.depth else 0  # type: ignore[arg-type]
    total = size_of(model) - mtp
    assert found.total_params == total and found.mtp_params == mtp
    assert found.active_params == total - idle(model.model, config.moe)
    assert (found.active_params == total) == (config.dense_layers == 3)


def random_config(tiny: Tiny, seed: int, kind: str, style: str, depth: int) -> ModelConfig:
    rng = np.random.default_rng(seed)

    def some(low: int, high: int) -> int:
        return int(rng.integers(low, high + 1))

    n_group, kept, layers = some(1, 4), some(1, 3), some(1, 5)
    topk_group = some(1, n_group)
    in_group = some(2, 5)
    return tiny(
        {
            "vocab_size": some(50, 500),
            "d_model": some(16, 80),
            "n_layers": layers,
            "first_k_dense": some(0, layers),
            "intermediate_size": some(10, 99),
            "feed_forward": "dense" if seed % 5 == 4 else "moe",
            "attention.kind": kind,
            "attention.n_heads": kept * some(1, 4),
            "attention.n_kv_heads": kept,
            "attention.q_lora_rank": [None, some(3, 40)][seed % 2],
            "attention.kv_lora_rank": some(4, 40),
            "attention.qk_nope_head_dim": some(1, 20),
            "attention.qk_rope_head_dim": 2 * some(1, 9),
            "attention.v_head_dim": some(1, 20),
            "attention.head_dim": 2 * some(1, 16),
            "attention.qk_norm": seed % 3 == 2,
            "attention.kv_norm": [None, True, False][seed % 5 % 3],
            "moe.n_routed_experts": n_group * in_group,
            "moe.n_group": n_group,
            "moe.topk_group": topk_group,
            "moe.top_k": some(1, topk_group * in_group),
            "moe.n_shared_experts": some(0, 2),
            "moe.moe_intermediate_size": some(5, 40),
            "moe.balance.kind": "bias",
            "mtp.style": style,
            "mtp.depth": depth,
            "dtype": "float32",
        }
    )


@pytest.mark.parametrize(
    ("style", "depth"), [("chained", 0), ("chained", 1), ("chained", 3), ("parallel", 2), ("linear", 2)]
)
@pytest.mark.parametrize("kind", ["mla", "mha", "gqa", "mqa"])
def test_random_models_part_by_part(tiny: Tiny, kind: str, style: str, depth: int) -> None:
    """Nothing is allocated: the model is built on the meta device, and every part is a set of its modules."""
    for seed in range(6):
        config = random_config(tiny, seed, kind, style, depth)
        with torch.device("meta"):
            model = Transformer(config)

        def of(*kinds: type[nn.Module], inside: nn.Module = model.model) -> int:
            return sum(size_of(module) for module in inside.modules() if isinstance(module, kinds))

        blocks = [module for module in model.model.modules() if isinstance(module, Block)]
        dense = sum(size_of(block.mlp) for block in blocks if isinstance(block.mlp, SwiGLU))
        shared = sum(
            size_of(x.shared_experts) for x in model.model.modules() if isinstance(x, MoE) and x.shared_experts
        )
        inner_norms = sum(
            of(RMSNorm, inside=x)
            for x in model.model.modules()
            if isinstance(x, GroupedQueryAttention | MultiHeadLatentAttention)
        )
        found, counted = parts(config), cost(config, 64)
        assert found == {
            "embedding": size_of(model.model.embed_tokens),
            "attention": of(GroupedQueryAttention, MultiHeadLatentAttention) - inner_norms,
            "norms": of(RMSNorm),
            "dense": dense,
            "router": of(Router),
            "shared": shared,
            "routed": of(Experts),
            "head": size_of(model.lm_head),
            "mtp": size_of(model.mtp) if depth else 0,  # type: ignore[arg-type]
        }, config
        assert sum(found.values()) == counted.total_params + counted.mtp_params == size_of(model)
        assert counted.active_params == counted.total_params - idle(model.model, config.moe)
        buffers = blocks[0].self_attn.new_cache(1, 1, torch.float32, torch.device("meta"))
        assert counted.kv_bytes == 4 * config.n_layers * attention_of(config).cached == config.n_layers * buffers.nbytes


def masked_scores(config: ModelConfig, length: int) -> float:
    """FLOPs per token of scores that a causal sequence does not need, and torch counts: (T - 1) / 2 a token, in each
    layer of T tokens and, for T - k of its tokens, in MTP module k; scores and values, 2 each, times 3."""
    a = config.attention
    widths = a.qk_nope_head_dim + a.qk_rope_head_dim + a.v_head_dim if a.kind == "mla" else 2 * a.head_dim
    lengths = [length] * config.n_layers + [length - k for k in range(1, config.mtp.blocks + 1)]
    return sum(6 * a.n_heads * widths * (n - 1) / 2 * n / length for n in lengths)


@pytest.mark.parametrize("length", [16, 96])
def test_flops_are_those_that_torch_counts(model: Transformer, tokens: Callable[..., Tensor], length: int) -> None:
    """Forward and backward of a step. The weighted sum of a token's experts is left out of `cost`: under 2 %."""
    from torch.utils.flop_counter import FlopCounterMode

    batch = tokens(2, length + 1)
    with FlopCounterMode(display=False) as counter:
        Microbatching(model, 1).step(batch)
    per_token = counter.get_total_flops() / (2 * length) - masked_scores(model.config, length)
    expected = cost(model.config, length).flops_per_token
    assert expected == pytest.approx(per_token, rel=0.02)
    assert expected <= per_token * (1 + 1e-9)
    if not any(isinstance(module, MoE) for module in model.modules()):
        assert expected == pytest.approx(per_token, rel=1e-12), "without experts nothing is left out"


def test_causal_scores_cost_half(tiny: Tiny) -> None:
    """By hand: 3 layers of 3 heads, 14 wide keys and 10 wide values, (T + 1) / 2 pairs a token, 2 FLOPs, times 3."""
    short, long = (cost(tiny(), length).flops_per_token for length in (1, 101))
    assert long - short == pytest.approx(6 * 3 * 3 * (14 + 10) * 50)


def test_shared_keys_spare_memory_and_no_scores(tiny: Tiny) -> None:
    """Of n_kv_heads only the projections of keys and values depend: 2 * 24 * 8 weights and 2 * 8 elements a head."""
    base = {"attention.kind": "gqa", "attention.n_heads": 6}
    one, three = (cost(tiny(base | {"attention.n_kv_heads": kept}), 64) for kept in (1, 3))
    assert three.total_params - one.total_params == 3 * 2 * 2 * 24 * 8
    assert three.flops_per_token - one.flops_per_token == pytest.approx(6 * 3 * 2 * 2 * 24 * 8)
    assert three.kv_bytes == 3 * one.kv_bytes == 3 * 3 * 2 * 8 * 8  # FP64


def test_mtp_is_paid_in_training_and_not_in_what_is_deployed(tiny: Tiny) -> None:
    plain, deep = cost(tiny(), 64), cost(tiny({"mtp.depth": 1}), 64)
    assert (deep.total_params, deep.active_params, deep.kv_bytes) == (
        plain.total_params,
        plain.active_params,
        plain.kv_bytes,
    )
    assert deep.mtp_params > 0 == plain.mtp_params and deep.flops_per_token > plain.flops_per_token


def test_cost_depends_on_no_random_state(built: Built) -> None:
    config = built().config
    torch.manual_seed(1)
    assert cost(config, 8) == cost(config, 8)


LENGTHS = ((128, "bfloat16"), (512, "bfloat16"), (512, "float32"), (513, "bfloat16"), (700, "float32"))
"""Up to 512 tokens probabilities are written out; beyond, by SDPA's way."""
WIDTHS: dict[str, dict[str, Any]] = {
    "mla": {},
    "mla, keys as wide as values": {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16},
    "mla, compressed queries": {"q_lora_rank": 48},
    "mha": {"kind": "mha"},
    "gqa": {"kind": "gqa"},
    "mla, normed": {"qk_norm": True},
    "mla, compressed queries, normed": {"q_lora_rank": 48, "qk_norm": True},
    "mla, keys as wide as values, normed": {"qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "qk_norm": True},
    "mqa, normed": {"kind": "mqa", "qk_norm": True},
    "mha, keys and values normed": {"kind": "mha", "kv_norm": True},
    "mqa, all normed": {"kind": "mqa", "kv_norm": True, "qk_norm": True},
    "mla, latents as they are": {"kv_norm": False},
}


@pytest.mark.parametrize(("length", "dtype"), LENGTHS)
@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
def test_activations_at_every_length_and_type(widths: dict[str, Any], length: int, dtype: str) -> None:
    """Of the default size, dense: what attention keeps is the larger part, and changes beyond 512 tokens."""
    config = build(ModelConfig, {"dtype": dtype, "feed_forward": "dense", "n_layers": 2, "attention": widths})
    model = Transformer(config)
    initialise(model, 0, config.std)
    tokens = torch.randint(0, 1024, (2, length + 1), generator=torch.Generator().manual_seed(0))
    found = saved_bytes(model, tokens) / (2 * length)
    assert activation_bytes(config, length) == pytest.approx(found, rel=0.012)
    assert activation_bytes(config, length) < found, "statistics of rows and RoPE's turns are the rest"


@pytest.mark.parametrize("kind", ["mla", "gqa"])
@pytest.mark.parametrize(
    "mtp", [{}, {"mtp.depth": 2}, *({"mtp.depth": 1, "mtp.style": style} for style in ("parallel", "linear"))]
)
def test_activations_are_what_autograd_keeps(tiny: Callable[..., ModelConfig], kind: str, mtp: dict[str, Any]) -> None:
    """Bytes of all storages saved for the backward, without weights; indices and row statistics are the rest."""
    heads = {"attention.kind": kind, "attention.n_heads": 4}
    config = tiny({**heads, "dtype": "float32", "vocab_size": 1024, **mtp})
    model = Transformer(config)
    initialise(model, 0, config.std)
    tokens = torch.randint(0, 1024, (8, 65), generator=torch.Generator().manual_seed(0))
    assert activation_bytes(config, 64) == pytest.approx(saved_bytes(model, tokens) / (8 * 64), rel=0.04)


def test_help_names_the_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr()
    assert "deepseek_v3" in said.out and "Sizes" in said.out and not said.err
