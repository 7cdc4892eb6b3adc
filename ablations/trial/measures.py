"""The metrics of a trained trial, on data that training did not see."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from models.balance import max_vio
from models.evaluation import evaluate, evaluate_mtp, mean_max_vio
from models.transformer import Transformer
from models.uniform import max_vio_floor
from tasks.batches import PackedData
from tasks.config import END_OF_TEXT_ID


def test_metrics(keys: TrialKeys, data: PackedData, model: Transformer) -> tuple[dict[str, float], list[list[float]]]:
    """Metrics and relative load (L, E) on `eval.split`."""
    device, document_end = keys.train.device, END_OF_TEXT_ID if keys.eval.mask_documents else None

    def batches() -> Iterator[Tensor]:
        return (batch.to(device) for batch in data.evaluation_batches(keys.eval.split, keys.eval.tokens))

    nbytes = sum(
        int(data.token_bytes[batch[:, 1:].numpy()].sum())
        for batch in data.evaluation_batches(keys.eval.split, keys.eval.tokens)
    )
    found = evaluate(model, batches(), document_end)
    moe, load = keys.model.moe, found.load_LE
    metrics = {
        "loss": found.loss,
        "bits_per_byte": found.loss * found.tokens / math.log(2) / max(1, nbytes),
    }
    if keys.eval.split == "test" and data.windows("by_file"):
        second = (batch.to(device) for batch in data.evaluation_batches("by_file", max(1, keys.eval.tokens // 4)))
        metrics["loss_by_file"] = evaluate(model, second, document_end).loss
    if len(load):
        metrics |= {
            "max_vio_global": mean_max_vio(load),
            **{f"max_vio_global_layer{i}": value for i, value in enumerate(max_vio(load).tolist(), start=1)},
            "max_vio_floor": max_vio_floor(found.tokens, moe.n_routed_experts, moe.top_k),
            "max_vio_max": moe.n_routed_experts / moe.top_k - 1,
            "routing_entropy": float(found.entropy_L.mean()),
        }
    if keys.model.mtp.depth:
        further = evaluate_mtp(model, batches(), document_end)
        metrics["mtp_tokens_per_forward"] = further.tokens_per_forward
        for k, (loss, accepted) in enumerate(zip(further.losses, further.acceptance, strict=True), start=1):
            metrics |= {f"mtp_loss_{k}": loss, f"mtp_acceptance_{k}": accepted}
    relative = load.double() / load.double().mean(dim=-1, keepdim=True).clamp_min(1e-12)
    return metrics, relative.tolist()


def precision_metrics(keys: TrialKeys, data: PackedData, model: Transformer) -> dict[str, float]:
    """What a named recipe does to the trained model, on one microbatch of held-out text; empty without one."""
    if keys.model.precision.recipe == "auto":
        return {}
    from models.precision.probe import probe

    rows = max(1, keys.data.batch_size // keys.microbatches)
    tokens = rows * keys.data.seq_len
    batch = next(iter(data.evaluation_batches(keys.eval.split, tokens, rows))).to(keys.train.device)
    found = probe(model, batch, keys.document_end)
    metrics = {"gradient_cosine": found.gradient_cosine, "saved_bytes_per_token": found.saved_bytes_per_token}
    if found.unpromoted_error is not None:
        metrics["unpromoted_error"] = found.unpromoted_error
    for role, seen in found.roles.items():
        metrics |= {
            f"rounding_error_{role}": seen.relative_error,
            f"underflow_{role}": seen.underflow,
            f"saturation_{role}": seen.saturation,
        }
    return metrics


def training_loss(keys: TrialKeys, data: PackedData, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The loss of the last fifth of the last stage's steps, by their tokens: on text that was new when it was scored,
    hence empty where the training has come to a second epoch."""
    if keys.sequences > data.epoch:
        return {}
    first = keys.steps - max(1, keys.steps // 5)
    weights = [count for _, count in keys.batches[first : keys.stop]]
    if not weights:
        return {}
    losses = [row["loss"] for row in rows[-len(weights) :]]
    return {"train_loss": math.fsum(w * x for w, x in zip(weights, losses, strict=True)) / math.fsum(weights)}


def batch_metrics(keys: TrialKeys, rows: list[dict[str, Any]]) -> dict[str, float]:
    """MaxVio of the training batch over the last tenth of the steps: mean over layers, each layer, and its floor."""
    if not keys.model_has_experts:
        return {}
    tail = rows[-max(1, keys.steps // 10) :]
    layers = zip(*(row["max_vio_layers"] for row in tail), strict=True)
    moe = keys.model.moe
    return {
        "max_vio_batch": math.fsum(row["max_vio"] for row in tail) / len(tail),
        "max_vio_batch_floor": max_vio_floor(keys.tokens_per_step, moe.n_routed_experts, moe.top_k),
        **{f"max_vio_batch_layer{i}": math.fsum(column) / len(tail) for i, column in enumerate(layers, start=1)},
    }
