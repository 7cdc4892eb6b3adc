"""What arms are compared by, before there is anything to compare: all are scored on the same, and no two are one."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ablations.config.trialkeys import TrialKeys, differing
from ablations.record.guardresult import Fact, GuardResult
from ablations.sweep.plan import Arm, Plan
from tasks.text.splits import SPLITS

Fingerprint = Mapping[str, Any]
"""Of prepared data (`tasks.text.batches.PackedData.fingerprint`)."""


def yardstick(arm: TrialKeys, baseline: TrialKeys, text: Fingerprint, base_text: Fingerprint) -> GuardResult:
    """The arm's `eval.*` are the baseline's, and so are the held-out documents, the tokenizer, and the tokens that
    windows and items are cut from. (What is trained on may be another arrangement of the same.)"""
    own, theirs = dataclasses.asdict(arm.eval), dataclasses.asdict(baseline.eval)
    off = [f"eval.{key}={own[key]}, the baseline's {theirs[key]}" for key in own if own[key] != theirs[key]]
    if arm.data.seq_len != baseline.data.seq_len:
        off.append(f"data.seq_len={arm.data.seq_len}, the baseline's {baseline.data.seq_len}: windows of other lengths")
    if text["tokenizer_sha256"] != base_text["tokenizer_sha256"]:
        off.append("another tokenizer")
    for split in SPLITS[1:]:
        if _held_out(text, split) != _held_out(base_text, split):
            off.append(f"another {split} text")
    facts: dict[str, Fact] = {split: _held_out(text, split)[0][:16] for split in SPLITS[1:]}
    facts |= {"split": arm.eval.split, "tokens": arm.eval.tokens, "tokenizer": text["tokenizer_sha256"][:16]}
    if off:
        detail = (
            f"is scored otherwise than the baseline ({'; '.join(off)}); set what all arms share for the whole sweep"
        )
        return GuardResult("yardstick", False, detail, facts)
    return GuardResult("yardstick", True, f"scored on the same {arm.eval.split} text as the baseline", facts)


def _held_out(text: Fingerprint, split: str) -> tuple[str, str]:
    return text["text_sha256"][split], text["tokens_sha256"][split]


def twins_at_start(plan: Plan, guards: Mapping[str, list[GuardResult]]) -> dict[str, GuardResult]:
    """Arms that differ in precision on paper, and not in a bit after the first steps, are one arm under two names: at
    small widths a tile is a row, and a block a tensor. By the hash of weights that `determinism` has found."""
    seen, found = dict[Fact, Arm](), {}
    for arm in plan.arms.values():
        weights = next((g.facts["weights"] for g in guards[arm.name] if "weights" in g.facts), None)
        if weights is None or (arm.kind == "control" and not _changes_model(arm, plan.baseline)):
            continue
        if arm.kind == "control" and seen.get(weights) is plan.baseline:
            detail = f"the same numbers as {plan.baseline.name} after the first steps; a control is a known small harm"
            found[arm.name] = GuardResult("distinct", False, detail, {"weights": weights, "twin": plan.baseline.name})
        if arm.kind != "arm":
            continue
        first = seen.setdefault(weights, arm)
        if arm.keys.model.precision != first.keys.model.precision:
            detail = f"the same numbers as {first.name} after the first steps"
            found[arm.name] = GuardResult("distinct", False, detail, {"weights": weights, "twin": first.name})
    return found


LATE = ("model.moe.balance.frozen_fraction", "model.mtp.tail_weight", "model.mtp.tail_from")
"""Keys of a model that change nothing at the beginning of a training."""


def _changes_model(arm: Arm, baseline: Arm) -> bool:
    return any(key.startswith("model.") and key not in LATE for key in differing(arm.keys, baseline.keys))
