"""What the number of microbatches and ranks may change, and every toggle three ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import halves
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from models.training.config import OptimConfig
from models.training.executor import Microbatching, StepResult
from models.training.optim import adamw
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
KIND, SCOPE, ALPHA, SPEED = (f"moe.balance.{key}" for key in ("kind", "scope", "alpha", "update_speed"))
N, LAYERS, K = 8 * 9, 2, 2
"""Tokens of a batch of 8 sequences of 10, MoE layers and experts per token of the small model."""


def gradients(built: Built, batch: Tensor, microbatches: int, changes: dict[str, Any]) -> tuple[StepResult, Tensor]:
    model = built(changes)
    result = Microbatching(model, microbatches).step(batch)
    return result, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def auxiliary(scope: str, kind: str = "aux_loss", alpha: float = 0.5) -> dict[str, Any]:
    return {KIND: kind, SCOPE: scope, ALPHA: alpha}


UNCHANGED = {
    "none": {KIND: "none"},
    "bias": {KIND: "bias"},
    "sequence": auxiliary("sequence"),
    "batch": auxiliary("batch"),
    "bias and sequence": auxiliary("sequence", "bias_aux_loss"),
    "bias and batch": auxiliary("batch", "bias_aux_loss"),
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 6, "attention.n_kv_heads": 3} | auxiliary("sequence"),
    "softmax, groups": {"moe.scoring": "softmax", "moe.n_group": 3, "moe.topk_group": 2} | auxiliary("batch"),
}
MTP = auxiliary("batch", "bias_aux_loss") | {"mtp.depth": 2}


@pytest.mark.parametrize("changes", [*UNCHANGED.values(), MTP], ids=[*UNCHANGED, "mtp"])
def test_number_of_microbatches_changes_nothing(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    batch = tokens(8, 10)
    whole, whole_gradient = gradients(built, batch, 1, changes)
    for microbatches in (2, 4, 8):
        parts, gradient = gradients(built, batch, microbatches, changes)
        assert torch.equal(parts.load_LE, whole.load_LE)
        assert parts.losses.keys() == whole.losses.keys() and ("mtp_loss" in whole.losses) == (changes is MTP)
        for name in whole.losses:
            assert float(parts.losses[name]) == pytest.approx(float(whole.losses[name]), rel=1e-12, abs=1e-15)
        torch.testing.assert_close(gradient, whole_gradient, rtol=0, atol=1e-12)


def uneven(batch: Tensor) -> Tensor:
    """Targets that count: none in the first two sequences, one in the third, some of the others."""
    mask = batch[:, 1:] % 3 != 0
    mask[:2] = False
    mask[2] = torch.arange(mask.shape[1]) == mask.shape[1] - 1
    return mask


@pytest.mark.parametrize("microbatches", [1, 2, 4, 8])
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_a_masked_step_is_plain_cross_entropy_over_what_counts_in_the_whole_batch(
    built: Built, tokens: Tokens, style: str, microbatches: int
) -> None:
    """Not a mean of means: microbatches in which less counts weigh less. MTP's sums (V3 eq. 24) are divided by the
    same number as the main loss; the auxiliary loss is about all tokens."""
    batch, changes = tokens(8, 10), auxiliary("sequence") | {"mtp.depth": 2, "mtp.style": style, "mtp.tail_from": 1.0}
    mask, targets = uneven(batch), batch[:, 1:]
    plain = built(changes)
    output = plain(batch[:, :-1], mtp=True)
    count = int(mask.sum())
    sums = [
        F.cross_entropy(logits[mask[:, k:]], targets[:, k:][mask[:, k:]], reduction="sum")
        for k, logits in enumerate([output.logits, *output.mtp_logits])
    ]
    aux = torch.stack([r.balance.loss(x, None) for r, x in zip(plain.routers(), output.routings, strict=True)]).sum()
    (sums[0] / count + 0.3 / 2 * (sums[1] + sums[2]) / count + aux).backward()
    model = built(changes)
    losses = Microbatching(model, microbatches).step(batch, 0.0, mask).losses
    sums, aux = [term.detach() for term in sums], aux.detach()
    assert float(losses["loss"]) == pytest.approx(float(sums[0]) / count, rel=1e-13)
    assert float(losses["aux_loss"]) == pytest.approx(float(aux), rel=1e-13)
    assert float(losses["mtp_loss"]) == pytest.approx(0.15 * float(sums[1] + sums[2]) / count, rel=1e-13)
    for k in (1, 2):
        assert float(losses[f"mtp_loss_{k}"]) == pytest.approx(float(sums[k]) / int(mask[:, k:].sum()), rel=1e-13)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-13)


def test_a_mask_that_counts_everything_changes_nothing_and_a_wrong_one_is_refused(built: Built, tokens: Tokens) -> None:
    batch, model = tokens(8, 10), built(MTP)
    every = torch.ones(8, 9, dtype=torch.bool)
    whole, masked = (Microbatching(model, 4).step(batch, 0.0, mask).losses for mask in (None, every))
    for name in whole:
        assert float(masked[name]) == pytest.approx(float(whole[name]), rel=1e-14)
    for wrong in (every[:, 1:], every.long(), ~every):
        with pytest.raises(ValueError, match="mask"):
            Microbatching(model, 4).step(batch, 0.0, wrong)


@pytest.mark.parametrize("kind", ["aux_loss", "bias_aux_loss"])
def test_microbatch_scope_depends_on_their_number_and_ends_at_batch_scope(
    built: Built, tokens: Tokens, kind: str
) -> None:
    batch = tokens(8, 10)
    one, one_gradient = gradients(built, batch, 1, auxiliary("microbatch", kind))
    four, four_gradient = gradients(built, batch, 4, auxiliary("microbatch", kind))
    eight, eight_gradient = gradients(built, batch, 8, auxiliary("microbatch", kind))
    assert abs(float(four.losses["aux_loss"] - one.losses["aux_loss"])) > 1e-3
    assert float((four_gradient - one_gradient).norm()) > 1e-3
    assert float(four.losses["loss"]) == pytest.approx(float(one.losses["loss"]), rel=1e-13)
    by_batch, batch_gradient = gradients(built, batch, 4, auxiliary("batch", kind))
    torch.testing.assert_close(one_gradient, batch_gradient, rtol=0, atol=1e-12)
    assert float(by_batch.losses["aux_loss"]) == pytest.approx(float(one.losses["aux_loss"]), rel=1e-12)
    sequence, sequence_gradient = gradients(built, batch, 2, auxiliary("sequence", kind))
    torch.testing.assert_close(eight_gradient, sequence_gradient, rtol=0, atol=1e-12)
    assert float(eight.losses["aux_loss"]) == pytest.approx(float(sequence.losses["aux_loss"]), rel=1e-12)


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("scope", ["sequence", "microbatch", "batch"])
def test_auxiliary_gradient_arrives_once_and_whole(built: Built, tokens: Tokens, scope: str, microbatches: int) -> None:
    """The step's gradient against finite differences of (language-modelling loss + reported auxiliary loss): a term
    divided by the microbatches twice, or never, or summed over them, fails by a factor."""
    changes = auxiliary(scope, alpha=2.0)
    batch = tokens(8, 10)
    model = built(changes)
    executor = Microbatching(model, microbatches)
    executor.step(batch)
    router = model.model.layers[2].mlp.gate.weight  # type: ignore[union-attr]
    assert isinstance(router, torch.nn.Parameter) and router.grad is not None
    direction = torch.randn(router.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    along = float((router.grad * direction).sum())
    values, auxiliaries = [], []
    for sign in (1, -1):
        router.data.add_(direction, alpha=sign * 1e-6)
        losses = executor.step(batch).losses
        router.data.sub_(direction, alpha=sign * 1e-6)
        values.append(float(losses["loss"] + losses["aux_loss"]))
        auxiliaries.append(float(losses["aux_loss"]))
    assert along == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)
    assert abs(auxiliaries[0] - auxiliaries[1]) / 2e-6 > 0.05 * abs(along), "the auxiliary term is a visible part"


def test_reported_loss_is_the_cross_entropy_alone(built: Built, tokens: Tokens) -> None:
    batch = tokens(8, 10)
    model = built(auxiliary("batch", alpha=3.0))
    with torch.no_grad():
        logits = model(batch[:, :-1]).logits
    expected = float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()))
    result = Microbatching(model, 4).step(batch)
    assert float(result.losses["loss"]) == pytest.approx(expected, rel=1e-13)
    assert float(result.losses["aux_loss"]) > 3.0, "two layers, at least alpha times something near 1 each"
    assert not any(loss.requires_grad for loss in result.losses.values())


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("changes", UNCHANGED.values(), ids=UNCHANGED.keys())
def test_load_counts_every_assignment_once(
    built: Built, tokens: Tokens, changes: dict[str, Any], microbatches: int
) -> None:
    """The whole batch, whatever the microbatches, and not again in the counting pass."""
    batch = tokens(8, 10)
    model = built(changes)
    with torch.no_grad():
        expected = [
            np.bincount(routing.experts_NK.numpy().ravel(), minlength=6) for routing in model(batch[:, :-1]).routings
        ]
    result = Microbatching(model, microbatches).step(batch)
    assert result.load_LE.tolist() == [load.tolist() for load in expected]
    assert result.load_LE.sum(dim=1).tolist() == [N * K] * LAYERS


@pytest.mark.parametrize("microbatches", [1, 4])
def test_last_load_is_the_last_microbatchs_alone(built: Built, tokens: Tokens, microbatches: int) -> None:
    """Main layers, then those of the MTP modules, which see one token less at each depth."""
    batch = tokens(8, 10)
    model = built(MTP)
    result = Microbatching(model, microbatches).step(batch)
    with torch.no_grad():
        last = model(batch.chunk(microbatches)[-1][:, :-1], mtp=True).routings
    assert result.last_load_LE.tolist() == [routing.load_E.tolist() for routing in last]
    per_sequence = torch.tensor([9, 9, 8, 7]) * K
    assert result.load_LE.sum(dim=1).tolist() == (8 * per_sequence).tolist()
    assert result.last_load_LE.sum(dim=1).tolist() == (8 // microbatches * per_sequence).tolist()
    assert torch.equal(result.load_LE, result.last_load_LE) == (microbatches == 1)


def test_counting_pass_counts_the_unbiased_choices(built: Built, tokens: Tokens) -> None:
    """f of the whole batch, also where a bias sends every token to the same experts (eq. 18 knows no bias)."""
    batch = tokens(8, 10)
    model = built(auxiliary("batch", "bias_aux_loss"))
    for router in model.routers():
        router.e_score_correction_bias += torch.tensor([5.0, 0, 0, 5.0, 0, 0])
    with torch.no_grad():
        scores = [r.scores_BTE.flatten(0, 1).numpy() for r in model(batch[:, :-1]).routings]
    expected = 0.0
    for s in scores:
        share = np.bincount(np.argsort(-s, axis=1)[:, :K].ravel(), minlength=6) * 6 / (N * K)
        expected += 0.5 * float(share @ (s / s.sum(axis=1, keepdims=True)).mean(axis=0))
    result = Microbatching(model, 4).step(batch)
    assert result.load_LE.tolist() == [[N, 0, 0, N, 0, 0]] * LAYERS
    assert float(result.losses["aux_loss"]) == pytest.approx(expected, rel=1e-12)


def test_a_step_casts_its_weights_once(built: Built, tokens: Tokens) -> None:
    """Seen from outside: masters that change after the first microbatch are not read again in this step."""
    batch = tokens(8, 10)
    model = built({"dtype": "bfloat16"})
    whole = Microbatching(model, 4).step(batch).losses["loss"]

    def scaled(*_: object) -> None:
        model.lm_head.weight.data.mul_(2)

    hook = model.register_forward_hook(scaled)
    assert torch.equal(Microbatching(model, 4).step(batch).losses["loss"], whole)
    hook.remove()
    assert not torch.equal(Microbatching(model, 4).step(batch).losses["loss"], whole), "the next step reads them"


def test_batch_that_does_not_divide_is_refused(built: Built, tokens: Tokens) -> None:
    with pytest.raises(ValueError, match="8 sequences do not divide into 3"):
        Microbatching(built(), 3).step(tokens(8, 10))


@pytest.mark.parametrize("changes", [{"first_k_dense": 3}, {"feed_forward": "dense", "mtp.depth": 1}], ids=str)
def test_a_dense_model_has_no_load(built: Built, tokens: Tokens, changes: dict[str, Any]) -> None:
    result = Microbatching(built(changes), 2).step(tokens(8, 10))
    assert result.load_LE.shape == result.last_load_LE.shape == (0, 6) and float(result.losses["aux_loss"]) == 0


def trained(built: Built, tokens: Tokens, changes: dict[str, Any], steps: int = 2) -> tuple[list[float], Transformer]:
    """Losses of each step, and the model after the last: the same loop for every arm."""
    model = built({"dtype": "float32", "d_model": 32, "moe.backend": "grouped_mm"} | changes)
    optimizer = adamw(model, OptimConfig(lr=1e-2))
    executor, losses = Microbatching(model, 4), []
    for step in range(steps):
        optimizer.zero_grad(set_to_none=True)
        result = executor.step(tokens(8, 10, seed=step))
        losses.append(float(result.losses["loss"]))
        optimizer.step()
        for router, load_E, last_E in zip(model.routers(), result.load_LE, result.last_load_LE, strict=True):
            router.update(load_E, last_E, step / steps)
    return losses, model


def equal_bits(one: Transformer, other: Transformer) -> bool:
    """Parameters and the gradients of the last step."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    return all(torch.equal(a, b) and torch.equal(a.grad, b.grad) for a, b in pairs)  # type: ignore[arg-type]


ON = {
    "sequence": auxiliary("sequence", alpha=0.1),
    "microbatch": auxiliary("microbatch", alpha=0.1),
    "batch": auxiliary("batch", alpha=0.1),
    "bias": {KIND: "bias", SPEED: 0.05},
    "bias and sequence": auxiliary("sequence", "bias_aux_loss", alpha=0.1) | {SPEED: 0.05},
    "proportional bias": {KIND: "bias", SPEED: 0.05, "moe.balance.bias_rule": "proportional"},
    "multiplicative bias": {KIND: "bias", SPEED: 0.3, "moe.balance.bias_form": "multiplicative"},
    "local bias": {KIND: "bias", SPEED: 0.05, "moe.balance.load_scope": "microbatch"},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("changes", ON.values(), ids=ON.keys())
def test_a_strategy_of_strength_zero_is_none_bit_for_bit(
    built: Built, tokens: Tokens, changes: dict[str, Any], dtype: str
) -> None:
    none_losses, none = trained(built, tokens, {KIND: "none", "dtype": dtype})
    losses, off = trained(built, tokens, changes | {ALPHA: 0.0, SPEED: 0.0, "dtype": dtype})
    assert losses == none_losses and equal_bits(off, none)
    _, on = trained(built, tokens, changes | {"dtype": dtype})
    assert not equal_bits(on, none)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_parameter_gets_a_gradient_also_after_a_counting_pass(built: Built, tokens: Tokens, dtype: str) -> None:
    model = built(auxiliary("batch", "bias_aux_loss") | {"dtype": dtype})
    Microbatching(model, 2).step(tokens(8, 10))
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_arms_differ_from_one_another(built: Built, tokens: Tokens) -> None:
    arms = {name: trained(built, tokens, changes, steps=2)[1] for name, changes in ON.items()}
    weights = {name: next(iter(model.parameters())).detach() for name, model in arms.items()}
    names = list(weights)
    assert not [(a, b) for i, a in enumerate(names) for b in names[:i] if torch.equal(weights[a], weights[b])]


def test_switched_on_a_strategy_has_moved_something_after_one_step(built: Built, tokens: Tokens) -> None:
    """The auxiliary loss moves the router at once; the bias moves itself, and the choices of the next step."""
    _, none = trained(built, tokens, {KIND: "none"}, steps=1)
    _, aux = trained(built, tokens, ON["sequence"], steps=1)
    _, bias = trained(built, tokens, ON["bias"], steps=1)
    routers = [model.model.layers[1].mlp.gate.weight.grad for model in (none, aux)]  # type: ignore[union-attr]
    assert not torch.equal(routers[0], routers[1])  # type: ignore[arg-type]
    assert equal_bits(bias, none), "the first step is not yet biased"
    for router in bias.routers():
        moved = router.e_score_correction_bias.abs().tolist()
        assert max(moved) == pytest.approx(0.05) and all(value in (0, pytest.approx(0.05)) for value in moved)


@pytest.mark.parametrize("masked", [False, True])
def test_two_ranks_count_the_whole_batch(built: Built, tokens: Tokens, tmp_path: Path, masked: bool) -> None:
    """Load and f are summed over ranks: two halves give the load, the term and the mean gradient of the whole; with a
    mask as well, of which one rank has less than the other."""
    changes = auxiliary("batch", "bias_aux_loss")
    mask = uneven(tokens(8, 10)) if masked else None
    given = (built(changes).config, tokens(8, 10), mask, str(tmp_path))
    start_processes(halves.count, given, nprocs=2, start_method="forkserver")
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    model = built(changes)
    whole = Microbatching(model, 1).step(tokens(8, 10), 0.0, mask)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert found[0][0] == found[1][0] == whole.load_LE.tolist()
    assert found[0][1] != found[1][1], "each rank reports its own part of the term"
    assert np.mean([found[0][1], found[1][1]]) == pytest.approx(float(whole.losses["aux_loss"]), rel=1e-12)
    torch.testing.assert_close(found[0][2], gradient, rtol=0, atol=1e-12)
    quarters = [gradients(built, part, 1, changes)[0].load_LE.tolist() for part in tokens(8, 10).chunk(4)]
    assert [found[0][3], found[1][3]] == [quarters[1], quarters[3]], "each rank's own last microbatch"
