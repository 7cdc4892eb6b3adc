"""What is learned from at once: tokens, and which of the targets count; or questions, with what an answer earns."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Reward(NamedTuple):
    """Of one answer."""

    right: float
    """1 or 0."""
    formed: float
    """Whether it is written as it should be, 1 or 0."""


class Questions(NamedTuple):
    """To be answered by the model itself."""

    prompts: Sequence[Tensor]
    """Token ids of each."""
    judge: Callable[[int, Tensor], Reward]
    """Of a question's number here and an answer's tokens, without the one that ends it. It never raises."""

    def to(self, device: str) -> "Questions":
        return Questions([prompt.to(device) for prompt in self.prompts], self.judge)


class Batch(NamedTuple):
    """Sequences of T inputs, each with its target behind it."""

    tokens_BT1: Tensor
    mask_BT: Tensor | None = None
    """Booleans: the targets that count. Without one all do."""

    @staticmethod
    def of(batch: "Tensor | Batch") -> "Batch":
        """Tokens alone are a batch of which everything counts."""
        return Batch(batch) if isinstance(batch, Tensor) else batch

    def to(self, device: "str | torch.device") -> "Batch":
        return Batch(sent(self.tokens_BT1, device), None if self.mask_BT is None else sent(self.mask_BT, device))


def sent(tensor: Tensor, device: str | torch.device) -> Tensor:
    """To a device. To a GPU from memory that it reads by itself, so that nobody waits."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
