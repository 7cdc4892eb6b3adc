"""Keys of text, of rewards, of teachers, of experts and of their balance that nothing reads where they are set: an arm
that differs in one alone would be another one by name only, a factor would change nothing, and a dose would be none."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ablations.config.schema import SweepConfig
from ablations.config.trialkeys import Stage, TrialKeys, trial_leaves, value_of, with_overrides
from models.base.typed import ConfigError
from models.kinds import KINDS
from tasks.rules import needed_by

USUAL = TrialKeys()
OWN_ANSWERS = ("data.answers_only", "data.mask_documents")
"""Of sequences that are given: a model that is rewarded learns its own answers, each in a sequence by itself."""
OF_A_LOSS = ("model.moe.balance.alpha", "model.moe.balance.scope")
OF_A_BIAS = tuple(
    f"model.moe.balance.{name}" for name in ("update_speed", "frozen_fraction", "bias_rule", "bias_form", "load_scope")
)


OF_SCHEDULES = {
    "optim.final_lr_ratio": ("cosine", "wsd", "v3"),
    "optim.decay_fraction": ("wsd",),
    **dict.fromkeys(
        (f"optim.{name}" for name in ("cosine_from", "cosine_until", "tail_from", "tail_lr_ratio")), ("v3",)
    ),
}
OF_FP8 = ("format", "granularity", "block", "accumulation", "keep_high", "dispatch", "combine", "cache_activations")


def _of_others(key: str, stage: Stage) -> str | None:
    """As `_of_experts`, of keys that another key of their own group makes nothing of."""
    group, _, name = key.rpartition(".")
    if key in OF_SCHEDULES and stage.optim.schedule not in OF_SCHEDULES[key]:
        return f"optim.schedule={' or '.join(OF_SCHEDULES[key])}"
    readers = [kind for kind, attention in KINDS.items() if group == "model.attention" and name in attention.sizes]
    if readers and stage.model.attention.kind not in readers:
        return f"model.attention.kind={' or '.join(readers)}"
    if group == "model.mtp" and name != "depth" and not stage.model.mtp.depth:
        return "model.mtp.depth above 0"
    if key.startswith("model.precision.") and key.split(".")[2] in OF_FP8 and not stage.model.precision.fp8:
        return "a recipe of FP8, such as model.precision.recipe=fp8_block"
    return None


def _of_experts(key: str, stage: Stage) -> str | None:
    """What a stage would have to say for this key of the experts, or of their balance, to be read; None where it is."""
    if not key.startswith("model.moe."):
        return None
    if stage.model.feed_forward != "moe":
        return "model.feed_forward=moe"
    if not stage.model.routers:
        return "a layer of experts, model.first_k_dense below model.n_layers"
    balance = stage.model.moe.balance
    if key in OF_A_LOSS and not balance.has_loss:
        return "model.moe.balance.kind=aux_loss or bias_aux_loss"
    if key in OF_A_BIAS and not balance.has_bias:
        return "model.moe.balance.kind=bias or bias_aux_loss"
    return None


def _needs(key: str, stage: Stage) -> str | None:
    """What a stage would have to say for this key to be read; None where it is read, or says the usual."""
    if value_of(stage, key) == value_of(USUAL, key):
        return None
    grpo = stage.grpo
    if key in OWN_ANSWERS and grpo.on:
        return "grpo.on=false"
    if key == "data.settings" and grpo.on and _of_given_answers(stage.data.settings or {}):
        return "grpo.on=false: its short and wrong say how given answers are written, and here a model writes them"
    if key.startswith("data.") and (needed := needed_by(key.removeprefix("data."), stage.data)):
        return needed
    if key.startswith("grpo.") and not grpo.on:
        return "grpo.on=true"
    if key.startswith("distil.") and not stage.distil.on:
        return "distil.answers=teacher, or distil.loss=forward_kl or reverse_kl"
    if key == "grpo.kl_estimator" and not grpo.kl_weight:
        return "grpo.kl_weight above 0"
    if key in ("grpo.clip_low", "grpo.clip_high") and grpo.updates == 1:
        return "grpo.updates above 1, where a policy learns from what an earlier one drew"
    return None


def _of_given_answers(settings: Mapping[str, Any]) -> bool:
    """With `short: 1` held-out answers are short too, whatever is learned from."""
    return bool(settings.get("wrong")) or settings.get("short", 0) not in (0, 1)


def check_read(
    sweep: SweepConfig, keys: TrialKeys, arms: Mapping[str, TrialKeys], file: str, said: Collection[str] = ()
) -> None:
    """Raise ConfigError for what an arm, a stage, or `common` and the command line (the keys `said`) set and nobody
    reads. `keys`: before any arm or stage has set anything; `arms`: the chains of all."""
    used: dict[str, list[Stage]] = {name: [] for name in sweep.stages}
    for name in sweep.teacher:
        used[name] += with_overrides(keys, sweep.stages[name], f"{file} stage {name}").stages
    for name, arm in arms.items():
        for stage, chained in zip(sweep.arms[name].stages, arm.stages, strict=False):
            used[stage].append(chained)
    for name, changes in sweep.stages.items():
        _check(changes, used[name], f"{file} stage {name}: ")
    for name, arm in arms.items():
        _check(_own(sweep, name), [arm], f"{file} arm {name}: ")
    if sweep.trunk:
        _check(sweep.trunk, [with_overrides(arms[sweep.baseline], sweep.trunk, f"{file} trunk")], f"{file} trunk: ")
    control = with_overrides(arms[sweep.baseline], sweep.control, f"{file} control")
    _check(sweep.control, [control], f"{file} control: ")
    _check_experts(sweep.control, control, f"{file} control: ")
    _check_factors(sweep, arms, file)
    _check_doses(sweep, arms, file)
    for name, arm in arms.items():
        if name != sweep.baseline:
            _check_experts(_own(sweep, name), arm, f"{file} arm {name}: ")
        for key in sweep.arms[name].search:
            if needed := _of_experts(key, arm):
                raise ConfigError(
                    f"{file}: arms.{name}.search.{key}: is read only with {needed}; add that, or leave it out"
                )
    everywhere = [stage for arm in arms.values() for stage in arm.all_stages]
    everywhere.sort(key=lambda stage: not stage.grpo.on)  # what is said is of these
    for key in trial_leaves():
        of_text = key == "data.max_bytes" and (key in said or key in sweep.common)  # a scale may give it to all
        if of_text or key.startswith(("grpo.", "distil.")):
            _check([key], [stage for stage in everywhere if value_of(stage, key) == value_of(keys, key)], "")


def _check_factors(sweep: SweepConfig, arms: Mapping[str, TrialKeys], file: str) -> None:
    """Each factor of a factorial changes something in every run that has it."""
    for name, changes in {} if sweep.factorial is None else sweep.factorial.factors.items():
        for run in [run for run, weight in sweep.contrasts[name].weights.items() if weight > 0]:
            needed = [_of_experts(key, arms[run]) or _of_others(key, arms[run]) for key in changes]
            if None not in needed:
                key, value = next(iter(changes.items()))
                raise ConfigError(
                    f"{file}: factorial.factors.{name}.{key}={value}: nothing reads it in {run} "
                    f"({sweep.arms[run].about}); it needs {needed[0]}, in the baseline or in {name}"
                )


def _check_doses(sweep: SweepConfig, arms: Mapping[str, TrialKeys], file: str) -> None:
    for name, dose in sweep.doses.items():
        for arm in dose.arms:
            if needed := _of_experts(dose.key, arms[arm]):
                raise ConfigError(
                    f"{file}: doses.{name}.arms={dose.arms}: nothing reads {dose.key} in {arm}, where its value "
                    f"is no dose; it needs {needed}, or give each arm's dose in doses.{name}.values"
                )


def _check_experts(own: Mapping[str, Any], stage: Stage, where: str) -> None:
    """What is said may carry keys along that nothing reads, and not such keys alone."""
    needed = [_of_experts(key, stage) for key in own]
    if own and None not in needed:
        key, value = next(iter(own.items()))
        raise ConfigError(f"{where}{key}={value}: is read only with {needed[0]}; add that, or leave it out")


def _own(sweep: SweepConfig, name: str) -> dict[str, Any]:
    """What an arm says beside its last stage and the arm that it stands on."""
    arm = sweep.arms[name]
    given = dict(sweep.stages[arm.stages[-1]]) if arm.stages else {}
    if arm.onto is not None:
        given |= sweep.arms[arm.onto].set
    return {key: value for key, value in arm.set.items() if key not in given or given[key] != value}


def _check(changed: Iterable[str], stages: list[Stage], where: str) -> None:
    """One of the stages reads each key, if there are any."""
    for key in changed:
        needed = [_needs(key, stage) for stage in stages]
        if needed and None not in needed:
            value = value_of(stages[0], key)
            raise ConfigError(f"{where}{key}={value}: is read only with {needed[0]}; add that, or leave this out")
