"""Decoding with a cache: tokens per second and cache bytes of each kind of attention, and of self-speculation.

    python -m benchmarks.decode                                  # two minutes on one core
    python -m benchmarks.decode --checkpoint runs/trials/ID/checkpoint

One new token per row at the end of a context of 512 to 4096, for MHA, GQA, MQA, MLA, and MLA absorbed; and one round of
self-speculative decoding with MLA absorbed, which drafts, verifies, and yields 1 to depth + 1 tokens. Weights are
random, as speed does not depend on them; acceptance does, so without a checkpoint only its bounds are given. A trained
checkpoint with MTP modules also decodes held-out text, plainly and self-speculatively.

All sides take turns in one process on one thread; the fastest of their turns counts. The last line is one JSON object;
`ratio` is MLA absorbed over MLA plain, in tokens per second at the longest context.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.decoding.generate import Cache
    from models.decoding.speculative import Speculated
    from models.transformer import Transformer

KINDS = ("mha", "gqa", "mqa", "mla")
ABSORBED, SPECULATIVE = "mla absorbed", "mla absorbed, speculative"

Side = tuple["Transformer", bool, Callable[[], Any]]
"""A model, whether its attention is absorbed, and one step."""


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build(size_name: str, kind: str, depth: int = 0, device: str = "cpu") -> "Transformer":
    from models.sizes import size
    from models.transformer import Transformer, initialise, resolve_dtype

    config, _ = size(size_name)
    config = replace(
        config,
        dtype=resolve_dtype("auto", device),
        attention=replace(config.attention, kind=kind),  # type: ignore[arg-type]
        mtp=replace(config.mtp, depth=depth),
    )
    model = Transformer(config)
    initialise(model, 0, config.std)
    return model.to(device).eval()


def step(model: "Transformer", cache: "Cache") -> Callable[[], Any]:
    """One token per row at the last position of a cache that is full of noise."""
    import torch

    from models.decoding.generate import decode

    for layer in cache.layers:
        for buffer in layer.buffers:
            buffer.normal_()
    tokens, starts = torch.zeros(cache.batch, 1, dtype=torch.long), [cache.length - 1] * cache.batch
    tokens = tokens.to(model.lm_head.weight.device)
    return lambda: decode(model, tokens, starts, cache)


def finish(model: "Transformer") -> None:
    """Wait for a GPU."""
    import torch

    if model.lm_head.weight.is_cuda:
        torch.cuda.synchronize()


def turns(sides: dict[str, Side], rounds: int, steps: int) -> dict[str, float]:
    """Seconds per step: of each side the fastest of `rounds` turns of `steps` steps, after one that does not count."""
    from models.decoding.generate import absorbing
    from models.layers import inferring

    fastest = dict.fromkeys(sides, math.inf)
    with ExitStack() as stack:
        for model in {id(model): model for model, _, _ in sides.values()}.values():
            stack.enter_context(inferring(model))
        for number in range(rounds + 1):
            for name, (model, absorbed, once) in sides.items():
                with absorbing(model, absorbed):
                    start = time.perf_counter()
                    for _ in range(steps):
                        once()
                    finish(model)
                    seconds = (time.perf_counter() - start) / steps
                if number:
                    fastest[name] = min(fastest[name], seconds)
    return fastest


def compare(models: dict[str, "Transformer"], context: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Of every side at one context: tokens/s, cache bytes; of self-speculation milliseconds per round, and bounds."""
    import torch

    from models.cost import cost
    from models.decoding.generate import Cache
    from models.decoding.speculative import Speculation
    from models.layers import inferring

    sides: dict[str, Side] = {}
    cache_bytes = {}
    for kind in KINDS:
        cache = Cache(models[kind], batch, context)
        cache_bytes[kind] = cache.nbytes
        assert cache.nbytes == cost(models[kind].config, context).kv_bytes * batch * context
        sides[kind] = (models[kind], False, step(models[kind], cache))
        if kind == "mla":
            sides[ABSORBED] = (models[kind], True, sides[kind][2])
            cache_bytes[ABSORBED] = cache.nbytes
    drafting = models[SPECULATIVE]
    depth, count = drafting.config.mtp.depth, (rounds + 1) * steps
    length = max(1, context - count)  # random drafts are hardly ever accepted, so each round moves by one
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(drafting.config.vocab_size, (batch, length), generator=generator)
    prompts = prompts.to(drafting.lm_head.weight.device)
    with inferring(drafting):
        speculation = Speculation(drafting, prompts, 2 * count * (depth + 1))
    cache_bytes[SPECULATIVE] = Cache(drafting, batch, context, mtp=True).nbytes
    sides[SPECULATIVE] = (drafting, True, speculation.round)
    seconds = turns(sides, rounds, steps)
    one_round, one_step = seconds.pop(SPECULATIVE), seconds[ABSORBED]
    return {
        "tokens_per_s": {name: round(batch / s, 1) for name, s in seconds.items()},
        "cache_bytes": cache_bytes,
        "speculative": {
            "round_ms": round(1e3 * one_round, 3),
            "speedup_if_none_accepted": round(one_step / one_round, 3),
            "speedup_if_all_accepted": round((depth + 1) * one_step / one_round, 3),
            "accepted_per_round_to_break_even": round(one_round / one_step - 1, 3),
        },
    }


def trained(model: "Transformer", prompts: Any, new_tokens: int, batch: int, rounds: int) -> dict[str, Any]:
    """Held-out `prompts` (N, P) decoded both ways, in turns, the prompts' own forward on both sides."""
    from models.decoding.generate import greedy
    from models.decoding.speculative import self_speculative
    from models.kinds import attention_of

    absorb = attention_of(model.config).absorbs
    plain_s = speculative_s = 0.0
    identical, found = 0, []
    for number, part in enumerate(prompts.split(batch), start=1):
        progress(f"checkpoint: batch {number} of {-(-len(prompts) // batch)}")
        fastest = [math.inf, math.inf]
        for _ in range(rounds + 1):
            start = time.perf_counter()
            tokens = greedy(model, part, new_tokens, absorb)
            middle = time.perf_counter()
            speculated: Speculated = self_speculative(model, part, new_tokens, absorb)
            took = (middle - start, time.perf_counter() - middle)
            fastest = [min(pair) for pair in zip(fastest, took, strict=True)]
        plain_s, speculative_s = plain_s + fastest[0], speculative_s + fastest[1]
        identical += int((tokens == speculated.tokens).all(dim=1).sum())
        found.append(speculated)
    row_rounds = sum(one.rounds for one in found)
    accepted = [sum(counts) for counts in zip(*(one.accepted for one in found), strict=True)]
    return {
        "prompts": len(prompts),
        "prompt_tokens": prompts.shape[1],
        "new_tokens": new_tokens,
        "acceptance": [round(count / row_rounds, 4) for count in accepted],
        "tokens_per_forward": round(1 + sum(accepted) / row_rounds, 4),
        "plain_tokens_per_s": round(len(prompts) * new_tokens / plain_s, 1),
        "speculative_tokens_per_s": round(len(prompts) * new_tokens / speculative_s, 1),
        "speedup": round(plain_s / speculative_s, 3),
        "identical_rows": identical,
    }


def open_checkpoint(folder: Path, runs_dir: Path, prompts: int) -> tuple["Transformer", Any, int]:
    """A model with MTP modules, held-out prompts (N, half its sequence length), and that half."""
    import torch

    from models.base.typed import ConfigError
    from models.base.typed import build as typed
    from models.checkpoint import load_checkpoint
    from tasks.config import DataConfig
    from tasks.text.batches import prepare

    model, extra = load_checkpoint(folder)
    if not model.config.mtp.depth:
        raise ConfigError(
            f"--checkpoint {folder}: model.mtp.depth=0, so nothing drafts; name one trained with model.mtp.depth=1"
        )
    data = prepare(typed(DataConfig, extra["data"], "data"), model.config.vocab_size, runs_dir / "data")
    half = data.seq_len // 2
    windows: Iterator[torch.Tensor] = data.evaluation_batches("test", prompts * data.seq_len)
    return model, torch.cat(list(windows))[:, :half], half


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    rounds, steps, prompts = (2, 3, 4) if arguments.quick else (7, 10, 16)
    opened = None
    if arguments.checkpoint is not None:
        opened = open_checkpoint(arguments.checkpoint, arguments.runs_dir, prompts)
    progress(f"building {len(KINDS) + 1} models of size {arguments.size}")
    models = {kind: build(arguments.size, kind, device=arguments.device) for kind in KINDS}
    models[SPECULATIVE] = build(arguments.size, "mla", arguments.depth, arguments.device)
    contexts = sorted(arguments.contexts)
    table = {}
    for number, context in enumerate(contexts, start=1):
        progress(f"context {context} ({number} of {len(contexts)})")
        table[context] = compare(models, context, arguments.batch, rounds, steps)
    longest = table[contexts[-1]]
    result = {
        "benchmark": "decode",
        "size": arguments.size,
        "dtype": models["mla"].config.dtype,
        "batch": arguments.batch,
        "threads": 1,
        "device": arguments.device,
        "mtp_depth": arguments.depth,
        "contexts": table,
        "ratio": round(longest["tokens_per_s"][ABSORBED] / longest["tokens_per_s"]["mla"], 3),
        "speculative_speedup": None,
    }
    if opened is not None:
        model, texts, new_tokens = opened
        result["checkpoint"] = trained(model, texts, new_tokens, arguments.batch, 1 if arguments.quick else 3)
        result["speculative_speedup"] = result["checkpoint"]["speedup"]
    return result


def shown(result: dict[str, Any]) -> str:
    """A table for the eyes."""
    lines = [f"{'tokens/s':>28}" + "".join(f"{context:>10}" for context in result["contexts"])]
    for name in (*KINDS, ABSORBED):
        lines.append(
            f"{name:>28}" + "".join(f"{row['tokens_per_s'][name]:10.1f}" for row in result["contexts"].values())
        )
    lines.append(f"{'cache KB per row':>28}")
    for name in (*KINDS, SPECULATIVE):
        kept = [row["cache_bytes"][name] / result["batch"] / 1e3 for row in result["contexts"].values()]
        lines.append(f"{name:>28}" + "".join(f"{kilobytes:10.1f}" for kilobytes in kept))
    lines.append(f"{SPECULATIVE:>28}")
    for figure in next(iter(result["contexts"].values()))["speculative"]:
        rows = [row["speculative"][figure] for row in result["contexts"].values()]
        lines.append(f"{figure.replace('accepted_per_round_', 'accepted '):>28}" + "".join(f"{x:10.3f}" for x in rows))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Tokens per second and cache bytes of decoding.")
    parser.add_argument("--size", choices=["small", "tiny"], help="default: small; with --quick, tiny")
    parser.add_argument("--contexts", type=int, nargs="+", help="default: 512 1024 2048 4096; with --quick, 512")
    parser.add_argument("--batch", type=int, default=1, help="rows decoded together")
    parser.add_argument("--depth", type=int, default=1, choices=[1, 2, 3], help="MTP modules, without a checkpoint")
    parser.add_argument(
        "--checkpoint", type=Path, help="a trained model with MTP modules: real acceptance and speed-up"
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="without a checkpoint")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="its data/ keeps the checkpoint's data")
    parser.add_argument("--quick", action="store_true", help="a few seconds: does it run")
    arguments = parser.parse_args()
    arguments.size = arguments.size or ("tiny" if arguments.quick else "small")
    arguments.contexts = arguments.contexts or ([512] if arguments.quick else [512, 1024, 2048, 4096])
    if min(arguments.contexts) < 16:
        parser.error(f"--contexts {min(arguments.contexts)}: must be at least 16")
    if arguments.batch < 1:
        parser.error(f"--batch {arguments.batch}: must be at least 1")
    if arguments.device == "cuda" and arguments.checkpoint is not None:
        parser.error("--checkpoint: is decoded on a CPU; leave --device out")
    from models.base.typed import ConfigError

    try:
        result = run(arguments)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shown(result))
    print(json.dumps(result, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
