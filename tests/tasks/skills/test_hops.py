"""k-hop retrieval against Depo's rule (2512.17351; its public generator, Thiggel/SyntheticPretraining, Depo/depo.py),
written out one by one."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.drawn import Items
from tasks.skills.hops import Hops

NAMES, NODES, ASKED, LENGTH = 9, 7, 4, 26

Read = tuple[list[tuple[int, int]], list[tuple[int, int, int]]]
"""Steps, and questions: hops, the node they are counted from, and where they lead."""


def depo(rng: np.random.Generator, hops: int) -> Read:
    """Names, shuffled, are a ring; its steps in random order; then some of its nodes, each asked once."""
    ring = [int(node) for node in rng.choice(NAMES, NODES, replace=False)]
    steps = [(ring[i], ring[(i + 1) % NODES]) for i in rng.permutation(NODES)]
    asked = rng.choice(NODES, ASKED, replace=False)
    return steps, [(hops, ring[i], ring[(i + hops) % NODES]) for i in asked]


def read(skill: Hops, items: Items, row: int) -> Read:
    """The same of one of our sequences; every answer is walked to, one step after another."""
    named = skill.words
    words = [named[token] for token in items.tokens_NT1[row] if token]
    shown, rest = words[: 2 * skill.nodes], words[2 * skill.nodes :]
    assert len(rest) == 3 * skill.asked and not items.tokens_NT1[row, len(words) :].any()
    steps = [(int(a[1:]), int(b[1:])) for a, b in zip(shown[::2], shown[1::2], strict=True)]
    follows = dict(steps)
    assert len(follows) == len({*follows.values()}) == skill.nodes
    questions = []
    for i in range(0, len(rest), 3):
        hops, node, answer = int(rest[i][:-1]), int(rest[i + 1][1:]), int(rest[i + 2][1:])
        reached = node
        for _ in range(hops):
            reached = follows[reached]
        assert answer == reached and hops == items.levels_N[row]
        questions.append((hops, node, answer))
    answers = np.flatnonzero(items.answers_NT[row]) + 1
    assert answers.tolist() == list(range(2 * skill.nodes + 2, len(words), 3))
    return steps, questions


def between(steps: list[tuple[int, int]], first: int, second: int) -> int:
    """Steps from one node to another."""
    follows, count = dict(steps), 0
    while first != second:
        first, count = follows[first], count + 1
    return count


def test_its_counts_are_those_of_depo() -> None:
    """Names; where the steps stand of what is asked and answered; how far one question is from the next: 4,000."""
    skill, count = Hops(hops=[3], nodes=NODES, names=NAMES, asked=ASKED), 4000
    items = skill.draw(np.random.default_rng(1), count, LENGTH)
    rng = np.random.default_rng(2)
    counts = dict[str, tuple[Counter[int], Counter[int]]]()
    for side, rows in enumerate(([read(skill, items, i) for i in range(count)], [depo(rng, 3) for _ in range(count)])):
        for steps, questions in rows:
            places = {tail: place for place, (tail, _) in enumerate(steps)}
            seen = {"tail": steps[0][0], "head": steps[-1][1], "follows": places[steps[0][1]]}
            seen |= {"asked": places[questions[0][1]], "last asked": places[questions[-1][1]]}
            seen |= {"answer": places[questions[0][2]], "name": questions[0][2]}
            seen |= {"behind": places[questions[0][2]] - places[questions[0][1]]}
            seen |= {"next": between(steps, questions[0][1], questions[1][1])}
            for what, value in seen.items():
                counts.setdefault(what, (Counter(), Counter()))[side][value] += 1
    for what, (own, other) in counts.items():
        for value in own | other:
            spread = 4.5 * np.sqrt(own[value] + other[value] + 1)
            assert abs(own[value] - other[value]) < spread, (what, value, own[value], other[value])


def test_levels_come_equally_often_on_one_ring() -> None:
    skill = Hops(hops=[1, 2, 5], nodes=8, names=10, asked=8)
    items = skill.draw(np.random.default_rng(3), 3000, 48)
    counts = Counter(items.levels_N.tolist())
    assert set(counts) == {1, 2, 5} and min(counts.values()) > 900
    for row in range(300):
        steps, _ = read(skill, items, row)
        follows, node, seen = dict(steps), steps[0][0], set[int]()
        while node not in seen:
            seen.add(node)
            node = follows[node]
        assert len(seen) == 8, "a ring, and no two"


def may_be(known: dict[str, str], node: str, ring: set[str], circle: int) -> list[str]:
    """The nodes that `known`, what lies behind some, leaves to lie behind another: with all of it the circles could
    still be closed at that size."""

    def fits(answer: str) -> bool:
        leads = {**known, node: answer}
        if len({*leads.values()}) < len(leads):
            return False
        for begin in ring - {*leads.values()}:  # a run that is open
            length, at = 1, begin
            while at in leads:
                length, at = length + 1, leads[at]
            if length > circle:
                return False
        at, around = answer, 1
        while at in leads and at != node:
            around, at = around + 1, leads[at]
        return at != node or around == circle

    return [answer for answer in sorted(ring) if fits(answer)]


@pytest.mark.parametrize(("hops", "nodes", "asked"), [(2, 8, 6), (2, 8, 8), (4, 8, 6), (2, 6, 6), (3, 6, 4), (3, 7, 7)])
def test_chance_is_the_likeliest_of_all_rings_that_the_answers_before_leave(hops: int, nodes: int, asked: int) -> None:
    """Every ring is written down."""
    orders = np.array([(0, *rest) for rest in itertools.permutations(range(1, nodes))])
    behind = np.empty_like(orders)
    np.put_along_axis(behind, orders, np.roll(orders, -hops, axis=1), axis=1)
    rng, right = np.random.default_rng(5), 0.0
    for _ in range(400):
        left, (own,) = behind, rng.choice(behind, 1)
        for node in rng.permutation(nodes)[:asked]:
            right += np.bincount(left[:, node]).max() / len(left)
            left = left[left[:, node] == own[node]]
    assert right / 400 / asked == pytest.approx(Hops(hops=[hops], nodes=nodes, asked=asked).chance, abs=0.01)


@pytest.mark.parametrize(
    ("hops", "nodes", "asked"),
    [([1, 2, 4], 5, 5), ([1, 2, 4], 9, 4), ([4], 8, 6), ([1, 2], 3, 3), ([2], 34, 6)],
)
def test_chance_is_of_who_knows_the_answers_before_and_not_the_ring(hops: list[int], nodes: int, asked: int) -> None:
    """Where all that may be the answer are as likely, or the ring is too long for more."""
    skill, rng = Hops(hops=hops, nodes=nodes, names=max(12, nodes), asked=asked), np.random.default_rng(4)
    items = skill.draw(rng, 1000, 96)
    right = 0.0
    for row in range(1000):
        steps, questions = read(skill, items, row)
        circle, known = nodes // math.gcd(nodes, int(items.levels_N[row])), dict[str, str]()
        for _, node, answer in questions:
            left = may_be(known, node, {tail for tail, _ in steps}, circle)
            assert answer in left
            right += 1 / len(left)
            known[node] = answer
    assert right / items.answers_NT.sum() == pytest.approx(skill.chance, abs=0.012)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"hops": [0]}, "data.settings.hops=[0]: 0 hops lead nowhere"),
        ({"nodes": 4, "hops": [1, 4], "asked": 2}, "data.settings.hops=[1, 4]: 4 hops lead once around a ring of"),
        ({"nodes": 99}, "data.settings.nodes=99: a ring has more nodes than there are (names="),
        ({"nodes": 6, "asked": 7}, "data.settings.asked=7: each node is asked once, and there are 6"),
        ({"nodes": 60, "names": 60, "asked": 4}, "what is asked, take 131 tokens of data.seq_len=128"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Hops(**settings).check(128)
    assert said in str(error.value) and str(error.value).startswith("data.settings.")


def test_the_longest_that_fits_fits() -> None:
    skill = Hops(hops=[1], nodes=5, names=5, asked=5)
    skill.check(24)
    assert skill.draw(np.random.default_rng(5), 2, 24).tokens_NT1.all()
    with pytest.raises(ConfigError):
        skill.check(23)
