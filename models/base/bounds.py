"""Ranges that many keys share."""

from typing import Annotated, Literal

from models.base.typed import AtLeast, AtMost, Below

Count = Annotated[int, AtLeast(1), AtMost(10_000_000)]
"""Widths, heads, experts: no model is near ten million of any."""
Layers = Annotated[int, AtLeast(1), AtMost(10_000)]
"""What is gone through one by one, before anything is built: layers, and stages of a pipeline."""
Positive = Annotated[float, AtLeast(1e-9), AtMost(1e9)]
"""Not 0, and not as near to it that it stands for nothing else."""
Epsilon = Annotated[float, AtLeast(1e-30), AtMost(1)]
"""Added lest something is divided by 0: FP32 holds it."""
NotNegative = Annotated[float, AtLeast(0), AtMost(1e9)]
Temperature = Annotated[float, AtLeast(1e-3), AtMost(1e9)]
"""That logits are divided by: below, FP32 cannot hold what is left of them."""
Share = Annotated[float, AtLeast(0), AtMost(1)]
"""Of a training, or of something of which there is no more than all."""
DType = Literal["auto", "float32", "bfloat16", "float64"]
Kernels = Literal["auto", "emulated", "torch", "triton"]
Momentum = Annotated[float, AtLeast(0), Below(1)]
