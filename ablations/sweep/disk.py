"""Whether a plan's trials fit on the disk, before any of them is trained."""

from pathlib import Path

from ablations.launch.space import free_bytes, size
from ablations.sweep.plan import Plan
from models.base.typed import ConfigError

WEIGHT = 4
"""Bytes of a parameter in a checkpoint."""
RESUMABLE = 3 * WEIGHT
"""Bytes of a parameter in a resumable checkpoint: itself and two moments."""
STEP = 400
"""Bytes of a step in the step log and in W&B's run."""
REST = 300_000
"""Bytes of a trial's record, tokenizer and W&B folder."""
RESULT = 2_000_000
"""Bytes of tables, page and figures."""


def bytes_needed(plan: Plan, done: int = 0) -> int:
    """About what is written until the plan's end: for each trial (`done` of the confirmation have been) its log, record
    and, where tasks are scored, its checkpoint; the states that others go on from; and for each worker two resumable
    checkpoints, the old and the new."""
    parameters = max(arm.cost.total_params for arm in plan.arms.values())
    steps = max(arm.keys.steps for arm in plan.arms.values())
    confirm = max(0, len(plan.arms) * len(plan.seeds) * (1 + len(plan.sweep.horizons)) - done)
    searched = 0 if plan.published is not None else plan.search_trials
    logs = (confirm + searched) * (STEP * steps + REST)
    at_once = min(plan.workers, confirm + searched) * 2 * RESUMABLE * parameters
    states = len(plan.trunks) * len(plan.seeds) * (RESUMABLE + WEIGHT) * parameters
    return int(logs + confirm * _checkpoint(plan, parameters) + at_once + states + RESULT)


def check_room(plan: Plan, runs: Path, done: int = 0) -> None:
    """Raise ConfigError where the disk of `runs` has less free than `bytes_needed`."""
    needed, free = bytes_needed(plan, done), free_bytes(runs)
    if free < needed:
        each = _checkpoint(plan, max(arm.cost.total_params for arm in plan.arms.values()))
        about = f", most of it checkpoints of {size(each)}; eval.tasks=[] keeps none" if each else ""
        raise ConfigError(
            f"runs_dir={runs}: {size(free)} are free, and this plan writes about {size(needed)}{about}; free some "
            f"space or choose another runs_dir"
        )


def _checkpoint(plan: Plan, parameters: float) -> float:
    return WEIGHT * parameters if plan.config.eval.tasks else 0.0
