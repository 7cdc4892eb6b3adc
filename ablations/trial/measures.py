"""The metrics of a trained trial, on data that training did not see."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ablations.config.trialkeys import TrialKeys
from models.balance import max_vio
from models.measure.evaluation import Answers, evaluate, evaluate_answers, evaluate_mtp, mean_max_vio
from models.measure.uniform import max_vio_floor
from models.training.batch import Batch
from models.transformer import Transformer
from tasks.config import END_OF_TEXT_ID
from tasks.drawn import Asked, Items
from tasks.evals.problems import GREEDY, SAMPLED, SAMPLES
from tasks.prepared import Data, items_of
from tasks.skills.mixed import MixedData


def test_metrics(keys: TrialKeys, data: Data, model: Transformer) -> tuple[dict[str, float], list[list[float]]]:
    """Metrics and relative load (L, E) on `eval.split`."""
    device, document_end = keys.train.device, END_OF_TEXT_ID if keys.eval.mask_documents else None

    def batches() -> Iterator[Batch]:
        found = data.evaluation_batches(keys.eval.split, keys.eval.tokens)
        return (Batch.of(batch).to(device) for batch in found)

    nbytes = sum(
        int(data.token_bytes[counted(Batch.of(batch)).numpy()].sum())
        for batch in data.evaluation_batches(keys.eval.split, keys.eval.tokens)
    )
    found = evaluate(model, batches(), document_end)
    moe, load = keys.model.moe, found.load_LE
    metrics = {
        "loss": found.loss,
        "bits_per_byte": found.loss * found.tokens / math.log(2) / max(1, nbytes),
    }
    if keys.eval.split == "test" and data.windows("by_file"):
        second = data.evaluation_batches("by_file", max(1, keys.eval.tokens // 4))
        metrics["loss_by_file"] = evaluate(model, (Batch.of(b).to(device) for b in second), document_end).loss
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
    metrics |= mixed_answers(keys, data, model)
    answered = answers_of(data, model, keys.eval.split, keys.eval.tokens, device)
    if answered is not None:
        assert data.skill is not None
        metrics["item_accuracy"] = answered.whole
        metrics |= {f"right_ahead_{k}": share for k, share in enumerate(answered.ahead, start=1)}
        metrics |= {"answer_chance": data.skill.chance, "answer_ceiling": data.skill.ceiling}
        for name, values in (("answer_nats", answered.nats), ("answer_accuracy", answered.right)):
            metrics |= {name if level is None else f"{name}_level{level}": value for level, value in values.items()}
    relative = load.double() / load.double().mean(dim=-1, keepdim=True).clamp_min(1e-12)
    return metrics, relative.tolist()


def counted(batch: Batch) -> Tensor:
    """The targets that count, in a row."""
    targets = batch.tokens_BT1[:, 1:]
    return targets.flatten() if batch.mask_BT is None else targets[batch.mask_BT]


def answers_of(data: Data, model: Transformer, split: str, tokens: int, device: str) -> Answers | None:
    """On about as many tokens of a skill's split; None for text, which asks nothing."""
    if data.skill is None:
        return None
    return _answered(model, items_of(data, split, tokens), device)


def mixed_answers(keys: TrialKeys, data: Data, model: Transformer) -> dict[str, float]:
    """Of each skill that was learned among text, on a quarter of `eval.tokens` for all; empty without one."""
    if not isinstance(data, MixedData):
        return {}
    found, tokens = dict[str, float](), max(1, keys.eval.tokens // 4 // len(data.skills))
    for skill in data.skills:
        answers = _answered(model, data.skill_items(skill, keys.eval.split, tokens), keys.train.device)
        found |= {
            f"item_accuracy_{skill}": answers.whole,
            f"answer_nats_{skill}": answers.nats[None],
            f"answer_accuracy_{skill}": answers.right[None],
        }
    return found


def _answered(model: Transformer, found: Iterator[Items], device: str) -> Answers:
    return evaluate_answers(
        model,
        (
            (
                Batch(torch.from_numpy(items.tokens_NT1), torch.from_numpy(items.answers_NT)).to(device),
                torch.from_numpy(items.levels_N).to(device),
            )
            for items in found
        ),
    )


def answer_metrics(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Of a problem's answers, as lm-eval has scored them; empty where it was not asked to."""
    greedy, samples = (scores.get(task, {}) for task in (GREEDY, SAMPLES))
    metrics = {"greedy_right": greedy["exact_match"]} if greedy else {}
    return metrics | {name: samples[name] for name in SAMPLED if name in samples}


def until_half(skill: Asked | None, validation: dict[str, list[float]]) -> dict[str, float]:
    """The tokens after which half of the way from chance to the ceiling was done, between two validations by a straight
    line; where it never was, all tokens (the value is censored), and `reached_half` is 0. Empty for text."""
    if skill is None:
        return {}
    tokens, right, half = validation["tokens"], validation["answer_accuracy"], (skill.chance + skill.ceiling) / 2
    before, share = 0.0, skill.chance
    for now, value in zip(tokens, right, strict=True):
        if value >= half:
            place = before + (now - before) * (half - share) / (value - share)
            return {"tokens_to_half": place, "reached_half": 1.0}
        before, share = now, value
    return {"tokens_to_half": tokens[-1], "reached_half": 0.0}


def precision_metrics(keys: TrialKeys, data: Data, model: Transformer) -> dict[str, float]:
    """What a named recipe does to the trained model, on one microbatch of held-out text; empty without one."""
    if keys.model.precision.recipe == "auto":
        return {}
    from models.precision.probe import probe

    rows = max(1, keys.data.batch_size // keys.microbatches)
    tokens = rows * keys.data.seq_len
    batch = Batch.of(next(iter(data.evaluation_batches(keys.eval.split, tokens, rows)))).tokens_BT1
    batch = batch.to(keys.train.device)
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


def training_loss(keys: TrialKeys, data: Data, rows: list[dict[str, Any]]) -> dict[str, float]:
    """The loss of the last fifth of the last stage's steps, by their tokens: on text that was new when it was scored,
    hence empty where the training has come to a second epoch, had cut its text otherwise before, learned from
    rewards, or from skills beside text, or where a stage before it may have read the same."""
    if (
        keys.grpo.on
        or keys.data.skills
        or keys.sequences > data.epoch
        or any(stage.until == 1 or stage.data.seq_len != keys.data.seq_len for stage in keys.before)
    ):
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
    learned = [row["learned"] for row in tail if "learned" in row]  # of rewards: how many there were
    tokens = round(math.fsum(learned) / len(learned)) if learned else keys.tokens_per_step
    return {
        "max_vio_batch": math.fsum(row["max_vio"] for row in tail) / len(tail),
        "max_vio_batch_floor": max_vio_floor(tokens, moe.n_routed_experts, moe.top_k),
        **{f"max_vio_batch_layer{i}": math.fsum(column) / len(tail) for i, column in enumerate(layers, start=1)},
    }
