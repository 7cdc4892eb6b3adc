"""The three products of a linear layer and of the experts against plain ones of plainly quantised operands, in FP64."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from models.config import MoEConfig
from models.layers import Linear, cast_once, swiglu
from models.moe import Experts, Router
from models.precision.config import PrecisionConfig
from models.precision.experts import QuantisedExperts
from models.precision.linear import Site, through
from models.precision.products import EmulatedLoop
from models.precision.quantise import quantise, rounded
from models.precision.recipe import resolve, sent

BLOCK = 4
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
SIZES = {  # of (rows, columns) whose products sum over columns, by recipe: activation, weight, gradient
    "fp8_block": (lambda s: (1, BLOCK), lambda s: (BLOCK, BLOCK), lambda s: (1, BLOCK)),
    "fp8_row": (lambda s: (1, s[1]),) * 3,
    "fp8_tensor": (lambda s: s,) * 3,
    "fp8_hybrid": (lambda s: s,) * 3,
}


def config(**parts) -> PrecisionConfig:
    return replace(PrecisionConfig(recipe="fp8_block", block=BLOCK), **parts)


def leaf(*shape: int, seed: int) -> Tensor:
    """Random numbers of many magnitudes, so that some become subnormal codes; seed 9 is for gradients."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    return (
        x * torch.exp2(torch.randint(-24 if seed == 9 else -6, 3, shape, generator=generator).double())
    ).requires_grad_()


def linear(site: Site, inputs: int, outputs: int, seed: int = 1) -> Linear:
    layer = Linear(inputs, outputs).double()
    with torch.no_grad():
        layer.weight.copy_(leaf(outputs, inputs, seed=seed))
    layer.low = site
    return layer.train()


def grads(y: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
    """Of a loss whose gradient with respect to y is no constant."""
    return torch.autograd.grad(y, leaves, leaf(*y.shape, seed=9).detach())


@pytest.mark.parametrize("cache", ["fp8", "bf16"])
@pytest.mark.parametrize("recipe", SIZES)
def test_all_three_products_are_those_of_quantised_operands(recipe, cache, reference):
    site = Site(resolve(config(recipe=recipe, cache_activations=cache)), EmulatedLoop())
    layer, x = linear(site, 10, 14), leaf(2, 9, 10, seed=0)
    y = layer(x)
    found = grads(y, x, layer.weight)

    back = E5M2 if recipe == "fp8_hybrid" else E4M3
    flat, w, dy = x.detach().flatten(0, 1), layer.weight.detach(), leaf(2, 9, 14, seed=9).detach().flatten(0, 1)
    activation, weight, gradient = SIZES[recipe]

    def q(matrix: Tensor, size, dtype=E4M3) -> Tensor:
        return reference.values(matrix, size(tuple(matrix.shape)), dtype)

    fprop = q(flat, activation) @ q(w, weight).mT
    dgrad = q(dy, gradient, back) @ q(w.mT, weight).mT
    kept = q(flat, activation) if cache == "fp8" else flat
    wgrad = q(dy.mT, gradient, back) @ q(kept.mT, activation).mT
    for ours, plain in ((y.flatten(0, 1), fprop), (found[0].flatten(0, 1), dgrad), (found[1], wgrad)):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-13)
    assert (fprop - flat @ w.mT).norm() > 0.01 * fprop.norm(), "rounding is seen"


def test_several_matrices_share_the_input_and_lie_side_by_side():
    site = Site(resolve(config()), EmulatedLoop())
    first, second, x = linear(site, 8, 5), linear(site, 8, 7, seed=2), leaf(6, 8, seed=0)
    together = site.dense(x, first, second)
    apart = torch.cat((first(x), second(x)), dim=-1)
    assert torch.equal(together, apart)
    leaves = (x, first.weight, second.weight)
    for ours, plain in zip(grads(together, *leaves), grads(apart, *leaves), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-13, atol=1e-13)


class Counting(EmulatedLoop):
    def __init__(self) -> None:
        self.products = 0

    def dense(self, a: Tensor, b: Tensor) -> Tensor:
        self.products += 1
        return super().dense(a, b)


def test_each_gradient_alone_costs_one_product():
    """A pipeline that takes the input's gradient first must not pay for the weight's."""
    for index in (0, 1):
        products = Counting()
        layer, x = linear(Site(resolve(config()), products), 8, 8), leaf(8, 8, seed=0)
        y = layer(x)
        assert products.products == 1
        alone = torch.autograd.grad(y, (x, layer.weight)[index], torch.ones_like(y), retain_graph=True)[0]
        assert products.products == 2
        both = torch.autograd.grad(y, (x, layer.weight), torch.ones_like(y))
        assert products.products == 4 and torch.equal(alone, both[index])


def test_weights_are_quantised_once_per_step_and_anew_in_the_next():
    class Once(EmulatedLoop):
        seen: list[int] = []

        def operand(self, x, rounding, dtype):
            self.seen.append(id(rounding) if rounding.role == "weight" else 0)
            return super().operand(x, rounding, dtype)

    recipe, products = resolve(config()), Once()
    model = nn.Sequential(linear(Site(recipe, products), 8, 8))
    x = leaf(4, 8, seed=0)
    with cast_once(model):
        first, second = model(x), model(x)
    assert torch.equal(first, second) and len([i for i in Once.seen if i]) == 1
    with torch.no_grad():
        model[0].weight.mul_(3)
    with cast_once(model):
        assert not torch.equal(model(x), first)


def test_e5m6_is_what_the_projection_after_attention_keeps(reference):
    recipe = resolve(config(e5m6_after_attention=True))
    layer, x = linear(Site(recipe, EmulatedLoop(), kept=recipe.after_attention), 8, 12), leaf(9, 8, seed=0)
    found = grads(layer(x), layer.weight)[0]
    kept = quantise(x.detach(), recipe.after_attention)
    assert kept.codes.dtype == torch.bfloat16 and (torch.frexp(kept.scales).mantissa == 0.5).all()
    dy = reference.values(leaf(9, 12, seed=9).detach().mT, (1, BLOCK))
    plain = dy @ reference.values(kept.values(torch.float64).mT, (1, BLOCK)).mT
    torch.testing.assert_close(found, plain, rtol=1e-13, atol=1e-13)
    ordinary = linear(Site(recipe, EmulatedLoop()), 8, 12)
    assert not torch.equal(grads(ordinary(x), ordinary.weight)[0], found)
    ways = (kept, quantise(x.detach(), recipe.activation))
    e5m6, e4m3 = (float((k.values(torch.float64) / x.detach() - 1).abs().max()) for k in ways)
    assert e5m6 <= 2.0**-7 and e4m3 > 2.0**-5, "three bits more"


def experts_of(precision: PrecisionConfig | None) -> tuple[Experts, Router]:
    moe = MoEConfig(n_routed_experts=5, top_k=2, moe_intermediate_size=6, backend="loop")
    experts, router = Experts(8, moe).double(), Router(8, moe).double()
    with torch.no_grad():
        for seed, parameter in enumerate((*experts.parameters(), *router.parameters())):
            parameter.copy_(leaf(*parameter.shape, seed=seed))
    if precision is not None:
        experts.low = QuantisedExperts(resolve(precision), EmulatedLoop())
    return experts.train(), router


def by_hand(experts: Experts, x: Tensor, routing, precision: PrecisionConfig, reference) -> SimpleNamespace:
    """Output and gradients of the experts, one expert and one product after the other."""
    p2 = precision.dispatch == "fp8"
    tile = (1, BLOCK)

    def q(m: Tensor, size=tile, power_of_two: bool = False) -> Tensor:
        return reference.values(m, size, E4M3, power_of_two)

    def combined(m: Tensor) -> Tensor:
        return q(m, power_of_two=True) if precision.combine == "fp8" else m

    x, out = x.detach(), torch.zeros_like(x)
    dout = leaf(*x.shape, seed=9).detach()
    dout = q(dout, power_of_two=True) if p2 else dout
    dx, dgates = torch.zeros_like(x), torch.zeros(routing.gates_NK.shape, dtype=torch.float64)
    dw1, dw2 = torch.zeros_like(experts.gate_up_proj), torch.zeros_like(experts.down_proj)
    for e in range(5):
        tokens, place = (routing.experts_NK == e).nonzero(as_tuple=True)
        if not len(tokens):
            continue
        padding = -len(tokens) % BLOCK
        gates = torch.cat((routing.gates_NK[tokens, place].detach(), torch.zeros(padding, dtype=torch.float64)))
        empty = torch.zeros(padding, x.shape[1], dtype=torch.float64)
        xq = torch.cat((q(x, power_of_two=p2)[tokens], empty))
        w1, w2 = (q(w[e].detach(), (BLOCK, BLOCK)) for w in (experts.gate_up_proj, experts.down_proj))
        hidden = (xq @ w1.mT).requires_grad_()
        gate_leaf = gates.requires_grad_()
        activated = swiglu(hidden, gate_leaf)
        y = combined(q(activated.detach()) @ w2.mT)
        out.index_add_(0, tokens, y[: len(tokens)])
        dy = torch.cat((dout[tokens], empty))
        dact = q(dy, power_of_two=p2) @ q(experts.down_proj[e].detach().mT, (BLOCK, BLOCK)).mT
        kept_hidden = q(hidden.detach()).requires_grad_() if precision.recompute_swiglu else hidden
        again = swiglu(kept_hidden, gate_leaf)
        kept = again.detach() if precision.recompute_swiglu else q(activated.detach())
        dw2[e] = q(dy.mT, power_of_two=p2) @ q(kept.mT).mT
        dhidden, dgate = torch.autograd.grad(again, (kept_hidden, gate_leaf), dact)
        dgates[tokens, place] = dgate[: len(tokens)]
        dw1[e] = q(dhidden.mT) @ q(xq.mT, power_of_two=p2).mT
        rows = combined(q(dhidden) @ q(experts.gate_up_proj[e].detach().mT, (BLOCK, BLOCK)).mT)
        dx.index_add_(0, tokens, rows[: len(tokens)])
    return SimpleNamespace(out=out, dx=dx, dgates=dgates, dw1=dw1, dw2=dw2)


PARTS = {
    "plain": {},
    "dispatch": {"dispatch": "fp8"},
    "combine": {"combine": "fp8"},
    "recompute": {"recompute_swiglu": True},
    "all": {"dispatch": "fp8", "combine": "fp8", "recompute_swiglu": True},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_experts_are_those_of_a_loop_by_hand(parts, reference):
    precision = config(**parts)
    experts, router = experts_of(precision)
    x = leaf(1, 11, 8, seed=20)
    routing = router(x)
    out = experts(x.flatten(0, 1), routing)
    leaves = (x, routing.gates_NK, experts.gate_up_proj, experts.down_proj)
    found = torch.autograd.grad(out, leaves, leaf(*out.shape, seed=9).detach(), retain_graph=True)
    plain = by_hand(experts, x.flatten(0, 1), routing, precision, reference)
    torch.testing.assert_close(out, plain.out, rtol=1e-12, atol=1e-12)
    with_gates = torch.autograd.grad(routing.gates_NK, x, plain.dgates)[0].flatten(0, 1)
    for ours, theirs in zip(
        (found[0].flatten(0, 1), *found[1:]), (plain.dx + with_gates, plain.dgates, plain.dw1, plain.dw2), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_each_part_of_the_experts_changes_the_numbers():
    results = {}
    for name, parts in PARTS.items():
        experts, router = experts_of(config(**parts))
        x = leaf(1, 11, 8, seed=20)
        out = experts(x.flatten(0, 1), router(x))
        results[name] = (out.detach(), *grads(out, experts.gate_up_proj, experts.down_proj))
    for name in ("dispatch", "combine", "all"):
        assert not torch.equal(results[name][0], results["plain"][0])
    assert torch.equal(results["recompute"][0], results["plain"][0]), "the forward pass keeps its numbers"
    assert not torch.equal(results["recompute"][2], results["plain"][2])


def test_evaluation_is_untouched():
    experts, router = experts_of(config())
    plain, _ = experts_of(None)
    x = leaf(1, 11, 8, seed=20)
    routing = router(x)
    assert torch.equal(experts.eval()(x.flatten(0, 1), routing), plain(x.flatten(0, 1), routing))
    layer = linear(Site(resolve(config()), EmulatedLoop()), 8, 8).eval()
    assert torch.equal(layer(x), x @ layer.weight.mT)


def test_through_rounds_the_value_and_the_gradient_and_nothing_else():
    recipe = resolve(config())
    there, back = sent(recipe.activation), sent(recipe.gradient)
    x, dy = leaf(5, 8, seed=0), leaf(5, 8, seed=1).detach()
    for forward, backward in ((there, None), (None, back), (there, back), (None, None)):
        y = through(x, forward, backward)
        assert torch.equal(y, x if forward is None else rounded(x.detach(), forward))
        gradient = torch.autograd.grad(y, x, dy)[0]
        assert torch.equal(gradient, dy if backward is None else rounded(dy, backward))
