"""Where a model multiplies in FP8: sets a recipe into the modules of a Transformer."""

from functools import partial

import torch
from torch import nn

from models.attention import Core
from models.layers import Embedding, Linear, RMSNorm, Rounded
from models.moe import Experts, Router
from models.precision.config import PrecisionConfig
from models.precision.experts import QuantisedExperts
from models.precision.linear import Site, through
from models.precision.outliers import site_after_norm
from models.precision.products import Emulated, EmulatedLimited, EmulatedLoop, Products
from models.precision.recipe import resolve


def attach(model: nn.Module, config: PrecisionConfig, experts_backend: str, dtype: torch.dtype) -> None:
    """From now on, every Linear and every layer's experts multiply quantised operands in training, and so do the parts
    that `config.keep_high` does not keep. Inputs of the projection after attention, and what is sent to the experts,
    have roundings of their own."""
    recipe, keep = resolve(config), config.keep_high
    products = products_of(config, experts_backend, dtype)
    after_norm, plain = site_after_norm(recipe, products), Site(recipe, products)
    sites = {"o_proj": Site(recipe, products, kept=recipe.after_attention), "down_proj": plain}  # no norm before these
    for name, module in model.named_modules():
        if isinstance(module, Linear) and not (keep.head and name == "lm_head"):
            module.low = sites.get(name.rpartition(".")[2], after_norm)
        elif isinstance(module, Experts):
            module.low = QuantisedExperts(recipe, products)
        elif isinstance(module, Router) and not keep.router:
            module.low = after_norm
    kept = {Embedding: keep.embedding, RMSNorm: keep.norms, Core: keep.attention_core}
    for module in model.modules():
        if isinstance(module, Rounded) and not any(high for kind, high in kept.items() if isinstance(module, kind)):
            module.rounding = partial(through, forward=recipe.activation, backward=recipe.gradient)


def products_of(config: PrecisionConfig, experts_backend: str, dtype: torch.dtype) -> Products:
    """Who multiplies."""
    if config.accumulation == "limited":
        return EmulatedLimited()
    if config.kernels in ("torch", "triton"):
        from models.precision.triton_products import TorchProducts, TritonProducts

        return (TorchProducts if config.kernels == "torch" else TritonProducts)(dtype)
    return Emulated() if experts_backend == "grouped_mm" else EmulatedLoop()
