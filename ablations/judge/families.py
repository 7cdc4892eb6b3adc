"""Which comparisons a metric has, and which of them share their level.

Claims are one family: what the sweep's file asks, before anything was trained. All other comparisons of an arm with the
baseline are a second one, marked exploratory: they would only widen the claims' intervals. The A/A arm and the control
are a third, since what they answer is whether the sweep can be believed.
"""

import math
from collections.abc import Callable, Mapping

from ablations.judge.jumps import Values, beyond_counts
from ablations.judge.looks import level
from ablations.judge.result import ArmResult
from ablations.judge.stats import Difference, Kind, differences
from ablations.metrics import ALWAYS, COUNTED, at_shares
from ablations.metrics import metric as metric_of
from ablations.record.documents import PlanDocument

Pair = tuple[str, str]
NOTHING = ""
"""What a contrast is compared with."""


def families_of(arms: Mapping[str, ArmResult], plan: PlanDocument) -> dict[str, dict[Pair, Difference]]:
    """Per metric, (arm, against) -> difference, of all three families. Arms that a run leaves out count, whatever
    `arms=` has chosen, but for the optional ones that nobody has asked for."""
    scores = sorted({metric for arm in arms.values() for metric in arm.values if "/" in metric})
    claimed = [claim.metric for claim in plan.expected]
    names = dict.fromkeys([plan.primary, *ALWAYS, *plan.metrics, *claimed, *at_shares(plan.horizons), *scores])
    values = {arm.name: arm.values for arm in arms.values()}
    shorter = {
        name: {arm.name: {**arm.shorter.get(share, {}), name: arm.values.get(name, {})} for arm in arms.values()}
        for name, share in at_shares(plan.horizons).items()
    }
    return {name: _families(name, shorter.get(name, values), arms, plan) for name in names}


def shorter_families(arms: Mapping[str, ArmResult], plan: PlanDocument) -> dict[str, dict[Pair, Difference]]:
    """The same of the claims' metrics, after the longest of the shorter trainings; empty where there are none."""
    if not plan.horizons:
        return {}
    values = {arm.name: arm.shorter.get(max(plan.horizons), {}) for arm in arms.values()}
    return {name: _families(name, values, arms, plan) for name in {claim.metric for claim in plan.expected}}


def _families(
    name: str, found: Mapping[str, Values], arms: Mapping[str, ArmResult], plan: PlanDocument
) -> dict[Pair, Difference]:
    """Of one metric, from each arm's values: metric -> seed -> value."""
    values = {arm: own.get(name, {}) for arm, own in found.items()}
    values |= weighed(values, plan)
    came = {arm: own[COUNTED] for arm, own in found.items() if arms[arm].kind == "arm" and COUNTED in own}
    weights = {contrast: own.weights for contrast, own in plan.contrasts.items()}
    differing: dict[Pair, Difference] = {}
    for kind, pairs in pairs_of(arms, plan, name).items():
        family = differences(values, pairs, name, kind=kind, look=look_of(arms, plan))
        if kind != "diagnostic" and metric_of(name).falls_at_jumps:
            family = beyond_counts(family, values, came, weights, plan.keys.data.answers_only)
        differing |= {(d.arm, d.against): d for d in family}
    return differing


def look_of(arms: Mapping[str, ArmResult], plan: PlanDocument) -> Callable[[float], float] | None:
    """What a family may spend of its level at this look; None where the plan has but one."""
    if not plan.looks:
        return None
    seen = len(next(iter(arms.values())).seeds)
    return lambda alpha: level(plan.looks, seen, alpha)


def pairs_of(arms: Mapping[str, ArmResult], plan: PlanDocument, metric: str) -> dict[Kind, list[Pair]]:
    """(arm, against), each pair of arms in one order and one family."""
    registered = {*arms, *plan.left_out, *plan.contrasts, NOTHING}
    # What is claimed of the loss is asked of shorter trainings too.
    claimed = {metric, "loss"} if metric in at_shares(plan.horizons) else {metric}
    asked = [(c.arm, plan.rival(c)) for c in plan.expected if c.metric in claimed]
    asked = [(b, a) if a == plan.baseline else (a, b) for a, b in asked]  # as arms are shown
    pairs: dict[Kind, list[Pair]] = {"claim": [pair for pair in asked if set(pair) <= registered]}
    taken = {frozenset(pair) for pair in pairs["claim"]}
    others: dict[Kind, list[str]] = {
        "diagnostic": [arm.name for arm in arms.values() if arm.kind != "arm"],
        "exploratory": [*arms, *plan.left_out, *plan.contrasts],
    }
    for kind, names in others.items():
        own = [(name, _usual_rival(name, plan)) for name in names if name != plan.baseline]
        pairs[kind] = [pair for pair in own if frozenset(pair) not in taken]
        taken |= {frozenset(pair) for pair in own}
    return pairs


def weighed(values: Values, plan: PlanDocument) -> dict[str, dict[int, float]]:
    """The values of each contrast, over the seeds that all its arms have, and of what it is compared with: zeros."""
    found: dict[str, dict[int, float]] = {}
    for name, contrast in plan.contrasts.items():
        of_arm = {arm: values.get(arm, {}) for arm in contrast.weights}
        seeds = sorted(set.intersection(*(set(own) for own in of_arm.values())))
        found[name] = {s: math.fsum(w * of_arm[arm][s] for arm, w in contrast.weights.items()) for s in seeds}
    return {**found, NOTHING: {seed: 0.0 for own in found.values() for seed in own}}


def by_seed(arms: Mapping[str, ArmResult], plan: PlanDocument, d: Difference) -> dict[int, float]:
    """What a difference is the mean of: each seed's own."""
    values = {arm.name: arm.values.get(d.metric, {}) for arm in arms.values()}
    values |= weighed(values, plan)
    ours, theirs = values[d.arm], values[d.against]
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def _usual_rival(name: str, plan: PlanDocument) -> str:
    """What an arm is compared with where nobody has said: the one that it stands on, else the baseline."""
    if name in plan.contrasts:
        return NOTHING
    return plan.arms[name].onto or plan.baseline if name in plan.arms else plan.baseline
