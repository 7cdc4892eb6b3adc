"""A small model in FP64, where a difference of 1e-12 is a bug; no dimension but the batch is a power of two."""

import copy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.base.typed import build
from models.config import ModelConfig
from models.transformer import Transformer, initialise

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).parent))  # for what ranks do

BASE: dict[str, Any] = {
    "vocab_size": 61,
    "d_model": 24,
    "n_layers": 3,
    "first_k_dense": 1,
    "intermediate_size": 40,
    "attention": {
        "n_heads": 3,
        "kv_lora_rank": 12,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 6,
        "v_head_dim": 10,
        "head_dim": 8,
    },
    "moe": {
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "top_k": 2,
        "moe_intermediate_size": 16,
        "backend": "loop",
        "balance": {"kind": "none"},
    },
    "init_std": 0.3,
    "dtype": "float64",
}


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelConfig]:
    """`tiny({"moe.top_k": 3})`: the small config with these keys changed."""

    def make(changes: dict[str, Any] | None = None) -> ModelConfig:
        values = copy.deepcopy(BASE)
        for path, value in (changes or {}).items():
            *groups, leaf = path.split(".")
            group = values
            for name in groups:
                group = group.setdefault(name, {})
            group[leaf] = value
        return build(ModelConfig, values, "model")

    return make


@pytest.fixture(scope="session")
def built(tiny: Callable[..., ModelConfig]) -> Callable[..., Transformer]:
    """The model of `tiny(changes)`, initialised."""

    def make(changes: dict[str, Any] | None = None, seed: int = 0) -> Transformer:
        config = tiny(changes)
        model = Transformer(config)
        initialise(model, seed, config.std)
        return model

    return make


@pytest.fixture(scope="session")
def tokens() -> Callable[..., Tensor]:
    """`tokens(batch, length, seed)`: random tokens below the small vocabulary."""

    def make(batch: int, length: int, seed: int = 0) -> Tensor:
        return torch.randint(BASE["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(seed))

    return make
