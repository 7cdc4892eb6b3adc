"""What a problem is: a question, a solution that is written out, and a rule that judges any answer.

An *answer* is all that is written behind a question, without the token that ends it: a trace, then `=>`, then the
*result*. Judged is the result; whatever stands before it is the writer's own affair. Answers come in three styles:

    steps    the right trace, then the result
    short    the result alone, behind its `=>`
    wrong    a trace with one mistake, with which it carries on to a wrong result; or a right one, and only the result
             is wrong

Letters of shapes: N questions, Q tokens of a question, A tokens of an answer, S slots in which a token may stand.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from models.base.typed import AtLeast, AtMost
from tasks.drawn import END, END_WORD, GAP, packed

Style = Literal["steps", "short", "wrong"]
USER, ASSISTANT, SO, FIRST = 1, 2, 3, 4
SHARED_WORDS = (END_WORD, "<user>", "<assistant>", "=>")
"""The first words of every problem; its own begin at token FIRST. Questions and answers have no USER and ASSISTANT."""
SPECIAL = 3
"""Of these words, how many are special tokens: the template's."""


class Questions(NamedTuple):
    """What is asked, and how hard it is."""

    tokens_NQ: NDArray[np.int64]
    """END behind each; as wide as the longest that there is."""
    levels_N: NDArray[np.int64]

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = (self.tokens_NQ != END).sum(axis=1)
        return found

    def rows(self, chosen: "NDArray[np.int64] | slice") -> "Questions":
        """Some of them, in this order; a number may come several times."""
        return Questions(self.tokens_NQ[chosen], self.levels_N[chosen])

    @staticmethod
    def joined(parts: "Sequence[Questions]") -> "Questions":
        """One behind the other."""
        return Questions(
            np.concatenate([part.tokens_NQ for part in parts]), np.concatenate([part.levels_N for part in parts])
        )


class Answers(NamedTuple):
    """What is written behind questions."""

    tokens_NA: NDArray[np.int64]
    """END behind each."""
    decided_NA: NDArray[np.bool_]
    """The tokens that the problem decides, and which chance gets wrong: neither signs nor what was written before."""

    @property
    def lengths_N(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = (self.tokens_NA != END).sum(axis=1)
        return found

    @staticmethod
    def of(slots_NS: NDArray[np.int64], decided_NS: NDArray[np.bool_], width: int) -> "Answers":
        """Without the gaps between tokens; shape (N, width)."""
        there = slots_NS != GAP
        return Answers(packed(slots_NS, there, width), packed(decided_NS.astype(np.int64), there, width) > 0)


class Judgement(NamedTuple):
    right: bool
    """Its result is a right one; then it is formatted too."""
    formatted: bool
    """It has one `=>`, and behind it what may be a result."""


class Problem(Protocol):
    """A rule that questions are drawn from, as its settings say. A frozen dataclass whose fields are the settings:
    those of `Shares`, and how hard it is."""

    level: ClassVar[str]
    """What a level counts: `digits`."""

    @property
    def short(self) -> float: ...
    @property
    def wrong(self) -> float: ...

    @property
    def words(self) -> Sequence[str]:
        """How each token is written, by its id, all different and without blanks. SHARED_WORDS come first."""

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of a question, and of an answer of any style, at most."""

    @property
    def chance(self) -> float:
        """Share of questions that a guess gets right, over all levels together: a result that may be one, and that
        cost no thought."""

    def check(self) -> None:
        """Raise ConfigError, naming `data.settings.<key>`, where no question can be made so."""

    def draw(self, rng: np.random.Generator, count: int) -> Questions:
        """`count` questions, `longest[0]` wide. Everything random comes from `rng`."""

    def same(self, questions: Questions) -> NDArray[np.int64]:
        """(N, Q): equal where questions are the same one, so that one of them gives the other away."""

    def solved(self, rng: np.random.Generator, questions: Questions, style: Style) -> Answers:
        """An answer to each, `longest[1]` wide."""

    def judge(self, question: Sequence[int], answer: Sequence[int]) -> Judgement:
        """Of one of its questions, and any tokens behind it. Nothing is executed, and nothing raises."""


@dataclass(frozen=True)
class Shares:
    """Settings of every problem: what the training's answers are like. Held-out ones are right, and have steps unless
    all the training's are short."""

    short: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    """Share of the answers that have a result alone."""
    wrong: Annotated[float, AtLeast(0), AtMost(1)] = 0.0
    """Share of the answers that are wrong: room above what was learned, for a model that is rewarded."""


def judgement(problem: Problem, question: Sequence[int], written: Sequence[int]) -> Judgement:
    """Of tokens that a model writes: what stands behind the answer's end is not read, and without an end it is neither
    right nor formatted."""
    tokens = list(written)
    return problem.judge(question, tokens[: tokens.index(END)]) if END in tokens else Judgement(False, False)


def result_of(answer: Sequence[int]) -> list[int] | None:
    """What stands behind the one SO of an answer; None where there is none, or several."""
    tokens = list(answer)
    return tokens[tokens.index(SO) + 1 :] if tokens.count(SO) == 1 else None
