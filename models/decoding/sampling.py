"""Answers drawn from a model, many at once, with a cache (models/decoding/generate.py): what reinforcement learning
learns from, and what pass@k is counted on."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.base.typed import ConfigError
from models.decoding.generate import Decoding, Prompts
from models.layers import inferring
from models.transformer import Transformer

FEWER_EVERY = 8
"""Steps between two looks at whether most rows have ended: these are then left out of the batch."""


class NotFinite(ArithmeticError):
    """A model's logits are no numbers to draw from."""


class Drawn(NamedTuple):
    """Answers of up to N tokens, those of one prompt one behind the other."""

    tokens_BN: Tensor
    """Behind an answer's end: the ending token."""
    lengths_B: Tensor
    """With the ending token; N where it did not come."""
    ended_B: Tensor
    """Whether it came."""


def draw(
    model: Transformer,
    prompts: Prompts,
    new_tokens: int,
    end: int,
    generator: torch.Generator,
    copies: int = 1,
    temperature: float = 1.0,
) -> Drawn:
    """`copies` answers to each prompt, every token drawn from softmax(logits / temperature), up to the token `end`.

    Prompts are read once each. The draws depend on the generator's state and on the batch alone. Raises ConfigError for
    prompts, counts or temperatures that cannot be, and NotFinite.
    """
    if copies < 1 or not temperature > 0:
        raise ConfigError(f"copies={copies}, temperature={temperature}: must be at least 1, and above 0")
    with inferring(model):
        decoding = Decoding(model, [row.tolist() for row in prompts], new_tokens)
        decoding.repeat(copies)
        count, device = decoding.logits_BV.shape[0], decoding.logits_BV.device
        tokens_BN = torch.full((count, new_tokens), end, device=device)
        alive = torch.arange(count, device=device)
        for step in range(new_tokens):
            if not bool(torch.isfinite(decoding.logits_BV).all()):
                raise NotFinite("the policy's logits are not finite")
            shares = torch.softmax(decoding.logits_BV.float() / temperature, dim=-1)
            token_B = torch.multinomial(shares, 1, generator=generator).squeeze(1)
            token_B = torch.where(_ended(tokens_BN[alive, :step], end), end, token_B)
            tokens_BN[alive, step] = token_B
            going = ~_ended(tokens_BN[alive, : step + 1], end)
            left = int(going.sum())
            if not left or step + 1 == new_tokens:
                break
            if step % FEWER_EVERY == FEWER_EVERY - 1 and 2 * left <= len(alive):
                kept = going.nonzero().squeeze(1)
                alive, token_B = alive[kept], token_B[kept]
                decoding.keep(kept.tolist())
            decoding.read(token_B.tolist())
    ended_B = (tokens_BN == end).any(dim=1)
    first = (tokens_BN == end).long().argmax(dim=1) + 1
    return Drawn(tokens_BN, torch.where(ended_B, first, new_tokens), ended_B)


def _ended(tokens_BN: Tensor, end: int) -> Tensor:
    return (tokens_BN == end).any(dim=1)
