"""How long a pipeline's chunks take on this device: F, B, I and W of every stage, and what splitting B costs.

    python -m benchmarks.pipeline_costs                          # scale=cpu's model with 8 layers on 4 stages
    python -m benchmarks.pipeline_costs --size base --device cuda

One microbatch passes all stages, chunk by chunk; the kinds of numbers take turns in one process on one thread, and the
fastest of the rounds counts. On CUDA an overlapped pair F&B is measured too, F and B at once on two streams that two
threads fill, against F and then B: forward through a stage beside backward through the one as far from the other end,
as DualPipe pairs them. On a CPU nothing overlaps: F&B is the sum, and no figure is given for it.

One JSON object per kind of numbers: milliseconds by stage, and (I + W) / B.
"""

import argparse
import json
import math
import os
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ablations.sweep.workplace import MALLOC

if TYPE_CHECKING:
    from torch import Tensor

    from models.pipeline.schedules import Kind
    from models.pipeline.stages import Chunks
    from models.transformer import Transformer

NUMBERS = ("bfloat16", "float32", "fp8_block")


def build(numbers: str, options: argparse.Namespace) -> "Transformer":
    """`fp8_block` is emulated."""
    from models.precision.config import PrecisionConfig
    from models.sizes import size
    from models.transformer import Transformer, initialise, resolve_dtype

    config = replace(size(options.size)[0], n_layers=options.layers or size(options.size)[0].n_layers)
    if numbers == "fp8_block":
        precision = PrecisionConfig("fp8_block", block=options.block, kernels="emulated")
        config, numbers = replace(config, precision=precision), resolve_dtype("auto", options.device)
    model = Transformer(replace(config, dtype=numbers))  # type: ignore[arg-type]
    initialise(model, 0, config.std)
    return model.to(options.device).train()


def pair_seconds(model: "Transformer", stages: int, tokens_BT1: "Tensor", at_once: bool) -> list[float]:
    """F of one microbatch on stage s and B of another on stage S - 1 - s, by s, after a round to warm up. `at_once`: on
    two streams that two threads fill; else one after the other. CUDA only."""
    import torch

    from models.layers import cast_once
    from models.pipeline.schedules import Action
    from models.pipeline.stages import Chunks, stages_of

    streams, found = [torch.cuda.Stream(), torch.cuda.Stream()], [math.inf] * stages

    def run(chunks: "Chunks", carried: "list[Tensor | None]", kind: "Kind", stage: int, microbatch: int) -> None:
        with torch.cuda.stream(streams[microbatch]):  # a backward runs where its forward did
            carried[0] = chunks.run(Action(kind, stage, microbatch), carried[0])

    with cast_once(model):
        for _ in range(2):
            chunks = Chunks(stages_of(model, stages), torch.cat([tokens_BT1, tokens_BT1]), 2, 0.0)
            first: list[Tensor | None] = [None]
            second: list[Tensor | None] = [None]
            torch.cuda.synchronize()
            for stage in range(stages):
                run(chunks, first, "F", stage, 0)
            torch.cuda.synchronize()
            for stage in range(stages):
                forward = threading.Thread(target=run, args=(chunks, second, "F", stage, 1))
                started = time.perf_counter()
                forward.start()
                if not at_once:
                    forward.join()
                    torch.cuda.synchronize()
                run(chunks, first, "B", stages - 1 - stage, 0)
                forward.join()
                torch.cuda.synchronize()
                found[stage] = time.perf_counter() - started
            model.zero_grad()
    return found


def measured(models: "dict[str, Transformer]", tokens: "Tensor", stages: int, rounds: int) -> dict[str, dict[str, Any]]:
    """{numbers: {"f", "b", "i", "w" and on CUDA "at_once", "in_turn": least seconds by stage}}."""
    from models.pipeline.measure import chunk_seconds

    least: dict[str, dict[str, Any]] = {numbers: {} for numbers in models}
    for turn in range(rounds):
        for numbers, model in models.items():
            seconds = chunk_seconds(model, stages, tokens, 1)
            if tokens.is_cuda:
                seconds["at_once"] = pair_seconds(model, stages, tokens, at_once=True)
                seconds["in_turn"] = pair_seconds(model, stages, tokens, at_once=False)
            for kind, row in seconds.items():
                least[numbers][kind] = list(map(min, row, least[numbers].get(kind, row)))
        print(f"round {turn + 1} of {rounds}", file=sys.stderr, flush=True)
    return least


def shown(seconds: dict[str, Any]) -> dict[str, Any]:
    """What is measured, and ratios of it."""
    b, i, w = seconds["b"], seconds["i"], seconds["w"]
    at_once, in_turn = seconds.pop("at_once", None), seconds.pop("in_turn", None)
    result = {
        "ms": {kind.upper(): [round(1e3 * value, 3) for value in row] for kind, row in seconds.items()},
        "split_over_whole": [round((i[s] + w[s]) / b[s], 3) for s in range(len(b))],
        "split_over_whole_sum": round((sum(i) + sum(w)) / sum(b), 3),
    }
    if at_once is None:
        return result | {"pair": "F + B; not measured: nothing overlaps on a CPU"}
    pair = {
        "at_once_ms": [round(1e3 * value, 3) for value in at_once],
        "in_turn_ms": [round(1e3 * value, 3) for value in in_turn],
        "at_once_over_in_turn": round(sum(at_once) / sum(in_turn), 3),
    }
    return result | {"pair": pair}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="tiny", help="tiny is scale=cpu's")
    parser.add_argument("--layers", type=int, help="the size's own; for tiny 8")
    parser.add_argument("--stages", type=int, default=4, help="that the layers are spread over (4)")
    parser.add_argument("--batch", type=int, default=4, help="sequences of a microbatch (4)")
    parser.add_argument("--block", type=int, help="tiles of fp8_block (128; for tiny 16, as at scale=cpu)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, help="of each kind of numbers, in turns (20; with --quick, 1)")
    parser.add_argument("--quick", action="store_true", help="one round: does it run")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.pipeline_costs", *sys.argv[1:]], os.environ | MALLOC
        )
    options.layers = options.layers or (8 if options.size == "tiny" else None)
    options.block = options.block or (16 if options.size == "tiny" else 128)
    import torch

    from models.base.typed import ConfigError
    from models.pipeline.split import split
    from models.sizes import size

    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    torch.set_num_threads(1)
    try:
        models = {numbers: build(numbers, options) for numbers in NUMBERS}
        layers = split(models["float32"].config, options.stages)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config, length = size(options.size)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(config.vocab_size, (options.batch, length + 1), generator=generator).to(options.device)
    found = measured(models, tokens, options.stages, options.rounds or (1 if options.quick else 20))
    for numbers, seconds in found.items():
        about = {
            "benchmark": "pipeline_costs",
            "size": options.size,
            "layers": [len(piece) for piece in layers],
            "batch": options.batch,
            "length": length,
            "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
            "threads": 1,
            "numbers": numbers,
            "dtype": models[numbers].config.dtype,
        }
        print(json.dumps(about | shown(seconds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
