"""What each stage of a trial did and cost, from its step log, and what is to be said of its rewards."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.config.trialkeys import Stage, TrialKeys
from ablations.record.record import StageRecord
from models.cost import cost

Rows = Sequence[Mapping[str, Any]]

UNREWARDED = 20
"""Steps without one right answer of which it is said that nothing is learned."""


def stages_done(keys: TrialKeys, rows: Rows) -> list[StageRecord]:
    """Of a trial that has come to its end; `rows`: all its steps."""
    found = []
    for number, stage in enumerate(keys.stages):
        before, first = keys.done_before(number)[0], keys.first_step(number)
        own = rows[before : before + stage.stop - first]
        if stage.grpo.on:
            found.append(_of_rewards(stage, own))
        else:
            tokens = stage.tokens_after(stage.stop) - stage.tokens_after(first)
            found.append(_of_text(stage, own, tokens))
    return found


def stage_metrics(done: Sequence[StageRecord]) -> dict[str, float]:
    """`flops`: of all stages together."""
    return {"flops": math.fsum(stage.flops for stage in done)}


def reward_metrics(rows: Rows) -> dict[str, float]:
    """`without_signal`: over all steps that learned from rewards; empty without such."""
    shares = [row["without_signal"] for row in rows if "without_signal" in row]
    return {"without_signal": math.fsum(shares) / len(shares)} if shares else {}


def unrewarded(rows: Rows) -> str | None:
    """Said once, at the step that makes it UNREWARDED without a right answer; None at all others."""
    last, before = rows[-UNREWARDED:], rows[-UNREWARDED - 1 : -UNREWARDED]
    if (
        len(last) < UNREWARDED
        or any(row.get("right", 1) for row in last)
        or any(not row.get("right", 1) for row in before)
    ):
        return None
    return (
        f"no answer was right in {UNREWARDED} steps up to step {last[-1]['step']}: nothing is learned from rewards; "
        "begin with a model that answers a part of the questions, or take easier ones"
    )


def _of_text(stage: Stage, rows: Rows, tokens: int) -> StageRecord:
    """A teacher has written some of it, and reads all of it where its distribution is learned."""
    drawn = round(math.fsum(row.get("drawn", 0.0) for row in rows))
    flops = tokens * _per_token(stage)
    if stage.teacher:
        flops += _per_token(stage.teacher[-1]) / 3 * (drawn + tokens * (stage.distil.loss != "tokens"))
    return StageRecord(len(rows), tokens, drawn, flops)


def _of_rewards(stage: Stage, rows: Rows) -> StageRecord:
    """Learned from is each answer behind its question; these are also read by the reference model and, where answers
    serve several steps, by the policy that has drawn them. A forward pass is a third of a training step's work."""
    learned, drawn = (round(math.fsum(row[name] for row in rows)) for name in ("learned", "drawn"))
    readers = (stage.grpo.kl_weight > 0) + (stage.grpo.updates > 1)
    return StageRecord(len(rows), learned, drawn, _per_token(stage) * (learned + (drawn + readers * learned) / 3))


def _per_token(stage: Stage) -> float:
    return cost(stage.model, stage.data.seq_len).flops_per_token
