"""How far a policy has come from where it began."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.decoding.sampling import draw
from models.layers import inferring
from models.transformer import Transformer

ROWS = 128
"""Answers read at once."""


def drift(
    model: Transformer, base: Transformer, prompts: Sequence[Tensor], new_tokens: int, end: int, copies: int = 1
) -> float:
    """KL(model || base) in nats an answer: over `copies` answers of the model to each prompt, the sum over their
    tokens, the ending one among them, of the KL between the two distributions there. That is the KL of whole answers
    without bias, and with less variance than their log ratio has. Answers of more than `new_tokens` are cut."""
    device = model.lm_head.weight.device
    drawn = draw(model, prompts, new_tokens, end, torch.Generator(device).manual_seed(0), copies)
    asked = [prompt for prompt in prompts for _ in range(copies)]
    total = 0.0
    for first in range(0, len(asked), ROWS):
        own = slice(first, first + ROWS)
        lengths = drawn.lengths_B[own].tolist()
        rows = [torch.cat([p, a[:n]]) for p, a, n in zip(asked[own], drawn.tokens_BN[own], lengths, strict=True)]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=end)[:, :-1]
        logs = []
        for each in (model, base):
            with inferring(each):
                logs.append(torch.log_softmax(each(tokens).logits.double(), dim=-1))
        of, other = logs
        kl_BT = (of.exp() * (of - other)).sum(dim=-1)
        for row, prompt, length in zip(kl_BT, asked[own], lengths, strict=True):
            total += float(row[len(prompt) - 1 : len(prompt) - 1 + length].sum())
    return total / len(asked)
