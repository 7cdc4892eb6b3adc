"""Greedy decoding with the MTP modules as drafters: several tokens per forward of the main model (V3 2.2, 5.4.3).

Letters beside those of generate.py: n a row's last known position, W window of the MTP modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.base.typed import ConfigError
from models.decoding.generate import (
    Cache,
    Prompts,
    absorbing,
    batched,
    decode,
    further_hidden,
    most_likely,
    mtp_modules,
    prefill,
)
from models.layers import inferring
from models.mtp import handed_on
from models.transformer import Transformer


@dataclass
class Speculated:
    """What self-speculative decoding made, and how. A row's round is one that began before it had all its tokens."""

    tokens: Tensor
    """(B, new_tokens), those of `greedy`."""
    accepted: list[int]
    """Per depth k, the rows' rounds in which the drafts of depth k and of all depths before were the main model's own
    choice. The last round of a row may count tokens beyond the asked ones."""
    rounds: int
    """Summed over rows. Each yields its accepted drafts and one token of the main model's own."""
    forwards: int
    """Of the main model, over the whole batch, after the prompts."""

    @property
    def acceptance(self) -> list[float]:
        """Per depth, the share of rounds (0 where there were none)."""
        return [count / max(1, self.rounds) for count in self.accepted]

    @property
    def made(self) -> int:
        """Tokens that the rounds yielded; each row's first one came from its prompt."""
        return sum(self.accepted) + self.rounds

    @property
    def tokens_per_forward(self) -> float:
        """Of one row, 1 .. D + 1."""
        return self.made / self.rounds if self.rounds else 1.0


def self_speculative(model: Transformer, prompts: Prompts, new_tokens: int, absorb: bool = False) -> Speculated:
    """`greedy` in fewer forwards of the main model (V3 2.2, 5.4.3). The tokens are the same ones, up to logits so close
    that another shape of the same product may round them into another order.

    Raises ConfigError for a model without MTP modules, and as `greedy` does.
    """
    with inferring(model):
        speculation = Speculation(model, prompts, new_tokens)
        with absorbing(model, absorb):
            while not speculation.done:
                speculation.round()
    return speculation.result()


class Speculation:
    """Self-speculative decoding of a batch, round by round. Use it within `inferring(model)`.

    Before a round, row b knows its tokens up to position n, and h^0, the main model's hidden states, up to n - 1: token
    n came out of the last forward and has not been through one. Depth k at position n - 1 drafts token n + k, from
    h^{k-1} and (chained) the embedding of token n - 1 + k, for k > 1 a draft itself. One forward of the main model over
    positions n .. n + D gives its own choice after each; the longest prefix of drafts that agrees, a of them, is
    accepted, with the choice that follows it: n' = n + a + 1. A finished row goes on in place, unread and uncounted.

    The modules attend, so their caches must hold what the true tokens would have left, which chained depth k cannot
    do at once: at position i it reads token i + k, perhaps a draft. When n' is known, its entries below n are wrong
    from n' - k on (the first rejected draft stood at n'), and those of n .. n' - 1 are missing. The next round computes
    the W = D + 1 positions that end at n' - 1 with the tokens known by then: n' - W <= n, since a <= D, and
    n' - W < n' - k. All depths share this window, for each hands its hidden states to the next; of h^0 the last W are
    kept. Where the text is shorter the window begins at 0 and its last positions hold anything, unseen by earlier ones.
    """

    def __init__(self, model: Transformer, prompts: Prompts, new_tokens: int) -> None:
        self.model, self.modules = model, mtp_modules(model)
        self.depth = len(self.modules)
        if not self.depth:
            raise ConfigError(
                "model.mtp.depth=0: self-speculative decoding drafts with MTP modules, and this model has none; train "
                "one with model.mtp.depth=1 or more, or decode greedily"
            )
        tokens_BP, lengths = batched(model, prompts, new_tokens)
        rows, longest = tokens_BP.shape
        self.window = self.depth + 1
        room = max(longest, self.depth) + new_tokens + self.depth + 1
        self.cache = Cache(model, rows, room, mtp=True)
        self.tokens = tokens_BP.new_zeros(rows, room)
        """Known tokens, from n + 1 on drafts, then zeros: whatever is read there stands for nothing."""
        self.tokens[:, :longest] = tokens_BP
        self.lengths, self.new_tokens = lengths, new_tokens
        self.last = list(lengths)
        """n of each row."""
        self.accepted, self.rounds, self.forwards = [0] * self.depth, 0, 0
        self._rows = torch.arange(rows, device=self.tokens.device).unsqueeze(1)
        self._steps = torch.arange(room, device=self.tokens.device)
        normed, states = prefill(model, self.tokens, longest, self.cache)
        self._write(self.last, most_likely(model, normed, lengths))
        window = self._span(self._first(), self.window).clamp(max=longest - 1)
        self.recent = states[self._rows, window]
        """h^0 (B, W, D) of the window's positions."""

    @property
    def done(self) -> bool:
        return all(n >= end for n, end in zip(self.last, self._ends(), strict=True))

    def round(self) -> None:
        """Draft, verify, accept."""
        self._draft()
        drafted = self.tokens[self._rows, self._span(self.last, self.depth + 1)]
        logits, fresh = decode(self.model, drafted, self.last, self.cache)
        chosen = logits.argmax(dim=-1)
        self._write([n + 1 for n in self.last], chosen)  # accepted drafts are equal, what follows a + 1 is overwritten
        agreeing = (drafted[:, 1:] == chosen[:, :-1]).long().cumprod(dim=1).sum(dim=1)
        first, before, finished = self._first(), self.last, self._ends()
        self.last = []
        for n, end, accepted in zip(before, finished, agreeing.tolist(), strict=True):  # the round's only wait
            self.last.append(min(n + accepted + 1, end))
            self.rounds += n < end
            for k in range(accepted if n < end else 0):
                self.accepted[k] += 1
        self.forwards += 1
        window, known = self._span(self._first(), self.window), self._span(before, 1)
        at = torch.where(window < known, window - self._span(first, 1), window - known + self.window)
        states = torch.cat((self.recent, fresh), dim=1)
        self.recent = states[self._rows, at.clamp(max=states.shape[1] - 1)]

    def result(self) -> Speculated:
        tokens = self.tokens[self._rows, self._span(self.lengths, self.new_tokens)]
        return Speculated(tokens, self.accepted, self.rounds, self.forwards)

    def _draft(self) -> None:
        """Tokens n + 1 .. n + D."""
        first = self._first()
        places = self.cache.places(first, self.window)
        ends = [n - start for n, start in zip(self.last, first, strict=True)]
        hidden = self.recent
        for k, (module, cache) in enumerate(zip(self.modules, self.cache.modules, strict=True), start=1):
            following = self.tokens[self._rows, self._span([start + k for start in first], self.window)]
            further = further_hidden(self.model, module, hidden, following, places, cache)
            normed = module.norm(further)
            self._write([n + k for n in self.last], most_likely(self.model, normed, ends))
            if module.chained:
                hidden = handed_on(self.model.config.mtp, further, normed)

    def _first(self) -> list[int]:
        """Where the modules' window begins."""
        return [max(0, n - self.window) for n in self.last]

    def _ends(self) -> list[int]:
        """The position of each row's last asked token."""
        return [length + self.new_tokens - 1 for length in self.lengths]

    def _span(self, starts: Sequence[int], width: int) -> Tensor:
        """(B, width) positions from each row's start."""
        return self.tokens.new_tensor(starts).unsqueeze(1) + self._steps[:width]

    def _write(self, starts: Sequence[int], tokens_BT: Tensor) -> None:
        self.tokens[self._rows, self._span(starts, tokens_BT.shape[1])] = tokens_BT
