"""How a model could lie on a cluster: pipeline ranks, groups of expert parallelism, memory of each, hours.

    python -m models.layout deepseek_v3 [gpus=2048] [memory=80] [sequences=15360] [node=8]

The plan of V3 3.2: DualPipe over P ranks, each holding a stage of either direction; experts spread over E devices of
the P-th part that is data-parallel; AdamW's states sharded over it (ZeRO-1); no tensor parallelism. Memory is a
reckoning and no measurement: weights in BF16, gradients and the optimizer's copy in FP32, moments in BF16, and the
activations that V3's training keeps (3.2.3, 3.3.3). It leaves out what libraries and buffers take, for which a tenth of
the device stays free.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.base.bounds import Count, Positive
from models.base.command import parse
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError
from models.config import ModelConfig
from models.cost import V3_GPU_HOURS_PER_TRILLION, activation_bytes, cost, norm_params, parts
from models.kinds import attention_of
from models.pipeline.schedules import make_schedule
from models.pipeline.simulate import Costs, simulate
from models.pipeline.split import split, uses_embedding_again

FREE = 0.1
WEIGHT, GRADIENT, STATE = 2, 4, 8
"""Bytes of a parameter: BF16; FP32; FP32 and two moments in BF16."""
SHOWN = 6


@dataclass(frozen=True)
class Cluster:
    gpus: Count = 2048
    memory: Positive = 80.0
    """GB of each."""
    sequences: Count = 15360
    """Of a step (V3 4.2)."""
    node: Count = 8
    """GPUs that reach each other without the network between nodes."""


@dataclass(frozen=True)
class Layout:
    pipeline: int
    """P."""
    experts: int
    """E."""
    data: int
    """Copies of the pipeline."""
    microbatches: int
    """Of one sequence, through each copy in a step."""
    idle: float
    """Share of a step that the rank waits that waits longest, of chunks with F = I = W and without overlap."""
    nodes: int
    """That a token's experts are on at most."""
    state_bytes: float
    """Weights, gradients and optimizer of the fullest rank ..."""
    activation_bytes: float
    """... and what it keeps for the backward."""

    @property
    def gigabytes(self) -> float:
        return (self.state_bytes + self.activation_bytes) / 1e9


def kept_bytes(config: ModelConfig, moe: bool) -> float:
    """Kept per token of a layer as V3 trains: norms, MLA's up-projections and SwiGLU's products are computed again
    (3.2.3); inputs of linear layers are FP8, of the one after attention E5M6 (3.3.3). The residual stream is BF16, and
    so are queries, keys and values where no latents take their place."""
    m, d, attention = config.moe, config.d_model, attention_of(config)
    out = attention.n_heads * attention.value_dim
    latents = attention.projected or 2 * (attention.n_heads * attention.key_dim + attention.cached)  # else BF16
    ffn = (m.top_k + m.n_shared_experts) * m.moe_intermediate_size if moe else config.intermediate_size
    routed = m.top_k * d + 4 * m.n_routed_experts if moe else 0  # rows that were sent, and scores in FP32
    return 2 * d + latents + 1.5 * out + 4 * attention.n_heads + 2 * d + routed + 2 * ffn


def layouts(config: ModelConfig, seq_len: int, cluster: Cluster) -> list[Layout]:
    """All that the numbers allow, those that fit first; among them the least idle, then the shortest pipeline, the
    fewest nodes, the smallest groups of experts."""
    found = [_layout(config, seq_len, cluster, ranks, experts) for ranks, experts in _candidates(config, cluster)]
    room = cluster.memory * (1 - FREE)
    return sorted(found, key=lambda a: (max(0.0, a.gigabytes - room), a.idle, a.pipeline, a.nodes, a.experts))


def _candidates(config: ModelConfig, cluster: Cluster) -> Iterator[tuple[int, int]]:
    """(P, E): no pipeline, or DualPipe, which wants an even number of ranks and twice as many microbatches."""
    experts = config.moe.n_routed_experts if config.moe_layers else 1
    for ranks in (1, *range(2, config.n_layers + 1, 2)):
        data, rest = divmod(cluster.gpus, ranks)
        if rest or cluster.sequences % data:
            continue
        if ranks > 1 and not _divides(config, ranks, cluster.sequences // data):
            continue
        yield from ((ranks, size) for size in range(1, data + 1) if data % size == 0 and experts % size == 0)


def _divides(config: ModelConfig, ranks: int, microbatches: int) -> bool:
    try:
        split(config, ranks)
        make_schedule("dualpipe", ranks, microbatches)
    except ConfigError:
        return False
    return True


def _layout(config: ModelConfig, seq_len: int, cluster: Cluster, ranks: int, experts: int) -> Layout:
    data = cluster.gpus // ranks
    microbatches = cluster.sequences // data
    pipeline = _pipeline(config, ranks, microbatches)
    copies = data * len(pipeline.homes)
    states = [
        (dense + routed / experts) * (WEIGHT + GRADIENT) + (dense + routed) / copies * STATE
        for dense, routed in pipeline.params
    ]
    logits = config.vocab_size * 6  # BF16, and FP32 for the loss; of one chunk at a time
    kept = [
        seq_len * (chunks * kept + logits * last)
        for chunks, kept, last in zip(pipeline.chunks, pipeline.kept, pipeline.last, strict=True)
    ]
    fullest = max(range(ranks), key=lambda rank: states[rank] + kept[rank])
    nodes = -(-experts // cluster.node)
    limited = -(-nodes * config.moe.topk_group // config.moe.n_group)
    most = min(limited, config.moe.top_k)
    return Layout(ranks, experts, data, microbatches, pipeline.idle, most, states[fullest], kept[fullest])


@dataclass(frozen=True)
class _Pipeline:
    """What a pipeline asks of each rank, whatever the experts lie on."""

    homes: list[list[int]]
    idle: float
    chunks: list[int]
    """Held at once."""
    params: list[tuple[int, int]]
    """All but the routed experts', and theirs."""
    kept: list[float]
    """Bytes per token of a chunk: the mean over the stages that the rank holds."""
    last: list[bool]
    """Whether it holds the last stage."""


@functools.lru_cache(maxsize=64)
def _pipeline(config: ModelConfig, ranks: int, microbatches: int) -> _Pipeline:
    if ranks == 1:
        alone = [range(config.n_layers)]
        return _Pipeline([[0]], 0.0, [1], [held_params(config, alone, [0])], [_kept(config, alone[0])], [True])
    schedule = make_schedule("dualpipe", ranks, microbatches)
    timeline = simulate(schedule, Costs(1.0, 1.0, 1.0))
    stages = split(config, schedule.stages)
    held = [schedule.held(rank) for rank in range(ranks)]
    kept = [_kept(config, layers) for layers in stages]
    return _Pipeline(
        schedule.homes,
        timeline.longest_bubble_share,
        [timeline.peak_activations(rank) for rank in range(ranks)],
        [held_params(config, stages, own) for own in held],
        [sum(kept[i] for i in own) / len(own) for own in held],
        [schedule.stages - 1 in own for own in held],
    )


def _kept(config: ModelConfig, layers: Sequence[int]) -> float:
    return sum(kept_bytes(config, layer >= config.dense_layers) for layer in layers)


def held_params(config: ModelConfig, stages: Sequence[Sequence[int]], held: Sequence[int]) -> tuple[int, int]:
    """Parameters of a rank that holds these of the stages, each a range of layers: all but the routed experts', and
    theirs."""
    m, d, p, last = config.moe, config.d_model, parts(config), len(stages) - 1 in held
    expert = 3 * d * m.moe_intermediate_size
    layers = [layer for stage in held for layer in stages[stage]]
    moe = sum(layer >= config.dense_layers for layer in layers)
    others = (len(layers) - moe) * 3 * d * config.intermediate_size
    others += len(layers) * (attention_of(config).params + norm_params(config))
    others += moe * (d * m.n_routed_experts + m.n_shared_experts * expert)
    routed = moe * m.n_routed_experts * expert
    if 0 in held or (last and uses_embedding_again(config)):
        others += p["embedding"]
    if last:
        further = config.mtp.blocks * m.n_routed_experts * expert if config.feed_forward == "moe" else 0
        others, routed = others + d + p["head"] + p["mtp"] - further, routed + further
    return others, routed


def training_bytes(config: ModelConfig, seq_len: int, sequences: float, shards: int = 1) -> tuple[float, float]:
    """(weights, gradients and AdamW's moments, all in FP32 and `shards` ways apart; what a microbatch of so many
    sequences keeps for the backward, nothing computed again) of one device of models/training/parallel.py."""
    state = 16 * sum(parts(config).values()) / shards
    return state, activation_bytes(config, seq_len) * seq_len * sequences


def hours_per_trillion(config: ModelConfig, seq_len: int) -> float:
    """GPU hours at as many FLOP/s as V3's training reached on an H800 (its table 1), whatever the model."""
    from models.sizes import size

    published, length = size("deepseek_v3")
    flops = cost(config, seq_len).flops_per_token
    return V3_GPU_HOURS_PER_TRILLION * flops / cost(published, length).flops_per_token


def describe_layouts(config: ModelConfig, seq_len: int, cluster: Cluster) -> list[str]:
    """Lines for the eyes: the one that is proposed, and the next ones. Raises ConfigError where there is none."""
    ordered = layouts(config, seq_len, cluster)
    if not ordered:
        raise ConfigError(
            f"gpus={cluster.gpus}: no number of pipeline ranks (1, or even and at most {config.n_layers}) divides them "
            f"such that sequences={cluster.sequences} are equally many, and enough, for each copy; try a power of two"
        )
    room = cluster.memory * (1 - FREE)
    fits = sum(layout.gigabytes <= room for layout in ordered)
    hours = hours_per_trillion(config, seq_len)
    lines = [
        f"on {cluster.gpus:,} GPUs of {cluster.memory:g} GB, {cluster.sequences:,} sequences of {seq_len:,} a step "
        f"(DualPipe, ZeRO-1; reckoned, not measured):",
        f"{hours:,.0f} GPU hours for a trillion tokens at V3's FLOP/s, {hours / cluster.gpus / 24:,.2f} days here",
        "",
        f"{'pipeline':>8}  {'experts over':>12}  {'copies':>6}  {'nodes of a token':>16}  {'idle':>6}  "
        f"{'state':>8}  {'kept':>8}  {'together':>8}",
    ]
    lines += [_row(layout, fits > 0 and number == 0) for number, layout in enumerate(ordered[:SHOWN])]
    if not fits:
        lines.append(f"none of {len(ordered)} leaves {FREE:.0%} of the memory free: more GPUs, or larger ones")
    return lines


def _row(layout: Layout, proposed: bool) -> str:
    return (
        f"{layout.pipeline:8}  {layout.experts:12}  {layout.data:6}  {layout.nodes:16}  {layout.idle:6.1%}  "
        f"{layout.state_bytes / 1e9:5.1f} GB  {layout.activation_bytes / 1e9:5.1f} GB  {layout.gigabytes:5.1f} GB"
        + ("  <- proposed" if proposed else "")
    )


def main(arguments: list[str] | None = None) -> int:
    from models.sizes import SIZES, size

    words = sys.argv[1:] if arguments is None else arguments
    names = [word for word in words if "=" not in word]
    if {"--help", "-h"} & {*words} or not names:
        print(f"{__doc__}\nSizes: {', '.join(SIZES)}")
        return 0 if words else 2

    def work() -> int:
        cluster = parse(Cluster, [word for word in words if "=" in word])
        for name in names:
            lines = describe_layouts(*size(name), cluster)
            print("\n".join([f"{name} {lines[0]}", *(f"  {line}".rstrip() for line in lines[1:])]))
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
