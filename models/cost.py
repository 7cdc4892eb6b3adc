"""What a config costs, from the config alone, counted part by part: parameters, training FLOPs, KV cache, activations.

    python -m models.cost deepseek_v3

prints it for a named size. Nothing is built; the tests compare with models that are.
"""

import sys
from dataclasses import dataclass, replace

from models.base.streams import obeyed, spoken
from models.config import ModelConfig, MTPConfig
from models.kinds import attention_of

V3_TOKENS = 14.8e12
V3_GPU_HOURS_PER_TRILLION = 180e3
"""H800 hours per trillion tokens: the throughput that V3 (table 1) reports on 2,048 of them."""
DOLLARS_PER_GPU_HOUR = 2.0
BYTES = {"float32": 4, "bfloat16": 2, "float64": 8, "auto": 2}


@dataclass(frozen=True)
class Cost:
    total_params: int
    """Of the main model, as it is deployed: embedding and head included, MTP modules not."""
    active_params: int
    """Those that one token passes: all but the experts it does not choose. Embedding and head are counted (V3: 37.6B,
    its 37B)."""
    flops_per_token: float
    """Forward and backward of one training token at the given sequence length: 6 per weight of each product it passes,
    plus the attention's scores and values at half the length (causal), times 3 for forward and backward. With MTP
    modules, which work on all but their depth's last positions."""
    kv_bytes: int
    """Cached per token over all layers of the main model, in the compute type (BF16 where it is not resolved)."""
    mtp_params: int = 0
    """Of the MTP modules, which share embedding and head with the main model."""
    embedding_params: int = 0

    @property
    def active_products(self) -> int:
        """Active parameters without the embedding, of which a token looks up one row (V2-Lite: its 2.4B)."""
        return self.active_params - self.embedding_params


def norm_params(config: ModelConfig) -> int:
    """Gains of one block: two norms, and those inside the attention."""
    return 2 * config.d_model + attention_of(config).gains


def parts(config: ModelConfig) -> dict[str, int]:
    """Parameters by part; without `mtp` they sum to `Cost.total_params`."""
    m, d = config.moe, config.d_model
    dense = config.dense_layers
    moe = config.n_layers - dense
    expert = 3 * d * m.moe_intermediate_size
    further_moe = config.feed_forward == "moe"  # an MTP module's block follows the last layer
    feed_forward = (
        d * m.n_routed_experts + (m.n_shared_experts + m.n_routed_experts) * expert
        if further_moe
        else 3 * d * config.intermediate_size
    )
    joined = 2 * d * d + 2 * d if config.mtp.chained else 0
    attention = attention_of(config).params
    further = d + (joined + attention + norm_params(config) + feed_forward if config.mtp.blocks else d * d)
    return {
        "embedding": config.vocab_size * d,
        "attention": config.n_layers * attention,
        "norms": config.n_layers * norm_params(config) + d,
        "dense": dense * 3 * d * config.intermediate_size,
        "router": moe * d * m.n_routed_experts,
        "shared": moe * m.n_shared_experts * expert,
        "routed": moe * m.n_routed_experts * expert,
        "head": config.vocab_size * d,
        "mtp": config.mtp.depth * further,
    }


def module_products(config: ModelConfig) -> int:
    """Weights of one MTP module, where there are any, that a token is multiplied with, the shared head apart."""
    m, d = config.moe, config.d_model
    each = parts(config)["mtp"] // config.mtp.depth - d
    if not config.mtp.blocks:
        return each
    idle = (m.n_routed_experts - m.top_k) * 3 * d * m.moe_intermediate_size if config.feed_forward == "moe" else 0
    return each - norm_params(config) - (2 * d if config.mtp.chained else 0) - idle


def cost(config: ModelConfig, seq_len: int) -> Cost:
    """The costs of training on sequences of `seq_len` tokens."""
    m, d, p = config.moe, config.d_model, parts(config)
    moe = config.n_layers - config.dense_layers
    expert = 3 * d * m.moe_intermediate_size
    idle = moe * (m.n_routed_experts - m.top_k) * expert
    total = sum(count for part, count in p.items() if part != "mtp")
    passed = total - p["embedding"] - p["norms"] - idle  # a lookup and gains are no products
    flops = 6.0 * passed + config.n_layers * attention_of(config).score_flops(seq_len)
    if config.mtp.depth:
        module = module_products(config) + p["head"]
        for k in range(1, config.mtp.depth + 1):
            length = seq_len - k
            scores = attention_of(config).score_flops(length) if config.mtp.blocks else 0
            flops += (6.0 * module + scores) * length / seq_len
    return Cost(
        total_params=total,
        active_params=total - idle,
        flops_per_token=flops,
        kv_bytes=config.n_layers * attention_of(config).cached * BYTES[config.dtype],
        mtp_params=p["mtp"],
        embedding_params=p["embedding"],
    )


def activation_bytes(config: ModelConfig, seq_len: int) -> float:
    """Kept per token of a microbatch between forward and backward, as models/ computes it on a CPU: the inputs of every
    product, norm and activation, what the attention needs (models/kinds.py) and the logits."""
    m, d, c = config.moe, config.d_model, BYTES[config.dtype]
    experts = config.feed_forward == "moe"

    def attention(length: int) -> float:
        return c * 2 * d + attention_of(config).kept_bytes(length, c)

    dense = c * (2 * d + 3 * config.intermediate_size)
    router = 4 * m.n_routed_experts + (4 * d if c == 2 else 0)  # FP32
    rows = d + 3 * m.moe_intermediate_size
    moe = c * (2 * d + m.top_k * rows + 3 * m.n_shared_experts * m.moe_intermediate_size) + router
    head = c * (2 * d + config.vocab_size)
    layers = config.n_layers * attention(seq_len) + config.dense_layers * dense
    layers += (config.n_layers - config.dense_layers) * moe
    joined = c * 4 * d if config.mtp.chained else 0
    block = (moe if experts else dense) + joined
    lengths = [seq_len - k for k in range(1, config.mtp.depth + 1)]
    own = [attention(length) + block if config.mtp.blocks else c * d for length in lengths]
    return layers + head + sum(n / seq_len * (kept + head) for n, kept in zip(lengths, own, strict=True))


def gpu_hours(tokens: float = V3_TOKENS, hours_per_trillion: float = V3_GPU_HOURS_PER_TRILLION) -> float:
    """H800 hours of `tokens` at a measured throughput; V3's own by default."""
    return tokens / 1e12 * hours_per_trillion


COUNTS, FLOPS, SIZE = ("", "K", "M", "B", "T"), ("", "K", "M", "G", "T"), ("B", "KB", "MB", "GB")


def in_units(value: float, units: tuple[str, ...]) -> str:
    """With the largest unit, each a thousand of the one before, that leaves it at 1 or more."""
    power = 0
    while value >= 1000 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:,.3f} {units[power]}" if power else f"{value:,.0f} {units[0]}".rstrip()


def describe(name: str, config: ModelConfig, seq_len: int) -> str:
    """A table for the eyes."""
    c = cost(config, seq_len)
    alone = cost(replace(config, mtp=MTPConfig()), seq_len).flops_per_token
    rows = [(part, in_units(count, COUNTS)) for part, count in parts(config).items() if count]
    rows += [
        ("total", in_units(c.total_params, COUNTS)),
        ("active per token", f"{in_units(c.active_params, COUNTS)} with the embedding"),
        ("", f"{in_units(c.active_products, COUNTS)} without it"),
        ("training FLOPs per token", f"{in_units(c.flops_per_token, FLOPS)} at {seq_len} tokens a sequence"),
        *([("  without MTP", in_units(alone, FLOPS))] if config.mtp.depth else []),
        ("activations per token", f"{in_units(activation_bytes(config, seq_len), SIZE)} kept for the backward"),
        ("KV cache per token", f"{in_units(c.kv_bytes, SIZE)} ({attention_of(config).cached} elements in each layer)"),
    ]
    if name == "deepseek_v3":
        hours = gpu_hours()
        dollars = f"${hours * DOLLARS_PER_GPU_HOUR / 1e6:.3f} M"
        rows.append(("its training", f"{hours / 1e6:.3f} M H800 hours, {dollars} at $2: 14.8 T tokens at V3's speed"))
    width = max(len(row[0]) for row in rows)
    return "\n".join([name, *(f"  {key:{width}}  {value}" for key, value in rows)])


def main(arguments: list[str] | None = None) -> int:
    from models.sizes import SIZES, size

    names = sys.argv[1:] if arguments is None else arguments
    if {"--help", "-h"} & {*names}:
        print(f"{__doc__}\nSizes, of which any may be named, and all are where none is: {', '.join(SIZES)}")
        return 0

    def work() -> int:
        for name, (config, seq_len) in [(name, size(name)) for name in names or SIZES]:
            print(describe(name, replace(config, dtype="bfloat16"), seq_len))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
