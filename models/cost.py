"""What a config costs, from the config alone, counted part by part: parameters, training FLOPs, KV cache, activations.

    python -m models.cost deepseek_v3

prints it for a named size. Nothing is built; the tests compare with models that are.
"""

import sys
from dataclasses import dataclass, replace

from models.config import ModelConfig, MTPConfig
from models.streams import spoken
from models.typed import ConfigError

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
    """Those that one token passes: all but the experts it does not choose. Embedding and head are counted."""
    flops_per_token: float
    """Forward and backward of one training token at the given sequence length: 6 per weight of each product it passes,
    plus the attention's scores and values at half the length (causal), times 3 for forward and backward. With MTP
    modules, which work on all but their depth's last positions."""
    kv_bytes: int
    """Cached per token over all layers of the main model, in the compute type (BF16 where it is not resolved)."""
    mtp_params: int = 0
    """Of the MTP modules, which share embedding and head with the main model."""


def attention_params(config: ModelConfig) -> int:
    """Matrices of one attention layer (norm gains apart)."""
    a, d = config.attention, config.d_model
    if a.kind != "mla":
        return 2 * d * a.head_dim * (a.n_heads + config.n_kv_heads)
    qk = a.n_heads * (a.qk_nope_head_dim + a.qk_rope_head_dim)
    query = d * qk if a.q_lora_rank is None else a.q_lora_rank * (d + qk)
    latent = d * (a.kv_lora_rank + a.qk_rope_head_dim)
    expand = a.kv_lora_rank * a.n_heads * (a.qk_nope_head_dim + a.v_head_dim)
    return query + latent + expand + a.n_heads * a.v_head_dim * d


def norm_params(config: ModelConfig) -> int:
    """Gains of one block: two norms, and those of MLA's latents."""
    a = config.attention
    return 2 * config.d_model + (a.kv_lora_rank + (a.q_lora_rank or 0) if a.kind == "mla" else 0)


def kv_elements(config: ModelConfig) -> int:
    """Cached per token and layer (V2 table 1)."""
    a = config.attention
    return a.kv_lora_rank + a.qk_rope_head_dim if a.kind == "mla" else 2 * config.n_kv_heads * a.head_dim


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
    joined = 2 * d * d + 2 * d if config.mtp.style == "chained" else 0
    further = joined + attention_params(config) + norm_params(config) + d + feed_forward
    return {
        "embedding": config.vocab_size * d,
        "attention": config.n_layers * attention_params(config),
        "norms": config.n_layers * norm_params(config) + d,
        "dense": dense * 3 * d * config.intermediate_size,
        "router": moe * d * m.n_routed_experts,
        "shared": moe * m.n_shared_experts * expert,
        "routed": moe * m.n_routed_experts * expert,
        "head": config.vocab_size * d,
        "mtp": config.mtp.depth * further,
    }


def cost(config: ModelConfig, seq_len: int) -> Cost:
    """The costs of training on sequences of `seq_len` tokens."""
    m, d, p = config.moe, config.d_model, parts(config)
    moe = config.n_layers - config.dense_layers
    expert = 3 * d * m.moe_intermediate_size
    idle = moe * (m.n_routed_experts - m.top_k) * expert
    total = sum(count for part, count in p.items() if part != "mtp")
    passed = total - p["embedding"] - p["norms"] - idle  # a lookup and gains are no products
    flops = 6.0 * passed + config.n_layers * _score_flops(config, seq_len)
    if config.mtp.depth:
        gains = norm_params(config) + d + (2 * d if config.mtp.style == "chained" else 0)
        unused = (m.n_routed_experts - m.top_k) * expert if config.feed_forward == "moe" else 0
        module = p["mtp"] // config.mtp.depth - gains - unused + p["head"]
        for k in range(1, config.mtp.depth + 1):
            length = seq_len - k
            flops += (6.0 * module + _score_flops(config, length)) * length / seq_len
    return Cost(
        total_params=total,
        active_params=total - idle,
        flops_per_token=flops,
        kv_bytes=config.n_layers * kv_elements(config) * BYTES[config.dtype],
        mtp_params=p["mtp"],
    )


def _score_flops(config: ModelConfig, seq_len: int) -> float:
    """Scores and values of one layer, forward and backward, per token."""
    a = config.attention
    widths = a.qk_nope_head_dim + a.qk_rope_head_dim + a.v_head_dim if a.kind == "mla" else 2 * a.head_dim
    return 6.0 * a.n_heads * widths * (seq_len + 1) / 2


def activation_bytes(config: ModelConfig, seq_len: int) -> float:
    """Kept per token of a microbatch between forward and backward, as models/ computes it on a CPU: the inputs of every
    product, norm and activation, the attention's probabilities (as long as it writes them out) and the logits."""
    a, m, d, c = config.attention, config.moe, config.d_model, BYTES[config.dtype]
    experts = config.feed_forward == "moe"
    if a.kind == "mla":
        key = a.qk_nope_head_dim + a.qk_rope_head_dim
        query = a.q_lora_rank or a.n_heads * key
        kept = query + a.kv_lora_rank + a.qk_rope_head_dim + (a.q_lora_rank or 0) + a.kv_lora_rank
        kept += a.n_heads * (2 * key + 2 * a.v_head_dim)
    else:
        kept = 2 * (a.n_heads + config.n_kv_heads) * a.head_dim
    attention = c * (2 * d + kept + a.n_heads * seq_len)
    dense = c * (2 * d + 3 * config.intermediate_size)
    router = 4 * m.n_routed_experts + (4 * d if c == 2 else 0)  # FP32
    rows = d + 3 * m.moe_intermediate_size
    moe = c * (2 * d + m.top_k * rows + 3 * m.n_shared_experts * m.moe_intermediate_size) + router
    head = c * (2 * d + config.vocab_size)
    layers = config.n_layers * attention + config.dense_layers * dense
    layers += (config.n_layers - config.dense_layers) * moe
    joined = c * 4 * d if config.mtp.style == "chained" else 0
    further = attention + (moe if experts else dense) + head + joined
    shares = sum(1 - k / seq_len for k in range(1, config.mtp.depth + 1))
    return layers + head + shares * further


def gpu_hours(tokens: float = V3_TOKENS, hours_per_trillion: float = V3_GPU_HOURS_PER_TRILLION) -> float:
    """H800 hours of `tokens` at a measured throughput; V3's own by default."""
    return tokens / 1e12 * hours_per_trillion


def describe(name: str, config: ModelConfig, seq_len: int) -> str:
    """A table for the eyes."""
    c = cost(config, seq_len)
    alone = cost(replace(config, mtp=MTPConfig()), seq_len).flops_per_token
    rows = [(part, f"{count / 1e6:,.1f} M") for part, count in parts(config).items() if count]
    rows += [
        ("total", f"{c.total_params / 1e9:,.3f} B"),
        ("active per token", f"{c.active_params / 1e9:,.3f} B"),
        ("training FLOPs per token", f"{c.flops_per_token / 1e9:,.1f} G at {seq_len} tokens a sequence"),
        *([("  without MTP", f"{alone / 1e9:,.1f} G")] if config.mtp.depth else []),
        ("activations per token", f"{activation_bytes(config, seq_len) / 1e6:,.3f} MB kept for the backward"),
        ("KV cache per token", f"{c.kv_bytes / 1e3:,.3f} KB ({kv_elements(config)} elements in each layer)"),
    ]
    if name == "deepseek_v3":
        hours = gpu_hours()
        dollars = f"${hours * DOLLARS_PER_GPU_HOUR / 1e6:.3f} M"
        rows.append(("its training", f"{hours / 1e6:.3f} M H800 hours, {dollars} at $2: 14.8 T tokens at V3's speed"))
    width = max(len(row[0]) for row in rows)
    return "\n".join([name, *(f"  {key:{width}}  {value}" for key, value in rows)])


def main(arguments: list[str]) -> int:
    from models.sizes import SIZES, size

    try:
        for name in arguments or list(SIZES):
            config, seq_len = size(name)
            print(describe(name, replace(config, dtype="bfloat16"), seq_len))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(spoken(lambda: main(sys.argv[1:])))
