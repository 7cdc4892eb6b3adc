"""What Hopper's tensor core keeps of FP8 products that it adds up (`python -m benchmarks.fp8_gemm --accumulator`), and
what its emulation keeps (`--emulated`, on any machine).

V3 3.3.2: the highest 14 bits or so, hence its promotion to FP32 registers every N_C = 128 products. Two questions to
the hardware, through one tensor-scaled product:

- One product of 2^16 comes first, then 16 products of 2^(16 - j). Which j are still counted? They come in the same
  instruction of 32 products, in the next one, or behind the first 128.
- K = 4096 products of positive numbers, and of normal ones: bits that are cut off, not rounded, all err downwards.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EVERY = (32, 64, 128, 512, None)
"""Products between promotions; None leaves all to the tensor core."""
PLACES = {"same instruction": 1, "next instruction": 32, "behind 128": 128}
"""Where the small products begin."""
DISTANCES = range(4, 22)
"""j. E4M3 reaches from 2^-9 to 448, which is as far as this goes."""
SMALL = 16
"""Products of 2^(16 - j)."""


Multiply = Callable[[Tensor, Tensor, int | None], Tensor]
"""A B^T of E4M3 codes, promoted so often."""


def on_the_tensor_core(a: Tensor, b: Tensor, every: int | None) -> Tensor:
    from models.precision.triton_gemm import gemm_tensor_scaled

    return gemm_tensor_scaled(a.cuda(), b.cuda(), torch.ones(1, device="cuda"), every).cpu()


def emulated(a: Tensor, b: Tensor, every: int | None) -> Tensor:
    from models.precision.accumulate import limited_product

    return limited_product(a.float(), b.float(), every)


def kept(place: int, every: int | None, multiply: Multiply) -> list[float]:
    """For each distance, the part of the small products' sum that the result has."""
    distances = torch.tensor(list(DISTANCES), dtype=torch.float32)
    a, b = torch.zeros(len(distances), 256), torch.zeros(1, 256)
    a[:, 0], b[:, 0] = 2.0**8, 2.0**8
    a[:, place : place + SMALL] = torch.exp2(12 - distances)[:, None]
    b[:, place : place + SMALL] = 2.0**4
    out = multiply(codes(a), codes(b), every)
    found: list[float] = ((out[:, 0] - 2.0**16) / (SMALL * torch.exp2(16 - distances))).tolist()
    return found


def bias(positive: bool, every: int | None, multiply: Multiply, size: int = 256, k: int = 4096) -> dict[str, float]:
    """Relative error of the sum of all outputs, relative Frobenius error, and the largest error over the mean output,
    against FP64."""
    generator = torch.Generator().manual_seed(0)
    draw = torch.rand if positive else torch.randn
    a, b = (codes(draw(size, k, generator=generator)) for _ in range(2))
    exact = a.double() @ b.double().t()
    difference = multiply(a, b, every).double() - exact
    return {
        "mean": float(difference.sum() / exact.abs().sum()),
        "frobenius": float(difference.norm() / exact.norm()),
        "largest": float(difference.abs().max() / exact.abs().mean()),
    }


def codes(x: Tensor) -> Tensor:
    return x.to(torch.float8_e4m3fn)


def probe(multiply: Multiply = on_the_tensor_core, size: int = 256) -> dict[str, Any]:
    return {
        "kept": {
            place: {str(every): kept(start, every, multiply) for every in EVERY} for place, start in PLACES.items()
        },
        "bias": {
            name: {str(every): bias(name == "positive", every, multiply, size) for every in EVERY}
            for name in ("positive", "normal")
        },
    }


def shown(found: dict[str, Any]) -> str:
    """Tables for the eyes."""
    lines = [f"part kept of {SMALL} products of 2^(16 - j), added to one of 2^16"]
    lines.append(f"{'promoted every':>34}" + "".join(f"{f'j={j}':>6}" for j in DISTANCES))
    for place, rows in found["kept"].items():
        for every, parts in rows.items():
            lines.append(f"{place:>24}{every:>10}" + "".join(f"{part:6.2f}" for part in parts))
    lines.append(
        "error of K = 4096 products: of the sum of all outputs, Frobenius, and the largest over the mean output"
    )
    for name, by_every in found["bias"].items():
        for every, row in by_every.items():
            lines.append(f"{name:>24}{every:>10}{row['mean']:12.2e}{row['frobenius']:12.2e}{row['largest']:12.2e}")
    return "\n".join(lines)
