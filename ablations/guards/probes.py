"""What can be asked of any model: tokens go in, logits come out, and nothing else is known of it.

The guards of an arm ask this, and so does the audit of a stranger's model.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Logits = Callable[[Tensor], list[Tensor]]
"""Tokens (B, T) -> the main model's logits (B, T, V), then those of each MTP depth (B, T - k, V)."""

START_TOLERANCE = 0.5
"""Nats between the initial loss and ln(vocabulary)."""


@contextlib.contextmanager
def same_dice(seed: int = 0) -> Iterator[None]:
    """Whatever is random inside (dropout) comes out as it did before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def largest_change(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """Of a logit at or before t, when all tokens after t change, for three t. An MTP module of depth k may see k tokens
    further, by its definition, and no more."""
    return max((float(change.max()) for change in changes(logits, tokens_BT, vocab_size)), default=0.0)


def usual_change(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """The same, of the largest at each place the median: over all places, and over those just before what changes."""
    found = changes(logits, tokens_BT, vocab_size)
    if not found:
        return 0.0
    nearest = torch.cat([change[:, -1] for change in found])
    return float(max(nearest.median(), *(change.median() for change in found)))


@torch.no_grad()
def changes(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> list[Tensor]:
    """By t and depth: (B, kept) the largest change of a logit at each place that must not change."""
    length, found = tokens_BT.shape[1], list[Tensor]()
    before = logits(tokens_BT)
    for t in sorted({length // 4, length // 2, length - 2}):
        changed = tokens_BT.clone()
        changed[:, t + 1 :] = others(changed[:, t + 1 :], vocab_size)
        for k, (old, new) in enumerate(zip(before, logits(changed), strict=True)):
            if (kept := t + 1 - k) > 0:
                found.append((new[:, :kept] - old[:, :kept]).abs().amax(dim=-1).float())
    return found


@torch.no_grad()
def change_by_rows(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """The largest change of one row's logits, when all other rows' tokens change: of the first and of the last row,
    since rows may see those before them or those after."""
    before, worst = logits(tokens_BT), 0.0
    for row in (0, -1):
        changed = others(tokens_BT, vocab_size)
        changed[row] = tokens_BT[row]
        for old, new in zip(before, logits(changed), strict=True):
            worst = max(worst, float((new[row] - old[row]).abs().max()))
    return worst


def others(tokens: Tensor, vocab_size: int) -> Tensor:
    """Every token another one."""
    generator = torch.Generator().manual_seed(0)
    other = torch.randint(1, vocab_size, tokens.shape, generator=generator).to(tokens.device)
    return (tokens + other) % vocab_size


@dataclass
class Gradients:
    """The largest gradients of a row's logits up to t in the embeddings ..."""

    later: float = 0.0
    """... of its later tokens,"""
    rows: float = 0.0
    """... of other rows' tokens,"""
    seen: float = 0.0
    """... and of what it may see."""

    @property
    def elsewhere(self) -> float:
        return max(self.later, self.rows)


def gradients(embedding: nn.Module, logits: Logits, tokens_BT: Tensor) -> Gradients:
    """Of the first and of the last row. What a logit does not depend on has a gradient of exactly 0.

    `embedding` makes (B, T, D) of tokens. Where MTP calls it again for the tokens k places on, its k-th further result
    begins k tokens later, so that in all of them place t is the last one that depth k may use at its place t.
    """
    embedded: list[Tensor] = []

    def keep(module: nn.Module, given: Sequence[Tensor], out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1]

    handle = embedding.register_forward_hook(keep)
    try:
        made = logits(tokens_BT)
    finally:
        handle.remove()
    t, last, found = tokens_BT.shape[1] // 2, len(tokens_BT) - 1, Gradients()
    for part, row in [(part, row) for part in made for row in sorted({0, last})]:
        own = part[row, : t + 1]
        weights = torch.linspace(-1, 1, own.numel(), device=own.device, dtype=own.dtype).view_as(own)
        for gradient in torch.autograd.grad((own * weights).sum(), embedded, retain_graph=True, allow_unused=True):
            if gradient is None:
                continue
            found.seen = max(found.seen, float(gradient[row, : t + 1].abs().max()))
            found.later = max(found.later, float(gradient[row, t + 1 :].abs().max()))
            gradient[row] = 0
            found.rows = max(found.rows, float(gradient.abs().max()))
    return found


def central_difference(
    total: Callable[[], float], parameters: Sequence[Tensor], along: Sequence[Tensor], step: float
) -> float:
    """By how much `total()` changes per unit along a direction, over a step to each side. Parameters are left as they
    were."""
    here, ends = [p.detach().clone() for p in parameters], list[float]()
    for sign in (1, -1):
        with torch.no_grad():
            for parameter, direction in zip(parameters, along, strict=True):
                parameter.add_(direction, alpha=sign * step)
        try:
            ends.append(total())
        finally:
            with torch.no_grad():
                for parameter, value in zip(parameters, here, strict=True):
                    parameter.copy_(value)
    return (ends[0] - ends[1]) / (2 * step)
