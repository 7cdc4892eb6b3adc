"""Noisy recall's sequences against mad-lab's own rule, written out one by one (2403.17844)."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pytest

from models.base.typed import ConfigError, build
from tasks.skills.noisy import Noisy

KEYS, VALUES, OTHERS, SLOTS = 5, 4, 3, 9
LENGTH = 2 * SLOTS + 3


class Read(NamedTuple):
    """What a slot of a sequence holds: `kind` is "noise", "pair", or "asked"; numbers are from 0 in each alphabet."""

    kind: str
    first: int
    second: int


def mad(rng: np.random.Generator, noise: float) -> list[Read]:
    """What mad-lab makes (`generate_noisy_in_context_recall_instance`, multi_query)."""
    slots, of = list[Read](), dict[int, int]()
    never = rng.choice(SLOTS)
    for i in range(SLOTS - 1):
        if i != never and rng.random() < noise:
            slots.append(Read("noise", *rng.choice(OTHERS, size=2).tolist()))
            continue
        key = int(rng.choice(KEYS))
        kind = "asked" if key in of else "pair"
        value = of.setdefault(key, int(rng.choice(VALUES)))
        slots.append(Read(kind, key, value))
    if not of:  # there mad-lab stops with an error
        return mad(rng, noise)
    key = int(rng.choice(list(of)))
    return [*slots, Read("asked", key, of[key])]


def read(row: np.ndarray, mask: np.ndarray, skill: Noisy) -> list[Read]:
    """The same of one of ours, with every claim about its form checked."""
    slots, keys, values = list[Read](), 1 + skill.keys, 1 + skill.keys + skill.values
    for i in range(skill.slots):
        first, second = int(row[2 * i]), int(row[2 * i + 1])
        assert i == 0 or not mask[2 * i - 1], "no key is asked"
        if first >= values:
            assert second >= values and not mask[2 * i]
            slots.append(Read("noise", first - values, second - values))
        else:
            assert 1 <= first < keys <= second < values
            slots.append(Read("asked" if mask[2 * i] else "pair", first - 1, second - keys))
    assert not row[2 * skill.slots :].any() and not mask[2 * skill.slots - 1 :].any()
    return slots


@pytest.mark.parametrize("noise", [0, 30, 80])
def test_its_counts_are_those_of_mad(noise: int) -> None:
    """What stands at each place, how much is asked, and where what is asked last came first: 3,000 of each."""
    count, rng = 3000, np.random.default_rng(1)
    skill = Noisy(noise=[noise], keys=KEYS, values=VALUES, others=OTHERS, slots=SLOTS)
    items = skill.draw(np.random.default_rng(2), count, LENGTH)
    ours = [read(row, mask, skill) for row, mask, _ in zip(*items, strict=True)]
    theirs = [mad(rng, noise / 100) for _ in range(count)]
    for place in range(SLOTS):
        alike([row[place] for row in ours], [row[place] for row in theirs], place)
        kinds = [[(row[place - 1].kind, row[place].kind) for row in rows] for rows in (ours, theirs)]
        alike(*kinds, (place, "behind another"))
    alike(*([sum(slot.kind == "asked" for slot in row) for row in rows] for rows in (ours, theirs)), "asked")
    alike(*([began(row) for row in rows] for rows in (ours, theirs)), "the last came first")


def began(row: list[Read]) -> int:
    return next(i for i, slot in enumerate(row) if slot.kind == "pair" and slot.first == row[-1].first)


def alike(ours: list, theirs: list, what: object) -> None:
    own, other = Counter(ours), Counter(theirs)
    for value in own | other:
        assert abs(own[value] - other[value]) < 4.5 * (own[value] + other[value] + 1) ** 0.5, (what, value)


def test_every_answer_is_the_value_of_its_key() -> None:
    skill = Noisy()
    items = skill.draw(np.random.default_rng(3), 600, 128)
    assert set(items.levels_N.tolist()) == {20, 40, 60, 80}
    for row, mask, _ in zip(*items, strict=True):
        of = dict[int, int]()
        for slot in read(row, mask, skill):
            assert slot.kind != "asked" or of[slot.first] == slot.second
            assert slot.kind != "pair" or slot.first not in of
            if slot.kind == "pair":
                of[slot.first] = slot.second
        assert slot.kind == "asked", "the last one"


def test_levels_come_equally_often_and_are_the_share_of_noise() -> None:
    skill = Noisy()
    items = skill.draw(np.random.default_rng(4), 4000, 128)
    counts = Counter(items.levels_N.tolist())
    assert min(counts.values()) > 900 and len(counts) == 4
    others = items.tokens_NT1[:, :126:2] > skill.keys + skill.values
    for level in counts:
        # Of 63 slots before the last, one is never noise.
        assert others[items.levels_N == level].mean() == pytest.approx(level / 100 * 62 / 63, abs=0.01)


@pytest.mark.parametrize("settings", [{}, {"noise": [50], "keys": 3, "values": 9, "slots": 12}])
def test_chance_is_what_the_commonest_value_gives(settings: dict[str, object]) -> None:
    """A guess that knows the keys seen and their values, and not which of them is asked, simulated."""
    skill, right, asked = build(Noisy, settings), 0, 0
    items = skill.draw(np.random.default_rng(5), 2000, 128)
    for row, mask, _ in zip(*items, strict=True):
        of = dict[int, int]()
        for slot in read(row, mask, skill):
            if slot.kind == "asked":
                right += Counter(of.values()).most_common(1)[0][0] == slot.second
                asked += 1
            elif slot.kind == "pair":
                of[slot.first] = slot.second
    assert right / asked == pytest.approx(skill.chance, abs=0.013)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"slots": 65}, "slots=65: as many slots of two tokens take data.seq_len=129 at least, not 128; lower them"),
        ({"noise": [20, 100]}, "noise[1]=100: must be at most 99"),
        ({"noise": [20, 20]}, "noise=[20, 20]: 20 stands in it twice"),
        ({"slots": 1}, "slots=1: must be at least 2"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build(Noisy, settings, "data.settings").check(128)
    assert str(error.value).startswith(f"data.settings.{said}") and "\n" not in str(error.value)


def test_two_slots_are_a_pair_and_its_question() -> None:
    skill = Noisy(noise=[99], slots=2)
    skill.check(3)
    items = skill.draw(np.random.default_rng(6), 50, 3)
    assert (items.tokens_NT1[:, :2] == items.tokens_NT1[:, 2:]).all()
    assert (items.answers_NT == [False, False, True]).all()
