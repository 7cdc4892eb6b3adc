"""The short accumulator of Hopper's FP8 tensor core (V3 3.3.2, figure 7b), in FP32 arithmetic.

The core multiplies 32 pairs at a time, shifts the products and what it holds to the exponent of the largest of them,
keeps 13 bits after the leading one and cuts off the rest, towards zero. That is the model of V3 ("14 bits") and of
SageAttention2 (2411.10958, "FP22"); it was never compared with a GPU here. It makes every product of a long sum a
little smaller, so that sums of one sign suffer most.
"""

import torch
from torch import Tensor

PRODUCTS_PER_STEP = 32
"""K of one FP8 tensor-core instruction."""
FRACTION_BITS = 13
_CHUNK_PRODUCTS = 1 << 20


def limited_product(a_MK: Tensor, b_NK: Tensor, promote_every: int | None = None) -> Tensor:
    """a b^T (M, N) of FP32 operands, with the accumulator emptied into FP32 after every `promote_every` products (at
    most 32 or a multiple of it; None: never). Some 2 ns per product and core: for probes and very short trainings."""
    length = PRODUCTS_PER_STEP if promote_every is None else min(PRODUCTS_PER_STEP, promote_every)
    if promote_every is not None and promote_every % length:
        raise ValueError(f"promote_every={promote_every}: must be a multiple of {length}")
    total = torch.zeros(len(a_MK), len(b_NK), device=a_MK.device)
    rows = max(1, _CHUNK_PRODUCTS // max(1, len(b_NK) * length))
    for top in range(0, len(a_MK), rows):
        held = torch.zeros_like(total[top : top + rows])
        for first in range(0, a_MK.shape[1], length):
            step = slice(first, first + length)
            held = _add(held, a_MK[top : top + rows, step].unsqueeze(1) * b_NK[:, step])
            if promote_every is not None and (first + length) % promote_every == 0:
                total[top : top + rows] += held
                held = torch.zeros_like(held)
        total[top : top + rows] += held
    return total


def _add(held_MN: Tensor, products_MNS: Tensor) -> Tensor:
    """What the accumulator holds after one step."""
    largest = torch.maximum(products_MNS.abs().amax(dim=-1), held_MN.abs())
    last_bit = _leading_bit(largest).mul_(2.0**-FRACTION_BITS)
    summed = products_MNS.div_(last_bit.unsqueeze(-1)).trunc_().sum(dim=-1)
    summed.add_(held_MN.div_(last_bit).trunc_()).mul_(last_bit)
    summed.view(torch.int32).bitwise_and_(~((1 << (23 - FRACTION_BITS)) - 1))
    return summed


def _leading_bit(x: Tensor) -> Tensor:
    """2^e where 2^e <= x < 2^(e + 1); the smallest normal number at least."""
    powers = x.view(torch.int32).bitwise_and(0x7F800000).view(torch.float32)
    return powers.clamp_min_(2.0**-100)
