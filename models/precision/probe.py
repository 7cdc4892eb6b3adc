"""What an FP8 recipe does to a model and a batch: rounding errors by role, the gradient against FP32, memory kept."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from models.layers import Linear, cast_once
from models.moe import Experts, Router
from models.precision.config import PrecisionConfig
from models.precision.experts import QuantisedExperts
from models.precision.linear import Site
from models.precision.products import Products
from models.precision.quantise import Codes, Rounding, quantise
from models.training.executor import Microbatching, Targets, aux_loss, mtp_losses
from models.training.loss import language_model_loss
from models.transformer import Transformer


@dataclass
class RoleErrors:
    """Over all operands of one role."""

    squared_error: float = 0.0
    squared: float = 0.0
    elements: int = 0
    underflowed: int = 0
    saturated: int = 0

    @property
    def relative_error(self) -> float:
        """Norm of the rounding over norm of the operands."""
        return (self.squared_error / self.squared) ** 0.5 if self.squared else 0.0

    @property
    def underflow(self) -> float:
        """Share of the numbers other than zero that became zero."""
        return self.underflowed / max(1, self.elements)

    @property
    def saturation(self) -> float:
        """Share whose magnitude lies beyond the largest code: none, as long as scales are taken from the same data."""
        return self.saturated / max(1, self.elements)


@dataclass(frozen=True)
class Probe:
    gradient_cosine: float
    """Between the gradient of all parameters under the recipe and in FP32."""
    saved_bytes_per_token: float
    """What autograd keeps of the activations between forward and backward."""
    roles: dict[str, RoleErrors] = field(default_factory=dict)
    """Empty without FP8."""
    unpromoted_error: float | None = None
    """What the tensor core's short accumulator, never promoted, would do to the gradient of one sequence: the norm of
    the difference over the norm. None without FP8."""


def probe(model: Transformer, tokens_BT1: Tensor, document_end: int | None = None) -> Probe:
    """`model` as it stands, on one batch (B, T + 1), under its recipe and in FP32. Its gradients are not touched.
    `document_end` is that of its training."""
    exact = _copy(model, replace(model.config, dtype="float32", precision=PrecisionConfig()))
    own = _copy(model, model.config)
    with _watched(own) as roles:
        ours = _gradient(own, tokens_BT1, document_end)
    cosine = torch.nn.functional.cosine_similarity(ours, _gradient(exact, tokens_BT1, document_end), dim=0)
    kept = saved_bytes(own, tokens_BT1, document_end) / tokens_BT1[:, 1:].numel()
    few = tokens_BT1[:1]
    unpromoted = _unpromoted_error(model, few, document_end) if model.config.precision.fp8 else None
    return Probe(float(cosine), kept, dict(roles), unpromoted)


def _unpromoted_error(model: Transformer, tokens_BT1: Tensor, document_end: int | None) -> float:
    emulated = replace(model.config.precision, kernels="emulated", accumulation="fp32")
    exact, short = (
        _gradient(_copy(model, replace(model.config, precision=precision)), tokens_BT1, document_end)
        for precision in (emulated, replace(emulated, accumulation="limited"))
    )
    return float((short - exact).norm() / exact.norm())


def saved_bytes(model: Transformer, tokens_BT1: Tensor, document_end: int | None = None) -> int:
    """Bytes of the tensors that autograd keeps for one backward pass of all losses, each storage once; weights are not
    counted."""
    inputs_BT, targets_BT = tokens_BT1[:, :-1], tokens_BT1[:, 1:]
    model.train()
    with cast_once(model):
        model(inputs_BT, mtp=True, document_end=document_end)  # casts and quantises the weights
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        weights |= {
            t.untyped_storage().data_ptr() for m in model.modules() for t in _tensors(getattr(m, "_cast", None))
        }
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            output = model(inputs_BT, mtp=True, document_end=document_end)
            any_f = [routing.load_E.to(routing.scores_BTE) for routing in output.routings]  # its size is what counts
            losses = [
                language_model_loss(output.logits, targets_BT),
                aux_loss(model.routers(), output.routings, any_f),
                mtp_losses(model.config.mtp, output, Targets(targets_BT), 0.0),
            ]
        total = sum(kept.values())
        del losses, output
    return total


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dictionaries, tuples and codes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Codes):
        yield from (value.codes, value.scales)
    elif isinstance(value, dict | tuple | list):
        for member in value.values() if isinstance(value, dict) else value:
            yield from _tensors(member)


def _copy(model: Transformer, config: Any) -> Transformer:
    twin = Transformer(config).to(model.lm_head.weight.device)
    twin.load_state_dict(model.state_dict())
    return twin.train()


def _gradient(model: Transformer, tokens_BT1: Tensor, document_end: int | None) -> Tensor:
    """Of all parameters, flat, in FP64."""
    Microbatching(model, 1, document_end).step(tokens_BT1)
    return torch.cat([p.grad.double().flatten() for p in model.parameters() if p.grad is not None])


class _Watching:
    """Products that also count what rounding did to each operand."""

    def __init__(self, inner: Products, roles: dict[str, RoleErrors]) -> None:
        self.inner, self.roles = inner, roles

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def operand(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> Any:
        self._count(x, rounding)
        return self.inner.operand(x, rounding, dtype)

    def operand_and_codes(self, x: Tensor, rounding: Rounding, dtype: torch.dtype) -> tuple[Any, Codes]:
        self._count(x, rounding)
        return self.inner.operand_and_codes(x, rounding, dtype)

    @torch.no_grad()
    def _count(self, x: Tensor, rounding: Rounding) -> None:
        x = x.float().contiguous()
        codes = quantise(x, rounding)
        values, seen = codes.values(torch.float32), self.roles[rounding.role]
        beyond = values.abs() == codes_largest(codes, rounding)
        seen.squared_error += float((values - x).double().square().sum())
        seen.squared += float(x.double().square().sum())
        seen.elements += int((x != 0).sum())
        seen.underflowed += int(((values == 0) & (x != 0)).sum())
        seen.saturated += int((beyond & (x.abs() > values.abs() * (1 + 2.0**-20))).sum())


def codes_largest(codes: Codes, rounding: Rounding) -> Tensor:
    """The largest value that each element's scale can express."""
    largest = torch.full_like(codes.codes.float(), rounding.format.largest).to(codes.codes.dtype)
    return replace(codes, codes=largest).values(torch.float32)


@contextmanager
def _watched(model: Transformer) -> Iterator[dict[str, RoleErrors]]:
    """While it lasts, `model`'s products are counted by role."""
    roles: dict[str, RoleErrors] = defaultdict(RoleErrors)
    sites: list[Site] = []
    for module in model.modules():
        low = module.low if isinstance(module, Linear | Experts | Router) else None
        found = [low.gate_up, low.down] if isinstance(low, QuantisedExperts) else [low]
        sites += [site for site in found if isinstance(site, Site) and site not in sites]
    before = [site.products for site in sites]
    try:
        for site in sites:
            site.products = _Watching(site.products, roles)
        yield roles
    finally:
        for site, products in zip(sites, before, strict=True):
            site.products = products
