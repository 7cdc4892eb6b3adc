"""What a sweep must keep to be run and to earn a verdict."""

import itertools
from collections.abc import Mapping

from ablations.config.schema import NAME, ExpectedConfig, SweepConfig
from ablations.config.stages import check_stages
from ablations.config.trialkeys import TrialKeys, differing, value_of, with_overrides
from ablations.metrics import AT_A_SHARE, COUNTED, METRICS, Parts, at_shares, check_measured, check_named, find, indices
from ablations.metrics import metric as metric_of
from models.base.typed import ConfigError, closest
from tasks.config import DRAWN, SKILLS
from tasks.evals.problems import GREEDY, SAMPLES

RESERVED = ("aa", "control", "aa_branched", "control_branched", "aa_scratch", "control_scratch", "all")
"""Arms that the harness adds by itself, and the word for every arm."""
NEIGHBOURS = 2.0
"""Largest ratio between neighbouring learning rates: with a wider grid the estimate of mistuning says nothing."""


def check_sweep(sweep: SweepConfig) -> None:
    """Raise ConfigError for a sweep that cannot be run or cannot earn a verdict."""
    if not sweep.question.strip():
        raise ConfigError("question: missing; say in a sentence what this sweep asks")
    if len(sweep.arms) < 2:
        raise ConfigError(f"arms: {len(sweep.arms)} given; a sweep compares at least two")
    _check_names(sweep)
    if sweep.baseline not in sweep.arms:
        near = closest(sweep.baseline, sweep.arms)
        raise ConfigError(f"baseline={sweep.baseline}: not among the arms{near} (arms: {', '.join(sweep.arms)})")
    if sweep.arms[sweep.baseline].optional:
        raise ConfigError(f"arms.{sweep.baseline}.optional=true: the baseline is always run; remove it")
    if not sweep.control:
        raise ConfigError(
            "control: empty; name a small harm, such as {train.token_fraction: 0.9}, or leave the key out"
        )
    _check_design(sweep)
    _check_estimates(sweep)
    check_stages(sweep)
    seeds = sweep.search.seeds
    last = sweep.first_seed + sweep.seeds - 1
    if min(seeds) <= last:  # what the search adds to its seeds lies above them
        raise ConfigError(
            f"search.seeds={seeds}: {min(seeds)} is not above the confirmation's seeds (seeds={sweep.seeds}: "
            f"{sweep.first_seed} to {last}), which nothing is chosen on; take others, such as {max(1000, last + 1)}"
        )
    _check_points(sweep)
    for place, matched, changes in (
        ("matched", sweep.matched, {}),
        *((f"arms.{name}.matched", arm.matched or sweep.matched, arm.set) for name, arm in sweep.arms.items()),
    ):
        if matched.knob in changes and place != f"arms.{sweep.baseline}.matched":
            raise ConfigError(f"{place}.knob={matched.knob}: the arm sets it, and the solver would undo that; keep one")
    first: dict[tuple[str, ...], int] = {}
    for i, claim in enumerate(sweep.expected):
        _check_claim(claim, f"expected[{i}]", sweep)
        pair = [claim.arm, sweep.rival(claim)]
        if claim.kind in ("equal", "identical"):  # said of either arm it is the same
            pair.sort()
        same = first.setdefault((*pair, claim.metric, claim.kind), i)
        if same != i:
            raise ConfigError(f"expected[{i}]: the same claim as expected[{same}]; each is judged once, keep one")
    for place, metric, _ in named_metrics(sweep):
        check_named(place, metric)
        if indices(AT_A_SHARE, [metric]) and metric not in at_shares(sweep.horizons):
            raise ConfigError(f"{place}={metric}: no arm is finished there (horizons={sweep.horizons}); add the share")
    share = sweep.search.constraint_max
    if (sweep.search.constraint_metric is None) != (share is None):
        raise ConfigError("search.constraint_metric, search.constraint_max: one needs the other")
    constrained = sweep.search.constraint_metric
    if constrained is not None and metric_of(constrained).maximum is None:
        known = ", ".join(metric.name for metric in METRICS if metric.maximum is not None)
        raise ConfigError(
            f"search.constraint_metric={constrained}: has no known maximum that search.constraint_max could be a "
            f"share of (these have: {known})"
        )


def _check_design(sweep: SweepConfig) -> None:
    """Raise ConfigError for a trunk whose values are not settled before arms branch off it."""
    if sweep.arms[sweep.baseline].design is not None:
        raise ConfigError(f"arms.{sweep.baseline}.design: the baseline is the same in every design; remove it")
    if sweep.horizons and (
        short := [share for share in sweep.horizons if abs(round(100 * share) - 100 * share) > 1e-9]
    ):
        raise ConfigError(f"horizons={sweep.horizons}: {short[0]} is no whole percentage; metrics are named by it")
    branches = "branch" in sweep.designs(sweep.arms)
    if branches and sweep.horizons:
        raise ConfigError(
            f"horizons={sweep.horizons}: with branch_at={sweep.branch_at} arms go on from the baseline's state, which "
            "leaves nothing shorter to branch off; keep one of them"
        )
    if branches and sweep.branch_at is None:
        raise ConfigError("branch_at=null: arms of design=branch need a share of the steps to branch off at; say 0.5")
    if sweep.branch_at is not None and not branches:
        raise ConfigError(f"branch_at={sweep.branch_at}: no arm has design=branch; add that, or leave branch_at out")
    if not branches and sweep.trunk:
        raise ConfigError(f"trunk={sweep.trunk}: no arm branches off it; add design=branch with a branch_at")
    if not branches:
        return
    searched = [*sweep.search.keys, *sweep.arms[sweep.baseline].search]
    if searched:
        raise ConfigError(
            f"design=branch: {searched[0]} is searched for the baseline, which is the trunk of its branches; settle it "
            "in `common` or in its `set` (arms may search strengths of their own)"
        )


def _check_estimates(sweep: SweepConfig) -> None:
    """Raise ConfigError for an estimate over arms that did not begin alike."""
    estimates = {f"doses.{name}": dose.members for name, dose in sweep.doses.items()}
    estimates |= {f"contrasts.{name}": list(contrast.weights) for name, contrast in sweep.contrasts.items()}
    for place, members in estimates.items():
        known = [name for name in members if name in sweep.arms]
        if len(sweep.designs(known)) == 2:
            each = ", ".join(f"{name} {sweep.design_of(name)}" for name in known if name != sweep.baseline)
            raise ConfigError(f"{place}: is over arms of two designs ({each}), which cannot be compared; keep one")


def _check_names(sweep: SweepConfig) -> None:
    """What is compared has one name among all arms and estimates, and none of the harness's own."""
    of_doses = [(f"doses.{name}", own) for name, dose in sweep.doses.items() for own in dose.estimates(name)]
    compared = [(f"arms.{name}", name) for name in sweep.arms]
    compared += [(f"contrasts.{name}", name) for name in sweep.contrasts] + of_doses
    taken: dict[str, str] = {}
    for place, name in [*compared, *((f"stages.{name}", name) for name in sweep.stages)]:
        if not NAME.fullmatch(name):
            raise ConfigError(f"{place}: a name has only letters, digits, - and _, and does not begin with -")
    for place, name in compared:
        if name in RESERVED:
            raise ConfigError(f"{place}: reserved ({', '.join(RESERVED)} mean something else); choose another name")
        if (other := taken.setdefault(name, place)) != place:
            raise ConfigError(f"{place}: {other} is called {name} too; choose another name")


def _trains_alike(key: str) -> bool:
    """Whether the key leaves a training as it is, or all but as it is: the A/A arm's own perturbation."""
    own = ("threads", "device", "compile", "validate_every", "checkpoint_every", "perturb", "spike_nats")
    return key.startswith("eval.") or key in [f"train.{name}" for name in own]


def check_control(control: TrialKeys, baseline: TrialKeys, file: str) -> None:
    """Raise ConfigError where the control is no harm: it is the baseline, or trains on more."""
    changed = differing(control, baseline)
    what = ", ".join(f"{key}={value_of(control, key)}" for key in changed)
    if not [key for key in changed if not _trains_alike(key)]:
        raise ConfigError(
            f"{file} control: {what or 'nothing'}: the training is the baseline's; it must be a known small harm"
        )
    if any(key.startswith("eval.") for key in changed):
        raise ConfigError(f"{file} control: {what}: is scored on other text than the baseline; leave eval.* as it is")
    if control.trained_tokens == baseline.trained_tokens and {*changed} <= {"train.tokens", "train.token_fraction"}:
        raise ConfigError(
            f"{file} control: {what}: comes to the baseline's own {baseline.trained_tokens:,} tokens; take fewer, or "
            "raise train.tokens"
        )
    if control.tokens > baseline.tokens:
        raise ConfigError(
            f"{file} control: {what}: trains on more tokens than the baseline ({control.tokens:,} against "
            f"{baseline.tokens:,}); it must be a known small harm"
        )


def _check_points(sweep: SweepConfig) -> None:
    grids = {f"search.keys.{key}": (key, points) for key, points in sweep.search.keys.items()}
    for name, arm in sweep.arms.items():
        for key, points in arm.search.items():
            if key in sweep.search.keys:
                raise ConfigError(f"arms.{name}.search.{key}: searched for all arms already (search.keys)")
            if key in arm.set:
                raise ConfigError(f"arms.{name}.search.{key}: also in its `set`; keep one of them")
            grids[f"arms.{name}.search.{key}"] = (key, points)
        for key in arm.set:
            if key in sweep.search.keys:
                raise ConfigError(f"arms.{name}.set.{key}: searched for all arms (search.keys); keep one of them")
    for place, (key, points) in grids.items():
        if not points or points != sorted(set(points)):
            raise ConfigError(f"{place}={points}: needs points in ascending order, each once")
        if points[0] <= 0:
            raise ConfigError(f"{place}={points}: points are log-spaced, so they must be above 0")
        for low, high in itertools.pairwise(points):
            if key == "optim.lr" and high / low > NEIGHBOURS * (1 + 1e-9):
                raise ConfigError(
                    f"{place}={points}: {high:g} is {high / low:.3g} times {low:g}; neighbouring learning rates differ "
                    f"at most by a factor of {NEIGHBOURS:g}"
                )


def _check_claim(claim: ExpectedConfig, place: str, sweep: SweepConfig) -> None:
    if claim.arm in sweep.estimates and claim.against is not None:
        raise ConfigError(
            f"{place}.against={claim.against}: {claim.arm} is a difference by itself, compared with nothing; leave it "
            "out"
        )
    if claim.arm.removesuffix("_at") in sweep.doses and claim.arm not in sweep.estimates:
        dose = claim.arm.removesuffix("_at")
        raise ConfigError(f"{place}.arm={claim.arm}: doses.{dose} has no `at`; say at which dose")
    for key, arm in (("arm", claim.arm), ("against", claim.against)):
        if arm is not None and arm not in sweep.arms and not (key == "arm" and arm in sweep.estimates):
            raise ConfigError(f"{place}.{key}={arm}: no such arm{closest(arm, sweep.arms)}")
    if claim.arm == sweep.rival(claim):
        raise ConfigError(f"{place}.arm={claim.arm}: is compared with itself; name another in `against`")
    pair = sweep.members(claim)
    if len(sweep.designs(pair)) == 2:
        raise ConfigError(
            f"{place}.against={claim.against}: {claim.arm} has design={sweep.design_of(claim.arm)}; arms of "
            "two designs cannot be compared, only either with the baseline"
        )
    check_named(f"{place}.metric", claim.metric, directional=claim.kind in ("better", "not_worse"))
    _check_jump(claim, place, claim.arm in sweep.estimates)
    if claim.kind in ("equal", "not_worse", "identical") and claim.margin is None:
        raise ConfigError(f"{place}.margin: missing; kind {claim.kind} needs a margin above 0")
    if claim.kind == "value" and claim.margin is not None:
        raise ConfigError(f"{place}.margin={claim.margin}: kind value has a region; leave the margin out")
    if claim.kind != "value" and claim.region is not None:
        raise ConfigError(
            f"{place}.region={claim.region}: kind {claim.kind} has a margin; take kind value, or leave it out"
        )
    region = claim.region
    if claim.kind == "value" and not (region is not None and len(region) == 2 and region[0] < region[1]):
        raise ConfigError(f"{place}.region={region}: kind value needs [low, high]")


def _check_jump(claim: ExpectedConfig, place: str, estimate: bool) -> None:
    """Raise ConfigError for a claim that would be judged by a t over what comes as a jump."""
    if not metric_of(claim.metric).jump or claim.kind == "identical":
        return
    if claim.metric != COUNTED:
        raise ConfigError(
            f"{place}.metric={claim.metric}: comes as a jump that some seeds have and others have not, so that no t "
            f"holds for it; claim answer_nats, or {COUNTED}, which is counted"
        )
    if claim.kind != "better" or claim.margin or estimate:
        given = f"kind={claim.kind}" if claim.kind != "better" else f"margin={claim.margin}"
        raise ConfigError(
            f"{place}: {'an estimate' if estimate else given}: seeds are counted for metric={COUNTED}, and two counts "
            "tell only which arm has more; claim kind better, of two arms, without a margin"
        )


def named_metrics(sweep: SweepConfig) -> list[tuple[str, str, list[str]]]:
    """(place in the file, metric, arms of which one at least must have it) of every metric that a sweep names. A claim
    says nothing unless both its arms do, so that each stands by itself."""
    arms = list(sweep.arms)
    named = [("primary", sweep.primary, arms), *((f"metrics[{i}]", name, arms) for i, name in enumerate(sweep.metrics))]
    if sweep.search.constraint_metric is not None:
        named.append(("search.constraint_metric", sweep.search.constraint_metric, arms))
    for i, claim in enumerate(sweep.expected):
        named += [(f"expected[{i}].metric", claim.metric, [arm]) for arm in sweep.members(claim)]
    return named


def check_metrics_exist(sweep: SweepConfig, resolved: Mapping[str, TrialKeys], file: str) -> None:
    """Raise ConfigError for a metric that no trial of the arms, given as their trial keys, will have."""
    for place, metric, arms in named_metrics(sweep):
        found = find(metric)
        leveled = found is not None and found.needs == "level"
        parts = [_parts(resolved[arm], leveled) for arm in arms if arm in resolved]
        if parts:  # an arm left out claims nothing
            check_measured(f"{file}: {place}", metric, resolved[sweep.baseline].eval.tasks, parts)


def _parts(keys: TrialKeys, leveled: bool) -> Parts:
    """`leveled`: with the levels of its skill, which are seen by drawing items."""
    model, contexts = keys.model, tuple(keys.eval.lengths)
    named, asked = model.precision.recipe != "auto", keys.data.source in DRAWN
    problem, tasks = keys.data.source == "problem", keys.eval.tasks
    samples = keys.eval.samples if problem and SAMPLES in tasks else 0
    skills = tuple(number for number, name in enumerate(SKILLS, start=1) if name in keys.data.skills)
    return Parts(
        model.moe_layers,
        model.mtp.depth,
        named,
        asked,
        contexts,
        problem and GREEDY in tasks,
        skills,
        samples,
        base=keys.has_base,
        teacher=keys.taught_by is not None,
        levels=_levels(keys) if leveled and keys.data.source == "skill" else (),
    )


def _levels(keys: TrialKeys) -> tuple[int, ...]:
    """Of so many items that each level is among them. Raises ConfigError where none can be made."""
    import numpy as np

    from tasks.skills.chosen import skill_of

    skill = skill_of(keys.data)
    skill.check(keys.data.seq_len)
    items = skill.draw(np.random.default_rng(0), 4096, keys.data.seq_len)
    return tuple(sorted({int(level) for level in items.levels_N}))


def check_keys(sweep: SweepConfig, file: str) -> None:
    """Every dotted key of a sweep exists and takes the value that it is given."""
    defaults = TrialKeys()
    with_overrides(defaults, sweep.common, f"{file} common")
    with_overrides(defaults, sweep.trunk, f"{file} trunk")
    if scored := [key for key in sweep.trunk if key.startswith("eval.")]:
        raise ConfigError(f"{file} trunk: {scored[0]}: what arms branch off is not scored; leave it out")
    if long := [key for key in sweep.trunk if key in ("train.tokens", "train.token_fraction")]:
        raise ConfigError(f"{file} trunk: {long[0]}: branch_at says how long it is trained; leave it out")
    for name, sizes in (("at_least", sweep.at_least), ("at_most", sweep.at_most)):
        with_overrides(defaults, sizes, f"{file} {name}")
        for key in sorted(sizes.keys() & sweep.common.keys()):
            raise ConfigError(f"{file} {name}.{key}: also in `common`, which wins; keep one of them")
    for key in sorted(sweep.at_least.keys() & sweep.at_most.keys()):
        if sweep.at_least[key] > sweep.at_most[key]:
            raise ConfigError(
                f"{file} at_most.{key}={sweep.at_most[key]}: below at_least.{key}={sweep.at_least[key]}; none is both"
            )
    with_overrides(defaults, sweep.control, f"{file} control")
    for name, stage in sweep.stages.items():
        with_overrides(defaults, stage, f"{file} stage {name}")
        if scored := [key for key in stage if key.startswith("eval.")]:
            raise ConfigError(f"{file} stage {name}: {scored[0]}: is of a chain's end; put it into `common`")
    grids = [(f"{file} search.keys", sweep.search.keys)]
    for name, arm in sweep.arms.items():
        with_overrides(defaults, arm.set, f"{file} arm {name}")
        grids.append((f"{file} arm {name} search", arm.search))
    for where, grid in grids:
        for key, points in grid.items():
            for point in points:
                with_overrides(defaults, {key: point}, where)
