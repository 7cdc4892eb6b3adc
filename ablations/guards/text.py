"""Held-out text is held out, and the same for all."""

from ablations.record.guardresult import GuardResult
from tasks.batches import PackedData
from tasks.separation import shared_ngrams
from tasks.splits import SPLITS

SEPARATION_LIMIT = 0.05
"""Largest share of held-out 32-token windows that the training part may hold."""


def separation(data: PackedData) -> GuardResult:
    """The held-out splits share few long windows with the training part."""
    there = [split for split in SPLITS[1:] if len(data.tokens(split))]
    shares = {split: shared_ngrams(data.tokens("train"), data.tokens(split)) for split in there}
    detail = ", ".join(f"{share:.2%} of {split} windows of 32 tokens" for split, share in shares.items())
    passed = max(shares.values()) <= SEPARATION_LIMIT
    return GuardResult("separation", passed, f"training holds {detail}", {**shares, "limit": SEPARATION_LIMIT})
