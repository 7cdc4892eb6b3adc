"""The LightningModule: the only file of this folder that knows Lightning."""

import math
from collections import deque
from typing import Any

import lightning as L
import torch
from torch import Tensor

from models.balance import max_vio
from models.config import ModelConfig, OptimConfig
from models.executor import Executor, Microbatching, StepResult, language_model_loss
from models.layers import cast_once
from models.optim import adamw, lr_ratio
from models.transformer import Transformer, initialise

SPIKE_STEPS = 3
"""A loss this many steps in a row above the limit is a spike; single bad batches are not."""


class Diverged(Exception):
    """Training left the finite or sensible range. A result, not a crash: `step` says when."""

    def __init__(self, step: int, reason: str) -> None:
        super().__init__(f"{reason} at step {step}")
        self.step = step


class LanguageModel(L.LightningModule):
    """Trains a Transformer. Automatic optimisation is kept: forward and backward run in the executor, called from
    `backward`, so the Trainer's clipping and checkpoints work as they are."""

    def __init__(
        self,
        model: ModelConfig,
        optim: OptimConfig,
        total_steps: int,
        seed: int,
        microbatches: int = 1,
        perturb: float = 0.0,
        spike_nats: float = math.inf,
    ) -> None:
        super().__init__()
        self.transformer = Transformer(model)
        initialise(self.transformer, seed, model.std, perturb)
        self.executor: Executor = Microbatching(self.transformer, microbatches)
        self.optim, self.total_steps, self.spike_nats = optim, total_steps, spike_nats
        self.result: StepResult | None = None
        self._batch: Tensor | None = None
        self._recent: deque[float] = deque(maxlen=SPIKE_STEPS)
        self._lowest = math.inf

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The executor works in `backward`; Lightning only needs a scalar to hand over."""
        self._batch = batch
        return torch.zeros((), device=batch.device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        assert self._batch is not None
        self.result = self.executor.step(self._batch)
        self._check(float(self.result.losses["loss"]))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        assert self.result is not None
        for balance, load_E in zip(self.transformer.balances(), self.result.load_LE, strict=True):
            balance.update(load_E)

    def configure_optimizers(self) -> Any:
        optimizer = adamw(self.transformer, self.optim)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_ratio(step, self.total_steps, self.optim)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["spike_watch"] = {"recent": list(self._recent), "lowest": self._lowest}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        watch = checkpoint["spike_watch"]
        self._recent.extend(watch["recent"])
        self._lowest = watch["lowest"]

    def _check(self, loss: float) -> None:
        """Raise Diverged on a loss that is not finite, or a spike after the warmup."""
        step = self.global_step + 1
        if not math.isfinite(loss):
            raise Diverged(step, "loss is not finite")
        self._recent.append(loss)
        self._lowest = min(self._lowest, loss)
        past_warmup = step > self.optim.warmup_fraction * self.total_steps
        if past_warmup and len(self._recent) == SPIKE_STEPS and min(self._recent) > self._lowest + self.spike_nats:
            raise Diverged(
                step, f"loss {loss:.2f} is more than {self.spike_nats:g} nats above its minimum {self._lowest:.2f}"
            )


@torch.no_grad()
def evaluate(model: Transformer, batches: Any) -> tuple[float, int, Tensor, Tensor]:
    """Loss summed over tokens (nats, FP64), number of target tokens, load (L, E), and the sum over tokens of the
    router's entropy per MoE layer (L) in nats, on batches of (B, T + 1) tokens."""
    was_training = model.training
    model.eval()
    layers = len(model.balances())
    total, count = 0.0, 0
    load = torch.zeros(layers, model.config.moe.n_routed_experts, dtype=torch.int64)
    entropy = torch.zeros(layers, dtype=torch.float64)
    with cast_once(model):
        for tokens in batches:
            output = model(tokens[:, :-1])
            targets = tokens[:, 1:]
            total += float(language_model_loss(output.logits, targets)) * targets.numel()
            count += targets.numel()
            for layer, routing in enumerate(output.routings):
                load[layer] += routing.load_E.cpu()
                p = routing.scores_BTE / routing.scores_BTE.sum(dim=-1, keepdim=True)
                entropy[layer] += -(p * p.clamp_min(1e-20).log()).sum().cpu()
    model.train(was_training)
    return total, count, load, entropy


def mean_max_vio(load_LE: Tensor) -> float:
    """MaxVio averaged over layers; 0 for a model without MoE layers."""
    return float(max_vio(load_LE).mean()) if len(load_LE) else 0.0
