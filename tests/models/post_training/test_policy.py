"""Answers drawn from a model, and a model that learns from its own."""

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import models.decoding.sampling
from models.base.typed import ConfigError
from models.config import AttentionConfig, ModelConfig, MoEConfig
from models.decoding.generate import greedy
from models.decoding.sampling import NotFinite, draw
from models.module import Course, Diverged
from models.post_training.config import GRPOConfig
from models.post_training.policy import Policy
from models.training.batch import Questions, Reward
from models.training.config import OptimConfig
from models.transformer import Transformer, initialise

END, WORDS = 0, 12
DENSE = ModelConfig(
    vocab_size=WORDS,
    d_model=32,
    n_layers=2,
    feed_forward="dense",
    intermediate_size=64,
    dtype="float32",
    attention=AttentionConfig(kind="mha", n_heads=2, head_dim=16),
)
MLA_MOE = ModelConfig(
    vocab_size=WORDS,
    d_model=32,
    n_layers=2,
    intermediate_size=64,
    dtype="float32",
    attention=AttentionConfig(n_heads=2, kv_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8),
    moe=MoEConfig(n_routed_experts=4, top_k=2, moe_intermediate_size=32),
)
PROMPTS = [torch.tensor([3, 4, 5]), torch.tensor([6]), torch.tensor([7, 8, 9, 10, 11])]


def model_of(config: ModelConfig, seed: int = 0) -> Transformer:
    """Its next tokens are far from even."""
    model = Transformer(config)
    initialise(model, seed, 0.3)
    return model


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("config", [DENSE, MLA_MOE], ids=["dense", "mla_moe"])
def test_a_first_token_comes_as_often_as_the_model_says(config: ModelConfig) -> None:
    model = model_of(config)
    found = draw(model, PROMPTS, 1, END, dice(), copies=4000, temperature=1.7).tokens_BN.view(3, 4000)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        shares = torch.softmax(model(prompt.unsqueeze(0)).logits[0, -1] / 1.7, dim=-1).detach()
        counted = torch.bincount(tokens, minlength=WORDS) / 4000
        assert float((counted - shares).abs().max()) < 4 * 0.5 / 4000**0.5
        assert float(shares.max()) > 0.15, "a flat model would prove little"


@pytest.mark.parametrize("config", [DENSE, MLA_MOE], ids=["dense", "mla_moe"])
def test_later_tokens_follow_their_own_rows(config: ModelConfig) -> None:
    """Every drawn token's probability under a plain forward pass is what it was drawn with, in the mean: the likelihood
    of the draws is the entropy's, which a cache that mixes up rows would not give."""
    model = model_of(config)
    found = draw(model, PROMPTS, 4, WORDS + 1, dice(1), copies=500)  # no token ends an answer
    assert not found.ended_B.any() and (found.lengths_B == 4).all()
    gaps = []
    for i, prompt in enumerate(PROMPTS):
        answers = found.tokens_BN[500 * i : 500 * (i + 1)]
        rows = torch.cat([prompt.expand(500, -1), answers], dim=1)
        logs = torch.log_softmax(model(rows[:, :-1]).logits[:, len(prompt) - 1 :], dim=-1).detach()
        drawn = logs.gather(2, answers.unsqueeze(2)).squeeze(2)
        entropy = -(logs.exp() * logs).sum(dim=-1)
        gaps.append((drawn + entropy).mean(dim=0))
    assert float(torch.stack(gaps).abs().max()) < 0.15


def test_the_coldest_draws_are_greedy_and_rows_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(DENSE, 3)
    wanted = greedy(model, PROMPTS, 24)
    end = int(wanted[0, 9])  # a token that ends one answer before the others
    assert Counter(wanted.flatten().tolist())[end] < 60
    found = []
    for every in (1, 1000):
        monkeypatch.setattr(models.decoding.sampling, "FEWER_EVERY", every)
        found.append(draw(model, PROMPTS, 24, end, dice(), copies=2, temperature=1e-5))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    for i, row in enumerate(wanted.tolist()):
        length = row.index(end) + 1 if end in row else 24
        for copy in (2 * i, 2 * i + 1):
            assert int(found[0].lengths_B[copy]) == length and bool(found[0].ended_B[copy]) == (end in row)
            assert found[0].tokens_BN[copy].tolist() == row[:length] + [end] * (24 - length)
    assert len(set(found[0].lengths_B.tolist())) > 1, "answers of one length prove nothing about leaving"


def test_what_cannot_be_drawn_is_said() -> None:
    model = model_of(DENSE)
    with pytest.raises(ConfigError, match="temperature=0"):
        draw(model, PROMPTS, 2, END, dice(), temperature=0)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite, match="not finite"):
        draw(model, PROMPTS, 2, END, dice())


def begins_with(word: int) -> Any:
    def judge(question: int, answer: Tensor) -> Reward:
        return Reward(
            float(len(answer) > 0 and int(answer[0]) == word), float(len(answer) > 0 and int(answer[-1]) == 2)
        )

    return judge


def policy_of(config: GRPOConfig, model: ModelConfig = DENSE, microbatches: int = 1, lr: float = 3e-3) -> Policy:
    return Policy(model, OptimConfig(lr=lr), Course(100, microbatches), 0, config, END)


def trained(policy: Policy, questions: Questions, steps: int) -> list[dict[str, float]]:
    optimizer = torch.optim.AdamW(policy.transformer.parameters(), lr=policy.optim.lr)
    found = []
    for step in range(steps):
        found.append(policy.answering.step(questions, step).measures)
        optimizer.step()
        optimizer.zero_grad()
    return found


@pytest.mark.parametrize("model", [DENSE, MLA_MOE], ids=["dense", "mla_moe"])
def test_a_task_of_one_token_is_learned(model: ModelConfig) -> None:
    config = GRPOConfig(on=True, answer_tokens=3, kl_weight=0.001)
    found = trained(policy_of(config, model), Questions(PROMPTS * 3, begins_with(2)), 60)
    assert found[0]["right"] < 0.3 and sum(m["right"] for m in found[-5:]) / 5 > 0.9
    assert found[0]["kl"] == 0 and found[-1]["kl"] > 0.3 and found[-1]["entropy"] < found[0]["entropy"]
    assert found[-1]["without_signal"] > found[0]["without_signal"]


def test_the_form_is_rewarded_where_it_is_asked_for() -> None:
    config = GRPOConfig(on=True, answer_tokens=5, kl_weight=0.0, form_reward=1.0)
    found = trained(policy_of(config), Questions(PROMPTS * 3, begins_with(WORDS + 1)), 60)
    assert found[0]["formed"] < 0.4 < 0.9 < found[-1]["formed"] and found[-1]["right"] == 0


@pytest.mark.parametrize("model", [DENSE, MLA_MOE], ids=["dense", "mla_moe"])
def test_a_rollout_counts_the_answers_and_nothing_else(model: ModelConfig) -> None:
    config = GRPOConfig(on=True, group=4, answer_tokens=6, updates=2)
    policy = policy_of(config, model)
    seen = []

    def judge(question: int, answer: Tensor) -> Reward:
        seen.append((question, answer.tolist()))
        return Reward(1.0, 1.0)

    policy.answering.step(Questions(PROMPTS[:2], judge), 0)
    rollout = policy.answering.rollout
    assert rollout is not None and rollout.drawn_BT is not None and rollout.reference_BT is not None
    assert [question for question, _ in seen] == [0] * 4 + [1] * 4
    for row, mask, (question, answer) in zip(rollout.tokens_BT1, rollout.mask_BT, seen, strict=True):
        prompt = PROMPTS[question].tolist()
        read = [*prompt, *answer] + [END] * (len(answer) < 6)
        assert row.tolist() == read + [END] * (len(row) - len(read))
        assert mask.nonzero().flatten().tolist() == list(range(len(prompt) - 1, len(read) - 1))
    logits = policy.transformer(rollout.tokens_BT1[:, :-1]).logits
    log = -F.cross_entropy(logits.transpose(1, 2), rollout.tokens_BT1[:, 1:], reduction="none")
    torch.testing.assert_close(rollout.drawn_BT, log.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rollout.drawn_BT, rollout.reference_BT)


def test_answers_are_drawn_anew_only_when_all_were_learned_from() -> None:
    config = GRPOConfig(on=True, group=4, answer_tokens=4, updates=3, kl_weight=0.0)
    policy = policy_of(config)
    questions = Questions([PROMPTS[i % 3] for i in range(6)], begins_with(2))
    drawn = []
    for step in range(6):
        policy.answering.step(questions, step)
        assert policy.answering.rollout is not None
        drawn.append(policy.answering.rollout.tokens_BT1)
    assert drawn[0] is drawn[2] and drawn[2] is not drawn[3] and drawn[3] is drawn[5]
    assert [len(part.tokens_BT1) for part in policy.answering.rollout.parts(3)] == [8, 8, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize("average", ["answer", "token", "fixed"])
def test_microbatches_are_one_batch(average: Any) -> None:
    found = []
    for count in (1, 4):
        config = GRPOConfig(on=True, group=8, answer_tokens=5, average=average, entropy_weight=0.01)
        policy = policy_of(config, microbatches=count)
        result = policy.answering.step(Questions(PROMPTS[:1], begins_with(2)), 0)
        found.append((result.losses["loss"], [p.grad for p in policy.transformer.parameters()]))
    for one, many in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-7)
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), abs=1e-6)


def test_the_reference_is_what_the_policy_began_as_and_stays_so() -> None:
    config = GRPOConfig(on=True, answer_tokens=3)
    policy, start = policy_of(config), model_of(DENSE, 5).state_dict()
    policy.begin(start)
    trained(policy, Questions(PROMPTS, begins_with(2)), 3)
    assert policy.reference is not None
    for name, value in policy.reference.state_dict().items():
        assert torch.equal(value, start[name])
    assert any(not torch.equal(v, start[n]) for n, v in policy.transformer.state_dict().items())
    assert policy_of(GRPOConfig(on=True, kl_weight=0.0)).reference is None
    assert not any(p.requires_grad for p in policy.reference.parameters())


def test_a_policy_that_is_no_number_has_diverged_at_its_step() -> None:
    policy = policy_of(GRPOConfig(on=True, answer_tokens=3))
    with torch.no_grad():
        policy.transformer.lm_head.weight.fill_(float("inf"))
    policy.training_step(Questions(PROMPTS, begins_with(2)), 0)
    with pytest.raises(Diverged, match="logits are not finite at step 1"):
        policy.backward(torch.zeros(()))
