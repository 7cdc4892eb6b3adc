"""Greedy decoding with a cache, token by token. (`models/decoding/speculative.py`: several per forward.)

Letters beside those of attention.py: P prompt length.

Every row of a batch stands at positions of its own. A token's keys and values go to the slot of its position, and the
query at position p sees slot j iff j <= p. What lies beyond a row's last token is therefore never seen: whichever
forward comes to see a slot has written it first. So rejected drafts need no roll-back, shorter prompts no padding on
the left, and rows that accept different numbers of drafts no rearranging: every forward has one shape.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.attention import LayerCache, Places
from models.base.typed import ConfigError
from models.kinds import attention_of
from models.layers import inferring
from models.mtp import ChainedModule, LinearBlock, ParallelHead, handed_on
from models.rope import rope_turns
from models.transformer import Block, Transformer

PREFILL_TOKENS = 512
"""A prompt is read in pieces of this many tokens, so that its scores never take P x P."""

SLOT_MULTIPLE = 64
"""Attention looks at a multiple of this many slots (or at all): on CPU in BF16, oneDNN compiles its products anew for
every new length, which would take half of the time of decoding a small model. The mask hides the slots beyond."""

Prompts = Tensor | Sequence[Tensor]
"""(B, P) token ids, or B vectors of ids of any lengths."""


class Cache:
    """What a model keeps of `batch` rows of at most `length` tokens, in its compute type; with `mtp`, its MTP modules'
    too. Made for the model's RoPE as it stands."""

    def __init__(self, model: Transformer, batch: int, length: int, mtp: bool = False) -> None:
        device, dtype, config = model.lm_head.weight.device, model.dtype, model.config

        def of(block: torch.nn.Module) -> LayerCache:
            if isinstance(block, LinearBlock):
                return LayerCache()
            assert isinstance(block, Block)
            return block.self_attn.new_cache(batch, length, dtype, device)

        self.batch, self.length, self._dtype = batch, length, dtype
        self.layers = [of(block) for block in model.model.layers]
        self.modules = [of(module.block) for module in mtp_modules(model)] if mtp else []
        self._slots = torch.arange(length, device=device)
        self._turns = rope_turns(self._slots, attention_of(config).rope_dim, config.rope, dtype)

    @property
    def nbytes(self) -> int:
        """Keys and values, or latents and RoPE keys, of all layers (`models.cost`: kv_bytes x batch x length)."""
        return sum(layer.nbytes for layer in (*self.layers, *self.modules))

    def repeated(self, count: int) -> "Cache":
        """What is kept of every row `count` times, one behind the other."""
        found = copy.copy(self)
        found.batch = self.batch * count
        found.layers = [layer.repeated(count) for layer in self.layers]
        found.modules = [layer.repeated(count) for layer in self.modules]
        return found

    def keep(self, rows: Sequence[int]) -> None:
        """These rows alone, in this order; the others' places are free no sooner than the whole cache."""
        self.batch = len(rows)
        for layer in (*self.layers, *self.modules):
            layer.keep(rows)

    def places(self, starts: Sequence[int], width: int) -> Places:
        """Of `width` tokens per row, the first one of row b at position `starts[b]`.

        The starts are the host's own numbers, so that the mask's length is known without waiting for a device. Raises
        ValueError where the tokens do not fit.
        """
        end = max(starts) + width
        if len(starts) != self.batch or min(starts) < 0 or end > self.length:
            raise ValueError(
                f"{width} tokens per row from positions {list(starts)}: this cache has {self.batch} rows of "
                f"{self.length} positions"
            )
        if min(starts) == max(starts):
            positions_BT = self._slots[starts[0] : end].expand(self.batch, -1)
        else:
            positions_BT = self._slots.new_tensor(starts).unsqueeze(1) + self._slots[:width]
        seen = min(-(-end // SLOT_MULTIPLE) * SLOT_MULTIPLE, self.length)
        ahead_BTL = self._slots[:seen] > positions_BT.unsqueeze(2)
        mask_BTL = torch.zeros(ahead_BTL.shape, dtype=self._dtype, device=ahead_BTL.device)
        mask_BTL.masked_fill_(ahead_BTL, -math.inf)
        return Places(self._turns[positions_BT], mask_BTL, positions_BT=positions_BT)


@contextmanager
def absorbing(model: Transformer, on: bool = True) -> Iterator[None]:
    """MLA's cached attention in the absorbed form (V2 2.1.2). Raises ConfigError for attention that has none."""
    if on and (reason := attention_of(model.config).unabsorbed):
        raise ConfigError(f"absorb=True: {reason}")
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "absorb")]
    before = [attention.absorb for attention in attentions]
    for attention in attentions:
        attention.absorb = on
    try:
        yield
    finally:
        for attention, was in zip(attentions, before, strict=True):
            attention.absorb = was


@torch.no_grad()
def decode(model: Transformer, tokens_BT: Tensor, starts: Sequence[int], cache: Cache) -> tuple[Tensor, Tensor]:
    """Read T further tokens per row, the first one of row b at position `starts[b]`, whose earlier ones are cached.

    Returns logits (B, T, V) of each one's next token, and h^0 (B, T, D), the hidden states as the MTP modules read
    them. Attention reaches back over document ends. Call it within `inferring(model)` for speed.
    """
    hidden = _trunk(model, tokens_BT, cache.places(starts, tokens_BT.shape[1]), cache)
    normed = model.model.norm(hidden)
    return model.lm_head(normed), handed_on(model.config.mtp, hidden, normed)


def greedy(model: Transformer, prompts: Prompts, new_tokens: int, absorb: bool = False) -> Tensor:
    """The `new_tokens` most likely tokens after each prompt, one forward each, (B, new_tokens).

    `absorb`: MLA's absorbed form, once the prompts are read (for many tokens at once the plain one is cheaper). Raises
    ConfigError for prompts, counts or forms that the model cannot take.
    """
    tokens_BP, lengths = batched(model, prompts, new_tokens)
    with inferring(model):
        cache = Cache(model, len(lengths), tokens_BP.shape[1] + new_tokens)
        normed, _ = prefill(model, tokens_BP, tokens_BP.shape[1], cache)
        chosen = [most_likely(model, normed, lengths)]
        with absorbing(model, absorb):
            for step in range(new_tokens - 1):
                logits, _ = decode(model, chosen[-1], [length + step for length in lengths], cache)
                chosen.append(logits.argmax(dim=-1))
    return torch.cat(chosen, dim=1)


class Decoding:
    """Prompts of any lengths and what is said after them, one token each at a time; what was read stays cached.

    Each prompt may be followed by `room` tokens. `logits_BV`, of each row's next token, are those of reading every row
    anew, up to rounding. Call it within `inferring(model)`. Raises ConfigError for prompts that the model cannot take.
    """

    def __init__(self, model: Transformer, prompts: Sequence[Sequence[int]], room: int) -> None:
        tokens_BP, self._lengths = batched(model, [torch.tensor(prompt) for prompt in prompts], room)
        self._model, self._cache = model, Cache(model, len(prompts), tokens_BP.shape[1] + room)
        with torch.no_grad():
            normed, _ = prefill(model, tokens_BP, tokens_BP.shape[1], self._cache)
            self.logits_BV = model.lm_head(last(normed, self._lengths))[:, 0]

    def read(self, tokens: Sequence[int]) -> None:
        """One more token of each row."""
        tokens_B1 = torch.tensor(tokens, device=self.logits_BV.device).unsqueeze(1)
        with absorbing(self._model, attention_of(self._model.config).absorbs):
            logits, _ = decode(self._model, tokens_B1, self._lengths, self._cache)
        self._lengths, self.logits_BV = [length + 1 for length in self._lengths], logits[:, 0]

    def repeat(self, count: int) -> None:
        """Go on with every row `count` times, one behind the other."""
        self._cache = self._cache.repeated(count)
        self._lengths = [length for length in self._lengths for _ in range(count)]
        self.logits_BV = self.logits_BV.repeat_interleave(count, dim=0)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in this order."""
        self._cache.keep(rows)
        self._lengths, self.logits_BV = [self._lengths[row] for row in rows], self.logits_BV[list(rows)]


def mtp_modules(model: Transformer) -> list[ChainedModule | ParallelHead]:
    """The MTP modules, depth 1 first."""
    if not model.config.mtp.depth:
        return []
    return [module for module in model.mtp if isinstance(module, ChainedModule | ParallelHead)]


def _trunk(model: Transformer, tokens_BT: Tensor, places: Places, cache: Cache) -> Tensor:
    """Hidden states before the final norm, (B, T, D)."""
    x = model.model.embed_tokens(tokens_BT, model.dtype)
    for block, layer in zip(model.model.layers, cache.layers, strict=True):
        x, _ = block(x, places, layer)
    return x


def further_hidden(
    model: Transformer,
    module: ChainedModule | ParallelHead,
    hidden_BTD: Tensor,
    following_BT: Tensor,
    places: Places,
    cache: LayerCache,
) -> Tensor:
    """h^k, not normed, from h^{k-1} as handed on (parallel: h^0) and the tokens k places further on."""
    embedded = model.model.embed_tokens(following_BT, model.dtype) if module.chained else hidden_BTD
    return module(hidden_BTD, embedded, places, cache)[0]


def prefill(model: Transformer, tokens_BL: Tensor, length: int, cache: Cache) -> tuple[Tensor, Tensor]:
    """Read the first `length` tokens of each row; their hidden states (B, length, D), normed, and as the MTP modules
    read them (h^0). With MTP modules in the cache, these read them too, and in place of the tokens beyond, at the last
    positions, whatever is there."""
    all_normed, states = [], []
    for first in range(0, length, PREFILL_TOKENS):
        width = min(PREFILL_TOKENS, length - first)
        places = cache.places([first] * len(tokens_BL), width)
        hidden = _trunk(model, tokens_BL[:, first : first + width], places, cache)
        all_normed.append(model.model.norm(hidden))
        hidden = handed_on(model.config.mtp, hidden, all_normed[-1])
        states.append(hidden)
        for k, (module, layer) in enumerate(zip(mtp_modules(model), cache.modules, strict=False), start=1):
            further = further_hidden(model, module, hidden, tokens_BL[:, first + k : first + k + width], places, layer)
            if module.chained:
                hidden = handed_on(model.config.mtp, further, module.norm(further))
    return torch.cat(all_normed, dim=1), torch.cat(states, dim=1)


def most_likely(model: Transformer, normed_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, 1): the choice after the first `lengths[b]` hidden states of each row. Only these go through the head."""
    logits: Tensor = model.lm_head(last(normed_BTD, lengths))
    return logits.argmax(dim=-1)


def last(hidden_BTD: Tensor, lengths: Sequence[int]) -> Tensor:
    """(B, 1, D): of the first `lengths[b]` hidden states of each row, the last one."""
    at = torch.tensor(lengths, device=hidden_BTD.device) - 1
    return hidden_BTD[torch.arange(len(at), device=at.device), at].unsqueeze(1)


def batched(model: Transformer, prompts: Prompts, new_tokens: int) -> tuple[Tensor, list[int]]:
    """Prompts (B, P) on the model's device, shorter ones filled up on the right, and their lengths."""
    if new_tokens < 1:
        raise ConfigError(f"new_tokens={new_tokens}: must be at least 1")
    rows = [row.long() for row in prompts]
    lengths = [len(row) for row in rows]
    if not rows or not min(lengths):
        raise ConfigError(f"prompts: lengths {lengths}; decoding needs at least one prompt and one token in each")
    tokens_BP = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    if not 0 <= int(tokens_BP.min()) <= int(tokens_BP.max()) < model.config.vocab_size:
        raise ConfigError(
            f"prompts: token ids {int(tokens_BP.min())} .. {int(tokens_BP.max())}; they must lie within "
            f"model.vocab_size={model.config.vocab_size}"
        )
    return tokens_BP.to(model.lm_head.weight.device), lengths
