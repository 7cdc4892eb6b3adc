"""Generation with a cache: the texts that reading everything anew gives, and that lm-eval's own `hf` model gives."""

import functools
import os
import random
from collections.abc import Iterator
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from lm_eval.api.instance import Instance

from benchmarks.scoring_sides import Sides, random_checkpoint
from models.decoding.generate import Decoding
from models.layers import inferring
from tasks.evals.drafts import Draft
from tasks.evals.lm import HarnessLM
from tasks.evals.ways import Ways

LENGTH = 96
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    place, threads = tmp_path_factory.mktemp("generation"), torch.get_num_threads()
    torch.set_num_threads(1)
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(2, 9))) for _ in range(3000)]
    random_checkpoint(place / "ours", "tiny", LENGTH, [" ".join(words), "\n".join(words)])
    yield Sides.of(place / "ours", place / "converted")
    torch.set_num_threads(threads)


def contexts() -> list[str]:
    """Of one to some hundred tokens, two of them alike."""
    rng = random.Random(1)
    found = [" ".join(f"word{rng.randrange(99)}" for _ in range(count)) for count in (1, 3, 3, 8, 14, 20, 60, 2)]
    return [*found, found[3]]


def asked(arguments: dict[str, Any]) -> list[Instance]:
    return [Instance("generate_until", {}, (context, arguments), 0) for context in contexts()]


def lm(sides: Sides, batch_tokens: int, cached: bool = True) -> HarnessLM:
    decoder = functools.partial(Decoding, sides.model) if cached else None
    model, tokenizer = (lambda tokens: sides.model(tokens).logits), sides.tokenizer
    return HarnessLM(model, tokenizer, sides.length, Ways(decoder=decoder), batch_tokens=batch_tokens)


def stop_of(text: str) -> str:
    """What first stands well within it."""
    at = len(text) // 2
    return text[at : at + 2]


def test_texts_are_those_of_reading_everything_anew(sides: Sides) -> None:
    """Token for token, one by one and together; more are asked for of some than of others, and some stop early."""
    requests = asked({"max_gen_toks": 16})
    for i, request in enumerate(requests):
        request.arguments = (request.args[0], {"max_gen_toks": 4 + 6 * (i % 4)})
    with inferring(sides.model):
        expected = lm(sides, 1, cached=False).generate_until(requests)
        assert len(set(expected)) > 5 and all(expected)
        for batch_tokens in (1, 300, 8192):
            assert lm(sides, batch_tokens).generate_until(requests) == expected
        until = [stop_of(text) for text in expected[:5]]
        for request in requests:
            request.arguments = (request.args[0], {**request.args[1], "until": until})
        stopped = lm(sides, 8192).generate_until(requests)
        assert stopped == lm(sides, 1, cached=False).generate_until(requests)
    assert sum(len(text) < len(whole) for text, whole in zip(stopped, expected, strict=True)) >= 5


@pytest.mark.parametrize("batch_size", [1, 4])
def test_texts_are_those_of_their_model(sides: Sides, batch_size: int) -> None:
    """A context that is too long loses the same tokens, and both end at the same stop."""
    with inferring(sides.model):
        plain = lm(sides, 8192).generate_until(asked({"max_gen_toks": 16}))
    theirs = sides.theirs(batch_size)
    for until in ([], [stop_of(plain[0]), stop_of(plain[6])]):
        arguments = {"max_gen_toks": 16, "until": until, "do_sample": False}
        with inferring(sides.model):
            found = lm(sides, 8192).generate_until(asked(arguments))
        assert found == theirs.generate_until(asked(arguments))
        assert (found == plain) == (not until)


def test_the_cache_reads_each_token_once(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def embedded(tokens: torch.Tensor, *rest: Any) -> torch.Tensor:
        read.append(tuple(tokens.shape))
        return forward(tokens, *rest)

    forward = sides.model.model.embed_tokens.forward
    monkeypatch.setattr(sides.model.model.embed_tokens, "forward", embedded)
    with inferring(sides.model):
        lm(sides, 8192).generate_until(asked({"max_gen_toks": 20}))
    (_, longest), *steps = read
    assert longest == LENGTH - 20 and steps == [(9, 1)] * 19


def test_rows_that_are_done_are_left_behind(sides: Sides) -> None:
    prompts, shapes = [[1, 2, 3], [4, 5], [6, 7, 8, 9], [10]], []
    with inferring(sides.model):
        alone = Decoding(sides.model, prompts[2:3], 8)
        together = Decoding(sides.model, prompts, 8)
        for token in (11, 12, 13, 14):
            row = min(2, len(together.logits_BV) - 1)
            assert torch.allclose(together.logits_BV[row], alone.logits_BV[0], atol=1e-4)
            together.read([token] * len(together.logits_BV))
            alone.read([token])
            if token == 12:
                together.keep([0, 2])
            shapes.append(len(together.logits_BV))
    assert shapes == [4, 2, 2, 2]


@pytest.mark.parametrize(
    ("asked", "context", "budget"), [(4, 12, 4), (15, 1, 15), (16, 8, 8), (99, 8, 8), (0, 16, 0), (None, 8, 8)]
)
def test_a_context_leaves_room_for_what_is_new(asked: int | None, context: int, budget: int) -> None:
    draft = Draft.of(list(range(50)), {"max_gen_toks": asked}, 16)
    assert (draft.context, draft.budget) == (list(range(50 - context, 50)), budget)
    assert draft.done == (budget == 0)
    assert Draft.of([1, 2], {"max_new_tokens": 20}, 16).budget == 14
