"""Induction in stories (Gloeckle et al. 2404.19737, section 4.1): names of two random pieces, which come again.

    Ka -lo was a shy fox . here lived Ru -bi the bear . once came a wolf named Ne -zu .
    Ru [-bi] gave Ka [-lo] a red ball . then Ne [-zu] ran to the river . Ka [-lo] met Ru [-bi] .

A name's first piece cannot be foretold; the second can, once the name was read. There, the stories are of a corpus and
the names alone are replaced; here, the stories too are made, of sentences with gaps. First each character is
introduced, then each sentence is about one or two of them. Who holds the second pieces, and not whose they are, can
still strike out the one that the sentence had: that guess is chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost, ConfigError, Distinct, NotEmpty
from tasks.drawn import END_WORD, Items, distinct, packed

INTRODUCTIONS = (
    "@ was a MOOD ANIMAL .",
    "here lived @ the ANIMAL .",
    "once came a ANIMAL named @ .",
)
"""@: a character, by name. In capitals: any word of that kind."""
OF_ONE = (
    "@ was MOOD .",
    "@ found a LOOK THING .",
    "then @ ran to the PLACE .",
    "the THING was for @ .",
    "in the PLACE @ slept .",
    "one day @ lost the THING .",
)
OF_TWO = (
    "@ met @ .",
    "@ and @ were MOOD .",
    "@ gave @ a LOOK THING .",
    "then @ played with @ .",
    "@ told @ about the THING .",
    "near the PLACE @ saw @ .",
)
KINDS = {
    "ANIMAL": ["fox", "bear", "cat", "dog", "mouse", "rabbit", "wolf", "duck", "frog", "hen"],
    "PLACE": ["forest", "garden", "river", "house", "field", "hill", "lake", "barn", "park", "village"],
    "THING": ["ball", "cake", "book", "hat", "boat", "kite", "flower", "apple", "drum", "lamp"],
    "LOOK": ["red", "blue", "big", "small", "green", "new", "shiny", "round", "soft", "tiny"],
    "MOOD": ["happy", "sad", "shy", "brave", "kind", "proud", "tired", "hungry", "quiet", "little"],
}
SYLLABLES = [f"{a}{b}{c}" for c in ("", *"lmnrs") for b in "aeiou" for a in "BDFGHJKLMNPRSTVWZ"]
"""What a name can be made of, in this order."""
ABSENT, FIRST_OF_NAME, SECOND_OF_NAME, KIND = -1, -2, -4, -6
"""In place of tokens: of the first character a piece, of the other one it is one less, and so for the kinds."""


@dataclass(frozen=True)
class Names:
    """A story has one of the numbers of `characters`, all of them equally often."""

    level: ClassVar[str] = "characters"
    ceiling: ClassVar[float] = 1.0

    characters: Annotated[list[Annotated[int, AtLeast(2)]], NotEmpty(), Distinct()] = field(
        default_factory=lambda: [3, 4, 6, 8]
    )
    sentences: Annotated[int, AtLeast(3), AtMost(10_000)] = 14
    """Of a story, those that introduce a character among them."""
    pieces: Annotated[int, AtLeast(2), AtMost(len(SYLLABLES))] = 32
    """That a name can begin with, and as many that it can end with. No two names of a story share one."""

    @property
    def words(self) -> Sequence[str]:
        pieces = SYLLABLES[: self.pieces]
        return [*story_words(), *pieces, *(f"-{piece.lower()}" for piece in pieces)]

    @property
    def chance(self) -> float:
        two = len(OF_TWO) / (len(OF_ONE) + len(OF_TWO))
        right = sum((self.sentences - n) * (1 / n + two / (n - 1)) for n in self.characters)
        return right / sum((self.sentences - n) * (1 + two) for n in self.characters)

    def check(self, seq_len: int) -> None:
        most = max(self.characters)
        if most > self.pieces:
            raise ConfigError(
                f"data.settings.characters={self.characters}: {most} names begin with more pieces than there are "
                f"(pieces={self.pieces}); ask for fewer names, or for more pieces"
            )
        if most >= self.sentences:
            raise ConfigError(
                f"data.settings.characters={self.characters}: {most} leave no sentence to name one again; "
                f"fewer, or more than sentences={self.sentences}"
            )
        first, later = (_longest(INTRODUCTIONS), _longest(OF_ONE + OF_TWO))
        tokens = max(first * n + later * (self.sentences - n) for n in self.characters)
        if tokens > seq_len + 1:
            raise ConfigError(
                f"data.settings.sentences={self.sentences}: up to {tokens} tokens do not fit into "
                f"data.seq_len={seq_len}; lower it or lengthen it"
            )

    def draw(self, rng: np.random.Generator, count: int, seq_len: int) -> Items:
        levels = rng.choice(np.array(self.characters), count)
        known, most = levels[:, None], max(self.characters)
        firsts, seconds = (distinct(rng, count, self.pieces, most) for _ in range(2))
        names = len(story_words()) + np.stack([firsts, self.pieces + seconds], axis=-1)
        place, shape = np.arange(self.sentences), (count, self.sentences)
        new, first = place < known, len(INTRODUCTIONS)
        patterns = _patterns()
        gaps = patterns[np.where(new, rng.integers(0, first, shape), rng.integers(first, len(patterns), shape))]
        one = np.where(new, place, rng.integers(0, known, shape))
        other = (one + rng.integers(1, known, shape)) % known
        tokens = gaps.copy()
        for i, own in enumerate(_kinds()):
            gap = gaps == KIND - i
            tokens[gap] = rng.choice(own, int(gap.sum()))
        for i, character in enumerate((one, other)):
            pieces = names[np.arange(count)[:, None], character]
            for part, code in enumerate((FIRST_OF_NAME, SECOND_OF_NAME)):
                tokens = np.where(gaps == code - i, pieces[..., part, None], tokens)
        asked = np.isin(gaps, (SECOND_OF_NAME, SECOND_OF_NAME - 1)) & ~new[..., None]
        tokens, there = tokens.reshape(count, -1), (gaps != ABSENT).reshape(count, -1)
        answers = packed(asked.reshape(count, -1).astype(np.int64), there, seq_len + 1)
        return Items(packed(tokens, there, seq_len + 1), answers[:, 1:] == 1, levels)


@cache
def story_words() -> tuple[str, ...]:
    """All but the pieces of names, END_WORD first."""
    fixed = [word for text in INTRODUCTIONS + OF_ONE + OF_TWO for word in text.split() if word != "@"]
    words = [*(word for word in fixed if word not in KINDS), *(word for own in KINDS.values() for word in own)]
    return (END_WORD, *dict.fromkeys(words))


@cache
def _kinds() -> tuple[NDArray[np.int64], ...]:
    """The tokens of each kind."""
    index = {word: i for i, word in enumerate(story_words())}
    return tuple(np.array([index[word] for word in own]) for own in KINDS.values())


@cache
def _patterns() -> NDArray[np.int64]:
    """Each sentence as tokens, and codes for what is to be filled in; shape (sentences, tokens of the longest)."""
    codes = {word: i for i, word in enumerate(story_words())} | {kind: KIND - i for i, kind in enumerate(KINDS)}
    rows = []
    for text in INTRODUCTIONS + OF_ONE + OF_TWO:
        row = list[int]()
        for word in text.split():
            other = int(FIRST_OF_NAME in row)
            row += [FIRST_OF_NAME - other, SECOND_OF_NAME - other] if word == "@" else [codes[word]]
        rows.append(row)
    width = max(map(len, rows))
    return np.array([row + [ABSENT] * (width - len(row)) for row in rows])


def _longest(texts: tuple[str, ...]) -> int:
    """In tokens, of which a name takes two."""
    return max(len(text.split()) + text.count("@") for text in texts)
