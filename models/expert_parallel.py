"""Experts on many GPUs: what the all-to-all sends between nodes, and where the experts lie.

A node holds a group of experts (V3 2.1.2), its GPUs equal parts of the group. A token starts on its home GPU. V3 3.2.2
sends it over InfiniBand at most once to each node that holds one of its experts, to the GPU with the index of its home
GPU, which forwards it over NVLink to the GPUs of the experts; what the experts return is summed in the node and sent
back once. The naive way sends it to every GPU by itself.

Counted are the activations of one layer's forward pass, and the scales of FP8. The backward pass sends the same copies
the other way: the gradients of the experts' outputs where the inputs went (V3 3.3.3: in FP8), those of their inputs
where the outputs came from (BF16). Not counted are expert indices and gates (some 6 bytes per choice), padding,
latencies, and experts that drop tokens (V3 has none).

Shape letters beyond those of models/layers.py: G nodes, P GPUs, S expert slots of a GPU.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

TILE = 128
"""Elements of an activation that share an FP32 scale (V3 3.3.2)."""


@dataclass(frozen=True)
class Copies:
    """Of each token, int64; a copy is sent to the experts and, summed, back."""

    nodes_N: Tensor
    """Nodes that hold its experts."""
    remote_nodes_N: Tensor
    """Those beside its home: copies between nodes, V3's way."""
    remote_gpus_N: Tensor
    """GPUs on other nodes that hold its experts: copies between nodes, the naive way."""
    forwarded_N: Tensor
    """Copies within nodes, V3's way: GPUs with its experts where it neither starts nor arrives from outside."""
    received_G: Tensor
    """Of each node: copies from other nodes, V3's way."""


def copies(experts_NK: Tensor, home_gpu_N: Tensor, gpu_of_E: Tensor, gpus_per_node: int) -> Copies:
    """`gpu_of_E` is the one GPU of each expert; GPUs are numbered node by node."""
    gpus = -(-(int(gpu_of_E.max()) + 1) // gpus_per_node) * gpus_per_node
    on_NP = torch.zeros(len(experts_NK), gpus, dtype=torch.bool).scatter_(1, gpu_of_E[experts_NK], True)
    on_NGP = on_NP.unflatten(1, (-1, gpus_per_node))
    nodes_NG = on_NGP.any(dim=2)
    home_N, index_N = home_gpu_N // gpus_per_node, home_gpu_N % gpus_per_node
    away_NG = torch.arange(nodes_NG.shape[1]) != home_N.unsqueeze(1)
    gpus_NG = on_NGP.sum(dim=2)
    arrives_NG = on_NGP.gather(2, index_N.view(-1, 1, 1).expand(-1, nodes_NG.shape[1], 1)).squeeze(2)
    return Copies(
        nodes_NG.sum(dim=1),
        (nodes_NG & away_NG).sum(dim=1),
        (gpus_NG * away_NG).sum(dim=1),
        (gpus_NG - arrives_NG.long()).sum(dim=1),
        (nodes_NG & away_NG).sum(dim=0),
    )


def copy_bytes(d_model: int, dtype: Literal["bf16", "fp8"]) -> int:
    """One token's activations; in FP8 one byte each and the scales of its 1 x 128 tiles."""
    return 2 * d_model if dtype == "bf16" else d_model + 4 * math.ceil(d_model / TILE)


def bytes_between_nodes(copies_N: Tensor, d_model: int, dispatch: Literal["bf16", "fp8"]) -> Tensor:
    """Of each token, there and back: the combine is BF16 whatever the dispatch is (V3 3.3.3)."""
    return copies_N * (copy_bytes(d_model, dispatch) + copy_bytes(d_model, "bf16"))


def expected_nodes(experts: int, top_k: int, nodes: int, limit: int | None = None) -> float:
    """Mean nodes per token where all choices of `top_k` experts in `limit` of the nodes, those nodes chosen evenly,
    are equally likely: each is hit unless all choices fall on the others."""
    limit = nodes if limit is None else limit
    per_node = experts // nodes
    return limit * (1 - math.comb((limit - 1) * per_node, top_k) / math.comb(limit * per_node, top_k))


@dataclass(frozen=True)
class Placement:
    """Which expert each slot of each GPU holds. An expert's copies take equal shares of its tokens."""

    experts_PS: Tensor
    copies_E: Tensor

    def load_P(self, load_E: Tensor) -> Tensor:
        """Assignments per GPU, FP64; loads (..., E) give (..., P)."""
        return (load_E.double() / self.copies_E)[..., self.experts_PS].sum(dim=-1)

    @property
    def gpu_of_E(self) -> Tensor:
        """Raises ValueError where an expert has several."""
        if int(self.copies_E.max()) > 1:
            raise ValueError("experts with several copies have no one GPU")
        gpus, slots = self.experts_PS.shape
        return torch.empty_like(self.copies_E).scatter_(
            0, self.experts_PS.flatten(), torch.arange(gpus).repeat_interleave(slots)
        )


def imbalance(load_P: Tensor) -> Tensor:
    """Largest over mean: how much longer the GPUs take than if they shared evenly. Over the last dimension."""
    return load_P.amax(dim=-1) / load_P.mean(dim=-1)


def contiguous(experts: int, gpus: int) -> Placement:
    """Experts in their order, as many on each GPU."""
    return Placement(torch.arange(experts).view(gpus, -1), torch.ones(experts, dtype=torch.int64))


def place(load_E: Tensor, gpus: int, replicas: int = 0, nodes: int = 1) -> Placement:
    """Greedy: one more copy of what is hottest, `replicas` times; then the largest share first to the least loaded GPU.

    Every GPU has equally many slots and no expert twice. With `nodes`, experts and their replicas (equally many per
    node) stay on the node that has their group: no token travels further than before (V3 3.4.1). Raises ValueError
    where slots, replicas or experts do not divide evenly, or a node cannot hold that many different copies.
    """
    slots = len(load_E) + replicas
    if slots % gpus or gpus % nodes or replicas % nodes or len(load_E) % nodes:
        raise ValueError(f"{len(load_E)} experts and {replicas} replicas on {gpus} GPUs of {nodes} nodes: not even")
    per_node = len(load_E) // nodes
    rows, all_copies = [], []
    for node, load in enumerate(load_E.double().split(per_node)):
        copies_E = replicate(load, replicas // nodes, gpus // nodes)
        experts_I = torch.arange(per_node).repeat_interleave(copies_E)
        packed = pack((load / copies_E)[experts_I].tolist(), experts_I.tolist(), gpus // nodes, slots // gpus)
        rows += [[node * per_node + int(experts_I[item]) for item in items] for items in packed]
        all_copies.append(copies_E)
    return Placement(torch.tensor(rows), torch.cat(all_copies))


def replicate(load_E: Tensor, replicas: int, at_most: int) -> Tensor:
    """Copies of each expert (E), one each and `replicas` more, `at_most` of one expert: no other choice has a smaller
    largest share."""
    if replicas > len(load_E) * (at_most - 1):
        raise ValueError(f"{replicas} replicas of {len(load_E)} experts: more than {at_most} copies of one")
    copies_E = torch.ones(len(load_E), dtype=torch.int64)
    for _ in range(replicas):
        shares = (load_E / copies_E).masked_fill(copies_E == at_most, -1.0)
        copies_E[shares.argmax()] += 1
    return copies_E


def pack(loads: list[float], experts: list[int], gpus: int, slots: int) -> list[list[int]]:
    """Items (of an expert each) per GPU, at most `slots`, no expert twice: longest processing time first."""
    packed: list[list[int]] = [[] for _ in range(gpus)]
    for item in sorted(range(len(loads)), key=lambda i: -loads[i]):
        total = [math.fsum(loads[other] for other in items) for items in packed]
        holding = [{experts[other] for other in items} for items in packed]
        open_gpus = [g for g in range(gpus) if len(packed[g]) < slots]
        fitting = [g for g in open_gpus if experts[item] not in holding[g]]
        if fitting:
            gpu = min(fitting, key=lambda g: total[g])
        else:
            # All that are open hold a copy. A full GPU without one has an expert that an open one lacks: it moves over.
            room = min(open_gpus, key=lambda g: total[g])
            moves = [
                (abs(loads[other] - loads[item]), g, other)
                for g in range(gpus)
                if g not in open_gpus and experts[item] not in holding[g]
                for other in packed[g]
                if experts[other] not in holding[room]
            ]
            _, gpu, other = min(moves)
            packed[gpu].remove(other)
            packed[room].append(other)
        packed[gpu].append(item)
    return packed


def lower_bound(load_E: Tensor, gpus: int, replicas: int = 0, nodes: int = 1) -> float:
    """No placement has a smaller imbalance on this load: a GPU has at least the largest share, and some GPU of the
    busiest node the node's mean."""
    load_GE = load_E.double().unflatten(0, (nodes, -1))
    shares = [load / replicate(load, replicas // nodes, gpus // nodes) for load in load_GE]
    busiest = max(float(load_GE.sum(dim=1).max()) / (gpus // nodes), max(float(share.max()) for share in shares))
    return busiest / (float(load_GE.sum()) / gpus)
