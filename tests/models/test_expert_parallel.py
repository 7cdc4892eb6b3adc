"""Traffic against loops over tokens and the closed form; placements against every other placement of small cases."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.config import ModelConfig
from models.expert_parallel import (
    Placement,
    bytes_between_nodes,
    contiguous,
    copies,
    copy_bytes,
    expected_nodes,
    imbalance,
    lower_bound,
    pack,
    place,
    replicate,
)
from models.moe import Router

E, K, G, PER_NODE = 24, 5, 4, 3
Tiny = Callable[..., ModelConfig]


def random_choices(tokens: int, experts: int, top_k: int, seed: int = 0) -> Tensor:
    """(N, K) different experts, all sets equally likely."""
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(seed))
    return scores.topk(top_k, dim=-1).indices


def homes(tokens: int, gpus: int) -> Tensor:
    return torch.arange(tokens) % gpus


# traffic


@pytest.mark.parametrize("shuffled", [False, True])
def test_copies_are_those_of_a_loop_over_tokens(shuffled: bool) -> None:
    gpus = G * PER_NODE
    gpu_of_E = torch.arange(E) // (E // gpus)
    if shuffled:
        gpu_of_E = gpu_of_E[torch.randperm(E, generator=torch.Generator().manual_seed(1))]
    experts, home = random_choices(200, E, K), torch.randint(gpus, (200,), generator=torch.Generator().manual_seed(2))
    found = copies(experts, home, gpu_of_E, PER_NODE)
    received = [0] * G
    for n in range(200):
        targets = {int(gpu_of_E[e]) for e in experts[n]}
        nodes = {gpu // PER_NODE for gpu in targets}
        here, index = int(home[n]) // PER_NODE, int(home[n]) % PER_NODE
        held = {int(home[n])} | {node * PER_NODE + index for node in nodes - {here}}  # who has it before NVLink
        assert int(found.nodes_N[n]) == len(nodes)
        assert int(found.remote_nodes_N[n]) == len(nodes - {here})
        assert int(found.remote_gpus_N[n]) == len([gpu for gpu in targets if gpu // PER_NODE != here])
        assert int(found.forwarded_N[n]) == len(targets - held)
        for node in nodes - {here}:
            received[node] += 1
    assert found.received_G.tolist() == received


def test_every_gpu_counts_also_where_the_last_has_no_expert() -> None:
    """The last node's GPUs beyond the highest expert."""
    found = copies(torch.tensor([[0, 3]]), torch.tensor([5]), torch.tensor([0, 1, 2, 3]), 3)
    assert found.remote_nodes_N.tolist() == [1] and found.received_G.tolist() == [1, 0]


def test_bytes_of_a_copy_are_those_of_its_tiles() -> None:
    assert copy_bytes(7168, "bf16") == 14336 and copy_bytes(7168, "fp8") == 7168 + 56 * 4
    assert copy_bytes(130, "fp8") == 130 + 2 * 4, "a tile that is not full has a scale, too"
    assert bytes_between_nodes(torch.tensor([0, 3]), 7168, "fp8").tolist() == [0, 3 * (7392 + 14336)]
    assert bytes_between_nodes(torch.tensor([2]), 7168, "bf16").tolist() == [2 * 2 * 14336]


@pytest.mark.parametrize(("experts", "nodes", "top_k", "limit"), [(64, 8, 8, 8), (64, 8, 8, 4), (24, 4, 3, 2)])
def test_expected_nodes_are_the_mean_over_random_choices(experts: int, nodes: int, top_k: int, limit: int) -> None:
    """Hypergeometric; over all choices of a small case exactly."""
    tokens = 20_000
    chosen = random_choices(tokens, limit * (experts // nodes), top_k)  # of the first nodes: which ones is no matter
    found = copies(chosen, homes(tokens, nodes), torch.arange(experts) // (experts // nodes), 1)
    counts = found.nodes_N.double()
    expected = expected_nodes(experts, top_k, nodes, limit)
    assert abs(float(counts.mean()) - expected) < 5 * float(counts.std()) / tokens**0.5
    if limit == nodes:
        away = found.remote_nodes_N.double()
        assert abs(float(away.mean()) - expected * (1 - 1 / nodes)) < 5 * float(away.std()) / tokens**0.5


def test_expected_nodes_of_a_small_case_exactly() -> None:
    every = list(itertools.combinations(range(9), 4))
    assert math.isclose(expected_nodes(9, 4, 3), sum(len({e // 3 for e in c}) for c in every) / len(every))
    assert expected_nodes(64, 8, 8, 1) == 1 and expected_nodes(64, 8, 8) == expected_nodes(64, 8, 8, 8)


def routed(tiny: Tiny, limit: int, n_group: int = 8) -> Tensor:
    config = tiny({"moe.n_routed_experts": 64, "moe.top_k": 8, "moe.n_group": n_group, "moe.topk_group": limit})
    router = Router(config.d_model, config.moe).double()
    torch.nn.init.normal_(router.weight, 0, 0.3, torch.Generator().manual_seed(0))
    x = torch.randn(4, 128, config.d_model, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chosen: Tensor = router(x).experts_NK
    return chosen


@pytest.mark.parametrize("limit", [1, 2, 4, 8])
def test_a_token_of_node_limited_routing_is_on_at_most_so_many_nodes(tiny: Tiny, limit: int) -> None:
    found = copies(routed(tiny, limit), homes(512, 64), torch.arange(64), 8)
    assert int(found.nodes_N.max()) <= limit
    assert bool((found.remote_nodes_N <= found.nodes_N).all() and (found.nodes_N - found.remote_nodes_N <= 1).all())
    assert int(found.received_G.sum()) == int(found.remote_nodes_N.sum())
    if limit < 8:
        assert float(found.nodes_N.double().mean()) < float(free_nodes(tiny).mean()), "the limit must bind"


def free_nodes(tiny: Tiny) -> Tensor:
    return copies(routed(tiny, 1, n_group=1), homes(512, 64), torch.arange(64), 8).nodes_N.double()


def test_all_nodes_allowed_is_no_limit(tiny: Tiny) -> None:
    assert torch.equal(routed(tiny, 8), routed(tiny, 1, n_group=1))


# placement

LOADS = st.lists(st.integers(0, 1000), min_size=12, max_size=12).filter(any)
SIZES = st.sampled_from([(1, 0), (2, 0), (3, 0), (6, 0), (12, 0), (2, 12), (3, 3), (3, 6), (4, 4), (6, 24), (13, 1)])


@settings(max_examples=150, deadline=None)
@given(LOADS, SIZES)
def test_a_placement_holds_every_expert_in_equal_slots_once_per_gpu(loads: list[int], size: tuple[int, int]) -> None:
    gpus, replicas = size
    load = torch.tensor(loads)
    placed = place(load, gpus, replicas)
    check(placed, load, gpus, replicas)
    assert float(imbalance(placed.load_P(load))) >= lower_bound(load, gpus, replicas) - 1e-9


def check(placed: Placement, load: Tensor, gpus: int, replicas: int) -> None:
    assert placed.experts_PS.shape == (gpus, (len(load) + replicas) // gpus)
    assert np.bincount(placed.experts_PS.flatten(), minlength=len(load)).tolist() == placed.copies_E.tolist()
    assert int(placed.copies_E.min()) >= 1 and int(placed.copies_E.sum()) == len(load) + replicas
    assert all(len(set(row)) == len(row) for row in placed.experts_PS.tolist()), "no expert twice on a GPU"
    by_hand = [sum(float(load[e]) / float(placed.copies_E[e]) for e in row) for row in placed.experts_PS.tolist()]
    np.testing.assert_allclose(placed.load_P(load).numpy(), by_hand, rtol=1e-12)
    np.testing.assert_allclose(float(placed.load_P(load).sum()), float(load.sum()), rtol=1e-12)


@pytest.mark.parametrize(("gpus", "replicas"), [(4, 0), (8, 4), (12, 0), (8, 12), (16, 4)])
def test_within_nodes_experts_stay_on_the_node_of_their_group(gpus: int, replicas: int) -> None:
    load = torch.tensor([50, 1, 1, 40, 1, 1, 1, 1, 3, 3, 3, 3])
    placed = place(load, gpus, replicas, nodes=4)
    check(placed, load, gpus, replicas)
    per_gpu_node = torch.arange(gpus) // (gpus // 4)
    assert torch.equal(placed.experts_PS // 3, per_gpu_node.unsqueeze(1).expand_as(placed.experts_PS))
    found = float(imbalance(placed.load_P(load)))
    assert found >= lower_bound(load, gpus, replicas, nodes=4) - 1e-12
    assert found >= 4 * 52 / 108 - 1e-12, "the first of four nodes has half the load, wherever it lies within it"
    assert lower_bound(load, gpus, replicas, nodes=4) >= 4 * 52 / 108 - 1e-12


def distributions(total: int, parts: int, at_most: int) -> Iterator[tuple[int, ...]]:
    """All ways to give `parts` experts at least one and at most `at_most` of `total` copies."""
    for ways in itertools.product(range(1, at_most + 1), repeat=parts):
        if sum(ways) == total:
            yield ways


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=4, max_size=4).filter(any), st.integers(0, 6), st.integers(3, 4))
def test_no_other_choice_of_copies_has_a_smaller_largest_share(loads: list[int], replicas: int, at_most: int) -> None:
    found = replicate(torch.tensor(loads).double(), replicas, at_most)
    best = min(max(x / c for x, c in zip(loads, ways, strict=True)) for ways in distributions(4 + replicas, 4, at_most))
    assert int(found.sum()) == 4 + replicas and int(found.max()) <= at_most
    assert math.isclose(float((torch.tensor(loads).double() / found).max()), best, rel_tol=1e-12)


def optimum(loads: list[float], gpus: int, slots: int) -> float:
    """Least possible maximum over all ways to put items on GPUs."""
    best = math.inf
    for where in itertools.product(range(gpus), repeat=len(loads)):
        counts = [where.count(g) for g in range(gpus)]
        if max(counts) <= slots:
            best = min(best, max(sum(x for x, g in zip(loads, where, strict=True) if g == k) for k in range(gpus)))
    return best


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60).map(float), min_size=2, max_size=7), st.integers(2, 3))
def test_longest_first_is_within_graham_s_bound_of_the_optimum(loads: list[float], gpus: int) -> None:
    """4/3 - 1/(3 P) (Graham 1969), where slots do not bind."""
    packed = pack(loads, list(range(len(loads))), gpus, len(loads))
    longest = max(sum(loads[i] for i in items) for items in packed)
    assert sorted(itertools.chain(*packed)) == list(range(len(loads)))
    assert (
        optimum(loads, gpus, len(loads))
        <= longest
        <= (4 / 3 - 1 / (3 * gpus)) * optimum(loads, gpus, len(loads)) + 1e-9
    )


def test_equal_slots_cost_little_against_the_best_equal_slots() -> None:
    """No theorem: of 40 random cases with skewed loads the greedy one is the best in half, and never 20 % off; in the
    order of the experts it is off by more."""
    rng = np.random.default_rng(0)
    ratios, in_order = [], []
    for _ in range(40):
        loads = rng.lognormal(sigma=0.8, size=6)
        best = optimum(loads.tolist(), 3, 2)
        load = torch.from_numpy(loads)
        ratios.append(float(place(load, 3).load_P(load).max()) / best)
        in_order.append(float(contiguous(6, 3).load_P(load).max()) / best)
    assert min(ratios) >= 1 - 1e-12 and max(ratios) < 1.2 and np.mean(np.isclose(ratios, 1)) >= 0.5
    assert np.mean(ratios) < np.mean(in_order) - 0.1


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize(("gpus", "replicas"), [(8, 0), (16, 0), (8, 8), (8, 32), (16, 16)])
def test_on_its_own_load_a_placement_is_no_worse_than_the_order_of_the_experts(
    sigma: float, gpus: int, replicas: int
) -> None:
    """64 experts; seen in all draws, though no theorem where slots bind."""
    rng = np.random.default_rng(int(10 * sigma))
    for _ in range(25):
        load = torch.from_numpy(rng.lognormal(sigma=sigma, size=64))
        placed, before = place(load, gpus, replicas), contiguous(64, gpus)
        assert float(imbalance(placed.load_P(load))) <= float(imbalance(before.load_P(load))) + 1e-12


def test_the_bound_is_reached_where_it_can_be() -> None:
    even = torch.full((16,), 7)
    assert lower_bound(even, 4) == 1 == float(imbalance(place(even, 4).load_P(even)))
    hot = torch.tensor([100, 1, 1, 1, 1, 1, 1, 1])
    assert math.isclose(lower_bound(hot, 4), 100 / (107 / 4))
    assert math.isclose(lower_bound(hot, 4, replicas=4), max(1.0, 25 / (107 / 4)))
    assert float(imbalance(contiguous(8, 4).load_P(hot))) == 101 / (107 / 4)


MOVES = [
    # loads, experts, slots of each of two GPUs
    ([10.0, 3.0, 3.0, 2.0, 1.0, 1.0], [0, 1, 2, 3, 4, 4], 3),
    ([1.0, 1.0, 1.0, 1.0, 1.0, 9.0, 5.0, 3.0], [0, 0, 1, 2, 2, 3, 4, 5], 4),  # only some of a full GPU's may move
]


@pytest.mark.parametrize(("loads", "experts", "slots"), MOVES)
def test_an_expert_moves_over_where_only_a_gpu_with_its_copy_is_open(
    loads: list[float], experts: list[int], slots: int
) -> None:
    """Longest first fills one GPU with small experts; both copies of the last would come to the other."""
    packed = pack(loads, experts, 2, slots)
    assert [len({experts[i] for i in items}) for items in packed] == [slots, slots]


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.data())
def test_any_copies_find_equal_slots_without_an_expert_twice(gpus: int, slots: int, data: st.DataObject) -> None:
    """Also copies that no replication would choose: cold experts with one on every GPU, placed last."""
    experts: list[int] = []
    while len(experts) < gpus * slots:
        copies_left = min(gpus, gpus * slots - len(experts))
        experts += [max(experts, default=-1) + 1] * data.draw(st.integers(1, copies_left))
    load = data.draw(st.lists(st.integers(1, 30), min_size=max(experts) + 1, max_size=max(experts) + 1))
    packed = pack([float(load[e]) for e in experts], experts, gpus, slots)
    assert sorted(itertools.chain(*packed)) == list(range(len(experts)))
    assert [len({experts[i] for i in items}) for items in packed] == [slots] * gpus


def test_load_of_another_text_is_spread_by_the_same_placement() -> None:
    """Copies were chosen for one load; another one, in several batches, is shared in the same parts."""
    before, later = torch.tensor([8, 1, 1, 2]), torch.tensor([[1, 8, 1, 2], [4, 4, 4, 4]])
    placed = place(before, 2, 2)
    assert placed.copies_E.tolist() == [2, 1, 1, 2]
    assert sorted(placed.load_P(before).tolist()) == [6.0, 6.0]
    assert placed.load_P(later).sum(dim=-1).tolist() == [12.0, 16.0]
    both = imbalance(placed.load_P(later))
    for row, found in zip(later, both, strict=True):
        assert math.isclose(float(imbalance(placed.load_P(row))), float(found))
    assert float(both[0]) > 1


def test_one_gpu_per_expert_is_known_only_without_replicas() -> None:
    load = torch.tensor([4, 3, 2, 1])
    placed = place(load, 2)
    for expert, gpu in enumerate(placed.gpu_of_E.tolist()):
        assert expert in placed.experts_PS[gpu].tolist()
    with pytest.raises(ValueError, match="several copies"):
        place(load, 2, 2).gpu_of_E  # noqa: B018


@pytest.mark.parametrize(
    ("gpus", "replicas", "nodes", "word"),
    [(3, 0, 1, "not even"), (4, 2, 1, "not even"), (4, 2, 4, "not even"), (4, 4, 3, "not even"), (1, 1, 1, "copies")],
)
def test_what_cannot_be_placed_is_refused(gpus: int, replicas: int, nodes: int, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        place(torch.arange(4) + 1, gpus, replicas, nodes)
