"""No logit depends on a later token or on another row of its batch: in evaluation, in training, and on the path that is
trained.

By value in FP64, where other group sizes move no rounding: whatever leaks shows, were it through a choice that has no
gradient. By gradient in the trial's own type, on its device: what a logit does not depend on has a gradient of exactly
zero, however coarse the numbers. And by value there too, where only a leak through a kernel of its own is left to see.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.guards.probes import (
    Logits,
    change_by_rows,
    gradients,
    largest_change,
    others,
    same_dice,
    usual_change,
)
from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.precision.recipe import resolve
from models.transformer import Transformer

EXACT = 1e-9
"""Of FP64 logits."""
COARSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 2e-3}
"""Of logits in a trial's own type. Other group sizes in the grouped product move the last bits, and once in a while a
token over the edge to another expert: of the changes, the median over places counts."""


def causality(subject: Subject) -> GuardResult:
    """Of every kind of leak the largest, and the limit that it keeps."""
    keys, end = subject.keys, subject.keys.document_end
    tokens = with_documents(subject.few[:2, :-1], end)
    leaks = by_value("in evaluation", logits_of(subject.exact().eval(), end), tokens, keys)
    leaks |= by_value("in training", logits_of(subject.exact().train(), end), tokens, keys)
    shared = keys.model.precision.fp8 and resolve(keys.model.precision).activation.granularity in ("block", "tensor")
    rounded = 0.0
    if keys.model.precision.fp8:
        low = subject.exact(replace(keys.model.precision, kernels="emulated")).train()
        found = by_value("in FP8 training", logits_of(low, end), tokens, keys)
        rounded = max(found.values())
        leaks |= {} if shared else found
    own = subject.module().transformer.train()
    few = with_documents(subject.batch[:2, :-1], end).to(keys.train.device)
    leaks["by gradient"] = gradients(own.model.embed_tokens, logits_of(own, end), few).elsewhere
    facts: dict[str, Fact] = {"largest_change": max(rounded, *leaks.values()), "limit": EXACT}
    if keys.model.precision.fp8:
        facts["shared_scales"] = shared
    guilty = [f"{where} {leak:.1e}" for where, leak in leaks.items() if not leak <= EXACT]
    if not shared:
        coarse = usual_change(logits_of(own, end), few, keys.model.vocab_size)
        facts["usual_change"] = coarse
        if not coarse <= COARSE[own.dtype]:
            guilty.append(f"as trained, in {keys.model.dtype}, {coarse:.1e}")
    if guilty:
        return GuardResult("causality", False, f"later tokens or other rows change logits: {', '.join(guilty)}", facts)
    detail = f"largest change of a logit by later tokens or other rows {max(leaks.values()):.1e} (limit {EXACT:.0e})"
    if shared:
        detail += f"; in FP8 training {rounded:.1e}, through scales that tokens share; evaluation is in BF16"
    return GuardResult("causality", True, detail, facts)


def by_value(where: str, logits: Logits, tokens_BT: Tensor, keys: TrialKeys) -> dict[str, float]:
    """By kind of leak, the largest change of a logit that must not change."""
    vocab = keys.model.vocab_size
    leaks = {where: largest_change(logits, tokens_BT, vocab)}
    leaks[f"from another row {where}"] = change_by_rows(logits, tokens_BT, vocab)
    if keys.document_end is not None:
        leaks[f"from another document {where}"] = change_by_documents(logits, tokens_BT, vocab)
    return leaks


def with_documents(tokens_BT: Tensor, document_end: int | None) -> Tensor:
    """Rows of several documents each: so few tokens seldom hold an end of one."""
    if document_end is None:
        return tokens_BT
    cut = tokens_BT.clone()
    for third in (1, 2):
        cut[:, third * tokens_BT.shape[1] // 3 - 1] = document_end
    return cut


def logits_of(model: Transformer, document_end: int | None) -> Logits:
    """In the mode that `model` is in, with the same dice on every call."""

    def found(tokens_BT: Tensor) -> list[Tensor]:
        with same_dice():
            output = model(tokens_BT, mtp=True, document_end=document_end)
        return [output.logits, *output.mtp_logits]

    return found


@torch.no_grad()
def change_by_documents(logits: Logits, tokens_BT: Tensor, vocab_size: int) -> float:
    """The largest change of a later document's logits, when the first one's tokens change, but not its end: beyond the
    places where an MTP module may see what was before."""
    end = tokens_BT.shape[1] // 3
    changed = tokens_BT.clone()
    changed[:, : end - 1] = others(changed[:, : end - 1], vocab_size)
    pairs = [(old[:, end:], new[:, end:]) for old, new in zip(logits(tokens_BT), logits(changed), strict=True)]
    return max((float((new - old).abs().max()) for old, new in pairs if new.numel()), default=0.0)
