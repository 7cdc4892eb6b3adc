"""Loss by position and what is found again, against sums that are written out."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.measure.context import found_again, losses_by_position
from models.measure.evaluation import evaluate
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tokens = Callable[..., Tensor]


def test_losses_by_position_are_the_mean_over_the_targets_of_each_bin(built: Built, tokens: Tokens) -> None:
    model, batches = built(), [tokens(3, 13, seed=1), tokens(1, 13, seed=2)]
    found = losses_by_position(model, batches, [4, 8, 12])
    rows = torch.cat(batches)
    with torch.no_grad():
        logits = model.eval()(rows[:, :-1]).logits
    lost = -logits.log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2)
    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), lost.mean(0).view(3, 4).mean(1), rtol=1e-9, atol=0
    )
    assert abs(sum(found) / 3 - evaluate(model, batches).loss) < 1e-9, "bins of one size add up to the loss"


def test_documents_are_kept_apart_where_asked(built: Built, tokens: Tokens) -> None:
    model, rows = built(), tokens(2, 13).clamp_min(1)
    rows[:, 5] = 0
    open_, masked = (losses_by_position(model, [rows], [6, 12], document_end=end) for end in (None, 0))
    assert abs(open_[0] - masked[0]) < 1e-12 and abs(open_[1] - masked[1]) > 1e-6


def test_a_margin_is_by_how_much_what_counts_is_likelier_than_others(built: Built, tokens: Tokens) -> None:
    model, rows, others = built(), tokens(2, 9, seed=1), tokens(2, 8, seed=2)
    mask = torch.zeros(2, 8, dtype=torch.bool)
    mask[:, 5:7] = True
    nats, margin = found_again(model, rows, mask, others)
    with torch.no_grad():
        logits = model.eval()(rows[:, :-1]).logits
    own, wrong = (F.cross_entropy(logits[mask], targets[mask]) for targets in (rows[:, 1:], others))
    assert abs(nats - float(own)) < 1e-9 and abs(margin - float(wrong - own)) < 1e-9
    assert found_again(model, rows, mask) == (nats, 0.0)
    assert found_again(model, rows, mask, rows[:, 1:])[1] == 0.0
