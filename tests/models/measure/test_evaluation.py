"""What is measured on a trained model against plain loops, and that measuring leaves it as it was."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.measure.evaluation import evaluate, evaluate_answers, evaluate_mtp, mean_max_vio
from models.training.batch import Batch
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]
END = 7


def log_p(logits: Tensor) -> np.ndarray:
    values = logits.detach().double().numpy()
    shifted = values - values.max(-1, keepdims=True)
    normed: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return normed


def unequal(tokens: Tokens) -> list[Tensor]:
    """Batches of unequal size: a mean of means would weigh their tokens unequally."""
    return [tokens(4, 10), tokens(4, 10, seed=1), tokens(1, 6, seed=2)]


def test_evaluate_is_the_loop_by_hand(built: Built, tokens: Tokens) -> None:
    model = built({"moe.balance.kind": "bias", "moe.top_k": 3})
    batches = unequal(tokens)
    total, count, loads, entropy = 0.0, 0, np.zeros((2, 6), dtype=int), np.zeros(2)
    for batch in batches:
        with torch.no_grad():
            output = model(batch[:, :-1])
        for row, targets in zip(log_p(output.logits), batch[:, 1:].numpy(), strict=True):
            for position, target in enumerate(targets):
                total -= row[position, target]
                count += 1
        for layer, routing in enumerate(output.routings):
            loads[layer] += np.bincount(routing.experts_NK.numpy().ravel(), minlength=6)
            p = routing.scores_BTE.numpy() / routing.scores_BTE.numpy().sum(-1, keepdims=True)
            entropy[layer] -= (p * np.log(p)).sum()
    found = evaluate(model.train(), iter(batches))
    assert found.tokens == count == 9 * 8 + 5
    assert found.loss == pytest.approx(total / count, rel=1e-12)
    assert found.load_LE.tolist() == loads.tolist()
    np.testing.assert_allclose(found.entropy_L.numpy(), entropy / count, rtol=1e-12)
    assert 0 < found.entropy_L.max() <= math.log(6)
    assert mean_max_vio(found.load_LE) == pytest.approx(np.mean(loads.max(1) / loads.mean(1) - 1))


def test_of_a_masked_batch_the_counted_targets_are_the_loss(built: Built, tokens: Tokens) -> None:
    """All tokens are routed, whichever count."""
    model, batches = built({"moe.balance.kind": "bias"}), unequal(tokens)
    masks = [
        torch.arange(batch[:, 1:].numel()).reshape(batch[:, 1:].shape) % 3 == i % 2 for i, batch in enumerate(batches)
    ]
    found = evaluate(model, map(Batch, batches, masks))
    with torch.no_grad():
        losses = [-log_p(model(b[:, :-1]).logits) for b in batches]
    counted = [
        row[np.arange(len(row)), target][keep]
        for batch, mask, rows in zip(batches, masks, losses, strict=True)
        for row, target, keep in zip(rows, batch[:, 1:].numpy(), mask.numpy(), strict=True)
    ]
    assert found.tokens == sum(map(len, counted)) < evaluate(model, batches).tokens
    assert found.loss == pytest.approx(np.concatenate(counted).mean(), rel=1e-12)
    assert found.load_LE.tolist() == evaluate(model, batches).load_LE.tolist()
    assert torch.equal(found.entropy_L, evaluate(model, batches).entropy_L)


def test_answers_are_counted_by_level(built: Built, tokens: Tokens) -> None:
    model = built()
    batches = unequal(tokens)
    masks = [
        torch.rand(b[:, 1:].shape, generator=torch.Generator().manual_seed(i)) < 0.3 for i, b in enumerate(batches)
    ]
    levels = [torch.tensor([2, 5, 2, 9]), torch.tensor([5, 5, 9, 2]), torch.tensor([9])]
    nats: dict[int, list[float]] = {}
    right: dict[int, list[bool]] = {}
    whole = []
    for batch, mask, own in zip(batches, masks, levels, strict=True):
        with torch.no_grad():
            rows = log_p(model(batch[:, :-1]).logits)
        for row, targets, keep, level in zip(rows, batch[:, 1:].numpy(), mask.numpy(), own.tolist(), strict=True):
            places = np.flatnonzero(keep)
            nats.setdefault(level, []).extend(-row[places, targets[places]])
            hits = row[places].argmax(-1) == targets[places]
            right.setdefault(level, []).extend(hits)
            whole.append(hits.all())
    found = evaluate_answers(model, ((Batch(b, m), level) for b, m, level in zip(batches, masks, levels, strict=True)))
    assert found.nats.keys() == found.right.keys() == {None, 2, 5, 9}
    for level in (2, 5, 9):
        assert found.nats[level] == pytest.approx(np.mean(nats[level]), rel=1e-5)
        assert found.right[level] == pytest.approx(np.mean(right[level]))
    assert found.nats[None] == pytest.approx(np.mean(np.concatenate(list(nats.values()))), rel=1e-5)
    assert found.right[None] == pytest.approx(np.mean(np.concatenate(list(right.values()))))
    assert found.whole == pytest.approx(np.mean(whole))


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_what_modules_name_behind_answers(built: Built, tokens: Tokens, style: str) -> None:
    """A vocabulary of three, so that some are right; an answer near the end has no token k behind it."""
    model = built({"mtp.depth": 2, "mtp.style": style, "vocab_size": 3})
    batches = [tokens(5, 10, seed=1) % 3, tokens(3, 12, seed=2) % 3]
    masks = [b[:, 1:] != 1 for b in batches]
    named: dict[int, list[bool]] = {1: [], 2: []}
    for batch, mask in zip(batches, masks, strict=True):
        with torch.no_grad():
            output = model(batch[:, :-1], mtp=True)
        for b, row in enumerate(batch.tolist()):
            for k, i in ((k, i) for k in (1, 2) for i in np.flatnonzero(mask[b]) if i + 1 + k < len(row)):
                named[k].append(int(output.mtp_logits[k - 1][b, i].argmax()) == row[i + 1 + k])
    found = evaluate_answers(model, ((Batch(b, m), torch.zeros(len(b))) for b, m in zip(batches, masks, strict=True)))
    assert found.ahead == [np.mean(named[1]), np.mean(named[2])]
    assert len(named[2]) < len(named[1]) and 0 < found.ahead[1] < 1, "the example must be able to tell"


def test_a_model_without_experts_has_max_vio_zero(built: Built, tokens: Tokens) -> None:
    found = evaluate(built({"feed_forward": "dense"}), [tokens(2, 6)])
    assert found.load_LE.shape == (0, 6) and found.entropy_L.shape == (0,)
    assert mean_max_vio(found.load_LE) == 0.0


def test_experts_of_mtp_modules_are_not_the_main_models(built: Built, tokens: Tokens) -> None:
    """Load and entropy of the main model alone; the modules do not run."""
    plain = evaluate(built(), [tokens(2, 9)])
    found = evaluate(built({"mtp.depth": 2}), [tokens(2, 9)])
    assert found.loss == plain.loss and torch.equal(found.load_LE, plain.load_LE)
    assert found.load_LE.sum(dim=1).tolist() == [2 * 8 * 2] * 2


@pytest.mark.parametrize("measure", [evaluate, evaluate_mtp])
def test_measuring_leaves_the_model_as_it_was(built: Built, tokens: Tokens, measure: Callable[..., Any]) -> None:
    """Mode, weights' casts and gradients; also when the batches end in an error."""
    model = built({"mtp.depth": 1, "dtype": "bfloat16", "d_model": 32, "moe.backend": "grouped_mm"}).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[tuple[bool, bool]] = []

    def batches(fail: bool) -> Iterator[Tensor]:
        yield tokens(2, 9)
        seen.append((model.training, torch.is_grad_enabled()))
        if fail:
            raise RuntimeError("the corpus is gone")

    for fail, inside in ((False, END), (False, None), (True, 3)):
        if fail:
            with pytest.raises(RuntimeError, match="gone"):
                measure(model, batches(True), document_end=inside)
        else:
            measure(model, batches(False), document_end=inside)
        assert seen[-1] == (False, False), "measured in eval mode, with no gradient"
        assert model.training and torch.is_grad_enabled()
        assert model.lm_head._cast is None, "no cast is kept"
    assert all(p.grad is None for p in model.parameters())
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == []
    measure(model.eval(), batches(False))
    assert not model.training, "a model in eval mode stays there"


def test_an_evaluation_stays_within_documents_where_asked_and_leaves_nothing_behind(
    built: Built, tokens: Tokens
) -> None:
    batch = tokens(4, 14)
    batch[:, 5] = END
    model = built()
    within, across = (evaluate(model, [batch], document_end=end).loss for end in (END, None))
    assert abs(within - across) > 1e-3
    assert evaluate(model, [batch]).loss == across and evaluate(model, [batch], document_end=END).loss == within


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
@pytest.mark.parametrize("depth", [1, 3])
def test_mtp_evaluation_is_the_loop_by_hand(built: Built, tokens: Tokens, depth: int, style: str) -> None:
    """Position by position: depth k names token i + k + 1, which the main model chooses itself at position i + k.

    The small vocabulary and a repeated token make the modules agree now and then.
    """
    model = built({"mtp.depth": depth, "mtp.style": style, "vocab_size": 5, "init_std": 0.15})
    batches = [batch % 5 for batch in unequal(tokens)]
    losses, agreed, count = np.zeros(depth), np.zeros(depth), 0
    for batch in batches:
        with torch.no_grad():
            output = model(batch[:, :-1], mtp=True)
        main = output.logits.argmax(-1).tolist()
        further = [log_p(logits) for logits in output.mtp_logits]
        for b, row in enumerate(batch.tolist()):
            for i in range(len(row) - 1 - depth):
                count += 1
                accepted = True
                for k in range(1, depth + 1):
                    losses[k - 1] -= further[k - 1][b, i, row[i + k + 1]]
                    accepted = accepted and int(further[k - 1][b, i].argmax()) == main[b][i + k]
                    agreed[k - 1] += accepted
    found = evaluate_mtp(model, iter(batches))
    np.testing.assert_allclose(found.losses, losses / count, rtol=1e-12)
    np.testing.assert_allclose(found.acceptance, agreed / count, rtol=1e-12)
    assert 0 < found.acceptance[0] < 1, "the example must be able to tell"
    assert found.tokens_per_forward == pytest.approx(1 + agreed.sum() / count)
    assert all(a >= b for a, b in zip(found.acceptance, found.acceptance[1:], strict=False)), "chained: it only falls"
