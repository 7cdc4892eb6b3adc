"""Multi-token prediction (V3 2.2): modules beside the main model that predict tokens beyond the next.

Depth k at position i predicts token i + k + 1, so on T positions it has T - k predictions. Embedding and output head
are the main model's own.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from models.attention import LayerCache, Places
from models.balance import Routing
from models.config import ModelConfig, MTPConfig
from models.layers import Linear, RMSNorm


class ChainedModule(nn.Module):
    """V3 eq. 21-23: h^k = Block(M [norm(Emb(t_{i+k})); norm(h^{k-1})]), a causal chain over depths.

    The published checkpoints lay the embedding first, where eq. 21 writes it second; the names are theirs. h^0 is the
    main model's last hidden state; `handed_on` says in which form.
    """

    chained = True
    norm: RMSNorm

    def __init__(self, config: ModelConfig, block: nn.Module) -> None:
        super().__init__()
        self.enorm = RMSNorm(config.d_model, config.norm_eps)
        self.hnorm = RMSNorm(config.d_model, config.norm_eps)
        self.eh_proj = Linear(2 * config.d_model, config.d_model)
        self.block = block
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self, hidden: Tensor, embedded: Tensor, places: Places, cache: LayerCache | None = None
    ) -> tuple[Tensor, Routing | None]:
        """Both (B, T, D): h^{k-1}_i and Emb(t_{i+k}). Returns h^k (B, T, D)."""
        joined = self.eh_proj(torch.cat((self.enorm(embedded), self.hnorm(hidden)), dim=-1))
        out: tuple[Tensor, Routing | None] = self.block(joined, places, cache)
        return out


class ParallelHead(nn.Module):
    """Gloeckle et al. (2404.19737) 2: a block on the trunk's last hidden state; it sees no later token."""

    chained = False
    norm: RMSNorm

    def __init__(self, config: ModelConfig, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.norm = RMSNorm(config.d_model, config.norm_eps)

    def forward(
        self, hidden: Tensor, embedded: Tensor, places: Places, cache: LayerCache | None = None
    ) -> tuple[Tensor, Routing | None]:
        """`hidden` (B, T, D) is the trunk's, at every depth; `embedded` is not looked at."""
        out: tuple[Tensor, Routing | None] = self.block(hidden, places, cache)
        return out


class LinearBlock(nn.Module):
    """Gloeckle et al. appendix B: W x in place of a parallel head's block. It sees its own position alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.proj = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> tuple[Tensor, Routing | None]:
        return self.proj(x), None


def handed_on(config: MTPConfig, hidden: Tensor, normed: Tensor) -> Tensor:
    """What the modules read of a depth's hidden state, which is `normed` on its way to the head."""
    return normed if config.hidden == "after_norm" else hidden


def mtp_weight(config: MTPConfig, progress: float) -> float:
    """lambda at this share of the training."""
    return config.weight if progress < config.tail_from else config.tail_weight


def shortened(places: Places, length: int) -> Places:
    """The first `length` positions of uncached `places`."""
    mask = None if places.mask_BTL is None else places.mask_BTL[:, :length, :length]
    return replace(places, turns=places.turns[..., :length, :], mask_BTL=mask)
