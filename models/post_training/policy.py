"""A model that learns from its own answers: one optimizer step of reinforcement learning behind the execution seam.

Of questions and what an answer earns it knows what `models.training.batch.Questions` says, and nothing else.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.config import ModelConfig
from models.decoding.sampling import NotFinite, draw
from models.layers import cast_once, inferring
from models.module import Course, Diverged, LanguageModel
from models.post_training.config import GRPOConfig
from models.post_training.grpo import Terms, advantages, grpo_terms, token_logs, token_weights, without_signal
from models.training.batch import Questions
from models.training.config import OptimConfig
from models.training.executor import StepResult, all_ranks, aux_loss
from models.transformer import Transformer

ROWS = 128
"""Answers read at once where nothing is learned from them."""


class Rollout(NamedTuple):
    """Answers drawn from one policy, those to one question one behind the other: B of them, each behind its question
    and filled up with the ending token."""

    tokens_BT1: Tensor
    mask_BT: Tensor
    """The targets that are an answer's tokens."""
    advantages_B: Tensor
    drawn_BT: Tensor | None
    """Log probabilities of the targets under that policy; None where it is the only one that learns from them."""
    reference_BT: Tensor | None
    """Under the reference model, where there is one."""
    tokens_B: Tensor
    """How many tokens question and answer have."""

    def to(self, device: torch.device) -> "Rollout":
        return Rollout(*(None if column is None else column.to(device) for column in self))  # type: ignore[arg-type]

    def parts(self, count: int) -> "list[Rollout]":
        """Equal ones, in order."""
        columns = [[None] * count if column is None else column.chunk(count) for column in self]
        return [Rollout(*part) for part in zip(*columns, strict=True)]


class PolicyGradient:
    """Draws answers every `updates` steps, and takes a step on a part of them (GRPO).

    Padding passes through the routers too, and is counted in their load; MTP modules rest.
    """

    def __init__(
        self,
        model: Transformer,
        reference: Transformer | None,
        config: GRPOConfig,
        microbatches: int,
        end: int,
        seed: int,
    ) -> None:
        """`end`: the token that ends an answer. `seed`: of the draws, with the step's number."""
        self.model, self.reference, self.config, self.microbatches = model, reference, config, microbatches
        self.end, self.seed = end, seed
        self.rollout: Rollout | None = None
        self.measures: dict[str, float] = {}
        """Of the answers that were drawn last."""

    def step(self, questions: Questions, number: int) -> StepResult:
        """Step `number` (from 0) of the training; `questions`: of all steps that learn from the same draw. Raises
        NotFinite where the policy is none any more."""
        within = number % self.config.updates
        if within == 0:
            self.rollout, self.measures = self._drawn(questions, number)
        assert self.rollout is not None
        self.rollout = self.rollout.to(self.model.lm_head.weight.device)  # a checkpoint's is on the CPU
        part = self.rollout.parts(self.config.updates)[within]
        weights_BT = token_weights(part.mask_BT, self.config.average, self.config.answer_tokens)
        shares_BT = token_weights(part.mask_BT, "token", 0)
        routers = self.model.main_routers()
        load_LE = torch.zeros(len(self.model.routers()), self.model.config.moe.n_routed_experts, dtype=torch.int64)
        last_LE = load_LE = load_LE.to(weights_BT.device)
        sums, balance = torch.zeros(len(Terms._fields), device=weights_BT.device), torch.zeros((), dtype=torch.float64)
        with cast_once(self.model):
            for micro, weights, shares in zip(
                part.parts(self.microbatches),
                weights_BT.chunk(self.microbatches),
                shares_BT.chunk(self.microbatches),
                strict=True,
            ):
                output = self.model(micro.tokens_BT1[:, :-1])
                terms = grpo_terms(
                    output.logits,
                    micro.tokens_BT1[:, 1:],
                    micro.advantages_B,
                    weights,
                    shares,
                    self.config,
                    micro.drawn_BT,
                    micro.reference_BT,
                )
                further = aux_loss(routers, output.routings)
                loss = terms.loss if further is None else terms.loss + further / self.microbatches
                loss.backward()
                sums += torch.stack([term.detach() for term in terms])
                if further is not None:
                    balance += further.detach().cpu() / self.microbatches
                if routers:
                    last_LE = torch.zeros_like(load_LE)
                    last_LE[: len(routers)] = torch.stack([routing.load_E for routing in output.routings])
                    load_LE = load_LE + last_LE
        found = Terms(*sums.double())
        own = {name: float(getattr(found, name)) for name in ("kl", "entropy", "clipped")}
        own |= {
            "drawn": float(self.rollout.mask_BT.sum()) if within == 0 else 0.0,
            "learned": float(part.tokens_B.sum()),
        }
        losses = {"loss": found.loss, "aux_loss": balance}
        return StepResult(losses, all_ranks(load_LE), last_LE, self.measures | own)

    def clip(self, parameters: Any, limit: float) -> Tensor:
        return torch.nn.utils.clip_grad_norm_(parameters, limit)

    def _drawn(self, questions: Questions, number: int) -> tuple[Rollout, dict[str, float]]:
        config, device = self.config, self.model.lm_head.weight.device
        generator = torch.Generator(device).manual_seed((self.seed << 32) + number)
        answers = draw(
            self.model,
            questions.prompts,
            config.answer_tokens,
            self.end,
            generator,
            config.group,
            config.temperature,
        )
        lengths = answers.lengths_B.tolist()
        prompts = [prompt for prompt in questions.prompts for _ in range(config.group)]
        rows = [torch.cat([p, a[:n]]) for p, a, n in zip(prompts, answers.tokens_BN, lengths, strict=True)]
        tokens_BT1 = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.end)
        first_B1 = torch.tensor([len(prompt) - 1 for prompt in prompts], device=device).unsqueeze(1)
        places_T = torch.arange(tokens_BT1.shape[1] - 1, device=device)
        mask_BT = (places_T >= first_B1) & (places_T < first_B1 + answers.lengths_B.unsqueeze(1))
        earned = [
            questions.judge(i // config.group, a[: n - int(e)])
            for i, (a, n, e) in enumerate(zip(answers.tokens_BN, lengths, answers.ended_B.tolist(), strict=True))
        ]
        ended_B = answers.ended_B.float()
        right_B = torch.tensor([reward.right for reward in earned], device=device) * ended_B
        formed_B = torch.tensor([reward.formed for reward in earned], device=device) * ended_B
        rewards_QG = (right_B + config.form_reward * formed_B).view(-1, config.group)
        rollout = Rollout(
            tokens_BT1,
            mask_BT,
            advantages(rewards_QG, config.scale_by_sd).flatten(),
            self._logs(self.model, tokens_BT1) if config.updates > 1 else None,
            None if self.reference is None else self._logs(self.reference, tokens_BT1),
            torch.tensor([len(row) for row in rows], device=device),
        )
        return rollout, {
            "reward": float(rewards_QG.mean()),
            "right": float(right_B.mean()),
            "formed": float(formed_B.mean()),
            "ended": float(ended_B.mean()),
            "answer_length": float(answers.lengths_B.float().mean()),
            "without_signal": float(without_signal(rewards_QG)),
        }

    def _logs(self, model: Transformer, tokens_BT1: Tensor) -> Tensor:
        """(B, T) of the targets, read as they are learned from."""

        def parts() -> Iterator[Tensor]:
            for tokens in tokens_BT1.split(ROWS):
                yield token_logs(model(tokens[:, :-1]).logits, tokens[:, 1:], self.config.temperature)

        with inferring(model):
            return torch.cat(list(parts()))


class Policy(LanguageModel):
    """Trains a Transformer on its own answers. The reference model is what it began as."""

    def __init__(
        self, model: ModelConfig, optim: OptimConfig, course: Course, seed: int, config: GRPOConfig, end: int
    ) -> None:
        super().__init__(model, optim, course, seed)
        self.reference = Transformer(model).requires_grad_(False) if config.kl_weight else None
        self.answering = PolicyGradient(self.transformer, self.reference, config, course.microbatches, end, seed)
        self._questions: Questions | None = None
        self._refer()

    def begin(self, weights: dict[str, Tensor]) -> None:
        super().begin(weights)
        self._refer()

    def _refer(self) -> None:
        if self.reference is not None:
            self.reference.load_state_dict(self.transformer.state_dict())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        assert isinstance(batch, Questions)
        self._questions = batch
        return torch.zeros((), device=self.device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        assert self._questions is not None
        try:
            self.result = self.answering.step(self._questions, self.global_step)
        except NotFinite as error:
            raise Diverged(self.global_step + 1, str(error)) from None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        rollout = self.answering.rollout
        checkpoint["rollout"] = None if rollout is None else rollout._asdict()
        checkpoint["measures"] = self.answering.measures

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        rollout = checkpoint["rollout"]
        self.answering.rollout = None if rollout is None else Rollout(**rollout)
        self.answering.measures = checkpoint["measures"]
