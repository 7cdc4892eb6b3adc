"""Decoding with a cache against whole forwards, and self-speculative decoding against plain greedy decoding."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import models
from models.attention import MultiHeadLatentAttention
from models.base.typed import ConfigError
from models.config import ModelConfig, RopeConfig
from models.cost import cost
from models.decoding import generate
from models.decoding.generate import Cache, absorbing, decode, greedy
from models.decoding.speculative import Speculation, self_speculative
from models.layers import inferring
from models.transformer import Transformer

Built = Callable[..., Transformer]
Tiny = Callable[..., ModelConfig]
Tokens = Callable[..., Tensor]

KINDS: dict[str, dict[str, Any]] = {
    "mla": {},
    "mla with q_lora_rank": {"attention.q_lora_rank": 10},
    "mha": {"attention.kind": "mha"},
    "gqa": {"attention.kind": "gqa", "attention.n_heads": 4, "attention.n_kv_heads": 2},
    "mqa": {"attention.kind": "mqa"},
}
YARN = {"rope.scaling": "yarn", "rope.factor": 4.0, "rope.original_length": 8}
EXACT = 1e-12
"""FP64; found: at most 2e-14."""


def whole(model: Transformer, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        return model(tokens_BT).logits


def agreeing(built: Built, style: str, depth: int, dtype: str = "float64", seed: int = 1) -> Transformer:
    """A model whose modules often choose as it does: mostly, one token determines the next one (chained), or repeats
    itself (parallel, linear). Small blocks or matrices on top of that, other ones in every module, make them differ at
    times."""
    model = built({"mtp.depth": depth, "mtp.style": style, "dtype": dtype}, seed)
    generator = torch.Generator().manual_seed(seed)
    vocab, width = model.config.vocab_size, model.config.d_model
    with torch.no_grad():
        order = torch.randperm(vocab, generator=generator) if style == "chained" else torch.arange(vocab)
        model.lm_head.weight[order] = model.model.embed_tokens.weight
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter.mul_(0.08 if style == "chained" else 0.2)
            elif "eh_proj" in name:
                noise = 0.2 * torch.randn(width, width, generator=generator)
                parameter.copy_(torch.cat((torch.eye(width), noise), dim=1))
            elif "block.proj" in name:
                parameter.copy_(torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator))
    return model


def largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", EXACT), ("float32", 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_are_those_of_the_whole_sequence(
    built: Built, tokens: Tokens, kind: str, dtype: str, tolerance: float
) -> None:
    """A prompt in pieces, then token by token; every kind, with the logits' own size as the measure in FP32."""
    model, batch = built({**KINDS[kind], "dtype": dtype}), tokens(2, 20)
    expected = whole(model, batch)
    tolerance *= max(1.0, float(expected.abs().max()))
    cache = Cache(model, 2, 20)
    pieces, first = [], 0
    with inferring(model):
        for width in (7, 4, 1, 1, 1, 1, 3, 1, 1):
            pieces.append(decode(model, batch[:, first : first + width], [first, first], cache)[0])
            first += width
    assert largest(torch.cat(pieces, dim=1), expected) < tolerance


@pytest.mark.parametrize("kind", KINDS)
def test_rows_at_different_positions_never_see_what_lies_ahead(built: Built, tokens: Tokens, kind: str) -> None:
    """Slots beyond each row's place are full of another text's keys, as rejected drafts leave them."""
    model, batch = built(KINDS[kind]), tokens(3, 24)
    expected = whole(model, batch)
    cache = Cache(model, 3, 24)
    with inferring(model):
        decode(model, batch[:, :9], [0, 0, 0], cache)
        decode(model, tokens(3, 8, seed=5), [9, 3, 6], cache)
        starts = [9, 3, 6]
        for width in (1, 3, 1, 4, 2):
            part = torch.stack([row[at : at + width] for row, at in zip(batch, starts, strict=True)])
            logits, _ = decode(model, part, starts, cache)
            for row, at in enumerate(starts):
                assert largest(logits[row], expected[row, at : at + width]) < EXACT, (row, at)
            starts = [at + width for at in starts]


def test_hidden_states_are_those_before_the_final_norm(built: Built, tokens: Tokens) -> None:
    model, batch = built(), tokens(2, 6)
    with inferring(model):
        logits, hidden = decode(model, batch, [0, 0], Cache(model, 2, 6))
        assert torch.equal(model.lm_head(model.model.norm(hidden)), logits)


@pytest.mark.parametrize("q_lora_rank", [None, 10])
def test_absorbed_decoding_is_the_plain_one_and_expands_no_latent(
    built: Built, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, q_lora_rank: int | None
) -> None:
    model, batch = built({"attention.q_lora_rank": q_lora_rank, **YARN}), tokens(2, 15)
    expected = whole(model, batch)
    assert largest(greedy(model, batch, 9, absorb=True), greedy(model, batch, 9)) == 0
    for module in model.modules():
        if isinstance(module, MultiHeadLatentAttention):
            monkeypatch.setattr(module.kv_b_proj, "forward", lambda x: pytest.fail("a latent was expanded"))
    cache, starts = Cache(model, 2, 15), [0, 0]
    with inferring(model), absorbing(model):
        for first, width in ((0, 9), (9, 1), (10, 1), (11, 4)):
            starts = [first, first]
            logits, _ = decode(model, batch[:, first : first + width], starts, cache)
            assert largest(logits, expected[:, first : first + width]) < EXACT
    assert not any(module.absorb for module in model.modules() if isinstance(module, MultiHeadLatentAttention))


def test_whatever_attention_can_absorb_is_asked_to() -> None:
    """By what it can, and not by its class: a kind of somebody else's too."""

    class Own(torch.nn.Module):
        absorb = False

    model = models.build("tiny")
    model.model.layers[0].self_attn.own = Own()
    with absorbing(model):
        assert model.model.layers[0].self_attn.own.absorb
    assert not model.model.layers[0].self_attn.own.absorb


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_takes_what_the_formula_says(built: Built, kind: str, dtype: str) -> None:
    model = built({**KINDS[kind], "dtype": dtype, "mtp.depth": 2})
    per_token = cost(model.config, 16).kv_bytes
    cache = Cache(model, 3, 17)
    assert cache.nbytes == per_token * 3 * 17
    storages = [buffer.untyped_storage().nbytes() for layer in cache.layers for buffer in layer.buffers]
    assert sum(storages) == cache.nbytes, "a view of something larger"
    with_modules = Cache(model, 3, 17, mtp=True)
    assert with_modules.nbytes * model.config.n_layers == cache.nbytes * (model.config.n_layers + 2)


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_positions_stretched_by_yarn(built: Built, tokens: Tokens, kind: str) -> None:
    """Beyond the trained length, and after switching a model that was built without."""
    batch = tokens(2, 21)
    model, plain = built({**KINDS[kind], **YARN}), built(KINDS[kind])
    expected = whole(model, batch)
    assert largest(expected, whole(plain, batch)) > 1e-2
    plain.set_rope(model.config.rope)
    for one in (model, plain):
        cache = Cache(one, 2, 21)
        with inferring(one):
            for at in (0, 7, 14):
                logits, _ = decode(one, batch[:, at : at + 7], [at, at], cache)
                assert largest(logits, expected[:, at : at + 7]) < EXACT


@pytest.mark.parametrize("kind", ["mla", "gqa"])
def test_a_prompt_of_many_pieces(built: Built, tokens: Tokens, kind: str) -> None:
    """Long enough that attention takes its other way, with masks of several lengths."""
    model, batch = built({**KINDS[kind], "n_layers": 2}), tokens(1, 1040)
    assert batch.shape[1] > 2 * generate.PREFILL_TOKENS
    cache = Cache(model, 1, 1040)
    with inferring(model):
        normed, _ = generate.prefill(model, batch, 1040, cache)
        assert largest(model.lm_head(normed), whole(model, batch)) < EXACT


def slow_greedy(model: Transformer, prompt_BP: Tensor, new_tokens: int) -> Tensor:
    """A whole forward for every token."""
    for _ in range(new_tokens):
        prompt_BP = torch.cat((prompt_BP, whole(model, prompt_BP)[:, -1:].argmax(dim=-1)), dim=1)
    return prompt_BP[:, -new_tokens:]


@pytest.mark.parametrize("kind", ["mla", "mqa"])
def test_greedy_decoding_takes_the_most_likely_token(built: Built, tokens: Tokens, kind: str) -> None:
    model, prompts = built(KINDS[kind]), tokens(4, 6)
    found = greedy(model, prompts, 9)
    assert found.tolist() == slow_greedy(model, prompts, 9).tolist()
    assert len(set(found.flatten().tolist())) > 5, "a model that repeats itself would prove little"


def test_prompts_of_different_lengths_decode_as_each_alone(built: Built, tokens: Tokens) -> None:
    model = agreeing(built, "chained", 2)
    prompts = [tokens(1, length, seed=length)[0] for length in (1, 9, 4, 6)]
    alone = torch.cat([greedy(model, [prompt], 12) for prompt in prompts])
    assert torch.equal(greedy(model, prompts, 12), alone)
    together = self_speculative(model, prompts, 12)
    assert torch.equal(together.tokens, alone)
    singles = [self_speculative(model, [prompt], 12) for prompt in prompts]
    assert together.rounds == sum(one.rounds for one in singles)
    assert together.accepted == [sum(counts) for counts in zip(*(one.accepted for one in singles), strict=True)]
    assert together.forwards == max(one.forwards for one in singles)


@pytest.mark.parametrize(("depth", "batch"), [(1, 4), (3, 1)])
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_speculative_output_is_greedy_with_random_modules(
    built: Built, tokens: Tokens, style: str, depth: int, batch: int
) -> None:
    for seed, kind, length in ((0, "mla", 8), (1, "gqa", 1), (2, "mla with q_lora_rank", 3)):
        model = built({**KINDS[kind], "mtp.depth": depth, "mtp.style": style}, seed)
        prompts = tokens(batch, length, seed)
        for new_tokens in (2, 13):
            found = self_speculative(model, prompts, new_tokens).tokens
            assert found.tolist() == greedy(model, prompts, new_tokens).tolist(), (seed, new_tokens)


@pytest.mark.parametrize(("depth", "batch"), [(1, 4), (3, 1)])
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_speculative_output_is_greedy_where_modules_agree_at_times(
    built: Built, tokens: Tokens, style: str, depth: int, batch: int
) -> None:
    accepted, rounds = [0] * depth, 0
    for seed in range(3):
        model, prompts = agreeing(built, style, depth, seed=seed), tokens(batch, 7, seed)
        found = self_speculative(model, prompts, 20, absorb=seed == 0)
        assert found.tokens.tolist() == greedy(model, prompts, 20).tolist(), seed
        accepted = [a + b for a, b in zip(accepted, found.accepted, strict=True)]
        rounds += found.rounds
    assert 0 < accepted[-1] <= accepted[0] < rounds, "some rounds accept all drafts, some none"


Rounds = list[tuple[list[int], int]]
"""Per round of one row, its drafts and how many of them were accepted."""


def slow_rounds(model: Transformer, prompt: Tensor, new_tokens: int) -> Rounds:
    """By whole forwards without a cache: the definition, written out."""
    depth = model.config.mtp.depth
    known = torch.cat((prompt, slow_greedy(model, prompt[None], 1)[0]))
    rounds = []
    with torch.no_grad():
        while len(known) < len(prompt) + new_tokens:
            drafted = known
            for k in range(depth):
                longer = torch.nn.functional.pad(drafted, (0, depth))  # what stands behind changes nothing before it
                choice = model(longer[None], mtp=True).mtp_logits[k][0, len(known) - 2].argmax()
                drafted = torch.cat((drafted, choice[None]))
            drafts = drafted[len(known) :]
            own = model(drafted[None]).logits[0].argmax(dim=-1)[len(known) - 1 :]
            accepted = [*(drafts == own[:-1]).tolist(), False].index(False)
            rounds.append((drafts.tolist(), accepted))
            known = torch.cat((known, own[: accepted + 1]))
    return rounds


class Watched(Speculation):
    """Keeps every round's drafts, (B, D) each."""

    drafts: list[Tensor]

    def _draft(self) -> None:
        super()._draft()
        drafts = [row[n + 1 :][: self.depth] for row, n in zip(self.tokens, self.last, strict=True)]
        self.drafts.append(torch.stack(drafts))


def with_gains(model: Transformer) -> Transformer:
    """Gains of the norms that are not 1: which norms a hidden state went through shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.mul_(1 + 0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    return model


@pytest.mark.parametrize(
    ("kind", "depth"), [("agreeing", 1), ("agreeing", 3), ("random", 1), ("before_norm", 2), ("after_norm", 2)]
)
@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_drafts_and_acceptance_are_those_of_whole_forwards(
    built: Built, tokens: Tokens, style: str, kind: str, depth: int
) -> None:
    """What the modules' caches hold must be what the true tokens leave, or drafts (though never tokens) would differ.
    Prompts shorter than the modules' window are among them."""
    changes = {"mtp.depth": depth, "mtp.style": style}
    if kind == "agreeing":
        model = agreeing(built, style, depth)
    else:
        model = built(changes) if kind == "random" else with_gains(built({**changes, "mtp.hidden": kind}))
    prompts = [tokens(1, length, seed=length)[0] for length in (1, 3, 8)]
    with inferring(model):
        speculation = Watched(model, prompts, 12)
        speculation.drafts = []
        while not speculation.done:
            speculation.round()
    found = speculation.result()
    rounds = [slow_rounds(model, prompt, 12) for prompt in prompts]
    for row, expected in enumerate(rounds):
        drafts = [drafts_BD[row].tolist() for drafts_BD in speculation.drafts[: len(expected)]]
        assert drafts == [drafted for drafted, _ in expected], f"row {row}"
    counts = [accepted for row in rounds for _, accepted in row]
    assert found.rounds == len(counts) and found.forwards == max(len(row) for row in rounds)
    assert found.accepted == [sum(count >= k for count in counts) for k in range(1, depth + 1)]
    assert found.made == sum(found.accepted) + found.rounds == sum(count + 1 for count in counts)
    surplus = found.made + len(prompts) - found.tokens.numel()
    assert 0 <= surplus <= depth * len(prompts), "only a row's last round may go further than asked"
    assert found.acceptance == [count / found.rounds for count in found.accepted]
    assert found.tokens_per_forward == pytest.approx(1 + sum(found.acceptance))
    if kind == "agreeing":
        assert 0 < sum(counts) < depth * len(counts), "neither all nor none accepted"


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_in_bf16_only_near_ties_may_part_speculative_from_greedy(built: Built, tokens: Tokens, style: str) -> None:
    model, prompts = agreeing(built, style, 2, dtype="bfloat16"), tokens(8, 7)
    plain, found = greedy(model, prompts, 40), self_speculative(model, prompts, 40)
    assert 0 < found.accepted[-1] < found.rounds
    text = torch.cat((prompts, plain), dim=1)
    apart = (plain != found.tokens).long()
    for row in apart.any(dim=1).nonzero().flatten().tolist():
        parting = 7 + int(apart[row].argmax())
        cache = Cache(model, 1, 47)
        with inferring(model):
            logits, _ = decode(model, text[row : row + 1, :7], [0], cache)
            for at in range(7, parting):
                logits, _ = decode(model, text[row : row + 1, at : at + 1], [at], cache)
        first, second = logits[0, -1].float().topk(2).values.tolist()
        assert first - second <= 0.05, f"row {row} parted at {parting} by {first - second}"


def test_a_finished_row_waits_for_the_others(built: Built, tokens: Tokens) -> None:
    model = agreeing(built, "chained", 3)
    with inferring(model):
        speculation = Speculation(model, tokens(4, 7), 30)
        waited = 0
        while not speculation.done:
            before, rounds = list(speculation.last), speculation.rounds
            speculation.round()
            finished = [n == 36 for n in before]
            assert all(n == 36 for n, over in zip(speculation.last, finished, strict=True) if over)
            assert speculation.rounds - rounds == finished.count(False)
            waited += sum(finished)
    assert waited > 0, "rows that all finish together would prove nothing"


def test_training_mode_and_gradients_come_back(built: Built, tokens: Tokens) -> None:
    model = built({"dtype": "bfloat16", "mtp.depth": 1}).train()
    self_speculative(model, tokens(1, 4), 3)
    greedy(model, tokens(1, 4), 3)
    assert model.training
    model(tokens(1, 5)).logits.sum().backward()
    assert model.lm_head.weight.grad is not None


@pytest.mark.parametrize(
    ("changes", "arguments", "named"),
    [
        ({}, {}, "model.mtp.depth=0"),
        ({"mtp.depth": 1}, {"new_tokens": 0}, "new_tokens=0"),
        ({"mtp.depth": 1}, {"prompts": [torch.tensor([3]), torch.tensor([])]}, r"lengths \[1, 0\]"),
        ({"mtp.depth": 1}, {"prompts": torch.tensor([[3, 61]])}, "model.vocab_size=61"),
        ({"mtp.depth": 1, "attention.kind": "mha"}, {"absorb": True}, "model.attention.kind=mha"),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    built: Built, tokens: Tokens, changes: dict[str, Any], arguments: dict[str, Any], named: str
) -> None:
    model = built(changes)
    with pytest.raises(ConfigError, match=named) as caught:
        self_speculative(model, **{"prompts": tokens(2, 4), "new_tokens": 3, **arguments})
    assert "\n" not in str(caught.value)
    if "mtp.depth" in changes:
        with pytest.raises(ConfigError, match=named):
            greedy(model, **{"prompts": tokens(2, 4), "new_tokens": 3, **arguments})


def test_a_full_cache_takes_no_further_token(built: Built, tokens: Tokens) -> None:
    model = built()
    cache = Cache(model, 2, 6)
    decode(model, tokens(2, 6), [0, 0], cache)
    for starts, width in (([6, 0], 1), ([4, 4], 3), ([0], 1), ([-1, 0], 1)):
        with pytest.raises(ValueError, match="2 rows of 6 positions"):
            decode(model, tokens(len(starts), width), starts, cache)


def test_a_cache_keeps_the_rope_it_was_made_for(built: Built, tokens: Tokens) -> None:
    """So a model that was switched needs a new one; here the old angles would be wrong from the second token on."""
    model, batch = built(), tokens(1, 6)
    old = Cache(model, 1, 6)
    model.set_rope(dataclasses.replace(model.config.rope, **dataclasses.asdict(RopeConfig(scaling="linear", factor=4))))
    with inferring(model):
        stale, _ = decode(model, batch, [0], old)
        fresh, _ = decode(model, batch, [0], Cache(model, 1, 6))
    assert largest(fresh, whole(model, batch)) < EXACT < 1e-3 < largest(stale, fresh)
