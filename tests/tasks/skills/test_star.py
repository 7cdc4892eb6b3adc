"""Star graphs against the paper's own code (gregorbachmann/Next-Token-Failures, data/graphs.py), node by node."""

from collections import Counter
from itertools import combinations, pairwise
from typing import Any, cast

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.drawn import Items
from tasks.skills.data import SkillData
from tasks.skills.star import Star

NODES, DEGREE, PATH = 12, 2, 4


def star_graph(rng: np.random.Generator) -> tuple[list[int], list[tuple[int, int]]]:
    """The path from start to goal, and all edges: nodes are drawn until one is new, as the paper's code does."""

    def new() -> int:
        while (node := int(rng.integers(NODES))) in taken:
            pass
        taken.add(node)
        return node

    taken = set[int]()
    path = [new() for _ in range(PATH)]
    edges = list(pairwise(path))
    for _ in range(DEGREE - 1):
        arm = [path[0]] + [new() for _ in range(PATH - 1)]
        edges += pairwise(arm)
    rng.shuffle(edges)
    return path, [(int(a), int(b)) for a, b in edges]


def read(skill: Star, items: Items, row: int) -> tuple[list[int], list[tuple[int, int]]]:
    """The same of one of our sequences, by the paper's format, `a,b|...|y,z/start,goal=path`; whatever it claims to be
    is checked."""
    words = skill.words
    text = "".join(words[token] + "," for token in items.tokens_NT1[row] if token)
    prefix, path = text.replace(",|,", "|").replace(",/,", "/").split(",=,")
    edges, ends = prefix.split("/")
    pairs = [(int(a), int(b)) for a, b in (edge.split(",") for edge in edges.split("|"))]
    nodes = [int(node) for node in path.split(",") if node]
    assert [int(node) for node in ends.split(",")] == [nodes[0], nodes[-1]]
    assert solved(pairs, nodes[0], nodes[-1]) == nodes and len(nodes) == items.levels_N[row]
    return nodes, pairs


def solved(edges: list[tuple[int, int]], start: int, goal: int) -> list[int]:
    """Backwards from the goal."""
    before = {head: tail for tail, head in edges}
    assert len(before) == len(edges), "one edge comes to each node"
    path = [goal]
    while path[0] != start:
        path.insert(0, before[path[0]])
    return path


def test_its_counts_are_those_of_the_papers_code() -> None:
    """How often each node is start, goal and first step, and in which places the path's edges stand: 4,000 graphs."""
    skill, count = Star(path=[PATH], degree=DEGREE, nodes=NODES), 4000
    items = skill.draw(np.random.default_rng(1), count, 64)
    rng = np.random.default_rng(2)
    ours, theirs = [read(skill, items, row) for row in range(count)], [star_graph(rng) for _ in range(count)]
    counts = dict[str, tuple[Counter[int], Counter[int]]]()
    for side, graphs in enumerate((ours, theirs)):
        for path, edges in graphs:
            seen = {"start": path[0], "goal": path[-1], "first": path[1], "last": path[-2]}
            seen |= {f"edge {i}": edges.index((path[i], path[i + 1])) for i in range(PATH - 1)}
            for what, value in seen.items():
                counts.setdefault(what, (Counter(), Counter()))[side][value] += 1
    for what, (own, other) in counts.items():
        for value in own | other:
            spread = 4.5 * np.sqrt(own[value] + other[value] + 1)
            assert abs(own[value] - other[value]) < spread, (what, value, own[value], other[value])


@pytest.mark.parametrize("asked", ["first", "path"])
def test_the_first_step_is_the_answer_or_all_steps_are(asked: Any) -> None:
    skill = Star(path=[3, 6], degree=3, nodes=20, asked=asked)
    items = skill.draw(np.random.default_rng(3), 500, 64)
    assert set(items.levels_N.tolist()) == {3, 6}
    for row in range(500):
        nodes, edges = read(skill, items, row)
        marked = [skill.words[token] for token in items.tokens_NT1[row, 1:][items.answers_NT[row]]]
        assert marked == [str(node) for node in (nodes[1:2] if asked == "first" else nodes[1:])]
        learned = [skill.words[token] for token in items.tokens_NT1[row, 1:][skill.learned(items)[row]]]
        assert learned == [str(node) for node in nodes]
        assert len(edges) == len({*edges}) == 3 * (len(nodes) - 1)
        assert sum(tail == nodes[0] for tail, _ in edges) == 3


@pytest.mark.parametrize(("asked", "chance"), [("first", 1 / 3), ("path", (2 * (1 / 3) + 1 + 3) / (2 + 4))])
def test_chance_is_what_following_edges_gives(asked: Any, chance: float) -> None:
    """Among the start's own edges by chance, from there on by the only one that there is."""
    skill, rng = Star(path=[3, 5], degree=3, nodes=30, asked=asked), np.random.default_rng(4)
    items = skill.draw(rng, 3000, 64)
    right = 0
    for row in range(3000):
        nodes, edges = read(skill, items, row)
        for tail, head in list(pairwise(nodes))[: 1 if asked == "first" else None]:
            right += rng.choice([b for a, b in edges if a == tail]) == head
    assert skill.chance == pytest.approx(chance)
    assert right / items.answers_NT.sum() == pytest.approx(chance, abs=0.02)


def test_the_whole_path_is_learned_and_its_first_step_is_asked() -> None:
    config = DataConfig(source="skill", skill="star", seq_len=32, answers_only=True)
    data = SkillData(config, 64)
    mask = data.train_batch(0, 0).mask_BT
    assert mask is not None and mask.sum(dim=1).tolist() == [5] * 16 and not mask[:, :26].any()
    for question in data.questions("test")[:50]:
        edges, rest = question["context"].split(" / ")
        pairs = [(int(a), int(b)) for a, b in (edge.split() for edge in edges.split(" | "))]
        start, goal, equals, again = rest.split()
        assert equals == "=" and again == start
        assert int(question["answer"]) == solved(pairs, int(start), int(goal))[1]


def test_no_graph_is_on_two_sides_in_whatever_order_its_edges_are_shown() -> None:
    config = DataConfig(source="skill", skill="star", settings={"path": [3, 4], "nodes": 7}, seq_len=24)
    data, sides = SkillData(config, 16), list[Counter[tuple[object, ...]]]()
    for split in ("train", "validation", "test"):
        items = data.items(split, 0, 0, 3000)
        graphs = [read(cast(Star, data.skill), items, row) for row in range(3000)]
        sides.append(Counter((frozenset(edges), nodes[0], nodes[-1]) for nodes, edges in graphs))
    assert all(max(side.values()) > 2 for side in sides), "as often, in other orders"
    assert not any(one.keys() & other.keys() for one, other in combinations(sides, 2))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"path": [2]}, "path=[2]: on a path of 2 nodes the goal, which is given, is the first step; at least 3"),
        ({"path": [5, 26]}, "2 arms of a path of 26 nodes have 51 nodes, and there are 50 (nodes=50)"),
        ({"path": [20]}, "2 arms of a path of 20 nodes take 136 tokens of data.seq_len=128"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Star(**settings).check(128)
    assert said in str(error.value) and str(error.value).startswith("data.settings.path=")


def test_the_longest_that_fits_fits() -> None:
    """33 edges of three tokens, two ends, a sign, and 12 nodes, the last of which is no input."""
    skill = Star(path=[12], degree=3)
    skill.check(113)
    assert skill.draw(np.random.default_rng(5), 2, 113).tokens_NT1.all()
    with pytest.raises(ConfigError):
        skill.check(112)
