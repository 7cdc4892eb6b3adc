"""Texts being generated: what a request asks for, and how they grow."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Generator, Tensor

from models.base.typed import ConfigError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from models.decoding.sampling import Drawn

MAX_NEW_TOKENS = 256
"""lm-eval's own default."""
NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""Of the number of new tokens; the first that is given counts, as in lm-eval."""


class Decoding(Protocol):
    """Rows of tokens that grow by one each at a time (models/decoding/generate.py has it with a cache)."""

    logits_BV: Tensor
    """Of each row's next token."""

    def read(self, tokens: Sequence[int]) -> None:
        """One more token of each row."""

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""


Decoder = Callable[[Sequence[Sequence[int]], int], Decoding]
"""Of one model: prompts and the number of tokens that may follow each."""


class Sampler(Protocol):
    """Draws answers of one model (models/decoding/sampling.py has it)."""

    def __call__(
        self,
        prompts: Sequence[Tensor],
        new_tokens: int,
        end: int,
        generator: Generator,
        copies: int = 1,
        temperature: float = 1.0,
    ) -> "Drawn": ...


class Rereading:
    """Without a cache: whole rows are read for every token. `last_logits`: rows -> logits (B, V) after each."""

    def __init__(self, last_logits: Callable[[list[list[int]]], Tensor], prompts: Sequence[Sequence[int]]) -> None:
        self._last_logits, self._rows = last_logits, [list(prompt) for prompt in prompts]
        self.logits_BV = last_logits(self._rows)

    def read(self, tokens: Sequence[int]) -> None:
        self._rows = [[*row, token] for row, token in zip(self._rows, tokens, strict=True)]
        self.logits_BV = self._last_logits(self._rows)

    def keep(self, rows: Sequence[int]) -> None:
        self._rows, self.logits_BV = [self._rows[row] for row in rows], self.logits_BV[list(rows)]


@dataclass
class Draft:
    """A text being generated: `context` is what the model reads first, `new` what it has said since."""

    context: list[int]
    stops: list[str]
    budget: int
    """The most new tokens."""
    new: list[int] = field(default_factory=list)
    text: str = ""
    done: bool = False

    @staticmethod
    def of(tokens: list[int], arguments: dict[str, Any], max_length: int) -> "Draft":
        """A context loses its beginning, as in lm-eval, so that it and all new tokens make `max_length` at most; where
        as many new tokens as that are asked for, half of it is kept for either."""
        asked = next((int(arguments[name]) for name in NAMES if arguments.get(name) is not None), MAX_NEW_TOKENS)
        context = tokens[-(max_length - (asked if asked < max_length else max_length // 2)) :]
        budget = min(asked, max_length - len(context))
        until = arguments.get("until") or []
        return Draft(context, [until] if isinstance(until, str) else list(until), budget, done=budget < 1)

    def extend(self, token: int, end: int, decoded: Callable[[list[int]], str]) -> None:
        """By one token; `end` is the one that ends a text."""
        if token == end:
            self.done = True
            return
        self.new.append(token)
        self.text = decoded(self.new)
        stops = [at for at in (self.text.find(stop) for stop in self.stops if stop) if at >= 0]
        if stops:
            self.text = self.text[: min(stops)]
        self.done = bool(stops) or len(self.new) == self.budget

    @property
    def longest(self) -> int:
        """Tokens, once all is said."""
        return len(self.context) + self.budget


def batches(drafts: Sequence[Draft], tokens: int) -> Iterator[list[Draft]]:
    """Those that are to be written, of like lengths together, the longest first: at most `tokens` at once."""
    batch: list[Draft] = []
    for draft in sorted((draft for draft in drafts if not draft.done), key=lambda draft: -draft.longest):
        if batch and (len(batch) + 1) * batch[0].longest > tokens:
            yield batch
            batch = []
        batch.append(draft)
    if batch:
        yield batch


def write(batch: Sequence[Draft], decoding: Decoding, end: int, decoded: Callable[[list[int]], str]) -> None:
    """Greedily to the end of each. Rows that are done are read along until they are half of all."""
    rows = list(batch)
    while True:
        for draft, token in zip(rows, decoding.logits_BV.argmax(-1).tolist(), strict=True):
            if not draft.done:
                draft.extend(token, end, decoded)
        left = [row for row, draft in enumerate(rows) if not draft.done]
        if not left:
            return
        if len(left) <= len(rows) // 2:
            decoding.keep(left)
            rows = [rows[row] for row in left]
        decoding.read([draft.new[-1] if draft.new else end for draft in rows])


def greedy_arguments(request: "Instance") -> tuple[str, dict[str, Any]]:
    """The context and the arguments of a generation that greedy decoding answers; ConfigError where it would not."""
    context, arguments = request.args[:2]
    for name, greedy in (("do_sample", (None, False)), ("num_beams", (None, 1)), ("num_return_sequences", (None, 1))):
        if arguments.get(name) not in greedy:
            raise ConfigError(
                f"{request.task_name or 'the task'} wants answers generated with {name}={arguments[name]}, and only "
                f"greedy decoding is here; set its generation_kwargs.{name} to {json.dumps(greedy[1])}, or leave it out"
            )
    return context, arguments
