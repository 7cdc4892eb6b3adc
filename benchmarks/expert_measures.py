"""What benchmarks/expert_traffic.py measures on routing decisions: copies, bytes, balance, placements of experts."""

from typing import TYPE_CHECKING, Any

from benchmarks.expert_routing import EXPERTS, NODES, TOP_K, Routed

if TYPE_CHECKING:
    from torch import Tensor

    from models.expert_parallel import Placement

V3_WIDTH = 7168
BATCH = 4096
"""Tokens that the GPUs work on at once, for the imbalance within batches."""
PER_NODE = EXPERTS // NODES
SETTINGS = [
    (8, 0, "in order"),
    *((8, replicas, "freely") for replicas in (0, 8, 16, 32)),
    (16, 0, "in order"),
    *((16, replicas, how) for how in ("freely", "within nodes") for replicas in (0, 16, 32)),
    (64, 0, "in order"),
    *((64 + more, more, how) for how in ("freely", "within nodes") for more in (8, 16, 32)),
    *((64, 64, how) for how in ("freely", "within nodes")),
]
"""GPUs, replicas, how. Every GPU has equally many slots, which leaves out 8 replicas on 16 GPUs."""


def random_nodes(limit: int, tokens: int) -> float:
    """Nodes per token if affinities were random: the routing itself, with nothing learned."""
    import torch

    from models.config import MoEConfig
    from models.expert_parallel import copies
    from models.moe import only_best_groups

    config = MoEConfig(n_routed_experts=EXPERTS, top_k=TOP_K, n_group=NODES, topk_group=limit)
    scores = torch.rand(tokens, EXPERTS, generator=torch.Generator().manual_seed(0))
    chosen = only_best_groups(scores, config).topk(TOP_K, dim=-1).indices
    home = torch.zeros(tokens, dtype=torch.int64)
    return float(copies(chosen, home, torch.arange(EXPERTS), PER_NODE).nodes_N.double().mean())


def traffic(routed: Routed, limit: int) -> dict[str, Any]:
    """Per token and layer, means over tokens and layers."""
    import torch

    from models.balance import max_vio
    from models.expert_parallel import bytes_between_nodes, copies, expected_nodes, imbalance

    home, gpus = routed.home_gpu_N(EXPERTS), torch.arange(EXPERTS)
    layers = [copies(experts, home, gpus, PER_NODE) for experts in routed.experts_LNK]

    nodes, per_gpu = [layer.remote_nodes_N for layer in layers], [layer.remote_gpus_N for layer in layers]
    load_LGE = routed.load_LE.unflatten(1, (NODES, PER_NODE))
    closed = expected_nodes(EXPERTS, TOP_K, NODES, limit)
    sent = {"once_per_node": nodes, "once_per_gpu": per_gpu}
    return {
        "nodes_per_token": mean([layer.nodes_N for layer in layers]),
        "nodes_random_affinities": random_nodes(limit, len(home)),
        "nodes_uniform": closed,
        "copies_between_nodes": {way: mean(count) for way, count in sent.items()},
        "copies_between_nodes_uniform": {
            "once_per_node": closed * (1 - 1 / NODES),
            "once_per_gpu": TOP_K * (1 - 1 / NODES),
        },
        "copies_within_nodes": mean([layer.forwarded_N for layer in layers]),
        "busiest_node_received": mean([imbalance(layer.received_G.double()) for layer in layers]),
        "bytes_between_nodes": {
            f"{way}_{dispatch}": mean([bytes_between_nodes(each, V3_WIDTH, dispatch) for each in count])
            for way, count in sent.items()
            for dispatch in ("bf16", "fp8")
        },
        "max_vio": {
            "experts": mean([max_vio(routed.load_LE)]),
            "nodes": mean([max_vio(load_LGE.sum(dim=2))]),
            "within_nodes": mean([max_vio(load_LGE)]),
        },
    }


def placements(before: Routed, later: Routed) -> list[dict[str, Any]]:
    """Imbalances of every setting, means over layers (and batches): placed by the load of `before`, judged on both."""
    from models.expert_parallel import contiguous, imbalance, lower_bound, place

    loads = {"calibration": before.load_LE, "held_out": later.load_LE}
    rows = []
    for gpus, replicas, how in SETTINGS:
        nodes = NODES if how == "within nodes" else 1
        placed: list[Placement] = [
            contiguous(EXPERTS, gpus) if how == "in order" else place(load, gpus, replicas, nodes)
            for load in before.load_LE
        ]
        row: dict[str, Any] = {"gpus": gpus, "replicas": replicas, "how": how}
        for name, load_LE in (loads | {"batches": later.load_LBE(BATCH)}).items():
            row[name] = mean([imbalance(one.load_P(load)) for one, load in zip(placed, load_LE, strict=True)])
        for name, load_LE in loads.items():
            bounds = [lower_bound(load, gpus, replicas, nodes) for load in load_LE]
            row[f"{name}_bound"] = sum(bounds) / len(bounds)
        rows.append(row)
    return rows


def nodes_if_placed_freely(before: Routed, later: Routed) -> float:
    """Nodes per token after experts have moved over two GPUs a node without regard to the groups."""
    from models.expert_parallel import copies, place

    gpus = 2 * NODES
    home = later.home_gpu_N(gpus)
    placed = [place(load, gpus).gpu_of_E for load in before.load_LE]
    return mean([copies(e, home, gpu, 2).nodes_N for e, gpu in zip(later.experts_LNK, placed, strict=True)])


def mean(values: "list[Tensor]") -> float:
    """Of tensors of one size."""
    import torch

    return float(torch.stack([value.double().mean() for value in values]).mean())
