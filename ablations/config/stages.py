"""Arms that are trained in several stages: what each of them is, who teaches in it, and which chains cannot be."""

from dataclasses import replace
from typing import Any

from ablations.config.schema import SweepConfig
from ablations.config.trialkeys import Stage, TrialKeys, with_overrides
from models.base.typed import ConfigError, closest


def last_stage(sweep: SweepConfig, arm: str) -> dict[str, Any]:
    """The dotted keys of the stage that an arm is judged at; none where it has none. Raises ConfigError."""
    stages = sweep.arms[arm].stages
    _check_known(sweep, stages, f"arms.{arm}.stages")
    if sweep.stages and not stages:
        raise ConfigError(f"arms.{arm}.stages: missing; name one of this sweep's or more ({', '.join(sweep.stages)})")
    return sweep.stages[stages[-1]] if stages else {}


def stages_before(sweep: SweepConfig, arm: str, keys: TrialKeys, where: str) -> list[Stage]:
    """Those of an arm before its last one. `keys` are the sweep's, before any arm or stage has set anything."""
    return _chain(sweep, sweep.arms[arm].stages[:-1], keys, where)


def teacher_of(sweep: SweepConfig, keys: TrialKeys, where: str) -> list[Stage]:
    """The training of the sweep's teacher; `keys` as in `stages_before`."""
    return _chain(sweep, sweep.teacher, keys, where)


def taught(keys: TrialKeys, teacher: list[Stage]) -> TrialKeys:
    """With the teacher in those of its stages that learn from one."""

    def own(stage: Stage) -> list[Stage]:
        return teacher if stage.distil.on else []

    return replace(keys, teacher=own(keys), before=[replace(stage, teacher=own(stage)) for stage in keys.before])


def _chain(sweep: SweepConfig, names: list[str], keys: TrialKeys, where: str) -> list[Stage]:
    return [with_overrides(keys, sweep.stages[name], f"{where} stage {name}").stages[-1] for name in names]


def _check_known(sweep: SweepConfig, names: list[str], place: str) -> None:
    for name in names:
        if name not in sweep.stages:
            known = ", ".join(sweep.stages) or "none"
            raise ConfigError(f"{place}: {name}: no such stage{closest(name, sweep.stages)} (stages: {known})")


def check_stages(sweep: SweepConfig) -> None:
    """Raise ConfigError for stages that nobody is trained in, or beside what would stop a training on its way."""
    if not sweep.stages and not sweep.teacher:
        return
    _check_known(sweep, sweep.teacher, "teacher")
    if sweep.horizons or "branch" in sweep.designs(sweep.arms):
        raise ConfigError(
            "stages: a sweep of stages begins each from finished weights; leave out horizons and design: branch"
        )
    distilled = [sweep.common, *sweep.stages.values(), *(arm.set for arm in sweep.arms.values())]
    if sweep.teacher and not any(key.startswith("distil.") for keys in distilled for key in keys):
        raise ConfigError("teacher: no stage learns from it; set distil.answers or distil.loss in one, or leave it out")
    used = {*sweep.teacher, *(name for arm in sweep.arms.values() for name in arm.stages)}
    for name in sweep.stages:
        if name not in used:
            raise ConfigError(f"stages.{name}: no arm is trained in it; name it in an arm's `stages`, or remove it")
