"""The values of an earlier published search, where they were found for the very arms that a plan has."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from ablations.config.sweepfile import read_yaml
from ablations.config.trialkeys import trial_leaves, value_of
from ablations.record.documents import PLAN, STATE, PlanDocument, SweepState
from ablations.sweep.plan import Arm, Plan, Published, results_dir

NOT_FOR_THE_SEARCH = (
    "model.dtype",
    "model.precision.kernels",
    "train.threads",
    "train.device",
    "train.compile",
    "train.validate_every",
    "train.checkpoint_every",
)
"""Where a trial runs and how often it is looked at: this does not change which searched value is best."""
SIZES_OF_FP8 = ("model.precision.block", "model.precision.promote_every")
"""Nor do these, which a scale sets, where no arm uses FP8."""

OF_A_TRAINING = ("design", "branch_at", "trunk", "stages", "teacher")
"""What a sweep's file says, besides keys, of how its arms are trained ..."""
OF_AN_ARMS = ("design", "stages", "onto")
"""... and of one of them."""


def with_published(plan: Plan) -> Plan:
    """The plan with the published values, or with the reason why there are none."""
    folder = results_dir(plan.config) / plan.sweep.name / plan.config.scale
    if not (folder / PLAN).is_file() or not (folder / STATE).is_file():
        reason = f"no published search of {plan.sweep.name} at scale={plan.config.scale}"
        return dataclasses.replace(plan, fresh_because=reason)
    state = SweepState.read(folder)
    changed = _changed(plan, PlanDocument.read(folder), state)
    if changed is not None:
        return dataclasses.replace(plan, fresh_because=changed)
    unsearched: dict[str, dict[str, Any]] = {arm.name: {} for arm in plan.searched_arms if not plan.search_seeds(arm)}
    return dataclasses.replace(plan, published=Published(state.chosen | unsearched, state.mistuning, state.search))


def _changed(plan: Plan, earlier: PlanDocument, state: SweepState) -> str | None:
    """What is not as it was when the published values were searched for. A key that was not there yet has its default,
    which is what everything did before."""
    searched = {key for arm in plan.arms.values() for key in (*plan.shared, *arm.search)}
    fp8 = any(arm.keys.model.precision.fp8 for arm in plan.arms.values())
    idle = set(NOT_FOR_THE_SEARCH) | (set() if fp8 else set(SIZES_OF_FP8))
    for arm in filter(plan.search_seeds, plan.searched_arms):
        then = earlier.arms.get(arm.name)
        now = (arm.set, arm.search, arm.solved)
        if arm.name not in state.chosen or then is None or (then.set, then.search, then.solved) != now:
            return f"the published search has no arm {arm.name} as it is now"
        if unasked := _unasked(plan, arm, state):
            return f"the published search had no {unasked} for arm {arm.name}"
    for name in ("constraint_metric", "constraint_max"):
        now, before = getattr(plan.sweep.search, name), getattr(earlier.search_rule, name)
        if now != before:
            return f"the published search had search.{name}={before}, here it is {now}"
    if earlier.sweep_file:  # plans of before do not have it
        said, then_said = (_trainings(text, plan) for text in (plan.config.sweep_text, earlier.sweep_file))
        other = [name for name, value in said.items() if value != then_said[name]]
        if other:
            return f"the published search had another `{other[0]}` in its file"
    for name in trial_leaves():
        if name in searched or name.startswith("eval.") or name in idle:
            continue
        now, before = value_of(plan.baseline.keys, name), value_of(earlier.keys, name)
        if now != before:
            return f"the published search had {name}={before}, here it is {now}"
    return None


def _unasked(plan: Plan, arm: Arm, state: SweepState) -> str | None:
    """A searched value, or a seed, that is asked for now and was not then."""
    trials = [trial for trial in state.search if trial.arm == arm.name]
    for key, values in plan.shared.items():
        if missing := [value for value in values if value not in {trial.point.get(key) for trial in trials}]:
            return f"{key}={missing[0]:g}"
    missing = [seed for seed in plan.sweep.search.seeds if seed not in {trial.seed for trial in trials}]
    return f"seed {missing[0]}" if missing else None


def _trainings(text: str, plan: Plan) -> dict[str, Any]:
    """What a sweep's file says of the trainings of searched arms, which no key of a trial has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{plan.sweep.name}.yaml"
        path.write_text(text, encoding="utf-8")
        values = read_yaml(path)
    arms = values.get("arms") or {}
    own = {
        f"arms.{arm.name}.{name}": (arms.get(arm.name) or {}).get(name)
        for arm in plan.searched_arms
        for name in OF_AN_ARMS
    }
    return {name: values.get(name) for name in OF_A_TRAINING} | own
