"""Sentences against the grammar, written out as its rules, one recursion to make and one to read them."""

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.config import DataConfig
from tasks.skills.chosen import check_learnable
from tasks.skills.grammar import Grammar

SMALL = {"classes": 3, "nouns": 2, "verbs": 4, "clauses": 6, "by": 0.3}


def made_clause(rng: random.Random, skill: Grammar, depth: int) -> list[str]:
    """clause(d) -> noun_X (by noun_Y)? (that clause(d - 1))? verb -X"""
    letters = "abcdefghijklmnopqrstuvwxyz"[: skill.classes]
    own = rng.choice(letters)
    words = [f"{own}{rng.randrange(skill.nouns)}"]
    if rng.random() < skill.by:
        words += ["by", f"{rng.choice(letters)}{rng.randrange(skill.nouns)}"]
    if depth:
        words += ["that", *made_clause(rng, skill, depth - 1)]
    return [*words, f"V{rng.randrange(skill.verbs)}", f"-{own}"]


def read_clause(words: list[str], at: int, endings: list[int]) -> tuple[int, int]:
    """Where the clause that begins at `at` ends, and its depth; the places of the endings that agree."""
    own, depth = words[at], 0
    assert own[0].islower() and own[1:].isdigit()
    at += 1
    if words[at] == "by":
        assert words[at + 1][0].islower() and words[at + 1][1:].isdigit()
        at += 2
    if words[at] == "that":
        at, depth = read_clause(words, at + 1, endings)
        depth += 1
    assert words[at][0] == "V" and words[at + 1] == f"-{own[0]}", words
    endings.append(at + 1)
    return at + 2, depth


def texts(skill: Grammar, rows: np.ndarray) -> list[list[str]]:
    """The words of sequences, with nothing but ends of text behind them."""
    found, words = [], skill.words
    for row in rows:
        length = int((row != 0).sum())
        assert (row[:length] > 0).all()
        found.append([words[token] for token in row[:length]])
    return found


@pytest.mark.parametrize("settings", [{}, {**SMALL, "depths": [0, 2, 5]}, {"classes": 26, "nouns": 3, "by": 1.0}])
def test_each_sequence_is_of_the_grammar_and_its_answers_are_all_that_agrees(settings: dict[str, Any]) -> None:
    skill = Grammar(**settings)
    items = skill.draw(np.random.default_rng(1), 400, 128)
    for words, mask, level in zip(texts(skill, items.tokens_NT1), *items[1:], strict=True):
        at, endings, sentences = 0, list[int](), 0
        while at < len(words):
            at, depth = read_clause(words, at, endings)
            assert words[at] == "." and depth == level
            at, sentences = at + 1, sentences + 1
        assert sorted(endings) == (np.flatnonzero(mask) + 1).tolist()
        assert sentences == skill.clauses // (depth + 1)


@pytest.mark.parametrize("depth", [0, 2])
def test_its_sentences_count_as_those_of_the_rules_do(depth: int) -> None:
    """Each word at each place of a sentence, each ending by the noun before it, and each length."""
    skill, count = Grammar(depths=[depth], **SMALL), 3000
    items = skill.draw(np.random.default_rng(2), count, 60)
    per = skill.clauses // (depth + 1)
    rng = random.Random(3)
    theirs = [[*made_clause(rng, skill, depth), "."] for _ in range(per * count)]
    text = [word for words in texts(skill, items.tokens_NT1) for word in words]
    stops = [i + 1 for i, word in enumerate(text) if word == "."]
    ours = [text[begin:end] for begin, end in zip([0, *stops], stops, strict=False)]
    assert len(ours) == len(theirs)
    own, other = (
        Counter(fact for words in sentences for fact in [*enumerate(words), (len(words), words[-2])])
        for sentences in (ours, theirs)
    )
    assert len(own) > 30
    for fact in own | other:
        assert abs(own[fact] - other[fact]) < 4.5 * np.sqrt(own[fact] + other[fact] + 1), (fact, own[fact], other[fact])


@pytest.mark.parametrize(
    "settings", [{}, {"depths": [0, 3]}, {"by": 0.0, "depths": [2]}, {"classes": 2}, {"by": 1.0, "depths": [2, 4]}]
)
def test_chance_is_the_best_of_the_guesses_that_take_no_grammar(settings: dict[str, Any]) -> None:
    """For each ending of a sentence of so many verbs and nouns one place of a noun."""
    skill, hits = Grammar(**settings), dict[tuple[int, int, int], Counter[int]]()
    items = skill.draw(np.random.default_rng(5), 3000, 128)
    for words, mask, depth in zip(texts(skill, items.tokens_NT1), *items[1:], strict=True):
        nouns, endings = list[str](), 0
        for place, word in enumerate(words):
            if word[0].islower() and word not in ("by", "that"):
                nouns.append(word[0])
            elif word == ".":
                nouns, endings = [], 0
            if place and mask[place - 1]:
                counts = hits.setdefault((int(depth), endings, len(nouns)), Counter())
                counts.update(i for i, noun in enumerate(nouns) if noun == word[1])
                endings += 1
    best = sum(max(counts.values()) for counts in hits.values()) / items.answers_NT.sum()
    assert best == pytest.approx(skill.chance, abs=0.01)


def test_where_places_tell_everything_there_is_nothing_to_learn() -> None:
    for by in (0.0, 1.0):
        data = DataConfig(source="skill", skill="grammar", settings={"by": by, "depths": [2]}, seq_len=128)
        with pytest.raises(ConfigError, match="a guess answers data.skill=grammar as well as its rule does"):
            check_learnable(data)


def test_who_sees_one_noun_knows_everything() -> None:
    assert Grammar(by=0.0, depths=[0]).chance == 1


def test_depths_come_equally_often() -> None:
    counts = Counter(Grammar().draw(np.random.default_rng(6), 4000, 128).levels_N.tolist())
    assert set(counts) == {1, 2, 3, 4} and min(counts.values()) > 900


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"depths": [2, 20]}, "depths=[2, 20]: 20 takes 21 clauses a sentence; a sequence has clauses=20"),
        ({"clauses": 22}, "clauses=22: up to 132 tokens do not fit into data.seq_len=128; at most 21"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Grammar(**settings).check(128)
    assert str(error.value).startswith(f"data.settings.{said}")


def test_the_longest_sequences_fit() -> None:
    skill = Grammar(by=1.0, clauses=21, depths=[0, 2, 20])
    skill.check(128)
    items = skill.draw(np.random.default_rng(7), 30, 128)
    assert ((items.tokens_NT1 != 0).sum(axis=1) == 126).all()
