"""What a check is given: the model, a copy of it in FP64, and tokens."""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablations.audit.subject import Subject, embedding_of
from ablations.guards.probes import Logits, same_dice
from ablations.record.guardresult import Fact, GuardResult
from models.base.typed import ConfigError

RAISED = (Exception, SystemExit)
"""Whatever a stranger's code raises; an exit would be taken for the audit's own."""


@dataclass(frozen=True)
class Case:
    subject: Subject
    exact: Subject
    """In FP64, in which sums have no order to speak of; the model itself where it does not run so."""
    tokens_BT: Tensor
    """Drawn evenly."""
    vocab_size: int
    embedding: nn.Module | None
    """That makes (B, T, D) of tokens, if one does."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the exact logits."""
        with torch.no_grad():
            return self.exact.logits(self.tokens_BT).dtype

    @functools.cached_property
    def draws(self) -> bool:
        """Whether evaluation throws dice, so that two passes cannot be compared."""
        self.subject.module.eval()
        made = list[Tensor]()
        for seed in (0, 1):
            with torch.no_grad(), same_dice(seed):
                made.append(self.subject.logits(self.tokens_BT))
        return not torch.equal(*made)

    def more_tokens(self, seed: int) -> Tensor:
        return drawn(self.vocab_size, len(self.tokens_BT), self.tokens_BT.shape[1], seed).to(self.tokens_BT.device)


def case_of(subject: Subject, rows: int, length: int, vocab_size: int | None = None) -> Case:
    """Raises ConfigError where the model takes no such tokens, or returns no logits (B, T, V)."""
    device = next((p.device for p in subject.module.parameters()), torch.device("cpu"))
    zeros = torch.zeros(rows, length, dtype=torch.long, device=device)
    logits = _tried(subject, zeros, f"length={length}: the model raises for tokens ({rows}, {length})")
    if logits.ndim != 3 or logits.shape[:2] != zeros.shape or not logits.is_floating_point():
        shape = ", ".join(map(str, logits.shape))
        raise ConfigError(f"logits of shape ({shape}) for tokens ({rows}, {length}): expected ({rows}, {length}, V)")
    held = logits.shape[-1]
    if vocab_size is not None and vocab_size > held:
        raise ConfigError(f"vocab_size={vocab_size}: the logits are of {held} tokens; give no more")
    vocab = vocab_size or held
    if vocab < 2:
        raise ConfigError(f"vocab_size={vocab}: a choice needs two tokens")
    tokens = drawn(vocab, rows, length, 0).to(device)
    tokens[0, 0] = vocab - 1
    said = f"vocab_size={vocab}: the model refuses tokens up to {vocab - 1}; vocab_size=N draws tokens below N"
    if not bool(_tried(subject, tokens, said).isfinite().all()):
        raise ConfigError("the logits are not finite; an audit compares numbers")
    return Case(subject, _exact(subject, tokens), tokens, vocab, embedding_of(subject, tokens))


def drawn(vocab_size: int, rows: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (rows, length), generator=generator)


@torch.no_grad()
def _tried(subject: Subject, tokens_BT: Tensor, said: str) -> Tensor:
    try:
        return subject.logits(tokens_BT)
    except RAISED as error:
        raise ConfigError(f"{said} ({raised(error)})") from error


def raised(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _exact(subject: Subject, tokens_BT: Tensor) -> Subject:
    try:
        twin = subject.exact()
        if twin is None:
            return subject
        wake(twin.module)
        with torch.no_grad():
            twin.logits(tokens_BT)
    except RAISED:  # it has a product, or a way of being built, that knows no FP64 or no copies
        return subject
    return twin


@torch.no_grad()
def wake(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Fill what is zero as a whole, behind which a mistake would hide: an output projection, a head. Returns the
    parameters that were."""
    asleep = [p for p in module.parameters() if not bool(p.any())]
    generator = torch.Generator().manual_seed(1)
    before: list[tuple[Tensor, Tensor]] = [(p, p.detach().clone()) for p in asleep]
    for p in asleep:
        p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    return before


@contextlib.contextmanager
def undisturbed(module: nn.Module, awake: bool) -> Iterator[None]:
    """Buffers, gradients and modes are afterwards as they were; with `awake`, nothing is zero as a whole until then."""
    modes = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    asleep = wake(module) if awake else []
    try:
        yield
    finally:
        module.zero_grad(set_to_none=True)
        with torch.no_grad():
            for tensor, value in buffers + asleep:
                tensor.copy_(value)
        for part, training in modes.items():
            part.training = training


def logits_of(subject: Subject, training: bool) -> Logits:
    """In this mode, with the same dice on every call."""

    def found(tokens_BT: Tensor) -> list[Tensor]:
        subject.module.train(training)
        with same_dice():
            return [subject.logits(tokens_BT)]

    return found


class AllAlikeError(ValueError):
    """Logits are the same, whatever the tokens."""


def spread(logits: Tensor) -> float:
    """Their standard deviation. Raises AllAlikeError where they have none, so that nothing could be seen in them."""
    if not (found := float(logits.detach().double().std())) > 1e-30:
        raise AllAlikeError
    return found


def passes(name: str, detail: str, facts: dict[str, Fact]) -> GuardResult:
    return GuardResult(name, True, detail, facts)


def fails(name: str, detail: str, facts: dict[str, Fact]) -> GuardResult:
    return GuardResult(name, False, detail, facts)


def untried(name: str, why: str) -> GuardResult:
    return GuardResult(name, False, why, ran=False)
