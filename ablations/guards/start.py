"""An arm begins as a guess, all of it learns, and it begins so again."""

import hashlib
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ablations.config.trialkeys import Stage
from ablations.guards.probes import START_TOLERANCE
from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from ablations.trial.bare import train_steps
from models.module import LanguageModel
from models.training.batch import Batch

REACHED = 3
"""Steps within which a gradient must come to every parameter."""
STEPS = 2


def start(subject: Subject) -> GuardResult:
    """The initial loss is near ln(V), and every parameter receives a gradient in one of the first steps."""
    return first_steps(subject.module(), subject.batch.to(subject.keys.train.device), subject.keys)


def first_steps(module: LanguageModel, batch: Tensor, keys: Stage) -> GuardResult:
    """A part behind a gain of zero begins to learn in the second step, and what is behind that in the third. Experts
    that no token reached at first are counted apart."""
    model, optimizer = module.transformer.train(), module.configure_optimizers()["optimizer"]
    idle = {name: parameter for name, parameter in model.named_parameters() if not _idle(name, keys)}
    for step in range(REACHED):
        optimizer.zero_grad(set_to_none=True)
        result = module.executor.step(batch)
        if step == 0:
            loss, unreached = float(result.losses["loss"]), int((result.load_LE == 0).sum())
        idle = {n: p for n, p in idle.items() if p.grad is None or not bool(p.grad.abs().sum() > 0)}
        if not idle:
            break
        optimizer.step()
    model.zero_grad(set_to_none=True)
    uniform = math.log(model.config.vocab_size)
    near = abs(loss - uniform) <= START_TOLERANCE
    detail = f"initial loss {loss:.3f}, ln(V) {uniform:.3f}" + f" (no more than {START_TOLERANCE:g} apart)" * (not near)
    detail += f"; {unreached} experts unreached by the first batch"
    if idle:
        more = f" and {len(idle) - 3} more" * (len(idle) > 3)
        detail += f"; no gradient reaches {', '.join(list(idle)[:3])}{more}"
    facts: dict[str, Fact] = {"loss": loss, "uniform": uniform, "unreached": unreached, "dead": len(idle)}
    return GuardResult("start", near and not idle, detail, facts)


def _idle(name: str, keys: Stage) -> bool:
    """MTP modules whose loss weighs nothing."""
    return name.startswith("mtp.") and keys.model.mtp.weight == 0


def determinism(subject: Subject) -> GuardResult:
    """The first steps of the training, twice."""
    return same_bits(trained(subject), trained(subject), STEPS)


def trained(subject: Subject) -> list[Tensor]:
    """The parameters after the first steps."""
    keys, module = subject.keys, subject.module()
    batches = [subject.data.train_sequences(subject.seed, *batch) for batch in keys.batches[:STEPS]]
    train_steps(module, [Batch.of(batch).to(keys.train.device) for batch in batches], keys)
    return [p.detach() for p in module.transformer.parameters()]


def same_bits(first: Iterable[Tensor], second: Iterable[Tensor], steps: int) -> GuardResult:
    """Takes the parameters of both runs. The fact `weights` is a hash of theirs, for `twins_at_start`."""
    pairs = list(zip(first, second, strict=True))
    if not all(bool(a.isfinite().all()) for a, _ in pairs):  # NaN is not NaN: the bits may well be the same
        detail = f"the weights are not finite after {steps} steps; lower what is too large, as optim.lr may be"
        return GuardResult("determinism", False, detail, {"finite": False, "steps": steps})
    equal = all(torch.equal(a, b) for a, b in pairs)
    detail = f"{steps} steps run twice: {'the same bits' if equal else 'different bits'}"
    facts: dict[str, Fact] = {"finite": True, "equal": equal, "steps": steps, "weights": hashed(a for a, _ in pairs)}
    return GuardResult("determinism", equal, detail, facts)


def hashed(parameters: Iterable[Tensor]) -> str:
    """16 hexadecimal digits of all their bits."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
