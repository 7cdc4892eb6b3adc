"""What a multiple choice says beside its accuracy, and of a small model says sooner (Signal and Noise, 2508.13144)."""

import math
from collections.abc import Sequence
from typing import Any

BITS = "answer_bits_per_byte"
"""Of the right answer, given its question."""
MARGIN = "answer_margin"
"""By how many bits per byte the likeliest wrong answer has more; below 0 where a wrong one is likelier."""


def answers(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means of both over lm-eval's samples of one task; empty where an item has several right answers, or none that is
    named by its place."""
    own, margins = [], []
    for sample in samples:
        right, texts = sample.get("target"), [continuation for _, continuation in sample["arguments"]]
        if not isinstance(right, int) or not 0 <= right < len(texts):
            return {}
        nats = [likelihood for likelihood, _ in sample["filtered_resps"]]
        bits = [-x / math.log(2) / max(1, len(text.encode())) for x, text in zip(nats, texts, strict=True)]
        own.append(bits.pop(right))
        margins.append(min(bits) - own[-1])
    return {BITS: math.fsum(own) / len(own), MARGIN: math.fsum(margins) / len(margins)}
