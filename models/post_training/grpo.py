"""Group-relative policy optimisation (DeepSeekMath 2402.03300 4.1; DeepSeek-V3 5.2.2), and what others changed of it.

Letters: Q questions, G answers of each, B = Q * G answers, T their targets. For each question G answers are drawn from
the policy, and an answer is as good as its reward is above the others':

    A_i = (r_i - mean(r)) / sd(r)
    J = mean over answers of the mean over their tokens of  min(ratio A, clip(ratio, 1 - low, 1 + high) A) - beta KL

with ratio = policy / policy that drew the answer. `GRPOConfig` names every change of it and where it comes from.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.post_training.config import GRPOConfig

SMALL = 1e-4
"""Added to a group's standard deviation, as trl and verl do."""


def advantages(rewards_QG: Tensor, by_sd: bool) -> Tensor:
    """(Q, G): above the group's mean, in its standard deviations (over G - 1) or in units of reward (Dr. GRPO,
    2503.20783, which is fair to questions that are nearly solved or nearly hopeless)."""
    centred = rewards_QG - rewards_QG.mean(dim=1, keepdim=True)
    found = centred / (rewards_QG.std(dim=1, keepdim=True) + SMALL) if by_sd else centred
    return found.masked_fill(_alike(rewards_QG), 0.0)  # a mean rounds, and Adam makes a step of what that leaves


def without_signal(rewards_QG: Tensor) -> Tensor:
    """() share of questions all of whose answers have the same reward: nothing is learned from them."""
    return _alike(rewards_QG).float().mean()


def _alike(rewards_QG: Tensor) -> Tensor:
    """(Q, 1)"""
    return (rewards_QG == rewards_QG[:, :1]).all(dim=1, keepdim=True)


def token_weights(mask_BT: Tensor, average: str, most: int) -> Tensor:
    """(B, T): what each token of the whole batch counts. `answer`: answers alike, a long one's tokens less each (GRPO);
    `token`: all tokens alike (DAPO, 2503.14476); `fixed`: all tokens alike, and as if every answer had `most` of them
    (Dr. GRPO)."""
    mask = mask_BT.float()
    if average == "answer":
        return mask / mask.sum(dim=1, keepdim=True).clamp_min(1) / len(mask)
    if average == "token":
        return mask / mask.sum().clamp_min(1)
    return mask / (len(mask) * most)


def log_ratio_divergence(log_BT: Tensor, reference_BT: Tensor, estimator: str) -> Tensor:
    """(B, T): a sample's estimate of KL(policy || reference) (Schulman, "Approximating KL divergence"). `k3`, as in
    GRPO, is unbiased and never negative; `k2` is biased, and its gradient is that of the KL; `k1` is unbiased, and its
    gradient is 0 in the mean: in a loss it does nothing but add noise."""
    difference = reference_BT - log_BT
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    return torch.exp(difference) - difference - 1


class Terms(NamedTuple):
    """What some of a batch's answers add to its sums; over all of them, these are the batch's own. Scalars."""

    loss: Tensor
    """Minus the objective, with the KL to the reference model and the entropy in it."""
    kl: Tensor
    """To the reference model, in nats a token; 0 without one."""
    entropy: Tensor
    """In nats a token."""
    clipped: Tensor
    """Share of tokens whose gain the clipping holds."""


def grpo_terms(
    logits_BTV: Tensor,
    targets_BT: Tensor,
    advantages_B: Tensor,
    weights_BT: Tensor,
    shares_BT: Tensor,
    config: GRPOConfig,
    drawn_BT: Tensor | None = None,
    reference_BT: Tensor | None = None,
) -> Terms:
    """`weights_BT`, `shares_BT`: of `token_weights` of the whole batch, as the objective averages, and by tokens.
    `drawn_BT`: log probabilities under the policy that drew the answers; None where it is this one. `reference_BT`:
    under the reference model."""
    logs_BTV = torch.log_softmax(logits_BTV.float() / config.temperature, dim=-1)
    log_BT = logs_BTV.gather(2, targets_BT.unsqueeze(2)).squeeze(2)
    gain_BT, held_BT = clipped_gain(log_BT, log_BT.detach() if drawn_BT is None else drawn_BT, advantages_B, config)
    entropy = (-(logs_BTV.exp() * logs_BTV).sum(dim=-1) * shares_BT).sum()
    loss, kl = -(gain_BT * weights_BT).sum(), torch.zeros_like(entropy)
    if reference_BT is not None:
        kl_BT = log_ratio_divergence(log_BT, reference_BT, config.kl_estimator)
        loss = loss + config.kl_weight * (kl_BT * weights_BT).sum()
        kl = (kl_BT.detach() * shares_BT).sum()
    if config.entropy_weight:
        loss = loss - config.entropy_weight * entropy
    return Terms(loss, kl, entropy.detach(), (held_BT * shares_BT).sum())


def clipped_gain(log_BT: Tensor, drawn_BT: Tensor, advantages_B: Tensor, config: GRPOConfig) -> tuple[Tensor, Tensor]:
    """min(ratio A, clip(ratio) A), and where the second one is the smaller (PPO's clipping, 1707.06347 eq. 7). A higher
    upper bound (DAPO's clip-higher) lets unlikely tokens grow."""
    ratio_BT, gain_B1 = torch.exp(log_BT - drawn_BT), advantages_B.unsqueeze(1)
    free_BT = ratio_BT * gain_B1
    bounded_BT = ratio_BT.clamp(1 - config.clip_low, 1 + config.clip_high) * gain_B1
    return torch.minimum(free_BT, bounded_BT), (bounded_BT < free_BT).float()


def token_logs(logits_BTV: Tensor, targets_BT: Tensor, temperature: float) -> Tensor:
    """(B, T) log probabilities of the targets, in FP32."""
    return -F.cross_entropy((logits_BTV.float() / temperature).transpose(1, 2), targets_BT, reduction="none")
