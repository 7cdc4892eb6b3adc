"""A model is as large as it is said to be, and starts as it says."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ablations.guards.subject import Subject
from ablations.record.guardresult import Fact, GuardResult
from models.cost import cost
from models.decoding.generate import Cache
from models.layers import KEPT, Start
from models.precision.config import PrecisionConfig
from models.transformer import Transformer, start_of

POSITIONS = 8


def size(subject: Subject) -> GuardResult:
    """Parameters with and without MTP modules, and bytes cached per token, of a model that is built and of its cost."""
    keys = subject.keys
    said = cost(keys.model, keys.data.seq_len)
    with torch.device("meta"):
        model = Transformer(replace(keys.model, precision=PrecisionConfig())).eval()
        cached = Cache(model, 1, POSITIONS).nbytes / POSITIONS
    mtp = sum(p.numel() for name, p in model.named_parameters() if name.startswith("mtp."))
    total = sum(p.numel() for p in model.parameters()) - mtp
    pairs = {
        "total_params": (total, said.total_params),
        "mtp_params": (mtp, said.mtp_params),
        "kv_bytes": (cached, said.kv_bytes),
    }
    wrong = [f"{n}: built {built:g}, by models/cost.py {told:g}" for n, (built, told) in pairs.items() if built != told]
    facts: dict[str, Fact] = {name: built for name, (built, _) in pairs.items()}
    if wrong:
        return GuardResult("size", False, "; ".join(wrong), facts)
    return GuardResult("size", True, f"{total:,} parameters, {cached:g} bytes cached per token", facts)


def initialisation(subject: Subject) -> GuardResult:
    """What is no matrix says how it starts, and so does what its module has filled: nothing is overwritten in silence.
    What says so does start so."""
    with unfilled_is_nan():
        built = Transformer(subject.keys.model)
    starts = {name: start_of(built, name) for name, _ in built.named_parameters()}
    silent = {name: p for name, p in built.named_parameters() if starts[name] is None}
    undeclared = [name for name, p in silent.items() if p.ndim < 2]
    overwritten = [name for name, p in silent.items() if p.ndim >= 2 and not bool(p.isnan().any())]
    facts: dict[str, Fact] = {"undeclared": len(undeclared), "overwritten": len(overwritten)}
    if undeclared or overwritten:
        what = [f"{name} is no matrix" for name in undeclared]
        what += [f"{name}, set by its module, would be overwritten" for name in overwritten]
        more = f" and {len(what) - 3} more" if len(what) > 3 else ""
        detail = f"{', '.join(what[:3])}{more}; say so in its module's `starts` (models.layers), or leave it empty"
        return GuardResult("initialisation", False, detail, facts)
    trained = dict(unperturbed(subject).module().transformer.named_parameters())
    own = dict(built.named_parameters())
    wrong = [n for n, start in starts.items() if start is not None and not _starts_at(trained[n], start, own[n])]
    facts["wrong"] = len(wrong)
    if wrong:
        detail = f"{', '.join(wrong[:3])}: does not start at what its module's `starts` says"
        return GuardResult("initialisation", False, detail, facts)
    declared = sum(value is not None for value in starts.values())
    return GuardResult("initialisation", True, f"{declared} of {len(starts)} parameters say how they start", facts)


def _starts_at(parameter: Tensor, start: Start, built: Tensor) -> bool:
    if start == KEPT:
        return torch.equal(parameter.cpu(), built)
    return bool((parameter == start).all())


@contextlib.contextmanager
def unfilled_is_nan() -> Iterator[None]:
    """What nobody has filled yet is NaN."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def unperturbed(subject: Subject) -> Subject:
    """Without the A/A arm's change of the weights."""
    return replace(subject, keys=replace(subject.keys, train=replace(subject.keys.train, perturb=0.0)))
