"""What is reported as a loss, where it begins, what is descended, and what learns."""

import itertools
import math
import re
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ablations.audit.case import Case, fails, logits_of, passes, untried
from ablations.audit.subject import Subject
from ablations.audit.tolerances import DERIVATIVE, SCORING, STEPS
from ablations.guards.probes import START_TOLERANCE, central_difference, same_dice
from ablations.record.guardresult import Fact, GuardResult

BATCHES = 4
"""In which a parameter may receive its first gradient: not every expert is reached by one."""
DIRECTIONS = 3


def written_out(logits_BTV: Tensor, tokens_BT: Tensor, shift: int = 1) -> Tensor:
    """The mean cross entropy of the tokens `shift` places on."""
    length = tokens_BT.shape[1] - shift
    logits = logits_BTV[:, :length].flatten(0, 1)
    return F.cross_entropy(logits.double() if logits.dtype == torch.float64 else logits.float(),
                           tokens_BT[:, shift:].flatten())  # fmt: skip


def scoring(case: Case) -> GuardResult:
    """The loss is the cross entropy of the model's own logits, each with the token that follows."""
    subject, tokens = case.exact, case.tokens_BT
    if subject.loss is None:
        return untried("scoring", "it offers no loss (a method `loss(tokens)`, or an argument `labels` or `targets`)")
    facts, notes = dict[str, Fact](), list[str]()
    for where, training in (("in evaluation", False), ("in training", True)):
        with torch.no_grad():
            (logits,) = logits_of(subject, training)(tokens)
            with same_dice():
                own = float(subject.loss(tokens))
        expected, limit = float(written_out(logits, tokens)), SCORING[logits.dtype]
        facts |= {f"loss {where}": own, f"written out {where}": expected, "limit": limit}
        if abs(own - expected) <= limit:
            continue
        why = _whose(own, logits, tokens, limit)
        if training and why == UNKNOWN:  # a term that is learned beside it
            notes.append(f"in training it is {own - expected:+.4g} apart: an auxiliary term, or dice of its own")
            continue
        said = f"its loss {where} is {own:.6g}, and the cross entropy of its logits with the next tokens {expected:.6g}"
        return fails("scoring", f"{said}; {why}", facts)
    off = abs(float(facts["loss in evaluation"]) - float(facts["written out in evaluation"]))
    detail = f"its loss is the cross entropy of its logits with the next tokens, within {off:.1e} nats"
    return passes("scoring", "; ".join([detail, *notes]), facts)


UNKNOWN = "an auxiliary term in it, smoothed labels, or another mean"


def _whose(own: float, logits: Tensor, tokens: Tensor, limit: float) -> str:
    """What the loss is, if it is not what it should be."""
    targets = tokens[:, 1:].numel()
    wrong = {
        "it is that of targets shifted by 0: each token predicts itself": float(written_out(logits, tokens, 0)),
        "it is that of targets shifted by 2: they are shifted twice": float(written_out(logits, tokens, 2)),
        "it is a sum, and no mean": float(written_out(logits, tokens)) * targets,
        "it is in bits, and not in nats": float(written_out(logits, tokens)) / math.log(2),
        "a mean over more places than have a target": float(written_out(logits, tokens)) * targets / tokens.numel(),
    }
    return next((why for why, value in wrong.items() if abs(own - value) <= limit * max(1.0, value / 10)), UNKNOWN)


def start(case: Case) -> GuardResult:
    """With initial weights every token is as likely as any other, or nearly."""
    subject = case.subject.fresh()
    if subject is None:
        return untried("start", "fresh=false: what was trained says nothing of how it began")
    with torch.no_grad():
        (logits,) = logits_of(subject, False)(case.tokens_BT)
    loss, uniform, wide = (
        float(written_out(logits, case.tokens_BT)),
        math.log(logits.shape[-1]),
        float(logits.float().std()),
    )
    facts: dict[str, Fact] = {"loss": loss, "uniform": uniform, "spread": wide}
    told = f"initial loss {loss:.3f}, ln(V) {uniform:.3f}"
    if abs(loss - uniform) <= START_TOLERANCE:
        return passes("start", told, facts)
    why = f"the logits' spread is {wide:.3g}: initial weights are too large, or it has been trained (fresh=false)"
    if loss < uniform:
        why = "it knows tokens that were drawn: it sees what it is to predict"
    return fails("start", f"{told}, more than {START_TOLERANCE:g} apart; {why}", facts)


def derivative(case: Case) -> GuardResult:
    """Along random directions, the gradient is what the loss changes by."""
    subject, tokens = case.exact, case.tokens_BT
    subject.module.train()
    parameters: list[Tensor] = [p for p in subject.module.parameters() if p.requires_grad]
    loss, total = total_of(subject, tokens)(), _finest(subject, tokens)
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    found = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    with torch.no_grad():
        dtype = total().dtype
    if dtype not in DERIVATIVE or case.dtype not in DERIVATIVE:
        return untried("derivative", f"its logits are {case.dtype}, too coarse for a difference, and it has no FP64")
    whole = math.fsum(float(g.norm()) for g in found)
    facts, worst = dict[str, Fact](), 0.0
    for direction in range(DIRECTIONS):
        along = _along(parameters, found, direction)
        slope = math.fsum(float((g * v).sum()) for g, v in zip(found, along, strict=True))
        size = math.sqrt(math.fsum(float(p.detach().square().sum()) for p in parameters))
        size /= math.sqrt(math.fsum(float(v.square().sum()) for v in along))
        tried = []
        for step in STEPS[dtype]:
            with torch.no_grad():
                measured = central_difference(lambda: float(total()), parameters, along, step * size)
            tried.append((abs(measured - slope) / max(whole, 1e-12), measured))
            if tried[-1][0] <= DERIVATIVE[dtype]:
                break
        off, measured = min(tried)
        values = [value for _, value in tried]
        jumps = all(abs(a - b) > DERIVATIVE[dtype] * whole for a, b in itertools.pairwise(values))
        if len(values) > 1 and jumps and not off <= DERIVATIVE[dtype]:
            told = f"{min(values):.4g} to {max(values):.4g}"
            said = f"the loss has no slope: over shorter and shorter steps it is {told}"
            return untried("derivative", f"{said}, as where something is rounded (FP8) or noisy")
        worst = max(worst, off) if math.isfinite(off) else math.inf
        facts |= {f"slope_{direction}": slope, f"measured_{direction}": measured, "limit": DERIVATIVE[dtype]}
        if not off <= DERIVATIVE[dtype]:
            said = f"the gradient says {slope:.4g} along a direction in which the loss changes by {measured:.4g}"
            why = "a part is detached, counted twice, or has a backward of its own"
            return fails("derivative", f"{said}; {why}", facts)
    what = "its loss" if subject.loss is not None else "the cross entropy of its logits"
    return passes(
        "derivative", f"the gradient of {what} along {DIRECTIONS} directions is within {worst:.1e} of all of it", facts
    )


def _along(parameters: list[Tensor], gradients: list[Tensor], seed: int) -> list[Tensor]:
    """Each tensor's own gradient, forwards or back, and chance; all tensors alike in length, so that none hides."""
    generator, along = torch.Generator().manual_seed(seed), list[Tensor]()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        chance = torch.randn(parameter.shape, generator=generator).to(parameter)
        sign = 1.0 if seed == 0 or float(torch.rand((), generator=generator)) < 0.5 else -1.0
        along.append(sign * gradient / gradient.norm().clamp_min(1e-30) + chance / chance.norm().clamp_min(1e-30))
    return along


def total_of(subject: Subject, tokens_BT: Tensor, own: bool = True) -> Callable[[], Tensor]:
    """Its own loss, where it has one; else the cross entropy of its logits."""

    def total() -> Tensor:
        with same_dice():
            if own and subject.loss is not None:
                return subject.loss(tokens_BT)
            return written_out(subject.logits(tokens_BT), tokens_BT)

    return total


@torch.no_grad()
def _finest(subject: Subject, tokens_BT: Tensor) -> Callable[[], Tensor]:
    """The loss, to measure its differences; written out in FP64 where it is rounded to FP32 at its end, as often."""
    total, written = total_of(subject, tokens_BT), total_of(subject, tokens_BT, own=False)
    one, other = total(), written()
    return written if other.dtype == torch.float64 and abs(float(one - other)) <= SCORING[torch.float32] else total


def size(case: Case) -> GuardResult:
    """How many parameters there are, and whether all of them learn."""
    module, named = case.subject.module, dict(case.subject.module.named_parameters())
    count, frozen = sum(p.numel() for p in named.values()), [n for n, p in named.items() if not p.requires_grad]
    idle = _idle(case, set(named) - set(frozen))
    if idle and (asleep := [p for p in named.values() if not bool(p.any())]):
        idle = _behind_zeros(case, idle, asleep)
    unreached = {n for n in idle if _of_experts(n, set(named) - idle)}
    dead = sorted(idle - unreached, key=list(named).index)
    facts: dict[str, Fact] = {
        "parameters": count,
        "frozen": len(frozen),
        "dead": len(dead),
        "unreached": len(unreached),
    }
    told = f"{count:,} parameters"
    told += f", {sum(named[n].numel() for n in frozen):,} of them frozen" * bool(frozen)
    told += f", {len(unreached)} tensors of experts that no token reached" * bool(unreached)
    if not dead:
        return passes("size", f"{told}; all that may learn get a gradient", facts)
    lost, more = sum(named[n].numel() for n in dead), f" and {len(dead) - 3} more" * (len(dead) > 3)
    moved = [name for name in dead[:3] if _moves(case, named[name])]
    why = f"the loss depends on {moved[0]}: something detaches it" if moved else "the loss does not depend on them"
    module.zero_grad(set_to_none=True)
    said = f"{told}, of which {lost:,} are dead: no gradient reaches {', '.join(dead[:3])}{more}; {why}"
    return fails("size", said, facts)


def _idle(case: Case, names: set[str]) -> set[str]:
    """Those that no batch leads a gradient to."""
    case.subject.module.train()
    for seed in range(BATCHES):
        case.subject.module.zero_grad(set_to_none=True)
        total_of(case.subject, case.more_tokens(seed))().backward()
        parameters = case.subject.module.named_parameters()
        names = names - {n for n, p in parameters if p.grad is not None and bool(p.grad.any())}
        if not names:
            break
    return names


def _behind_zeros(case: Case, idle: set[str], asleep: Sequence[Tensor]) -> set[str]:
    """What begins behind a zero learns as soon as that has moved."""
    generator, before = torch.Generator().manual_seed(2), [p.detach().clone() for p in asleep]
    with torch.no_grad():
        for p in asleep:
            p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    try:
        return _idle(case, idle)
    finally:
        with torch.no_grad():
            for p, value in zip(asleep, before, strict=True):
                p.copy_(value)


def _of_experts(name: str, alive: set[str]) -> bool:
    """Whether another expert's parameter of this name has a gradient."""
    pattern = re.sub(r"(experts?(?:\\\.|_))\d+", r"\1\\d+", re.escape(name))
    return pattern != re.escape(name) and any(re.fullmatch(pattern, other) for other in alive)


@torch.no_grad()
def _moves(case: Case, parameter: Tensor) -> bool:
    total, before = total_of(case.subject, case.tokens_BT), parameter.detach().clone()
    first = float(total())
    parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).to(parameter))
    moved = abs(float(total()) - first) > 1e-6
    parameter.copy_(before)
    return moved
