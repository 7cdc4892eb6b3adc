"""Held-out text is held out, and the same for all."""

from ablations.record.guardresult import GuardResult
from tasks.prepared import Data
from tasks.text.splits import SPLITS

SEPARATION_LIMIT = 0.05
"""Largest share of held-out 32-token windows that the training part may hold."""


def separation(data: Data) -> GuardResult:
    """The held-out splits share few long windows with the training part."""
    shares = {split: data.shared(split) for split in SPLITS[1:] if data.windows(split)}
    what = "windows of 32 tokens" if data.skill is None else "items"
    detail = ", ".join(f"{share:.2%} of {split} {what}" for split, share in shares.items())
    passed = max(shares.values()) <= SEPARATION_LIMIT
    return GuardResult("separation", passed, f"training holds {detail}", {**shares, "limit": SEPARATION_LIMIT})
