"""Sweeps that are laid out by rule: arms that climb a ladder, arms of a factorial, and the estimates that follow from
more than two arms. All of it becomes ordinary arms and weights over them before anything else sees it.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from ablations.config.schema import ArmConfig, ContrastConfig, DoseConfig, FactorialConfig, SweepConfig
from ablations.config.stages import last_stage
from ablations.config.trialkeys import TrialKeys, trial_leaves, value_of, with_overrides
from models.base.typed import ConfigError, closest

MOST_FACTORS = 26
LARGEST = 1e12
"""A weight and a dose at most, and how far doses lie apart; 1 over it at least. Slopes square them."""


def laid_out(sweep: SweepConfig) -> SweepConfig:
    """With the arms of the ladder and of the factorial as they are trained. Raises ConfigError."""
    arms = {
        name: dataclasses.replace(arm, set={**last_stage(sweep, name), **_climbed(sweep, name)})
        for name, arm in sweep.arms.items()
    }
    contrasts = dict(sweep.contrasts)
    for name in contrasts:
        _check_weights(name, contrasts[name], arms)
    for name, dose in sweep.doses.items():
        _check_dose(name, dose, arms, sweep.search.keys)
    if sweep.factorial is not None:
        runs, effects = crossed(sweep.factorial, sweep.baseline, sweep.arms[sweep.baseline].set)
        if taken := (runs.keys() | effects.keys()) & (arms.keys() | contrasts.keys()):
            raise ConfigError(f"factorial: makes {', '.join(sorted(taken))}, which the sweep has already; rename it")
        arms, contrasts = arms | runs, contrasts | effects
    return dataclasses.replace(sweep, arms=arms, contrasts=contrasts)


def _climbed(sweep: SweepConfig, name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """What an arm sets, with all that it stands on."""
    arm = sweep.arms[name]
    if arm.onto is None:
        return arm.set
    if name == sweep.baseline:
        raise ConfigError(f"arms.{name}.onto={arm.onto}: the baseline stands on nothing; leave it out")
    if arm.onto not in sweep.arms:
        raise ConfigError(f"arms.{name}.onto={arm.onto}: no such arm{closest(arm.onto, sweep.arms)}")
    if arm.onto != sweep.baseline and sweep.design_of(arm.onto) != sweep.design_of(name):
        raise ConfigError(
            f"arms.{name}.onto={arm.onto}: has design={sweep.design_of(arm.onto)}, and {name} "
            f"design={sweep.design_of(name)}; arms of two designs cannot be compared"
        )
    if name in above:
        ring = f"the arms {', '.join(above)} stand on each other in a ring; let one stand on nothing"
        raise ConfigError(f"arms.{name}.onto={arm.onto}: {ring}")
    return {**_climbed(sweep, arm.onto, (*above, name)), **arm.set}


def crossed(
    factorial: FactorialConfig, baseline: str, base: Mapping[str, Any]
) -> tuple[dict[str, ArmConfig], dict[str, ContrastConfig]]:
    """The runs of a two-level (fractional) factorial, the baseline being the one with every factor off, and the main
    effect of each factor: the mean of the runs that have it minus the mean of those that have not."""
    from pyDOE3 import fracfact

    names, words = list(factorial.factors), factorial.generators.split()
    if factorial.generators != factorial.generators.lower():  # which pyDOE3 takes for small ones
        raise ConfigError(f"factorial.generators={factorial.generators}: letters are small; write them so")
    if len(words) != len(names) or not 2 <= len(names) <= MOST_FACTORS:
        raise ConfigError(
            f"factorial.generators={factorial.generators}: {len(words)} words for {len(names)} factors; one each, such "
            "as `a b c abc` for four, and at least two"
        )
    # Of anything else pyDOE3 makes another word.
    if odd := [word for word in words if not re.fullmatch("[+-]?[a-z]+", word)]:
        raise ConfigError(
            f"factorial.generators={factorial.generators}: `{odd[0]}` is no word of letters, with a sign before it at "
            "most; write it as `abc` or `-abc`"
        )
    _check_apart(factorial, base)
    try:
        signs = fracfact(" ".join(words))
    except Exception as error:  # pyDOE3 raises what its parsing happens to
        raise ConfigError(
            f"factorial.generators={factorial.generators}: {str(error).rstrip('.')}; one word of letters for each "
            "factor, such as `a b c abc` for four"
        ) from None
    off = [row for row in range(len(signs)) if (signs[row] < 0).all()]
    if not off:
        raise ConfigError(
            f"factorial.generators={factorial.generators}: no run has every factor off, so that none is the baseline; "
            "let each word have an odd number of letters"
        )
    aliases = aliased(names, words)
    if short := [f"{name} with {' x '.join(a)}" for name in names for a in aliases[name] if len(a) < 3]:
        raise ConfigError(
            f"factorial.generators={factorial.generators}: {', '.join(short)} cannot be told apart (resolution below "
            "IV); give it more letters, or words of three letters"
        )
    runs, at = dict[str, ArmConfig](), dict[int, str]()
    for row, levels in enumerate(signs):
        on = [name for name, level in zip(names, levels, strict=True) if level > 0]
        at[row] = baseline if row == off[0] else f"run_{row + 1:02d}"
        if row != off[0]:
            changes = {key: value for name in on for key, value in factorial.factors[name].items()}
            runs[at[row]] = ArmConfig(about=f"on: {', '.join(on)}", set={**base, **changes})
    effects = {}
    for column, name in enumerate(names):
        weights = {at[row]: float(levels[column]) * 2 / len(signs) for row, levels in enumerate(signs)}
        others = ", ".join(" x ".join(a) for a in aliases[name])
        about = f"main effect of {name}" + (f" (or of {others})" if others else "")
        effects[name] = ContrastConfig(about, weights)
    return runs, effects


def _check_apart(factorial: FactorialConfig, base: Mapping[str, Any]) -> None:
    first: dict[str, str] = {}
    for name, changes in factorial.factors.items():
        if not changes:
            raise ConfigError(f"factorial.factors.{name}: sets nothing; name a key and its value")
        for key, value in changes.items():
            if first.setdefault(key, name) != name:
                raise ConfigError(
                    f"factorial.factors.{name}.{key}: {first[key]} sets it too, so that the two exclude each other; "
                    "each factor needs keys of its own"
                )
            if key in base and base[key] == value:
                raise ConfigError(f"factorial.factors.{name}.{key}={value}: the baseline has it already")


def aliased(names: list[str], words: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """Factor -> the shortest interactions that the design cannot tell from its main effect."""
    letters = {letter: 1 << place for place, letter in enumerate(sorted({x for w in words for x in w.lstrip("+-")}))}
    codes = []
    for word in words:
        code = 0
        for letter in word.lstrip("+-"):
            code ^= letters[letter]
        codes.append(code)
    same: dict[int, list[tuple[str, ...]]] = {}
    for chosen in range(1, 1 << len(names)):
        members = [i for i in range(len(names)) if chosen >> i & 1]
        if len(members) <= 3:
            code = 0
            for i in members:
                code ^= codes[i]
            same.setdefault(code, []).append(tuple(names[i] for i in members))
    return {name: [other for other in same[codes[i]] if other != (name,)] for i, name in enumerate(names)}


def contrasts_of(sweep: SweepConfig, keys: Mapping[str, TrialKeys]) -> dict[str, ContrastConfig]:
    """Every estimate: those that the sweep weighs itself and the slopes over doses, also where a run leaves out one of
    its usual arms, so that their family stays the registered one."""
    registered = {*keys, *(name for name, arm in sweep.arms.items() if not arm.optional)}
    found = dict(sweep.contrasts)
    for name, dose in sweep.doses.items():
        found |= slope(name, dose, keys)
    return {name: contrast for name, contrast in found.items() if set(contrast.weights) <= registered}


def slope(name: str, dose: DoseConfig, keys: Mapping[str, TrialKeys]) -> dict[str, ContrastConfig]:
    """The least-squares slope over the doses with a level for every seed, as weights of the arms; and what follows at
    the published dose. Where a run leaves out one of its arms they weigh nothing: there is no estimate."""
    place = f"doses.{name}"
    if not set(dose.members) <= keys.keys():
        nothing = ContrastConfig(f"slope over {', '.join(dose.members)}", dict.fromkeys(dose.members, 0.0))
        return dict.fromkeys(dose.estimates(name), nothing)
    found = dose.values or {arm: float(value_of(keys[arm], dose.key)) for arm in dose.arms}
    what = dose.key or "the dose"
    if len(set(found.values())) < 2:
        one = found[dose.members[0]]
        raise ConfigError(f"{place}: the arms {dose.members} all have {what}={one:g}; a slope needs two values")
    ends = {f"{place}.{end}": value for end, value in (("at", dose.at), ("over", dose.over)) if value is not None}
    for which, value in {**found, **ends}.items() if dose.log else ():
        if value <= 0:
            raise ConfigError(
                f"{place}.log=true: {which} has {what}={value:g}, and 0 or less has no logarithm; give it one above 0, "
                "or leave `log` out"
            )
    least = min(found.values())  # doses that lie close are told apart from it without loss
    x = {arm: math.log1p((value - least) / least) if dose.log else value - least for arm, value in found.items()}
    mean = math.fsum(x.values()) / len(x)
    if not 1 / LARGEST <= (span := max(x.values()) - min(x.values())) <= LARGEST:
        raise ConfigError(
            f"{place}: the doses {', '.join(f'{value!r}' for value in found.values())} lie {span:g} apart"
            f"{' on a logarithm' if dose.log else ''}, out of {1 / LARGEST:g} to {LARGEST:g}; take another unit"
        )
    square = math.fsum((value - mean) ** 2 for value in x.values())
    weights = {arm: (value - mean) / square for arm, value in x.items()}
    unit = f"a factor of e in {what}" if dose.log else f"one of {what}"
    contrasts = {name: ContrastConfig(f"slope per {unit}", weights)}
    if dose.at is not None:
        over = dose.reference
        far = math.log(dose.at) - math.log(over) if dose.log else dose.at - over
        about = f"by that slope, {what}={dose.at:g} against {over:g}"
        if unseen := [f"{end:g}" for end in (dose.at, over) if end not in found.values()]:
            about += f" (no arm has {' or '.join(unseen)})"
        contrasts[f"{name}_at"] = ContrastConfig(about, {arm: weight * far for arm, weight in weights.items()})
    return contrasts


def _check_dose(
    name: str, dose: DoseConfig, arms: Mapping[str, ArmConfig], searched: Mapping[str, list[float]]
) -> None:
    if dose.values and (dose.key or dose.arms):
        raise ConfigError(f"doses.{name}.values={dose.values}: stands in place of `key` and `arms`; leave those out")
    for arm in dose.members:
        if arm not in arms:
            raise ConfigError(f"doses.{name}: {arm}: no such arm{closest(arm, arms)}")
    if len(dose.members) < 2:
        raise ConfigError(f"doses.{name}: {dose.members}: one point has no slope; name two arms or more")
    if not (dose.values or dose.key):
        raise ConfigError(f"doses.{name}.key: names nothing; give the key of a number, or each arm's dose in `values`")
    if not dose.values and not _is_number(dose.key):
        near = closest(dose.key, filter(_is_number, trial_leaves()))
        raise ConfigError(f"doses.{name}.key={dose.key}: not a key of a number{near}")
    given = {f"values.{arm}": value for arm, value in dose.values.items()} | {"at": dose.at, "over": dose.over}
    for key, value in given.items():
        if value and not 1 / LARGEST <= abs(value) <= LARGEST:
            raise ConfigError(f"doses.{name}.{key}={value:g}: out of {1 / LARGEST:g} to {LARGEST:g}; take another unit")
    if (dose.at is None and dose.over is not None) or dose.at == dose.reference:
        at = "null" if dose.at is None else f"{dose.at:g}"
        raise ConfigError(f"doses.{name}.over={dose.reference:g}: what at={at} is compared with; give another `at`")
    for arm in dose.arms:
        if dose.key in searched or dose.key in arms[arm].search:
            raise ConfigError(
                f"doses.{name}.key={dose.key}: is searched for {arm}, so that nobody knows its dose before; give the "
                "arms of a dose fixed values"
            )


def _is_number(key: str) -> bool:
    if key not in trial_leaves():
        return False
    usual = value_of(TrialKeys(), key)
    if usual is not None:
        return type(usual) in (int, float)
    try:  # off by default: does it take one?
        with_overrides(TrialKeys(), {key: 1}, key)
    except ConfigError:
        return False
    return True


def _check_weights(name: str, contrast: ContrastConfig, arms: Mapping[str, ArmConfig]) -> None:
    for arm in contrast.weights:
        if arm not in arms:
            raise ConfigError(f"contrasts.{name}.weights.{arm}: no such arm{closest(arm, arms)}")
        if abs(contrast.weights[arm]) > LARGEST:
            raise ConfigError(f"contrasts.{name}.weights.{arm}={contrast.weights[arm]:g}: larger than {LARGEST:g}")
    total = math.fsum(contrast.weights.values())
    if len(contrast.weights) < 2 or abs(total) > 1e-9:
        raise ConfigError(f"contrasts.{name}.weights: add up to {total:g}; those of a contrast add up to 0")
    if not any(contrast.weights.values()):
        raise ConfigError(f"contrasts.{name}.weights: are all 0, which weighs nothing; give two arms others")
