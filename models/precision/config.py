"""The keys of `model.precision`."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from models.base.bounds import Count, Kernels
from models.base.typed import AtLeast, AtMost

Role = Literal["activation", "weight", "gradient"]
ROLES: tuple[Role, ...] = ("activation", "weight", "gradient")
"""Of the operands of a linear layer's products."""

FormatName = Literal["e4m3", "e5m2", "e4m2", "e4m1"]


@dataclass(frozen=True)
class FormatConfig:
    """The 8-bit format of each role's operands; None is the recipe's. `e4m3`: 3 bits of mantissa, up to 448. `e5m2`:
    2 bits, up to 57344. `e4m2`, `e4m1`: E4M3 with fewer bits of mantissa, emulated, to see what a bit is worth."""

    activation: FormatName | None = None
    weight: FormatName | None = None
    gradient: FormatName | None = None


@dataclass(frozen=True)
class GranularityConfig:
    """Which elements of an operand share a scale; None is the recipe's. Sizes are in `precision.block`.

    `tile`: 1 x block, along the dimension that the product sums over. `block`: block x block. `row`: all elements that
    one output sums over. `tensor`: all of them. Where several tokens share the scale of an activation (`block`,
    `tensor`), a later token can change an earlier one's rounding in training; the causality guard says by how much.
    """

    activation: Literal["tile", "block", "row", "tensor"] | None = None
    weight: Literal["tile", "block", "row", "tensor"] | None = None
    gradient: Literal["tile", "block", "row", "tensor"] | None = None


@dataclass(frozen=True)
class KeepHighConfig:
    """What an FP8 recipe leaves as it is (V3 3.3.1: all of these). Off: its operands are rounded to FP8 as well."""

    embedding: bool = True
    head: bool = True
    router: bool = True
    norms: bool = True
    attention_core: bool = True
    """Queries, keys and values, as the scores and the weighted sum read them."""


@dataclass(frozen=True)
class PrecisionConfig:
    """Which numbers the training multiplies (V3 3.3). Evaluation and decoding never use FP8.

    `auto`: products in `model.dtype`, and no code of models/precision on the path. `fp32`, `bf16`: the same, with that
    type required. The FP8 recipes round the operands of all three products of every linear layer and of the routed
    experts (Fprop, Dgrad, Wgrad); the rest stays in `model.dtype` (BF16 where that is `auto`):

    `fp8_block` (V3): E4M3, tiles for activations and gradients, blocks for weights. `fp8_row`, `fp8_tensor`: E4M3 with
    one scale per row or tensor. `fp8_hybrid`: E4M3 forward, E5M2 gradients, one scale per tensor.
    """

    recipe: Literal["auto", "fp32", "bf16", "fp8_block", "fp8_row", "fp8_tensor", "fp8_hybrid"] = "auto"
    format: FormatConfig = field(default_factory=FormatConfig)
    granularity: GranularityConfig = field(default_factory=GranularityConfig)
    block: Count = 128
    """Side of a tile and of a block."""
    accumulation: Literal["fp32", "promoted", "limited"] = "promoted"
    """How products are summed. `fp32`: in FP32. `promoted` (V3 3.3.2): in the tensor core's short accumulator, and
    every `promote_every` products in FP32; emulated as FP32. `limited`: in the short accumulator to the end; its
    emulation (models/precision/accumulate.py) is slow."""
    promote_every: Count = 128
    """N_C. Read by `promoted` on a GPU and in probes."""
    scale_rounding: Literal["exact", "power_of_two"] = "exact"
    """Scales as FP32 numbers, or rounded up to a power of two."""
    keep_high: KeepHighConfig = field(default_factory=KeepHighConfig)
    outliers: Annotated[float, AtLeast(1), AtMost(2.0**40)] = 1.0
    """Channel outliers that leave the function as it is (the reverse of 2211.10438 eq. 3): before the operands of a
    product behind a norm are rounded, the first channel of its input is multiplied by this power of two and the
    matrix's column divided by it. Weights, gradients and optimizer see nothing of it but the rounding. 1: none."""
    e5m6_after_attention: bool = False
    """The input of the projection after attention is kept for the backward pass in E5M6 with power-of-two scales
    (V3 3.3.3: on)."""
    dispatch: Literal["bf16", "fp8"] = "bf16"
    """What is sent to the experts, and the gradient that is sent to their outputs. `fp8` (V3 3.3.3): tiles with
    power-of-two scales."""
    combine: Literal["bf16", "fp8"] = "bf16"
    """What the experts send back, and the gradient of their inputs (V3: bf16)."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """AdamW's two moments (V3 3.3.3: bf16). The one part that every recipe has."""
    cache_activations: Literal["fp8", "bf16"] = "fp8"
    """Inputs of linear layers as they are kept for the weight gradient (V3: fp8)."""
    recompute_swiglu: bool = False
    """Keep the inputs of the experts' SwiGLU in FP8 tiles, and compute its output again in the backward (V3: on)."""
    kernels: Kernels = "auto"
    """`emulated`: rounded operands, multiplied in `model.dtype`; anywhere. `triton`: our kernels, and `torch`:
    F.scaled_mm with ours for the experts; both for `fp8_block` at 128 on a Hopper GPU. `auto`: emulated, until the
    others have been measured."""

    @property
    def fp8(self) -> bool:
        return self.recipe.startswith("fp8")
