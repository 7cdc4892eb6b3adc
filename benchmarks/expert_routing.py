"""Trained routers for benchmarks/expert_traffic.py: the arms, their training, and what they choose on held-out text."""

import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ablations.config.trialkeys import TrialKeys
    from models.transformer import Transformer
    from tasks.prepared import Data

EXPERTS, TOP_K, NODES = 64, 8, 8
ARMS: dict[str, tuple[int, str]] = {
    "M1": (1, "bias"),
    "M2": (2, "bias"),
    "M4": (4, "bias"),
    "M8": (8, "bias"),
    "M8_unbalanced": (8, "none"),
}
"""Nodes that a token may use (of 8: no limit), and `model.moe.balance.kind`."""


@dataclass(frozen=True)
class Routed:
    """What a model's routers chose on one text."""

    loss: float
    """Nats per token."""
    experts_LNK: "Tensor"
    """Tokens sequence by sequence."""
    seq_len: int

    def home_gpu_N(self, gpus: int) -> "Tensor":
        """Sequences are dealt out to the GPUs in turn."""
        import torch

        return torch.arange(self.experts_LNK.shape[1]) // self.seq_len % gpus

    def load_LBE(self, tokens: int) -> "Tensor":
        """Assignments per layer, batch of `tokens` (a last one that is not full left out) and expert."""
        import torch

        layers, count, top_k = self.experts_LNK.shape
        whole = count // tokens
        batches = self.experts_LNK[:, : whole * tokens].reshape(layers * whole, tokens * top_k)
        return torch.stack([torch.bincount(batch, minlength=EXPERTS) for batch in batches]).view(layers, whole, EXPERTS)

    @property
    def load_LE(self) -> "Tensor":
        return self.load_LBE(self.experts_LNK.shape[1]).squeeze(1)


def arm_keys(arm: str, steps: int, quick: bool) -> "TrialKeys":
    """scale=cpu with 64 experts of half the width, 8 per token: as many active parameters. One microbatch, as no
    auxiliary loss depends on it. The bias moves by sign (V3 2.1.2), at the speed of sweeps/gating.yaml: V3's 0.001 is
    for far more steps."""
    from ablations.config.sweepfile import scale_config
    from ablations.config.trialkeys import with_overrides
    from ablations.config.trialrules import check
    from models.transformer import resolve_dtype

    limit, balance = ARMS[arm]
    base = scale_config("smoke" if quick else "cpu").trial
    changes = {
        "model.dtype": resolve_dtype(base.model.dtype, "cpu"),
        "model.moe.n_routed_experts": EXPERTS,
        "model.moe.top_k": TOP_K,
        "model.moe.moe_intermediate_size": base.model.moe.moe_intermediate_size // 2,
        "model.moe.n_group": NODES,
        "model.moe.topk_group": limit,
        "model.moe.balance.kind": balance,
        "model.moe.balance.update_speed": 0.01,
        "train.microbatches": 1,
        "train.tokens": steps * base.tokens_per_step,
    }
    return check(with_overrides(base, changes, f"arm {arm}"))


def trained(arm: str, keys: "TrialKeys", seed: int, data: "Data", folder: Path) -> tuple["Transformer", dict[str, Any]]:
    """The arm's model from `folder`, trained first unless it lies there with the same keys, seed and data; and what its
    config.json says. Other code does not train it again: config.json names the code that did."""
    from ablations.files import sha
    from ablations.trial.identity import code_hash
    from models.base.typed import ConfigError
    from models.checkpoint import load_checkpoint, save_checkpoint

    training = {group: asdict(getattr(keys, group)) for group in ("model", "data", "optim", "train")}
    wanted = sha({"training": training, "seed": seed, "data": data.fingerprint})
    try:
        model, extra = load_checkpoint(folder)
        if extra.get("training") == wanted:
            return model, extra
        print(f"{arm}: {folder} holds another training; it is replaced", file=sys.stderr, flush=True)
    except ConfigError as error:
        if folder.exists():
            print(f"{arm}: {error}; trained again", file=sys.stderr, flush=True)
    code = code_hash()
    started = time.monotonic()
    model = train(arm, keys, seed, data)
    extra = {
        "training": wanted,
        "code": code,
        "steps": keys.steps,
        "seed": seed,
        "train_s": round(time.monotonic() - started, 1),
    }
    save_checkpoint(folder, model, {**extra, "data": training["data"]})
    return model.eval(), extra


def train(arm: str, keys: "TrialKeys", seed: int, data: "Data") -> "Transformer":
    """A bare loop over a trial's executor, clipping, optimizer, schedule and balance update. Raises Diverged."""
    import torch

    from ablations.trial.fitting import build_model
    from models.module import Diverged
    from models.training.batch import Batch
    from models.training.executor import update_routers

    module = build_model(keys, seed)
    model, optimisers = module.transformer, module.configure_optimizers()
    optimizer, scheduler = optimisers["optimizer"], optimisers["lr_scheduler"]["scheduler"]
    recent, started = 0.0, time.monotonic()
    for step, (first, count) in enumerate(keys.batches):
        optimizer.zero_grad(set_to_none=True)
        tokens = Batch.of(data.train_sequences(seed, first, count)).tokens_BT1
        result = module.executor.step(tokens, module.progress(step))
        loss = float(result.losses["loss"])
        if not math.isfinite(loss):
            raise Diverged(step + 1, f"{arm}: loss is not finite")
        torch.nn.utils.clip_grad_norm_(model.parameters(), keys.optim.clip_norm)
        optimizer.step()
        scheduler.step()
        update_routers(model, result, module.progress(step))
        recent = loss if step == 0 else 0.95 * recent + 0.05 * loss
        if (step + 1) % 100 == 0 or step + 1 == keys.steps:
            left = (time.monotonic() - started) / (step + 1) * (keys.steps - step - 1)
            progress = f"{arm}: step {step + 1} of {keys.steps}, loss {recent:.3f}, {left / 60:.1f} minutes left"
            print(progress, file=sys.stderr, flush=True)
    return model


def route(model: "Transformer", data: "Data", split: str, tokens: int) -> Routed:
    """On windows spread evenly over the split; attention as in training."""
    import torch

    from models.layers import inferring
    from models.training.batch import Batch
    from models.training.loss import language_model_loss

    total, count = 0.0, 0
    chosen: list[Tensor] = []
    with inferring(model):
        for tokens_BT1, _ in map(Batch.of, data.evaluation_batches(split, tokens)):
            output, targets = model(tokens_BT1[:, :-1]), tokens_BT1[:, 1:]
            total += float(language_model_loss(output.logits, targets)) * targets.numel()
            count += targets.numel()
            chosen.append(torch.stack([routing.experts_NK for routing in output.routings]))
    return Routed(total / count, torch.cat(chosen, dim=1), data.seq_len)
