"""From a composed config to the plan of its sweep."""

import itertools
import sys
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from ablations.config.compose import chosen_arms
from ablations.config.designs import contrasts_of
from ablations.config.resolve import thinned
from ablations.config.schema import ArmConfig, Config, Design, MatchedConfig, SweepConfig
from ablations.config.stages import stages_before, taught, teacher_of
from ablations.config.trialkeys import Stage, TrialKeys, with_overrides
from ablations.config.trialrules import check, not_compiled
from ablations.guards.meaning import WAIVABLE
from ablations.judge.verdicts import region_of
from ablations.record.documents import ArmKind
from ablations.sweep.earlier import with_published
from ablations.sweep.horizons import at_share
from ablations.sweep.matching import solve
from ablations.sweep.plan import AA, CONTROL, Arm, Plan, Published
from ablations.sweep.preflight import check_text
from models.base.typed import ConfigError, closest
from models.config import ModelConfig
from models.precision.products import resolve_kernels
from models.training.compiled import missing_compiler
from models.transformer import resolve_dtype

PERTURBATION = 1e-6
"""Relative, of the A/A arm's weights: the initial ones, or those that it branches off with."""
SUFFIX: dict[Design, str] = {"branch": "branched", "scratch": "scratch"}
"""Of A/A arms and controls in the design that is not the sweep's own."""
S = TypeVar("S", bound=Stage)


def make_plan(config: Config) -> Plan:
    """Resolve arms, seeds and searched values; the text of every arm is there. Raises ConfigError; writes nothing."""
    sweep = thinned(config.sweep, config.search_points, config.search_seeds)
    for name in sweep.waive:
        if name not in WAIVABLE:
            raise ConfigError(
                f"sweep={sweep.name} waive.{name}: no arm may do without it{closest(name, WAIVABLE)} (open to this: "
                f"{', '.join(WAIVABLE)})"
            )
    teacher = _all_settled(teacher_of(sweep, config.trial, f"sweeps/{sweep.name}.yaml"))
    arms: dict[str, Arm] = {}
    for name in sorted(chosen_arms(config), key=lambda name: name != sweep.baseline):
        entry = sweep.arms[name]
        resolved = _resolve(config.trial, entry, sweep, name)
        chain = stages_before(sweep, name, config.trial, f"sweeps/{sweep.name}.yaml")
        resolved = taught(replace(resolved, before=_all_settled(chain)), teacher)
        matched, solved = entry.matched or sweep.matched, {}
        if name != sweep.baseline:
            where = f"sweep={sweep.name} arm {name}"
            solved = solve(resolved, arms[sweep.baseline].keys, matched, where)
            resolved = check(with_overrides(resolved, solved, where))
        arms[name] = Arm(name, "arm", entry.about, entry.set, entry.search, resolved, matched, solved)
    _refuse_twins(arms, sweep)
    base = arms[sweep.baseline]
    extras: list[tuple[ArmKind, str, dict[str, Any]]] = [
        (CONTROL, f"positive control: {base.name} with a known harm", dict(sweep.control)),
        (AA, f"A/A: {base.name} with weights perturbed by 1e-6", {"train.perturb": PERTURBATION}),
    ]
    designs = sweep.designs(arms) or [sweep.design]
    begun = {name: sweep.design_of(name) for name in arms} | {base.name: "branch" if "branch" in designs else "scratch"}
    for kind, about, changes in extras:
        held = MatchedConfig(equal=[]) if kind == CONTROL else sweep.matched
        changed = taught(with_overrides(base.keys, changes, kind), teacher)
        for design in designs:
            if kind == CONTROL and design != designs[0] and not _needs_control(sweep, design, arms):
                continue
            name = kind if design == sweep.design else f"{kind}_{SUFFIX[design]}"
            arms[name] = Arm(name, kind, about, {**base.set, **changes}, {}, changed, held)
            begun[name] = design
    for name, design in begun.items():
        if design == "branch":
            arms[name] = replace(arms[name], keys=branched(name, arms[name].keys, base.keys, sweep))
    arms = _compiled_or_not(arms)
    _check_chains(arms)
    shared = dict(sweep.search.keys)
    for arm in arms.values() if sweep.horizons else ():
        for share in (*sweep.horizons, 1.0):
            try:
                at_share(arm.keys, share, sweep.horizons)
            except ConfigError as error:
                raise ConfigError(f"sweep={sweep.name} arm {arm.name}: {error}") from None
    try:
        contrasts = contrasts_of(sweep, {name: arm.keys for name, arm in arms.items()})
    except ConfigError as error:
        raise ConfigError(f"sweep={sweep.name}: {error}") from None
    plan = Plan(config, sweep, arms, config.confirmation_seeds, shared, None, None, contrasts)
    if plan.looks and not any(plan.can_judge(claim) for claim in sweep.expected):
        raise ConfigError("seeds=auto: looks at claims, and none here has all its arms; say how many seeds instead")
    check_text(plan)
    if config.search != "fresh":
        nothing = not any(arm.grid(shared)[0] for arm in plan.searched_arms)
        plan = replace(plan, published=Published({name: {} for name in arms})) if nothing else with_published(plan)
    if plan.published is None:
        _check_seeds(plan)
    return plan


def _check_seeds(plan: Plan) -> None:
    """Raise ConfigError where the search would choose on what judges it."""
    for arm in plan.searched_arms:
        if common := {*plan.search_seeds(arm)} & {*plan.seeds}:
            raise ConfigError(
                f"seeds={plan.seeds}: {arm.name} is searched on {min(common)} too, and nothing may be chosen on what "
                "judges it; take other seeds"
            )


def _refuse_twins(arms: Mapping[str, Arm], sweep: SweepConfig) -> None:
    """Raise ConfigError for an arm that is another one by name only: it would count as a comparison of its own."""
    for one, other in itertools.combinations(arms.values(), 2):
        designs = {sweep.design_of(arm.name) for arm in (one, other) if arm.name != sweep.baseline}
        if one.keys == other.keys and one.search == other.search and len(designs) == 1:
            raise ConfigError(
                f"sweep={sweep.name} arms {one.name} and {other.name}: the same in every key; an arm by two names is "
                "one arm, keep one"
            )


def _check_chains(arms: Mapping[str, Arm]) -> None:
    """Raise ConfigError for a stage that cannot begin with the weights of the one before it."""
    pairs = dict[tuple[ModelConfig, ModelConfig], str]()
    for arm in arms.values():
        chains = [arm.keys.stages, *(stage.teacher for stage in arm.keys.stages)]
        for earlier, later in (pair for chain in chains for pair in itertools.pairwise(chain)):
            if earlier.until == 1 and earlier.model != later.model:
                pairs.setdefault((earlier.model, later.model), arm.name)
    for (before, after), name in pairs.items():
        from models.fits import check_same  # a plan of stages of one model does without torch

        try:
            check_same(before, after)
        except ConfigError as error:
            raise ConfigError(f"arm {name}: {error}") from None


def _needs_control(sweep: SweepConfig, design: Design, arms: Collection[str]) -> bool:
    """Whether a claim on arms of this design can only be made beside a harm that is seen: nobody is told `equal` or
    `not_worse`, whose regions hold 0, without one, and what is `better` shows by itself."""
    return any(
        region_of(claim)[0] < 0 < region_of(claim)[1] and design in sweep.designs(members)
        for claim in sweep.expected
        if (members := [name for name in sweep.members(claim) if name in arms])
    )


def branched(name: str, keys: TrialKeys, baseline: TrialKeys, sweep: SweepConfig) -> TrialKeys:
    """The arm's keys, going on from the baseline's state, as `trunk` has it trained. Raises ConfigError where it
    cannot."""
    from models.fits import check_fits  # a plan without branches does without torch

    assert sweep.branch_at is not None
    where = f"sweep={sweep.name} branch_at={sweep.branch_at:g} arm {name}"
    (stage,) = with_overrides(baseline, sweep.trunk, f"sweep={sweep.name} trunk").stages
    try:
        check_fits(stage.model, keys.model)
        return check(replace(keys, before=[replace(stage, until=sweep.branch_at)]))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _resolve(keys: TrialKeys, entry: ArmConfig, sweep: SweepConfig, name: str) -> TrialKeys:
    """The arm's keys, searched ones at their first point, and nothing left to the machine that runs them."""
    first = {key: points[0] for key, points in {**sweep.search.keys, **entry.search}.items()}
    own = with_overrides(keys, {**entry.set, **first}, f"sweeps/{sweep.name}.yaml arm {name}")
    return replace(own, model=_settled(own))


def _all_settled(stages: list[Stage]) -> list[Stage]:
    return [replace(stage, model=_settled(stage)) for stage in stages]


def _compiled_or_not(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """`train.compile=auto` settled, for all arms alike: compiled blocks round otherwise, and arms are to differ in what
    is asked alone."""
    compiled = _compiles([stage for arm in arms.values() for stage in arm.keys.all_stages])

    def settled(stage: S) -> S:
        own = replace(stage.train, compile=compiled if stage.train.compile == "auto" else stage.train.compile)
        return replace(stage, train=own, teacher=[settled(each) for each in stage.teacher])

    def of(keys: TrialKeys) -> TrialKeys:
        return replace(settled(keys), before=[settled(stage) for stage in keys.before])

    return {name: replace(arm, keys=of(arm.keys)) for name, arm in arms.items()}


def _compiles(stages: Collection[Stage]) -> bool:
    """Only where it is known to pay."""
    return (
        sys.platform == "linux"
        and all(stage.train.device == "cpu" and stage.model.dtype == "bfloat16" for stage in stages)
        and not any(map(not_compiled, stages))
        and missing_compiler("cpu") is None
    )


def _settled(stage: Stage) -> ModelConfig:
    """Nothing of it left to the machine."""
    model = stage.model
    return replace(
        model,
        dtype=resolve_dtype(model.dtype, stage.train.device, model.precision.recipe),
        precision=replace(model.precision, kernels=resolve_kernels(model.precision.kernels)),
    )
