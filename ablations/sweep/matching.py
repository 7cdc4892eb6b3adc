"""Equal budgets: an arm's knob is turned until its cost is the baseline's, or the arm is refused with the numbers."""

import math
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

from ablations.config.schema import MatchedConfig
from ablations.config.trialkeys import TrialKeys, differing, value_of, with_overrides
from ablations.config.trialrules import check
from ablations.record.guardresult import Fact, GuardResult
from models.base.typed import ConfigError
from models.cost import cost

TOKEN_KNOB = "train.token_fraction"
REACH = 64
"""A knob is turned to at most this many times its value."""


def amounts(keys: TrialKeys) -> dict[str, float]:
    """Every quantity of a trial's keys; `train_flops` is that of the last stage's whole training."""
    size = cost(keys.model, keys.data.seq_len)
    return {
        "total_params": size.total_params,
        "active_params": size.active_params,
        "flops_per_token": size.flops_per_token,
        "kv_bytes": size.kv_bytes,
        "train_flops": size.flops_per_token * keys.sequences * keys.data.seq_len,
    }


def mismatch(keys: TrialKeys, base: TrialKeys, matched: MatchedConfig) -> dict[str, float]:
    """The matched quantities outside the tolerance, as ratios to the baseline's. A training has whole batches: with
    `train.token_fraction` as the knob, its FLOPs may be off by half of one besides."""
    arm, target = amounts(keys), amounts(base)
    slack = dict.fromkeys(matched.equal, 0.0)
    if matched.knob == TOKEN_KNOB:
        slack["train_flops"] = 0.5 * arm["flops_per_token"] * keys.tokens_per_step / target["train_flops"]
    ratios = {name: arm[name] / target[name] for name in matched.equal}
    return {n: ratio for n, ratio in ratios.items() if abs(ratio - 1) > matched.tolerance + slack[n] + 1e-12}


def solve(keys: TrialKeys, base: TrialKeys, matched: MatchedConfig, where: str) -> dict[str, Any]:
    """{knob: value} that brings the first matched quantity nearest to the baseline's, among the values that a trial may
    have; empty where no knob is named or everything matches as it is. Raises ConfigError, with the numbers, where a
    quantity stays outside the tolerance."""
    if matched.knob is None or not matched.equal or not mismatch(keys, base, matched):
        return {}
    knob, first = matched.knob, matched.equal[0]
    target = amounts(base)[first]

    def turned(value: Any) -> TrialKeys:
        return with_overrides(keys, {knob: value}, where)

    value: Any
    if knob == TOKEN_KNOB:
        batches = max(1, round(keys.tokens / keys.tokens_per_step * target / amounts(keys)[first]))
        value = math.ceil(1e6 * batches * keys.tokens_per_step / keys.train.tokens) / 1e6  # a token short is a batch
    else:

        def amount(value: int) -> float:
            return amounts(turned(value))[first]

        least, most = 1, REACH * int(value_of(keys, knob))
        low, high = least, most
        if amount(low) == amount(high):
            raise ConfigError(f"{where}: cannot be matched: {knob} does not change {first}; choose another knob")
        while high - low > 1:  # every quantity grows with every knob
            middle = (low + high) // 2
            low, high = (middle, high) if amount(middle) <= target else (low, middle)
        value = _nearest_allowed(lambda v: check(turned(v)), low, most, lambda v: abs(amount(v) - target))
    off = mismatch(turned(value), base, matched)
    if off:
        raise ConfigError(
            f"{where}: cannot be matched: with {knob}={value} "
            + ", ".join(f"{name} is {ratio:.4f}x the baseline's" for name, ratio in off.items())
            + f" (tolerance {matched.tolerance:g}); choose another knob, or match something else"
        )
    return {knob: value}


def _nearest_allowed(trial: Callable[[int], object], below: int, most: int, distance: Callable[[int], float]) -> int:
    """Of the first values at or under `below`, and above it, that make a trial (widths that the experts' products take,
    heads that keys divide), the one at the smaller distance. The arm's own value is one, so there is one."""

    def allowed(value: int) -> bool:
        try:
            trial(value)
        except ConfigError:
            return False
        return True

    sides = (filter(allowed, range(below, 0, -1)), filter(allowed, range(below + 1, most + 1)))
    return min((value for side in sides for value in islice(side, 1)), key=distance)


def isolation(arm: TrialKeys, baseline: TrialKeys, declared: Iterable[str]) -> GuardResult:
    """The arm differs from the baseline in declared keys only: its toggles, the baseline's, and searched keys."""
    differs = differing(arm, baseline)
    undeclared = [key for key in differs if key not in set(declared)]
    detail = f"differs in {', '.join(differs)}" if differs else "equals the baseline"
    if undeclared:
        detail = f"differs from the baseline in undeclared keys: {', '.join(undeclared)}"
    facts: dict[str, Fact] = {"differs": ", ".join(differs), "undeclared": ", ".join(undeclared)}
    return GuardResult("isolation", not undeclared, detail, facts)


def budget(arm: TrialKeys, baseline: TrialKeys, matched: MatchedConfig) -> GuardResult:
    """What is declared as matched agrees within its tolerance; the rest is printed."""
    base, own = amounts(baseline), amounts(arm)
    ratios = {name: value / base[name] for name, value in own.items()}
    off = mismatch(arm, baseline, matched)
    words = (f"{name} {ratio:.4f}x" + " (matched)" * (name in matched.equal) for name, ratio in ratios.items())
    detail = ", ".join(words)
    detail += f", steps {arm.steps}" + ("" if arm.steps == baseline.steps else f" (baseline {baseline.steps})")
    if off:
        detail = f"{', '.join(off)} not within {matched.tolerance:g}: {detail}"
    facts: dict[str, Fact] = {**ratios, "steps": arm.steps, "baseline_steps": baseline.steps}
    return GuardResult("budget", not off, detail, facts)
