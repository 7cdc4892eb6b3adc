"""Shorter trainings off the same stable one: effect against training length for little more than the longest's cost.

A WSD training (warmup, constant, decay) of a share h of the tokens is the whole one up to where its own decay begins.
So one stable trunk serves all lengths, and each shorter one is its decay alone; the whole training goes on from the
last of the places where one has branched off.
"""

from collections.abc import Sequence
from dataclasses import replace

from ablations.config.trialkeys import Stage, TrialKeys
from ablations.config.trialrules import check
from models.base.typed import ConfigError


def at_share(keys: TrialKeys, share: float, shares: Sequence[float]) -> TrialKeys:
    """`keys` trained on `share` of its tokens, where trainings on all `shares` (each below 1) branch off one trunk.

    Trained on all of them it is the same to the bit as without branches. Raises ConfigError where the trunk has no
    constant part for it.
    """
    optim, whole = keys.optim, Stage(keys.model, keys.data, keys.optim, keys.train)
    stable = 1 - optim.decay_fraction
    if optim.schedule != "wsd" or optim.warmup_fraction >= stable * min(shares):
        raise ConfigError(
            f"horizons={list(shares)}: the shortest, {min(shares):g}, needs a constant part to branch off: "
            f"optim.schedule=wsd (here {optim.schedule}) and optim.warmup_fraction={optim.warmup_fraction:g} below "
            f"{stable * min(shares):g}"
        )
    before = [replace(whole, until=stable * other) for other in sorted(shares) if other <= share]
    if share == 1:
        return check(replace(keys, before=before))
    shorter = replace(
        keys,
        optim=replace(optim, warmup_fraction=optim.warmup_fraction / share),
        train=replace(keys.train, token_fraction=keys.train.token_fraction * share),
        eval=replace(keys.eval, tasks=[]),
        before=before,
    )
    return check(shorter)
