"""One training step (forward, backward, AdamW) of our model against transformers' DeepseekV3ForCausalLM, same sizes.

    python -m benchmarks.train_step

Both sides start from the same weights and take turns in one process, on one thread, on random tokens; the fastest of
their rounds counts. transformers is tried with each of its expert kernels, attention kernels and data types, and the
fastest stands for it. With --compile both are also taken through torch.compile: our blocks, their whole model; each is
then judged by the faster of its two sides. Prints one JSON object; `ratio` is our tokens/s over theirs. torchtitan's
DeepSeek-V3, where that is installed, takes its turns too, in the data type of transformers' fastest.
"""

import argparse
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH, LENGTH = 8, 256
SIZE = "small"
EXPERTS = ["grouped_mm", "eager"]
"""transformers' `batched_mm` copies every token's expert matrices: 40 times slower here, so it is not tried."""


def ours(dtype: Any, device: str, precision: Any = None, compiled: bool = False) -> Callable[[Any], float]:
    """A step of this project's model on tokens (B, T + 1); returns the loss. `precision`: a PrecisionConfig."""
    from dataclasses import replace

    import torch

    from models.precision.config import PrecisionConfig
    from models.sizes import size
    from models.training.config import OptimConfig
    from models.training.executor import Microbatching
    from models.training.optim import adamw
    from models.transformer import Transformer, initialise

    precision = precision or PrecisionConfig()
    config = replace(size(SIZE)[0], dtype=dtype, precision=precision)
    model = Transformer(config)
    initialise(model, 0, config.std)
    model.to(device)
    if compiled:
        from models.training.compiled import compile_blocks

        compile_blocks(model)
    executor, optimizer = Microbatching(model, 1), adamw(model, OptimConfig(lr=1e-3), precision.moments)

    def step(tokens: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = executor.step(tokens).losses["loss"]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return float(loss)

    return step


def theirs(dtype: str, experts: str, attention: str, device: str, compiled: bool = False) -> Callable[[Any], float]:
    """The same with transformers. With `bfloat16` its weights, too, are kept in BF16 (it knows no master weights),
    which spares it the casts."""
    import torch
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    from models.sizes import size

    config, _ = size(SIZE)
    a, m = config.attention, config.moe
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.intermediate_size,
        "moe_intermediate_size": m.moe_intermediate_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_heads,
        "n_shared_experts": m.n_shared_experts,
        "n_routed_experts": m.n_routed_experts,
        "routed_scaling_factor": m.routed_scaling_factor,
        "kv_lora_rank": a.kv_lora_rank,
        "q_lora_rank": a.q_lora_rank,
        "qk_rope_head_dim": a.qk_rope_head_dim,
        "v_head_dim": a.v_head_dim,
        "qk_nope_head_dim": a.qk_nope_head_dim,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": m.top_k,
        "first_k_dense_replace": config.first_k_dense,
        "norm_topk_prob": True,
        "use_cache": False,
        "initializer_range": config.std,
        "attn_implementation": attention,
        "experts_implementation": experts,
    }
    peer: Any = DeepseekV3ForCausalLM(DeepseekV3Config(**sizes))
    peer.to(device=device, dtype=getattr(torch, dtype))
    forward = torch.compile(peer) if compiled else peer
    return stepping(peer, lambda tokens: forward(input_ids=tokens).logits)


def stepping(peer: Any, logits_of: Callable[[Any], Any]) -> Callable[[Any], float]:
    """A step of another project's module, by its logits (B, T, V) of tokens (B, T)."""
    import torch

    optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: Any) -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = logits_of(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return step


def fastest(step: Callable[[Any], float], tokens: Any, rounds: int) -> float:
    """Seconds of the fastest of `rounds` steps, after one to warm up."""
    step(tokens)
    return min(timed(step, tokens) for _ in range(rounds))


def timed(step: Callable[[Any], float], tokens: Any) -> float:
    import torch

    started = time.perf_counter()
    step(tokens)
    if tokens.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def peak(side: list[str]) -> int:
    """Peak resident bytes of a process that takes three steps of one side alone."""
    command = [sys.executable, "-m", "benchmarks.train_step", "--alone", *side]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(side: list[str], device: str) -> int:
    """Three steps of one side; returns the growth of resident memory since its libraries were imported."""
    import torch

    from ablations.trial.memory import peak_resident, reset_peak

    tokens = torch.randint(0, 4096, (BATCH, LENGTH + 1))
    if side[0] == "theirs":
        import transformers.models.deepseek_v3.modeling_deepseek_v3  # noqa: F401  (its own memory is not the step's)
    before = reset_peak()
    step = ours(side[1], device) if side[0] == "ours" else theirs(side[1], side[2], side[3], device)
    for _ in range(3):
        step(tokens)
    return peak_resident() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="steps of each side, in turns (15)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one kernel, two rounds, no memory: does it run")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--compile", action="store_true", help="also compiled, which takes minutes on a CPU")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()

    import torch

    from models.cost import cost
    from models.sizes import size
    from models.transformer import resolve_dtype

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.alone:
        print(alone(options.alone, options.device))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        print("train_step: torch sees no CUDA device on this machine; leave --device out", file=sys.stderr)
        raise SystemExit(2)
    import transformers

    transformers.logging.set_verbosity_error()
    config, _ = size(SIZE)
    tokens = torch.randint(0, config.vocab_size, (BATCH, LENGTH + 1)).to(options.device)
    dtype = resolve_dtype("auto", options.device)
    variants: list[tuple[Any, ...]] = list(
        itertools.product(dict.fromkeys([dtype, "float32"]), EXPERTS, ["sdpa", "eager"])
    )[: 1 if options.quick else None]
    rounds = 2 if options.quick else options.rounds
    seconds = {}
    for variant in variants:
        seconds[variant] = fastest(theirs(variant[0], variant[1], variant[2], options.device), tokens, 2)
        each = BATCH * LENGTH / seconds[variant]
        print(f"transformers {' '.join(variant)}: {each:,.0f} tokens/s", file=sys.stderr)
    best = min(seconds, key=lambda variant: seconds[variant])
    sides = {"ours": ours(dtype, options.device), "theirs": theirs(best[0], best[1], best[2], options.device)}
    if options.compile:
        sides["ours compiled"] = ours(dtype, options.device, compiled=True)
        sides["theirs compiled"] = theirs(best[0], best[1], best[2], options.device, compiled=True)
    if importlib.util.find_spec("torchtitan") is not None:
        from benchmarks.titan import titans

        sides["torchtitan"] = titans(config, best[0], options.device)
        if options.compile:
            sides["torchtitan compiled"] = titans(config, best[0], options.device, compiled=True)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        step(tokens)
    for done in range(rounds):
        for name, step in sides.items():
            times[name].append(timed(step, tokens))
        if done % 5 == 4:
            print(f"round {done + 1} of {rounds}", file=sys.stderr)
    rates = {name: BATCH * LENGTH / min(values) for name, values in times.items()}
    rate = {who: max(rates[name] for name in rates if name.startswith(who)) for who in ("ours", "theirs")}
    flops = cost(config, LENGTH).flops_per_token
    result = {
        "benchmark": "train_step",
        "size": SIZE,
        "batch": BATCH,
        "length": LENGTH,
        "threads": options.threads,
        "device": options.device,
        "ours": {"tokens_per_second": round(rate["ours"]), "dtype": dtype},
        "theirs": {"tokens_per_second": round(rate["theirs"]), "dtype_experts_attention": list(best)},
        "tokens_per_second": {name: round(value) for name, value in rates.items()},
        "ratio": round(rate["ours"] / rate["theirs"], 3),
        "gflops_per_second": round(rate["ours"] * flops / 1e9, 1),
    }
    if options.device == "cpu" and not options.quick:
        memory = {"ours": peak(["ours", dtype]), "theirs": peak(["theirs", *best])}
        result["peak_bytes"] = memory
        result["memory_ratio"] = round(memory["ours"] / memory["theirs"], 3)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
