"""The keys of `grpo` and `distil`, and what a step of the former says."""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.base.bounds import Count, NotNegative, Positive, Share, Temperature
from models.base.typed import AtLeast, AtMost

OF_ANSWERS = (
    *("reward", "right", "formed", "ended", "answer_length", "without_signal", "kl", "entropy", "clipped"),
    *("drawn", "learned"),
)
"""What a step says of the answers that it learns from (models/post_training/policy.py): their mean reward, the shares
that are right, well formed and have ended, their tokens, the share of groups whose rewards are all the same; KL,
entropy and the share of tokens clipped, of the policy that learns; tokens written for this step, and tokens learned
from, questions too."""


@dataclass(frozen=True)
class GRPOConfig:
    """Reinforcement learning in place of the next token (models/post_training/grpo.py). As DeepSeekMath (2402.03300)
    4.1 and V3 5.2.2 have it, with the changes of Dr. GRPO (2503.20783) and DAPO (2503.14476)."""

    on: bool = False
    group: Annotated[int, AtLeast(2), AtMost(4096)] = 8
    """G, the answers drawn to each question (DeepSeekMath: 64). `data.batch_size` counts answers."""
    answer_tokens: Count = 64
    """Of an answer at most; one that has not ended by then earns nothing for its form."""
    temperature: Temperature = 1.0
    """That answers are drawn at."""
    updates: Annotated[int, AtLeast(1), AtMost(1024)] = 1
    """Optimizer steps for which answers are drawn at once. 1: the policy that draws is the one that is changed, and
    nothing is ever clipped (DeepSeekMath 4.2)."""
    clip_low: Share = 0.2
    clip_high: Positive = 0.2
    """DAPO's clip-higher: 0.28."""
    kl_weight: NotNegative = 0.04
    """beta; 0 has no reference model (DAPO, Dr. GRPO)."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    scale_by_sd: bool = True
    """Advantages in standard deviations of the group; off in Dr. GRPO."""
    average: Literal["answer", "token", "fixed"] = "answer"
    """What counts alike: answers (GRPO), tokens (DAPO), or tokens as if every answer had all (Dr. GRPO)."""
    entropy_weight: NotNegative = 0.0
    """Of a bonus for undecided tokens."""
    form_reward: NotNegative = 0.0
    """Reward of an answer that is well formed, beside 1 for a right one."""


@dataclass(frozen=True)
class DistilConfig:
    """Learning from a teacher, as V3 did from R1 (5.1, 5.4.1): from what it writes (sequence-level, 1606.07947), from
    its distribution over the next token (1503.02531), or from both."""

    answers: Literal["data", "teacher"] = "data"
    """Whose answers to the training's questions are learned from."""
    chosen: Literal["right", "finished"] = "right"
    """Which of the teacher's: those that the rule judges right (V3 5.1, rejection sampling), or all that have ended."""
    answer_temperature: Temperature = 1.0
    """That the teacher's answers are drawn at."""
    loss: Literal["tokens", "forward_kl", "reverse_kl"] = "tokens"
    """`tokens`: the cross entropy of what is written. `forward_kl`: KL(teacher || student) at each target, which covers
    all that the teacher might have written; `reverse_kl`: KL(student || teacher), which seeks its likeliest."""
    temperature: Temperature = 1.0
    """Of both distributions; the loss is multiplied by its square (1503.02531, 2)."""

    @property
    def on(self) -> bool:
        """Whether there is a teacher."""
        return self.answers == "teacher" or self.loss != "tokens"
