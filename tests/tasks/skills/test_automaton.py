"""Strings of automata against RegBench's own code (berlino/seq_icl; 2401.12973), its rule written out one by one."""

import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.skills.automaton import Automata, Automaton

Ways = list[dict[int, int]]
BAR, FIRST = 1, 2


def reference_automaton(rng: random.Random, skill: Automaton, states: int) -> Ways:
    """`RandomDFASampler.sample`: of each state, symbol -> next state. Its `max_outgoing_edge` is one above our `ways`
    and bounds the alphabet from below. That it is minimised afterwards leaves the strings as they are."""
    alphabet = rng.sample(range(skill.symbols), rng.randint(skill.ways + 1, skill.symbols))
    automaton = []
    for state in range(states):
        ways = rng.randint(1, skill.ways)
        others = [other for other in range(states) if other != state]
        automaton.append(dict(zip(rng.sample(alphabet, ways), rng.sample(others, ways), strict=True)))
    return automaton


def reference_string(rng: random.Random, skill: Automaton, automaton: Ways) -> list[int]:
    """`DFA.sample`, of a random length."""
    state, string = 0, []
    for _ in range(rng.randint(1, skill.longest)):
        string.append(rng.choice(list(automaton[state])))
        state = automaton[state][string[-1]]
    return string


def reference_tokens(rng: random.Random, skill: Automaton, automaton: Ways, length: int) -> list[int]:
    """`generate_example`: strings with a bar between them, cut where it is long enough."""
    tokens: list[int] = []
    while len(tokens) < length:
        tokens += [FIRST + symbol for symbol in reference_string(rng, skill, automaton)] + [BAR]
    return tokens[:length]


def strings_of(tokens: list[int]) -> list[list[int]]:
    """The whole ones."""
    strings: list[list[int]] = [[]]
    for token in tokens:
        if token == BAR:
            strings.append([])
        else:
            strings[-1].append(token)
    return strings[:-1]


def facts(tokens: list[int]) -> list[tuple[str, int]]:
    """What can be counted in a sequence without knowing its automaton, each fact once a sequence."""
    strings = strings_of(tokens)
    behind = defaultdict[tuple[int, ...], set[int]](set)
    for string in strings:
        for i, symbol in enumerate(string):
            behind[tuple(string[:i])].add(symbol)
    first = Counter(string[0] for string in strings).most_common(1)[0][0]
    twice = sum(a == b for string in strings for a, b in pairwise(string))
    again = sum(len(string) > 2 and string[2] == string[0] for string in strings)
    return [
        ("symbols", len({*tokens} - {BAR})),
        ("strings", len(strings)),
        ("length of the second", len(strings[1])),
        ("first symbols", len(behind[()])),
        ("symbols behind one", len(behind[(first,)])),
        ("most frequent first", first),
        ("twice in a row", min(3, twice)),
        ("third as the first", min(3, again)),
    ]


def test_sequences_count_as_those_of_the_code_do() -> None:
    skill, count, length = Automaton(states=[4, 7], longest=6), 1200, 160
    items = skill.draw(np.random.default_rng(1), count, length - 1)
    rng = random.Random(2)
    automata = [reference_automaton(rng, skill, rng.choice([4, 7])) for _ in range(count)]
    theirs = [reference_tokens(rng, skill, automaton, length) for automaton in automata]
    own, other = (
        Counter(fact for row in rows for fact in facts(list(row))) for rows in (items.tokens_NT1.tolist(), theirs)
    )
    assert len({what for what, _ in own}) == 8
    for fact in own | other:
        assert abs(own[fact] - other[fact]) < 4.5 * np.sqrt(own[fact] + other[fact] + 1), (fact, own[fact], other[fact])


def plain(automata: Automata, row: int, states: int) -> Ways:
    """One of ours as a dictionary for each state, with what it promises checked."""
    found = []
    for state in range(states):
        ways = int(automata.degree_NS[row, state])
        symbols, targets = automata.symbol_NSE[row, state, :ways], automata.target_NSE[row, state, :ways]
        assert len({*symbols}) == len({*targets}) == ways and state not in targets and max(targets) < states
        found.append(dict(zip(symbols.tolist(), targets.tolist(), strict=True)))
    return found


class Watched(Automaton):
    """Keeps the automata that it draws."""

    def automata(self, rng: np.random.Generator, states_N: np.ndarray) -> Automata:
        automata = super().automata(rng, states_N)
        object.__setattr__(self, "drawn", automata)
        return automata


def test_transitions_are_those_of_the_sequences_own_automaton() -> None:
    """Each as often as the others of its state; answers where, and only where, a symbol is asked."""
    skill = Watched(states=[4, 9], read=30)
    items, went = skill.draw(np.random.default_rng(3), 600, 128), Counter[tuple[int, int]]()
    sure = asked = 0.0
    for row, (tokens, mask, states) in enumerate(zip(*items, strict=True)):
        automaton, state, before = plain(skill.drawn, row, int(states)), 0, 0
        for place, token in enumerate(tokens.tolist()):
            answer = token != BAR and place >= 30 and before < skill.longest - skill.ways
            assert place == 0 or mask[place - 1] == answer
            if token == BAR:
                assert 1 <= before <= skill.longest
                state = before = 0
                continue
            if answer:
                asked, sure = asked + 1, sure + 1 / len(automaton[state])
            if len(automaton[state]) == 3:
                went[(0, sorted(automaton[state]).index(token - FIRST))] += 1
                went[(1, list(automaton[state]).index(token - FIRST))] += 1
            state, before = automaton[state][token - FIRST], before + 1
    for by in (0, 1):
        counts = [went[(by, way)] for way in range(3)]  # in the order of symbols, and in that in which they were drawn
        assert min(counts) > 5000 and max(counts) - min(counts) < 4.5 * np.sqrt(2 * max(counts)), counts
    assert sure / asked == pytest.approx(skill.ceiling, abs=0.02)


def test_chance_and_ceiling_are_what_guesses_get() -> None:
    """Of automata and strings made by the code's rule: the symbol that comes most often at a place of a string, and one
    of those that may."""
    skill, rng = Automaton(states=[12], longest=8), random.Random(4)
    often = sure = asked = 0
    for _ in range(1200):
        automaton = reference_automaton(rng, skill, 12)
        seen = [Counter[int]() for _ in range(skill.asked)]
        for _ in range(400):
            for place, x in enumerate(reference_string(rng, skill, automaton)[: skill.asked]):
                seen[place][x] += 1
        for _ in range(12):
            state = 0
            for place, symbol in enumerate(reference_string(rng, skill, automaton)[: skill.asked]):
                guess = seen[place].most_common(1)[0][0]
                asked, often, sure = asked + 1, often + (symbol == guess), sure + (symbol == min(automaton[state]))
                state = automaton[state][symbol]
    assert often / asked == pytest.approx(skill.chance, abs=0.008)
    assert sure / asked == pytest.approx(skill.ceiling, abs=0.01)
    assert Automaton().chance == Automaton().chance < 0.5 < Automaton().ceiling < 0.65


def test_it_can_be_learned_from_what_was_read() -> None:
    """By what came last time behind the longest part of the string that came before: near the ceiling."""
    skill = Automaton(states=[4])
    items, right = skill.draw(np.random.default_rng(5), 400, 128), 0
    for tokens, mask, _ in zip(*items, strict=True):
        behind: dict[tuple[int, ...], int] = {}
        string: tuple[int, ...] = (BAR,)
        for place, token in enumerate(tokens.tolist()):
            ends = [string[i:] for i in range(max(0, len(string) - 4), len(string) + 1)]
            if place and mask[place - 1]:
                right += token == next(behind[end] for end in ends if end in behind)
            if token != BAR:
                behind |= dict.fromkeys(ends, token)
            string = (BAR,) if token == BAR else (*string, token)
    found = right / items.answers_NT.sum()
    assert (skill.chance + skill.ceiling) / 2 < found < skill.ceiling + 0.02


def test_levels_come_equally_often_and_each_sequence_is_asked() -> None:
    skill = Automaton(longest=4, read=124)
    items = skill.draw(np.random.default_rng(6), 3000, 128)
    assert items.answers_NT.any(axis=1).all() and not items.answers_NT[:, :123].any()
    counts = Counter(items.levels_N.tolist())
    assert set(counts) == {4, 8, 12} and min(counts.values()) > 900


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"states": [3, 9]}, "states=[3, 9]: 3 states have too few others for ways=3; at least 4"),
        ({"symbols": 3}, "symbols=3: too few for ways=3; at least 4"),
        ({"longest": 3}, "longest=3: must be above ways=3, or nothing can be asked"),
        ({"longest": 129}, "longest=129: longer than data.seq_len=128; at most that"),
        ({"read": 125}, "read=125: may leave nothing to ask in data.seq_len=128; at most 124"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Automaton(**settings).check(128)
    assert str(error.value).startswith(f"data.settings.{said}")
