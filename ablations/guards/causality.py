"""No logit depends on a later token or on another row of its batch: in evaluation, in training, and on the path that is
trained.

By value in FP64, where other group sizes move no rounding: whatever leaks shows, were it through a choice that has no
gradient. By gradient in the trial's own type, on its device: what a logit does not depend on has a gradient of exactly
zero, however coarse the numbers. And by value there too, where only a leak through a kernel of its own is left to see.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ablations.guards.subject import Subject, same_dice
from ablations.record.guardresult import Fact, GuardResult
from models.precision.recipe import resolve
from models.transformer import Transformer

EXACT = 1e-9
"""Of FP64 logits."""
COARSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.05}
"""Of logits in a trial's own type. Other group sizes in the grouped product move the last bits, and once in a while a
token over the edge to another expert: of the changes, the median over places counts."""

Logits = Callable[[Tensor], list[Tensor]]
"""Tokens (B, T) -> the main model's logits (B, T, V), then those of each MTP depth (B, T - k, V)."""


def causality(subject: Subject) -> GuardResult:
    """Of every kind of leak the largest, and the limit that it keeps."""
    keys, tokens = subject.keys, subject.few[:, :-1]
    exact = logits_of(subject.exact().eval(), keys.document_end)
    leaks = {"in evaluation": largest_change(exact, tokens, keys.model.vocab_size)}
    leaks["from another row"] = change_by_rows(exact, tokens, keys.model.vocab_size)
    low = replace(keys.model.precision, kernels="emulated") if keys.model.precision.fp8 else None
    trained = logits_of(subject.exact(low).train(), keys.document_end)
    in_training = largest_change(trained, tokens, keys.model.vocab_size)
    across = change_by_rows(trained, tokens, keys.model.vocab_size)
    shared = keys.model.precision.fp8 and resolve(keys.model.precision).activation.granularity in ("block", "tensor")
    if not shared:
        leaks |= {"in training": in_training, "from another row in training": across}
    own, few = subject.module().transformer.train(), subject.batch[:2, :-1].to(keys.train.device)
    leaks["by gradient"] = gradient_from_elsewhere(own, few, keys.document_end)
    facts: dict[str, Fact] = {"largest_change": max(in_training, *leaks.values()), "limit": EXACT}
    if keys.model.precision.fp8:
        facts["shared_scales"] = shared
    guilty = [f"{where} {leak:.1e}" for where, leak in leaks.items() if not leak <= EXACT]
    if not shared:
        coarse = usual_change(logits_of(own, keys.document_end), few, keys.model.vocab_size)
        facts["usual_change"] = coarse
        if not coarse <= COARSE[own.dtype]:
            guilty.append(f"as trained, in {keys.model.dtype}, {coarse:.1e}")
    if guilty:
        return GuardResult("causality", False, f"later tokens or other rows change logits: {', '.join(guilty)}", facts)
    detail = f"largest change of a logit by later tokens or other rows {max(leaks.values()):.1e} (limit {EXACT:.0e})"
    if shared:
        detail += f"; in FP8 training {in_training:.1e}, through scales that tokens share; evaluation is in BF16"
    return GuardResult("causality", True, detail, facts)


def logits_of(model: Transformer, document_end: int | None) -> Logits:
    """In the mode that `model` is in, with the same dice on every call."""

    def found(tokens_BT: Tensor) -> list[Tensor]:
        with same_dice():
            output = model(tokens_BT, mtp=True, document_end=document_end)
        return [output.logits, *output.mtp_logits]

    return found


def largest_change(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """Of a logit at or before t, when all tokens after t change, for three t. An MTP module of depth k may see k tokens
    further, by its definition, and no more."""
    return max((float(change.max()) for change in _changes(logits, tokens_BT, vocab_size)), default=0.0)


def usual_change(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """The same, of the largest at each place the median."""
    return max((float(change.median()) for change in _changes(logits, tokens_BT, vocab_size)), default=0.0)


@torch.no_grad()
def _changes(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> list[Tensor]:
    """By t and depth: (B, kept) the largest change of a logit at each place that must not change."""
    length, found = tokens_BT.shape[1], list[Tensor]()
    before = logits(tokens_BT)
    for t in sorted({length // 4, length // 2, length - 2}):
        changed = tokens_BT.clone()
        changed[:, t + 1 :] = _others(changed[:, t + 1 :], vocab_size)
        for k, (old, new) in enumerate(zip(before, logits(changed), strict=True)):
            if (kept := t + 1 - k) > 0:
                found.append((new[:, :kept] - old[:, :kept]).abs().amax(dim=-1).float())
    return found


@torch.no_grad()
def change_by_rows(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """The largest change of the first row's logits, when all other rows' tokens change."""
    changed = tokens_BT.clone()
    changed[1:] = _others(changed[1:], vocab_size)
    pairs = zip(logits(tokens_BT), logits(changed), strict=True)
    return max(float((new[0] - old[0]).abs().max()) for old, new in pairs)


def _others(tokens: Tensor, vocab_size: int) -> Tensor:
    """Every token another one."""
    generator = torch.Generator().manual_seed(0)
    other = torch.randint(1, vocab_size, tokens.shape, generator=generator).to(tokens.device)
    return (tokens + other) % vocab_size


def gradient_from_elsewhere(model: Transformer, tokens_BT: Tensor, document_end: int | None) -> float:
    """The largest gradient of the first row's logits up to t in an embedding of a later token, or of another row.

    The k-th further embedding that MTP makes lies k tokens ahead, so that in all of them place t is the last one that
    depth k may use at its place t.
    """
    embedded: list[Tensor] = []

    def keep(module: nn.Module, given: Sequence[Tensor], out: Tensor) -> Tensor:
        embedded.append(out.detach().requires_grad_())
        return embedded[-1]

    handle = model.model.embed_tokens.register_forward_hook(keep)
    try:
        found = logits_of(model, document_end)(tokens_BT)
    finally:
        handle.remove()
    t, worst = tokens_BT.shape[1] // 2, 0.0
    for logits in found:
        part = logits[0, : t + 1]
        weights = torch.linspace(-1, 1, part.numel(), device=part.device, dtype=part.dtype).view_as(part)
        gradients = torch.autograd.grad((part * weights).sum(), embedded, retain_graph=True, allow_unused=True)
        for gradient in gradients:
            if gradient is not None:
                worst = max(worst, float(gradient[0, t + 1 :].abs().sum()), float(gradient[1:].abs().sum()))
    return worst
