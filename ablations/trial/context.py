"""What a trained trial makes of contexts of several lengths, on the test split."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from ablations.record.record import Needles
from models.measure.context import found_again, losses_by_position
from models.transformer import Transformer
from tasks.config import END_OF_TEXT_ID
from tasks.context import DEPTHS, needles, repeated, windows
from tasks.positions import ends_of_bins
from tasks.prepared import Data, tokens_of

AT_ONCE = 16_384
"""Tokens of a batch, or one context where that is longer."""


def context_metrics(keys: TrialKeys, data: Data, model: Transformer) -> tuple[dict[str, float], Needles | None]:
    """At each of `eval.lengths`: metrics, and passkeys by depth. Nothing where none is named, and of a search, which
    they choose nothing in."""
    lengths, text = sorted(keys.eval.lengths), tokens_of(data, "test")
    if not lengths or text is None or keys.eval.split != "test":
        return {}, None
    words = np.flatnonzero(data.token_bytes).tolist()
    by_position = _by_position(keys, text, model)
    metrics = {f"loss_to_{end}": loss for end, loss in by_position.items()}
    nats, margins = list[list[float]](), list[list[float]]()
    for length in lengths:
        metrics[f"recall_nats_{length}"] = _answered(keys, model, *repeated(text, length))[0]
        found = [_answered(keys, model, *needles(text, words, length, depth)) for depth in DEPTHS]
        nats.append([own for own, _ in found])
        margins.append([margin for _, margin in found])
        metrics[f"passkey_nats_{length}"] = math.fsum(nats[-1]) / len(DEPTHS)
        metrics[f"passkey_margin_{length}"] = math.fsum(margins[-1]) / len(DEPTHS)
    return metrics, Needles(lengths, list(DEPTHS), nats, margins)


def _by_position(keys: TrialKeys, text: NDArray[np.integer], model: Transformer) -> dict[int, float]:
    """End of a bin of positions -> its loss, over `eval.tokens` in contexts of the greatest length."""
    longest, device = max(keys.eval.lengths), keys.train.device
    rows = windows(text, longest + 1, max(1, keys.eval.tokens // longest))
    batches = (torch.from_numpy(rows[part]).to(device) for part in _parts(len(rows), longest))
    ends = ends_of_bins(longest)
    document_end = END_OF_TEXT_ID if keys.eval.mask_documents else None
    return dict(zip(ends, losses_by_position(model, batches, ends, document_end), strict=True))


def _answered(
    keys: TrialKeys,
    model: Transformer,
    tokens: NDArray[np.int64],
    mask: NDArray[np.bool_],
    others: NDArray[np.int64] | None = None,
) -> tuple[float, float]:
    """Nats and margin of what counts in all the rows, each of which has as much of it."""
    sums = torch.zeros(2, dtype=torch.float64)

    def sent(rows: NDArray[np.integer] | NDArray[np.bool_], part: slice) -> Tensor:
        return torch.from_numpy(rows[part]).to(keys.train.device)

    for part in _parts(len(tokens), mask.shape[1]):
        wrong = None if others is None else sent(others, part)
        found = found_again(model, sent(tokens, part), sent(mask, part), wrong)
        sums += torch.tensor(found, dtype=torch.float64) * (min(part.stop, len(tokens)) - part.start)
    own, margin = (sums / len(tokens)).tolist()
    return own, margin


def _parts(rows: int, length: int) -> Iterator[slice]:
    at_once = max(1, AT_ONCE // length)
    return (slice(first, first + at_once) for first in range(0, rows, at_once))
