"""Where equal ends, in one place.

A change of logits is told relative to their spread (standard deviation), so that a limit means the same for models of
any scale. Limits stand between what rounding does, which grows with the coarseness of the type, and the least that a
mistake has been seen to do.
"""

import torch

EXACT_UP_TO = 400_000_000
"""Parameters of which a copy in FP64 is made (3.2 GB)."""

LOGITS = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Of a change, over the logits' spread, by the logits' type. Sums in another order move the last bits: some 1e-7 in
FP32, a hundredth in BF16, more after several layers. Models that run in FP64 keep islands of FP32 (norms, rotations),
which leave 1e-7 or so. One scale for a whole FP8 tensor moves 0.01 and more, a missing mask 0.1 and more."""

USUAL = (torch.float16, torch.bfloat16)
"""Types so coarse that rounding takes a token to another expert now and then: there the median over places counts, and
not the largest change."""

GRADIENT = 1e-12
"""Of a gradient where there must be none, over the largest where there may be one. In every type it is exactly 0, since
what is multiplied is."""

SCORING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.02}
"""Nats between a loss and the cross entropy of its logits. Means are taken in FP32 by most; BF16 keeps 3 digits of 10
nats."""

DERIVATIVE = {torch.float64: 1e-3, torch.float32: 0.1}
"""Of a slope, over the sum of all tensors' gradients. A difference of two losses in FP32, or in FP64 with islands of
FP32, has so many digits and no more. A term counted twice, or a part cut off, is off by its share of the whole."""

STEPS = {torch.float64: (1e-4, 1e-5, 1e-6, 1e-7, 1e-8), torch.float32: (1e-2, 3e-3, 1e-3, 3e-4)}
"""Over the parameters' norm, tried in turn until one agrees: a large one may be too long for the curvature, or take a
token to another expert, where there is no slope; a small one may drown in rounding."""
