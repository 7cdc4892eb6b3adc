"""Learning from a teacher's distribution over the next token (Hinton 1503.02531): a step behind the execution seam.

The teacher reads the same sequences, in the same microbatches, as evaluation does: nothing of it is learned.
"""

import torch
from torch import Tensor

from models.layers import inferring
from models.post_training.config import DistilConfig
from models.training.executor import Microbatching, StepResult, Targets
from models.transformer import Output, Transformer


def divergence(logits_BTV: Tensor, teacher_BTV: Tensor, config: DistilConfig) -> Tensor:
    """(B, T) nats between student and teacher, at `temperature`, times its square, so that gradients keep their size
    (1503.02531, 2). `forward_kl`: KL(teacher || student); `reverse_kl`: KL(student || teacher)."""
    student, teacher = (
        torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / config.temperature, dim=-1)
        for logits in (logits_BTV, teacher_BTV)
    )
    of, other = (teacher, student) if config.loss == "forward_kl" else (student, teacher)
    return config.temperature**2 * (of.exp() * (of - other)).sum(dim=-1)


class Distilling(Microbatching):
    """What is learned is the distance to the teacher; the cross entropy of the text is still told as `loss`, and MTP
    modules learn from the text as ever."""

    learned = ("distil_loss", "aux_loss", "mtp_loss")

    def __init__(
        self,
        model: Transformer,
        teacher: Transformer,
        config: DistilConfig,
        microbatches: int,
        document_end: int | None = None,
    ) -> None:
        """Raises ValueError for a teacher of another vocabulary."""
        super().__init__(model, microbatches, document_end)
        if teacher.config.vocab_size != model.config.vocab_size:
            raise ValueError(
                f"a teacher of {teacher.config.vocab_size} tokens, and a student of {model.config.vocab_size}"
            )
        self.teacher, self.config = teacher.requires_grad_(False), config

    def step(self, tokens_BT1: Tensor, progress: float = 0.0, mask_BT: Tensor | None = None) -> StepResult:
        result = super().step(tokens_BT1, progress, mask_BT)
        result.measures["distil_loss"] = float(result.losses["distil_loss"])
        return result

    def terms(self, tokens_BT: Tensor, output: Output, target: Targets, progress: float) -> dict[str, Tensor | None]:
        self.teacher.to(tokens_BT.device)
        with inferring(self.teacher):
            teacher_BTV = self.teacher(tokens_BT, document_end=self.document_end).logits
        own = {"distil_loss": target.mean(divergence(output.logits, teacher_BTV, self.config))}
        return super().terms(tokens_BT, output, target, progress) | own
