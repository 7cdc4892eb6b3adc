"""How far a policy has come, against all answers that there can be, counted out."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models.measure.drift import drift
from models.transformer import Transformer

Built = Callable[..., Transformer]
SMALL = {"vocab_size": 6, "feed_forward": "dense", "n_layers": 1}
END, ROOM = 0, 3


def answers() -> list[list[int]]:
    """Of up to ROOM tokens, the ending one last, or cut."""
    found = []
    for length in range(1, ROOM + 1):
        for row in itertools.product(range(6), repeat=length):
            whole = row[-1] == END or length == ROOM
            if whole and END not in row[:-1]:
                found.append(list(row))
    return found


def log_probability(model: Transformer, prompt: Tensor, answer: list[int]) -> float:
    tokens = torch.cat([prompt, torch.tensor(answer)])
    logs = torch.log_softmax(model(tokens[None, :-1]).logits[0].double(), dim=-1)
    return float(sum(logs[len(prompt) - 1 + i, token] for i, token in enumerate(answer)))


def test_it_is_the_divergence_of_whole_answers(built: Built) -> None:
    model, base = built(SMALL).eval(), built(SMALL, seed=5).eval()
    prompts = [torch.tensor([3, 1]), torch.tensor([2, 4, 4, 1, 5])]
    exact = []
    with torch.no_grad():
        for prompt in prompts:
            own, other = ([log_probability(m, prompt, a) for a in answers()] for m in (model, base))
            p, q = torch.tensor(own), torch.tensor(other)
            assert float(p.exp().sum()) == pytest.approx(1, abs=1e-5)
            exact.append(float((p.exp() * (p - q)).sum()))
    found = drift(model, base, prompts, ROOM, END, copies=4000)
    assert found == pytest.approx(sum(exact) / 2, rel=0.05) and min(exact) > 0.1
    assert drift(model, model, prompts, ROOM, END) == 0.0 and drift(model, base, prompts, ROOM, END) == pytest.approx(
        drift(model, base, prompts, ROOM, END)
    )
