"""What is written down before the first trial, and the rule by which it will be judged."""

import dataclasses
import shlex
from collections.abc import Mapping
from typing import Any

from ablations.files import sha
from ablations.judge.verdicts import decision_rule
from ablations.record.documents import ArmDocument, PlanDocument
from ablations.sweep.plan import Arm, Plan
from ablations.trial.identity import bits, code_hash
from tasks.config import DRAWN
from tasks.evals.fingerprint import task_fingerprint


def registered(plan: Plan, data_fingerprint: Mapping[str, Any]) -> PlanDocument:
    """plan.json."""
    sweep, scored = plan.sweep, plan.baseline.keys.eval
    return PlanDocument(
        sweep=sweep.name,
        scale=plan.config.scale,
        question=sweep.question,
        source=sweep.source,
        search="published" if plan.published else "fresh",
        search_rule=sweep.search,
        baseline=sweep.baseline,
        primary=sweep.primary,
        metrics=sweep.metrics,
        design=sweep.design,
        branch_at=sweep.branch_at,
        seeds=plan.seeds,
        arms={name: _registered_arm(arm, plan.onto(name)) for name, arm in plan.arms.items()},
        horizons=sorted(sweep.horizons),
        looks=plan.looks,
        contrasts=plan.contrasts,
        expected=sweep.expected,
        matched=sweep.matched,
        decision_rule=decision_rule(plan.looks, sweep.expected, plan.baseline.keys.data.source in DRAWN),
        code=code_hash(),
        data=sha(data_fingerprint),
        keys=plan.baseline.keys,
        bits=bits(),
        task_files=list(task_fingerprint(scored.tasks, scored.data_dir).values()),
        left_out=[name for name, arm in sweep.arms.items() if name not in plan.arms and not arm.optional],
        values={arm.name: plan.published.chosen[arm.name] for arm in plan.searched_arms} if plan.published else {},
        command=command(plan),
        sweep_file=plan.config.sweep_text,
        note=plan.config.note,
    )


def _registered_arm(arm: Arm, onto: str | None) -> ArmDocument:
    return ArmDocument(
        about=arm.about,
        kind=arm.kind,
        set=arm.set,
        search=arm.search,
        tokens=arm.keys.trained_tokens,
        solved=arm.solved,
        branched=arm.keys.branched,
        keys=sha(dataclasses.asdict(arm.keys)),
        onto=onto,
        matched=arm.matched,
        **dataclasses.asdict(arm.cost),
    )


def command(plan: Plan) -> str:
    """What asks for this plan again, anywhere: all that was typed, less the keys that say where and how it ran; scale
    and search as they came out, since their defaults follow the machine and what is published."""
    config, found = plan.config, plan.published is not None
    words = ["python", "-m", "ablations.run", f"sweep={plan.sweep.name}", f"scale={config.scale}"]
    words.append(f"search={'published' if found else 'fresh'}")
    left_out = {"sweep", "scale", "search", "runs_dir", "dry_run", "yes_really"}
    if plan.published is None or not any(plan.published.chosen.values()):  # nothing was read from there
        left_out.add("results_dir")
    for word in config.overrides:
        key = word.partition("=")[0].strip()
        if key not in left_out and key.split(".")[0] not in ("launch", "track"):
            words.append(word)
    return shlex.join(words)
