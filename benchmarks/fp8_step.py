"""A training step with emulated FP8 against the same step in BF16, on a CPU.

    python -m benchmarks.fp8_step

All recipes take turns in one process, on one thread, on the same random tokens, with the memory settings of trials;
the fastest of their rounds counts. Prints one JSON object; `ratio` is the time of an `fp8_block` step over that of a
BF16 step.
"""

import argparse
import json
import os
import sys
from typing import Any

from ablations.sweep.workplace import MALLOC
from benchmarks.train_step import BATCH, LENGTH, SIZE, ours, timed
from models.precision.config import PrecisionConfig

V3: dict[str, Any] = {
    "dispatch": "fp8",
    "e5m6_after_attention": True,
    "moments": "bf16",
    "recompute_swiglu": True,
}
RECIPES = {
    "bf16": PrecisionConfig(),
    "fp8_block": PrecisionConfig("fp8_block"),
    "fp8_block of 16": PrecisionConfig("fp8_block", block=16),
    "fp8_block, all that V3 does": PrecisionConfig("fp8_block", **V3),
    "fp8_row": PrecisionConfig("fp8_row"),
    "fp8_tensor": PrecisionConfig("fp8_tensor"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="steps of each recipe, in turns (10)")
    parser.add_argument("--quick", action="store_true", help="two recipes, one round: does it run")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.fp8_step", *sys.argv[1:]], os.environ | MALLOC)

    import torch

    from models.sizes import size
    from models.transformer import resolve_dtype

    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokens = torch.randint(0, size(SIZE)[0].vocab_size, (BATCH, LENGTH + 1))
    dtype = resolve_dtype("auto", "cpu")
    names = list(RECIPES)[: 2 if options.quick else None]
    steps = {name: ours(dtype, "cpu", RECIPES[name]) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for done in range((1 if options.quick else options.rounds) + 1):
        for name, step in steps.items():
            seconds = timed(step, tokens)
            times[name] += [seconds] if done else []  # the first round is not counted
        print(f"round {done} of {options.rounds}", file=sys.stderr)
    fastest = {name: min(values) for name, values in times.items()}
    result = {
        "benchmark": "fp8_step",
        "size": SIZE,
        "batch": BATCH,
        "length": LENGTH,
        "threads": 1,
        "dtype": dtype,
        "seconds": {name: round(value, 4) for name, value in fastest.items()},
        "over_bf16": {name: round(value / fastest["bf16"], 3) for name, value in fastest.items()},
        "ratio": round(fastest["fp8_block"] / fastest["bf16"], 3),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
