"""A stranger's model, as the checks see it.

Whatever maps tokens (B, T) to logits (B, T, V) will do. What else it offers is read off its forward's arguments and its
methods, by the names that are common:

| it offers | if there is |
|---|---|
| a loss | a method `loss(tokens)`, an argument `labels` (shifted by the model), or `targets` (shifted by the caller) |
| a cache | a method `decode(tokens, state) -> (logits, state)`, or arguments `past_key_values` and `use_cache` |
| a mask of padding | an argument `attention_mask` |
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ablations.audit.tolerances import EXACT_UP_TO

Loss = Callable[[Tensor], Tensor]
"""Tokens (B, T) -> the mean over all tokens but each row's first, in nats."""
Masked = Callable[[Tensor, Tensor], Tensor]
"""Tokens (B, T) and booleans (B, T), false where there is padding -> logits (B, T, V)."""
Cached = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""The next tokens (B, S) and the state that is kept (None at first) -> their logits (B, S, V), and the state."""


class Subject(Protocol):
    @property
    def module(self) -> nn.Module: ...

    def logits(self, tokens_BT: Tensor) -> Tensor:
        """(B, T, V), of each token's next one, in the mode that the module is in."""
        ...

    @property
    def loss(self) -> Loss | None: ...

    @property
    def masked(self) -> Masked | None: ...

    @property
    def cached(self) -> Cached | None: ...

    def exact(self) -> "Subject | None":
        """A copy in FP64, or None. It may raise, where there are no copies."""
        ...

    def fresh(self) -> "Subject | None":
        """With initial weights: itself, another one, or None where there is none."""
        ...


class Plain:
    """A torch module."""

    def __init__(self, module: nn.Module, trained: bool = False) -> None:
        self.module, self.trained = module, trained
        self.takes = inspect.signature(module.forward).parameters

    def logits(self, tokens_BT: Tensor) -> Tensor:
        if "targets" not in self.takes:
            return logits_in(self.call(tokens_BT))
        required = self.takes["targets"].default is inspect.Parameter.empty
        if not required and (made := logits_in(self.call(tokens_BT))).shape[1:2] == tokens_BT.shape[1:]:
            return made
        return logits_in(self.call(tokens_BT, targets=tokens_BT.roll(-1, dims=1)))  # else the last place's alone

    def call(self, tokens_BT: Tensor, **more: Any) -> Any:
        return self.module(tokens_BT, **more)

    @property
    def loss(self) -> Loss | None:
        own = getattr(self.module, "loss", None)
        if inspect.ismethod(own):
            return lambda tokens_BT: own(tokens_BT)
        if "labels" in self.takes:
            return lambda tokens_BT: loss_in(self.call(tokens_BT, labels=tokens_BT))
        if "targets" in self.takes:
            return lambda tokens_BT: loss_in(self.call(tokens_BT[:, :-1], targets=tokens_BT[:, 1:].contiguous()))
        return None

    @property
    def masked(self) -> Masked | None:
        return self._masked if "attention_mask" in self.takes else None

    def _masked(self, tokens_BT: Tensor, seen_BT: Tensor) -> Tensor:
        places = {}
        if "position_ids" in self.takes:
            places["position_ids"] = (seen_BT.long().cumsum(dim=1) - 1).clamp_min(0)
        return logits_in(self.call(tokens_BT, attention_mask=seen_BT.long(), **places))

    @property
    def cached(self) -> Cached | None:
        own = getattr(self.module, "decode", None)
        if inspect.ismethod(own):
            return lambda tokens_BS, state: own(tokens_BS, state)
        return self._cached if {"past_key_values", "use_cache"} <= set(self.takes) else None

    def _cached(self, tokens_BS: Tensor, state: Any) -> tuple[Tensor, Any]:
        output = self.call(tokens_BS, past_key_values=state, use_cache=True)
        return logits_in(output), output.past_key_values

    def exact(self) -> "Subject | None":
        if sum(p.numel() for p in self.module.parameters()) > EXACT_UP_TO:
            return None
        return type(self)(self.doubled(copy.deepcopy(self.module)), self.trained)

    def doubled(self, module: nn.Module) -> nn.Module:
        return module.double()

    def fresh(self) -> "Subject | None":
        return None if self.trained else self


def logits_in(output: Any) -> Tensor:
    """Raises TypeError where there are none."""
    if isinstance(output, Mapping) and "logits" in output:
        output = output["logits"]
    found = getattr(output, "logits", output)
    if isinstance(found, Sequence) and not isinstance(found, str):
        found = next((part for part in found if isinstance(part, Tensor) and part.ndim == 3), None)
    if not isinstance(found, Tensor):
        raise TypeError(f"the model returns {type(output).__name__}; expected logits (B, T, V), or an object with them")
    return found


def loss_in(output: Any) -> Tensor:
    """Raises TypeError where there is none."""
    if isinstance(output, Mapping) and "loss" in output:
        output = output["loss"]
    found = getattr(output, "loss", output)
    if isinstance(found, Sequence) and not isinstance(found, str):
        found = next((part for part in found if isinstance(part, Tensor) and part.numel() == 1), None)
    if not isinstance(found, Tensor) or found.numel() != 1:
        raise TypeError(f"the model returns {type(output).__name__} and no loss in it, of one number")
    return found


@torch.no_grad()
def embedding_of(subject: Subject, tokens_BT: Tensor) -> nn.Module | None:
    """The module that makes (B, T, D) of tokens; None where none does."""
    found: list[nn.Module] = []

    def look(module: nn.Module, given: tuple[Any, ...], out: Any) -> None:
        same = given and isinstance(given[0], Tensor) and given[0].shape == tokens_BT.shape
        made = isinstance(out, Tensor) and out.shape[:-1] == tokens_BT.shape and out.is_floating_point()
        if same and made and torch.equal(given[0], tokens_BT) and not list(module.children()):
            found.append(module)

    handles = [module.register_forward_hook(look) for module in subject.module.modules()]
    try:
        subject.logits(tokens_BT)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None
