"""Stories against the rule of Gloeckle et al. (2404.19737, section 4.1), written out one by one: whatever the story,
its names are two random pieces, and the second is asked at each mention but the first."""

import random
import re
from collections import Counter
from typing import Any

import numpy as np
import pytest

from models.base.typed import ConfigError
from tasks.drawn import Items
from tasks.skills.names import INTRODUCTIONS, KINDS, OF_ONE, OF_TWO, SYLLABLES, Names

SMALL = {"pieces": 7, "characters": [2, 4], "sentences": 7}


def reference(rng: random.Random, skill: Names, characters: int) -> str:
    """A story with its names left out, who is named where, and then names in their places."""
    story, who = list[str](), list[int]()
    for sentence in range(skill.sentences):
        text = rng.choice(INTRODUCTIONS if sentence < characters else OF_ONE + OF_TWO)
        who += [sentence] if sentence < characters else rng.sample(range(characters), text.count("@"))
        story.append(text)
    for kind, words in KINDS.items():
        story = [re.sub(kind, lambda _, own=words: rng.choice(own), text) for text in story]
    firsts, seconds = (rng.sample(SYLLABLES[: skill.pieces], characters) for _ in range(2))
    names = [f"{firsts[i]} -{seconds[i].lower()}" for i in who]
    return re.sub("@", lambda _: names.pop(0), " ".join(story))


def mentions(words: list[str]) -> list[int]:
    """Places of the names' first pieces, which have a capital; a second one, which has a hyphen, is behind each."""
    firsts, seconds = ([i for i, word in enumerate(words) if fits(word[0])] for fits in (str.isupper, "-".__eq__))
    assert [i + 1 for i in firsts] == seconds
    return firsts


def texts(skill: Names, items: Items) -> list[list[str]]:
    found, words = [], skill.words
    for row in items.tokens_NT1:
        length = int((row != 0).sum())
        assert (row[:length] > 0).all()
        found.append([words[token] for token in row[:length]])
    return found


def facts(words: list[str]) -> list[tuple[object, ...]]:
    """Which words there are and which stand at a place; how often each character is named, by when it first was."""
    starts = mentions(words)
    names = [(words[at], words[at + 1]) for at in starts]
    order = list(dict.fromkeys(names))
    named = [(f"mentions of {i}", names.count(name)) for i, name in enumerate(order)]
    last = [("who is last", order.index(names[-1]), names[-1] == names[-2])]
    placed = [(at, word) for at, word in enumerate(words) if at % 7 == 0]
    return [("length", len(words)), *named, *last, *placed, *(("word", word) for word in {*words})]


def test_its_counts_are_those_of_the_rule() -> None:
    skill, count = Names(**SMALL), 1500
    items = skill.draw(np.random.default_rng(1), count, 96)
    ours = texts(skill, items)
    rng = random.Random(2)
    theirs = [reference(rng, skill, rng.choice(skill.characters)).split() for _ in range(count)]
    own, other = (Counter(fact for words in stories for fact in facts(words)) for stories in (ours, theirs))
    assert {fact for fact in own if fact[0] == "word"} == {("word", word) for word in skill.words[1:]}
    for fact in own | other:
        assert abs(own[fact] - other[fact]) < 4.7 * np.sqrt(own[fact] + other[fact] + 1), (fact, own[fact], other[fact])


def test_answers_are_the_second_pieces_of_names_that_were_read_before() -> None:
    skill = Names()
    items = skill.draw(np.random.default_rng(3), 800, 128)
    for words, mask, level in zip(texts(skill, items), *items[1:], strict=True):
        known, asked = dict[str, str](), list[int]()
        for at in mentions(words):
            first, second = words[at], words[at + 1]
            if first in known:
                assert known[first] == second
                asked.append(at)
            known[first] = second
        assert asked == np.flatnonzero(mask).tolist() and asked
        assert len(known) == level and len({*known, *known.values()}) == 2 * level, "no piece is of two names"


def test_every_sentence_is_one_of_those_written_down() -> None:
    skill = Names(sentences=9, characters=[3])
    forms = []
    for text in (*INTRODUCTIONS, *OF_ONE, *OF_TWO):
        for kind, words in KINDS.items():
            text = text.replace(kind, f"(?:{'|'.join(words)})")
        forms.append(re.compile(text.replace(" .", "").replace("@", "[A-Z][a-z]+ -[a-z]+")))
    seen = Counter[int]()
    for words in texts(skill, skill.draw(np.random.default_rng(4), 300, 128)):
        sentences = " ".join(words).split(" .")
        assert sentences.pop() == "" and len(sentences) == 9
        for i, sentence in enumerate(sentences):
            (form,) = (j for j, form in enumerate(forms) if form.fullmatch(sentence.strip()))
            assert (form < len(INTRODUCTIONS)) == (i < 3)
            seen[form] += 1
    assert len(seen) == len(forms)


def test_chance_is_what_striking_out_gives() -> None:
    """One of the second pieces that were read, but for one that the sentence has had."""
    skill, rng = Names(), random.Random(5)
    items = skill.draw(np.random.default_rng(6), 3000, 128)
    right = 0
    for words, mask in zip(texts(skill, items), items.answers_NT, strict=True):
        starts, seen, had = mentions(words), list[str](), list[str]()
        for at, word in enumerate(words):
            had = [] if word == "." else had
            if at in starts and mask[at]:
                right += rng.choice([piece for piece in seen if piece not in had]) == words[at + 1]
                had.append(words[at + 1])
            elif at in starts:
                seen.append(words[at + 1])
    assert right / items.answers_NT.sum() == pytest.approx(skill.chance, abs=0.01)


def test_levels_come_equally_often() -> None:
    counts = Counter(Names().draw(np.random.default_rng(7), 4000, 128).levels_N.tolist())
    assert set(counts) == {3, 4, 6, 8} and min(counts.values()) > 900


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pieces": 7}, "characters=[3, 4, 6, 8]: 8 names begin with more pieces than there are (pieces=7)"),
        ({"sentences": 8}, "characters=[3, 4, 6, 8]: 8 leave no sentence to name one again"),
        ({"sentences": 15}, "sentences=15: up to 132 tokens do not fit into data.seq_len=128"),
    ],
)
def test_what_cannot_be_is_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        Names(**settings).check(128)
    assert str(error.value).startswith(f"data.settings.{said}")
