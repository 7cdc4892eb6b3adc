"""What is learned from at once: tokens, and which of the targets count."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Sequences of T inputs, each with its target behind it."""

    tokens_BT1: Tensor
    mask_BT: Tensor | None = None
    """Booleans: the targets that count. Without one all do."""

    @staticmethod
    def of(batch: "Tensor | Batch") -> "Batch":
        """Tokens alone are a batch of which everything counts."""
        return Batch(batch) if isinstance(batch, Tensor) else batch

    def to(self, device: str) -> "Batch":
        return Batch(self.tokens_BT1.to(device), None if self.mask_BT is None else self.mask_BT.to(device))
