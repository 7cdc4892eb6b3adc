"""FP8 products with V3's block scales against BF16's, on one Hopper GPU: time, and error against FP32.

    python -m benchmarks.fp8_gemm                  # some minutes, mostly spent on choosing tiles
    python -m benchmarks.fp8_gemm --accumulator    # seconds: how many bits the tensor core's accumulator keeps
    python -m benchmarks.fp8_gemm --emulated       # the same of its emulation, on any machine

The three products of a linear layer (forward, dgrad, wgrad) at M = N = K = 4096 and 8192, of 64 of V3's experts (7168
-> 2 x 2048 and 2048 -> 7168), and whole layers down to a width of 256, where FP8 loses. BF16 is cuBLAS (torch.mm,
F.grouped_mm), FP8 is cuBLAS (F.scaled_mm) and this project's Triton kernels. "+ rows" quantises the activations or
gradients too (weights keep their codes, as over the microbatches of a step), "+ all" both operands.

Data are random, never zeros, which draw less power and run faster. All sides take turns, with the L2 cache flushed in
between; that also gives the host a head start, so the time to launch a kernel mostly does not count. No time is printed
before every side has been compared with the product of its own dequantised operands. The last line is one JSON object,
and one of what there is so far follows each shape; `ratio` is BF16's time over Triton's "+ all", forward at the largest
M = N = K.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.fp8_accumulator import emulated, probe, shown
from benchmarks.fp8_products import grouped_products, layer, products

TOLERANCE = 1e-2
"""Relative Frobenius error of every side against the FP32 product of its own operands. BF16 outputs alone give 2e-3."""
ROUNDING = 5e-2
"""And of FP8 against the FP32 product of the operands before quantisation: E4M3 gives 3.7e-2 on normal data."""
EXPERTS = 64
SHAPES = {"gate_up": (7168, 2 * 2048), "down": (2048, 7168)}
"""K, N of V3's experts."""


class Disagreement(Exception):
    """A side does not compute what it should."""


def off(ours: Tensor, exact: Tensor) -> float:
    """Relative Frobenius error."""
    return float((ours.float() - exact).norm() / exact.norm())


def errors(name: str, sides: dict[str, Callable[[], Any]], references: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Each side's largest error against FP32, after a comparison with what its own operands give."""
    found: dict[str, float] = {}
    for side, step in sides.items():
        outs = step()
        for out, (exact, rounded) in zip(outs if isinstance(outs, tuple) else (outs,), references, strict=True):
            own, whole = off(out, exact if side == "bf16" else rounded), off(out, exact)
            if not own < TOLERANCE:
                raise Disagreement(f"{name}, {side}: {own:.1e} off its own operands' product, over {TOLERANCE:.0e}")
            if not whole < ROUNDING:
                raise Disagreement(f"{name}, {side}: {whole:.1e} off the FP32 product, over {ROUNDING:.0e}")
            found[side] = max(found.get(side, 0.0), whole)
    return found


def milliseconds(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Of `rounds` turns of every side, after three that do not count."""
    flush = torch.empty(1 << 28, dtype=torch.int8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in sides}
    for number in range(-3, rounds):
        for name, step in sides.items():
            flush.zero_()
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            step()
            end.record()
            if number >= 0:
                events[name].append((start, end))
    torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) for start, end in pairs] for name, pairs in events.items()}


def measure(
    name: str, sides: dict[str, Callable[[], Any]], references: list[tuple[Tensor, Tensor]], flops: float, rounds: int
) -> dict[str, dict[str, float]]:
    """Side -> median and fastest milliseconds, TFLOP/s of the median, error against FP32. Also a table on stdout."""
    error, times = errors(name, sides, references), milliseconds(sides, rounds)
    found = {}
    for side, values_ms in times.items():
        median = statistics.median(values_ms)
        found[side] = {
            "ms": round(median, 4),
            "ms_min": round(min(values_ms), 4),
            "tflops": round(flops / median / 1e9, 1),
            "error": float(f"{error[side]:.3g}"),
            "ratio": round(statistics.median(times["bf16"]) / median, 3),
        }
        row = found[side]
        print(
            f"{name:>28} {side:>16} {row['ms']:9.4f} ms (min {row['ms_min']:.4f}) {row['tflops']:7.1f} TFLOP/s "
            f"{row['ratio']:6.3f} x bf16, error {row['error']:.2e}",
            flush=True,
        )
    return found


def data(*shape: int, std: float = 1.0) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16) * std


def square(size: int, rounds: int) -> dict[str, Any]:
    """M = N = K: the products one by one, and the whole layer."""
    x, w, dy = data(size, size), data(size, size, std=0.02), data(size, size, std=1e-3)
    found, references = {}, []
    for name, product in products(x, w, dy).items():
        references.append(product.references())
        found[name] = measure(f"{size} {name}", product.sides(), references[-1:], 2 * size**3, rounds)
    found["layer"] = measure(f"{size} layer", layer(x, w, dy), references, 6 * size**3, rounds)
    return found


def experts(shape: str, count: int, rows: int, rounds: int) -> dict[str, Any]:
    """`count` experts with `rows` rows each."""
    k, n = SHAPES[shape]
    x, w, dy = data(count * rows, k), data(count, n, k, std=0.02), data(count * rows, n, std=1e-3)
    offsets = torch.arange(1, count + 1, device="cuda", dtype=torch.int32) * rows
    found = {}
    for name, product in grouped_products(x, w, dy, offsets).items():
        title, flops = f"{count} x {rows} {shape} {name}", 2.0 * count * rows * k * n
        found[name] = measure(title, product.sides(), [product.references()], flops, rounds)
    return found


def narrow(width: int, tokens: int, rounds: int) -> dict[str, Any]:
    """A whole layer, width x width."""
    x, w, dy = data(tokens, width), data(width, width, std=0.02), data(tokens, width, std=1e-3)
    references = [product.references() for product in products(x, w, dy).values()]
    return measure(f"{tokens} x {width} layer", layer(x, w, dy), references, 6.0 * tokens * width**2, rounds)


def run(quick: bool, rounds: int) -> dict[str, Any]:
    torch.set_float32_matmul_precision("highest")  # the references are FP32, not TF32
    torch.manual_seed(0)
    sizes, widths, tokens = ((1024,), (256,), 2048) if quick else ((4096, 8192), (256, 512, 1024, 2048), 8192)
    count, rows = (4, (128,)) if quick else (EXPERTS, (256, 512))
    found: dict[str, Any] = {"square": {}, "experts": {}, "narrow": {}}
    for size in sizes:
        progress(f"M = N = K = {size}")
        found["square"][size] = square(size, rounds)
        print(json.dumps(found), flush=True)
    for shape in SHAPES:
        for each in rows:
            progress(f"{count} experts, {shape}, {each} rows each")
            found["experts"][f"{shape} {count} x {each}"] = experts(shape, count, each, rounds)
            torch.cuda.empty_cache()
            print(json.dumps(found), flush=True)
    for width in widths:
        progress(f"layer of width {width}")
        found["narrow"][width] = narrow(width, tokens, rounds)
    found["loses_at_widths"] = [w for w, sides in found["narrow"].items() if sides["triton + all"]["ratio"] < 1]
    return found | {"ratio": found["square"][sizes[-1]]["forward"]["triton + all"]["ratio"]}


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="turns of each side (30)")
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run")
    parser.add_argument("--accumulator", action="store_true", help="only probe the tensor core's accumulator")
    parser.add_argument("--emulated", action="store_true", help="probe the emulation of that accumulator, anywhere")
    arguments = parser.parse_args()
    if arguments.emulated:
        found = probe(emulated, size=64)
        print(shown(found))
        print(json.dumps({"benchmark": "fp8_gemm", "device": "emulated", "accumulator": found}))
        return 0
    if arguments.rounds < 1:
        parser.error(f"--rounds {arguments.rounds}: must be at least 1")
    capability = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    if capability != (9, 0):
        seen = "none" if capability is None else f"{capability[0]}.{capability[1]}"
        progress(f"fp8_gemm: needs a CUDA device of compute capability 9.0 (this machine has {seen})")
        return 2
    result = {"benchmark": "fp8_gemm", "device": torch.cuda.get_device_name(), "torch": torch.__version__}
    if arguments.accumulator:
        found = probe()
        print(shown(found))
        print(json.dumps(result | {"accumulator": found}))
        return 0
    try:
        result |= {"rounds": arguments.rounds, **run(arguments.quick, arguments.rounds)}
    except Disagreement as error:
        progress(f"fp8_gemm: {error}")
        return 1
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
