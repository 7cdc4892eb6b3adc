"""Scoring in trees: the same answers as text by text, from fewer tokens."""

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers import models as token_models

from models.base.typed import build
from models.config import ModelConfig
from models.decoding.trees import LOGITS_AT_ONCE, tree_logits
from models.layers import inferring
from models.transformer import Transformer, initialise
from tasks.evals.lm import HarnessLM
from tasks.evals.trees import Window, forwards, grown
from tasks.evals.ways import Ways

torch.set_num_threads(1)
LENGTH = 48


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of single bytes."""
    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(token_models.BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return made


def model(kind: str) -> Transformer:
    narrow = {"n_heads": 4, "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 10}
    values: dict[str, Any] = {"vocab_size": 300, "d_model": 48, "n_layers": 2, "dtype": "float32"}
    config = build(ModelConfig, {**values, "attention": {**narrow, "kind": kind, "head_dim": 12}}, "model")
    if kind == "gqa":
        config = replace(config, attention=replace(config.attention, n_kv_heads=2))
    made = Transformer(config)
    initialise(made, 0, 0.2)
    return made.eval()


def requests() -> list[tuple[str, str]]:
    """Choices behind one context, pairs without one, copies, and texts longer than the model takes."""
    rng = random.Random(0)
    text = "".join(rng.choice("abcdefgh ") for _ in range(400))
    found = []
    for start in range(0, 120, 20):
        context = text[start : start + rng.randrange(5, 80)]
        found += [(context, " " + text[start + i * 7 : start + i * 7 + rng.randrange(1, 30)]) for i in range(4)]
        found += [("", text[start : start + 20] + "x"), ("", text[start : start + 20] + "yz")]
    return [*found, found[0], ("a", text[:100])]


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_answers_are_those_of_each_text_alone(kind: str, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    made, read, sizes = model(kind), [0, 0], list[int]()

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        read[0] += tokens.numel()
        return made(tokens).logits

    def in_trees(*inputs: Any) -> Iterator[torch.Tensor]:
        read[1] += inputs[0].numel()
        for part in tree_logits(made, *inputs):
            sizes.append(len(part))
            yield part

    monkeypatch.setattr("tasks.evals.lm.TREE_TOKENS", 300)
    monkeypatch.setitem(LOGITS_AT_ONCE, "cpu", 7 * 300 + 1)  # of a vocabulary of 300
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in requests()]
    rolling = [Instance("loglikelihood_rolling", {}, (pair[1],), 0) for pair in requests()]
    alone, together = (HarnessLM(logits, tokenizer, LENGTH, Ways(tree_logits=trees)) for trees in (None, in_trees))
    with inferring(made):
        for one, other in zip(alone.loglikelihood(asked), together.loglikelihood(asked), strict=True):
            assert one[0] == pytest.approx(other[0], abs=1e-4) and one[1] == other[1]
        assert read[1] < 0.8 * read[0] and max(sizes) == 7 and len(set(sizes)) > 1
        assert together.loglikelihood_rolling(rolling) == pytest.approx(alone.loglikelihood_rolling(rolling), abs=1e-4)


def test_a_context_is_read_once() -> None:
    context = list(range(1, 11))
    windows = [Window(i, [*context, 20 + i, 30], [20 + i, 30, 40 + i]) for i in (2, 0, 1)]
    (tree,) = grown(windows)
    assert tree.tokens == [*context, 20, 30, 21, 30, 22, 30]
    assert tree.depths == [*range(10), 10, 11, 10, 11, 10, 11]
    assert [(r, tree.tokens[at], target) for r, at, target in tree.asked if r == 1] == [
        (1, 10, 21),
        (1, 21, 30),
        (1, 30, 41),
    ]
    sees = tree.sees(17)
    assert sees[13].nonzero().flatten().tolist() == [*range(10), 12, 13], "the second choice, not the first"
    assert sees[16].nonzero().flatten().tolist() == [16], (
        "what fills up sees itself, or its softmax would be of nothing"
    )


def test_texts_that_share_little_stay_apart() -> None:
    apart = [Window(0, [1, 2, 3, 4, 5, 6, 7, 8], [9]), Window(1, [1, 3, 3, 4, 5, 6, 7, 8], [9])]
    assert [len(tree.tokens) for tree in grown(apart)] == [8, 8]
    near = [Window(0, [1, 2, 3, 4], [9]), Window(1, [1, 3, 3, 4], [9])]
    assert [len(tree.tokens) for tree in grown(near)] == [7]
    long = [Window(i, [*range(300), 1000 + i, *range(200)], [9]) for i in range(3)]
    assert [len(tree.tokens) for tree in grown(long)] == [501, 501, 501], "attention looks at all pairs"


def test_batches_keep_to_the_budget_and_chains_to_themselves() -> None:
    windows = [Window(i, [i, *range(100, 110 + i)], [5]) for i in range(20)]
    windows += [Window(50 + i, [77, 78, 79, i], [5]) for i in range(3)]
    made = list(forwards(grown(windows), 60, 0))
    assert max(forward.tokens_BT.numel() for forward in made) <= 60
    assert sorted(torch.cat([forward.requests_N for forward in made]).tolist()) == [*range(20), 50, 51, 52]
    assert [forward.sees_BTT is not None for forward in made] == [True] + [False] * (len(made) - 1)
