"""What is reported as a loss is one, and what is descended is what is reported. In FP64, where equal means equal."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.guards.probes import central_difference, same_dice
from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.config import PipelineConfig
from models.measure.evaluation import evaluate
from models.mtp import mtp_weight
from models.precision.config import ROLES, FormatName
from models.transformer import Transformer

SCORING = 1e-9
"""Nats, between two ways to the same mean."""
BITS_PER_BYTE = 1e-5
"""lm-eval's way sums in FP32."""
CLIPPING = 1e-5
"""Over the norm; torch adds a millionth to it, so as not to divide by 0."""
DERIVATIVE, STEPS = 1e-5, (1e-7, 1e-8)
"""Relative, of a slope along a direction, against a difference over such a step. The second one is for a step that has
taken a token over the edge to another expert, where there is no slope."""
DIRECTIONS = 3
AMID = 0.5
"""Of the training: what is so at its first step may be so at no other."""
AS_TRAINED = {torch.float64: 1e-4, torch.float32: 0.05, torch.bfloat16: 0.35}
"""Of a parameter's gradient along the exact one, from 1; FP8 is as BF16. Rounding takes tokens to other experts, and
adds what lies across."""
TERMS = ("loss", "aux_loss", "mtp_loss")
"""Whose sum is descended."""


def scoring(subject: Subject) -> GuardResult:
    """The executor's losses and `evaluate`'s against cross entropy written out, each prediction once and all alike."""
    keys, tokens = subject.keys, subject.few
    model = subject.exact().train()
    pairs: dict[str, tuple[float, float]] = {}
    for when, progress in (("", 0.0), (" at the end", 0.999)):
        reported = {name: float(v) for name, v in _step(subject, model, tokens, progress).items()}
        expected = plain_losses(model, tokens, keys, progress=progress)
        pairs |= {name + when: (reported.get(name, math.nan), value) for name, value in expected.items()}
    model.zero_grad(set_to_none=True)
    evaluated = evaluate(model, [tokens], keys.document_end)
    pairs["evaluation"] = (evaluated.loss, plain_losses(model.eval(), tokens, keys, 1)["loss"])
    off = {name: own - plain for name, (own, plain) in pairs.items()}
    facts: dict[str, Fact] = {"largest_difference": max(map(abs, off.values())), "limit": SCORING}
    wrong = [
        f"{name} {pairs[name][0]:.6g}, written out {pairs[name][1]:.6g}"
        for name, difference in off.items()
        if not abs(difference) <= SCORING
    ]
    targets = tokens[:, 1:].numel()
    if evaluated.tokens != targets:
        wrong.append(f"evaluation counts {evaluated.tokens} targets of {targets}")
    if "python_bits_per_byte" in keys.eval.tasks:
        ours, harness = bits_per_byte(subject, model)
        facts["bits_per_byte_difference"] = abs(ours - harness)
        if not abs(ours - harness) <= BITS_PER_BYTE:
            wrong.append(f"bits per byte {ours:.6g}, by lm-eval {harness:.6g}")
    if wrong:
        return GuardResult("scoring", False, "; ".join(wrong), facts)
    return GuardResult("scoring", True, f"differences of at most {facts['largest_difference']:.1e} nats", facts)


@torch.no_grad()
def plain_losses(
    model: Transformer, tokens_BT1: Tensor, keys: TrialKeys, microbatches: int | None = None, progress: float = 0.0
) -> dict[str, float]:
    """`loss` and MTP's, from the logits of one microbatch after the other (V3 eq. 24-25)."""
    parts = tokens_BT1.chunk(microbatches or keys.microbatches)
    sums: dict[int, list[float]] = {}
    for part in parts:
        with same_dice():
            output = model(part[:, :-1], mtp=True, document_end=keys.document_end)
        for k, logits in enumerate([output.logits, *output.mtp_logits]):
            sums.setdefault(k, []).append(float(F.cross_entropy(logits.flatten(0, 1), part[:, 1 + k :].flatten())))
    means = {k: math.fsum(values) / len(values) for k, values in sums.items()}
    found = {"loss": means[0]}
    depth, length = len(means) - 1, tokens_BT1.shape[1] - 1
    if depth:
        found |= {f"mtp_loss_{k}": means[k] for k in range(1, depth + 1)}
        weighted = math.fsum(means[k] * (length - k) / length for k in range(1, depth + 1))
        found["mtp_loss"] = mtp_weight(keys.model.mtp, progress) / depth * weighted
    return found


def bits_per_byte(subject: Subject, model: Transformer) -> tuple[float, float]:
    """Of the beginning of a test document from an empty context: as `test_metrics` counts, and as lm-eval does."""
    from lm_eval.api.instance import Instance

    from tasks.config import END_OF_TEXT_ID
    from tasks.evals.lm import HarnessLM

    data = subject.data
    short = max(1, subject.keys.data.seq_len // 4)  # a character has at most four bytes, and a token at least one
    text = next(document.text for document in data.documents("test") if document.text)[:short]
    ids = data.tokenizer.encode(text, add_special_tokens=False).ids
    tokens = torch.tensor([[END_OF_TEXT_ID, *ids]])
    nats = evaluate(model, [tokens]).loss * len(ids)
    lm = HarnessLM(lambda rows: model(rows).logits, data.tokenizer, subject.keys.data.seq_len)
    model.eval()
    (likelihood,) = lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    ours = nats / math.log(2) / int(data.token_bytes[ids].sum())
    return ours, -likelihood / math.log(2) / len(text.encode())


def derivative(subject: Subject) -> GuardResult:
    """Along random directions, the gradient that a step leaves is what the sum of its reported losses changes by. Of a
    pipeline, plain microbatching's: `schedule` says that its gradients are the same, and `scoring` that its losses are.
    """
    subject = unpiped(loud(subject))
    model, tokens = subject.exact().train(), subject.short
    _step(subject, model, tokens, AMID)
    parameters: list[Tensor] = list(model.parameters())
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    worst, facts = 0.0, dict[str, Fact]()
    for direction in range(DIRECTIONS):
        generator = torch.Generator().manual_seed(direction)
        along = [torch.randn(p.shape, generator=generator, dtype=p.dtype) * subject.keys.model.std for p in parameters]
        slope = math.fsum(float((g * v).sum()) for g, v in zip(gradients, along, strict=True))
        for step in STEPS:
            measured = central_difference(lambda: _total(subject, model, tokens), parameters, along, step)
            off = abs(measured - slope) / max(abs(measured), 1e-2)
            if off <= DERIVATIVE:
                break
        worst = max(worst, off) if math.isfinite(off) else math.inf
        facts |= {f"slope_{direction}": slope, f"measured_{direction}": measured}
        if not off <= DERIVATIVE:
            detail = f"the gradient says {slope:.6g} along a direction in which the reported losses say {measured:.6g}"
            return GuardResult("derivative", False, detail, facts | {"largest_difference": worst, "limit": DERIVATIVE})
    names = [name for name, _ in model.named_parameters()]
    if not (clipped := shortened(subject, model, gradients)) <= CLIPPING:
        detail = f"clipped to half its norm, the gradient is {clipped:.1e} of it away from half of itself"
        return GuardResult("derivative", False, detail, {"clipped": clipped, "limit": CLIPPING})
    off_as_trained, name = farthest_as_trained(finer(subject), dict(zip(names, gradients, strict=True)))
    facts = {"largest_difference": worst, "limit": DERIVATIVE, "as_trained": off_as_trained}
    dtype = subject.keys.model.dtype
    coarse = torch.bfloat16 if subject.keys.model.precision.fp8 else getattr(torch, dtype)
    if not off_as_trained <= AS_TRAINED[coarse]:
        detail = f"along its gradient in FP64, that of {name} in {dtype} is {off_as_trained:.0%} too long or too short"
        return GuardResult("derivative", False, detail, facts)
    detail = (
        f"slopes along {DIRECTIONS} directions differ by {worst:.1e}; in {dtype}, gradients by {off_as_trained:.1e}"
    )
    return GuardResult("derivative", True, detail, facts)


def shortened(subject: Subject, model: Transformer, gradients: list[Tensor]) -> float:
    """How far clipping to half of the gradient's norm is from halving it, over the norm."""
    norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.clone()
    subject.executor(model).clip(model.parameters(), norm / 2)
    off = [
        p.grad - gradient / 2 for p, gradient in zip(model.parameters(), gradients, strict=True) if p.grad is not None
    ]
    return float(torch.stack([part.norm() for part in off]).norm()) / max(norm, 1e-300)


def farthest_as_trained(subject: Subject, exact: dict[str, Tensor]) -> tuple[float, str]:
    """How far from 1 a parameter's gradient on the trained path is, along the exact one, and which is farthest."""
    module = subject.module()
    module.transformer.train()
    with same_dice():
        module.executor.step(subject.short.to(subject.keys.train.device), AMID)
    worst, farthest = 0.0, ""
    least = 1e-3 * float(torch.stack([gradient.norm() for gradient in exact.values()]).norm())
    for name, parameter in module.transformer.named_parameters():
        true, found = exact[name], parameter.grad
        own = torch.zeros_like(true) if found is None else found.cpu().double()
        # What is next to none is lost in rounding.
        off = abs(float((own - true).flatten() @ true.flatten() / true.norm().clamp_min(least).square()))
        worst, farthest = max((worst, farthest), (off, name))
    return worst, farthest


def loud(subject: Subject) -> Subject:
    """With weights of 1 on the auxiliary and on MTP's loss: at a published 0.0001, a gradient that is wrong by half
    would hide in the rounding of the others."""
    model = subject.keys.model
    balance = replace(model.moe.balance, alpha=1.0)
    louder = replace(model, moe=replace(model.moe, balance=balance), mtp=replace(model.mtp, weight=1.0))
    return replace(subject, keys=replace(subject.keys, model=louder))


def finer(subject: Subject) -> Subject:
    """With E4M3 in place of coarser formats: one bit of mantissa takes a gradient by itself as far (0.40, where E4M3
    has 0.10) as a mistake would, and its products are E4M3's but for that."""
    model = subject.keys.model
    named = model.precision.format
    fine: dict[str, FormatName] = {role: "e4m3" for role in ROLES if getattr(named, role) in ("e4m2", "e4m1")}
    precision = replace(model.precision, format=replace(named, **fine))
    return replace(subject, keys=replace(subject.keys, model=replace(model, precision=precision)))


def unpiped(subject: Subject) -> Subject:
    """With the microbatches of a pipeline, and none of its stages."""
    keys = subject.keys
    model = replace(keys.model, pipeline=PipelineConfig())
    train = replace(keys.train, microbatches=keys.microbatches)
    return replace(subject, keys=replace(keys, model=model, train=train))


def _total(subject: Subject, model: Transformer, tokens: Tensor) -> float:
    """What is reported."""
    losses = _step(subject, model, tokens, AMID)
    return math.fsum(float(losses[name]) for name in TERMS if name in losses)


def _step(subject: Subject, model: Transformer, tokens: Tensor, progress: float) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    with same_dice():
        return subject.executor(model).step(tokens, progress).losses
