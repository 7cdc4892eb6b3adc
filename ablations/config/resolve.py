"""What a sweep becomes at a scale and under a command line: its sizes, its arms' keys, and what is left to search."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from ablations.config.schema import Config, SweepConfig
from ablations.config.stages import stages_before, taught, teacher_of
from ablations.config.trialkeys import TrialKeys, differing, value_of, with_overrides
from models.base.typed import ConfigError, build


def fitted(sweep: SweepConfig, scale: Mapping[str, Any], raising: bool) -> dict[str, int]:
    """The dotted keys that the sweep's `at_most` lowers at a scale, and those that its `at_least` raises, if asked."""
    sizes = build(Config, scale).trial
    most = {key: most for key, most in sweep.at_most.items() if value_of(sizes, key) > most}
    least = {key: least for key, least in sweep.at_least.items() if value_of(sizes, key) < least}
    return most | (least if raising else {})


def resolved_arms(sweep: SweepConfig, keys: TrialKeys, file: str, chosen: Collection[str]) -> dict[str, TrialKeys]:
    """Arm -> its trial keys, searched ones at their first point. Raises ConfigError for a `chosen` arm that is the
    baseline."""
    resolved, teacher = {}, teacher_of(sweep, keys, file)
    for name, arm in sweep.arms.items():
        first = {key: points[0] for key, points in {**sweep.search.keys, **arm.search}.items()}
        own = with_overrides(keys, {**arm.set, **first}, f"{file} arm {name}")
        chain = dataclasses.replace(own, before=stages_before(sweep, name, keys, file))
        resolved[name] = taught(chain, teacher)
    _check_factors(sweep, resolved[sweep.baseline], file)
    base = sweep.arms[sweep.baseline]
    for name, arm in sweep.arms.items():
        same = (arm.search, arm.stages) == (base.search, base.stages) and not differing(
            resolved[name], resolved[sweep.baseline]
        )
        if same and name != sweep.baseline and name in chosen:
            raise ConfigError(f"{file} arm {name}: nothing in it differs from the baseline {sweep.baseline}")
    return resolved


def _check_factors(sweep: SweepConfig, baseline: TrialKeys, file: str) -> None:
    """Raise ConfigError for a factor that is off where it is on: its effect would be that of its aliases."""
    for name, changes in sweep.factorial.factors.items() if sweep.factorial is not None else ():
        place = f"{file} factorial.factors.{name}"
        if not differing(with_overrides(baseline, changes, place), baseline):
            raise ConfigError(f"{place}={changes}: the baseline has it already; name another value, or leave it out")


def without(sweep: SweepConfig, pinned: set[str]) -> SweepConfig:
    """The sweep with keys removed from its search, for all arms: the command line has pinned them."""

    def left(points: dict[str, list[float]]) -> dict[str, list[float]]:
        return {key: values for key, values in points.items() if key not in pinned}

    arms = {name: dataclasses.replace(arm, search=left(arm.search)) for name, arm in sweep.arms.items()}
    return dataclasses.replace(sweep, arms=arms, search=dataclasses.replace(sweep.search, keys=left(sweep.search.keys)))


def thinned(sweep: SweepConfig, points: int | None, seeds: int | None) -> SweepConfig:
    """The sweep with at most `points` neighbours from the middle of each grid, and at most `seeds` search seeds.

    For scales at which the whole search would cost more than it can tell. Neighbours stay neighbours, so the rule on
    their ratio still holds.
    """

    def middle(grid: dict[str, list[float]]) -> dict[str, list[float]]:
        starts = {
            key: (len(values) - points) // 2 if points and points < len(values) else 0 for key, values in grid.items()
        }
        return {key: values[starts[key] :][:points] for key, values in grid.items()}

    arms = {name: dataclasses.replace(arm, search=middle(arm.search)) for name, arm in sweep.arms.items()}
    search = dataclasses.replace(sweep.search, keys=middle(sweep.search.keys), seeds=sweep.search.seeds[:seeds])
    return dataclasses.replace(sweep, arms=arms, search=search)
