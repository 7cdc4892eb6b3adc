"""Classes as somebody might add them tomorrow, under the name of a kind that there is, each with one fault."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from bench import Bench
from mistakes import Mistake
from pytest import MonkeyPatch
from torch import Tensor, nn

from ablations.record.guardresult import GuardResult
from models import attention, balance, kinds
from models.attention import GroupedQueryAttention, LayerCache, Places
from models.balance import AuxLoss, Bias, Routing
from models.config import ModelConfig
from models.kinds import MultiHead
from models.layers import Linear

STRANGERS: dict[str, Mistake] = {}


def stranger(story: str, *guards: str, arm: str = "mha", table: dict[str, Any] = attention.MODULES,
             name: str = "mha") -> Callable[[type], type]:  # fmt: skip
    """Registers the class in a slot's table, as docs/adding_a_toggle.md says."""

    def named(cls: type) -> type:
        def plant(patch: MonkeyPatch, folder: Path) -> None:
            patch.setitem(table, name, cls)

        def look(bench: Bench) -> list[GuardResult]:
            return bench.arm(arm)

        STRANGERS[cls.__name__] = Mistake(story, plant, look, guards)
        return cls

    return named


@stranger("Attention with a running average of keys, over the row from its end in training", "causality")
class AveragedKeys(GroupedQueryAttention):
    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        if self.training:
            x = x + 0.05 * x.flip(1).cumsum(dim=1).flip(1) / x.shape[1]
        return super().forward(x, places, cache)


@stranger("Attention that normalises its input over the batch while it trains", "causality")
class BatchNormed(GroupedQueryAttention):
    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        if self.training:
            x = x / x.std(dim=(0, 1), keepdim=True).clamp_min(1e-6)
        return super().forward(x, places, cache)


@stranger("Attention whose heads are folded into the batch in the wrong order", "causality", "decoding")
class Folded(GroupedQueryAttention):
    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        out = super().forward(x, places, cache)
        return out + 0.1 * out.transpose(0, 1).reshape(out.shape)


@stranger("Attention with an output gate that its kind does not count", "size")
class Gated(GroupedQueryAttention):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.gate = Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        return super().forward(x, places, cache) * self.gate(x).sigmoid()


@stranger("Attention with a layer scale of zeros", "initialisation")
class Scaled(GroupedQueryAttention):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.layer_scale = nn.Parameter(torch.zeros(config.d_model))

    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        return super().forward(x, places, cache) * self.layer_scale


@stranger("Attention that mixes in the token before, and forgets to keep it in its cache", "decoding")
class Convolved(GroupedQueryAttention):
    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1)
        return super().forward(x + 0.2 * before, places, cache)


@stranger("A balancing loss whose term is counted twice in the gradient", "derivative",
          arm="aux_loss", table=balance.STRATEGIES, name="aux_loss")  # fmt: skip
class Doubled(AuxLoss):
    def loss(self, routing: Routing, batch_f_E: Tensor | None) -> Tensor:
        term = super().loss(routing, batch_f_E)
        return 2 * term - term.detach()


@stranger("A bias that follows an average which it updates whenever it is looked at", "load",
          arm="bias", table=balance.STRATEGIES, name="bias")  # fmt: skip
class Averaged(Bias):
    average: Tensor | None = None

    @torch.no_grad()
    def step(self, load_E: Tensor, last_E: Tensor, progress: float) -> Tensor | None:
        load = load_E.double()
        self.average = load if self.average is None else 0.5 * self.average + 0.5 * last_E.double()
        return super().step(self.average, last_E, progress)


@stranger("Expert choice: each expert takes its best tokens of the microbatch", "causality", "load", "decoding",
          arm="bias", table=balance.STRATEGIES, name="bias")  # fmt: skip
class ExpertsChoose(Bias):
    def biased(self, scores: Tensor, bias_E: Tensor) -> Tensor:
        return scores.argsort(dim=0).argsort(dim=0).to(scores.dtype) + 1e-3 * scores


@stranger("Attention noise without a seed of its own", "scoring", "load", "determinism")
class Noisy(GroupedQueryAttention):
    def forward(self, x: Tensor, places: Places, cache: LayerCache | None = None) -> Tensor:
        noise = 1e-3 * torch.randn_like(x) if self.training else 0.0
        return super().forward(x + noise, places, cache)


class Ignoring(MultiHead):
    """A kind that says what `n_kv_heads` should be, in front of a module that never asks."""


def _ignored(patch: MonkeyPatch, folder: Path) -> None:
    patch.setitem(kinds.KINDS, "mha", Ignoring)


STRANGERS["Ignoring"] = Mistake(
    "A kind with a key that its module never reads",
    _ignored,
    lambda bench: bench.finished(
        {
            "two": {"model.attention.kind": "mha"},
            "one": {"model.attention.kind": "mha", "model.attention.n_kv_heads": 1},
        }
    ),
    ("distinct",),
)
