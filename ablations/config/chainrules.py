"""What a stage must keep of the one before it, and of its teacher."""

from typing import Any

from ablations.config.trialkeys import Stage, value_of
from models.base.typed import ConfigError, as_typed
from models.post_training.config import DistilConfig
from models.rules import check_length
from tasks.config import DataConfig
from tasks.rules import OF_THE_TEXT, OF_THE_WORDS, tokens_of


def check_tokens(earlier: Stage, stage: Stage) -> None:
    """Raise ConfigError where a stage begins with weights that have learned other tokens than its own."""
    if _tokens(earlier) != _tokens(stage):
        one, other = _apart(earlier, stage)
        raise ConfigError(
            f"stages: {one}, and then {other}: the first's tokens mean other things than the "
            "second's; all stages of a chain need one tokenizer"
        )
    if earlier.data.template != stage.data.template:
        raise ConfigError(
            f"stages: data.template={earlier.data.template}, and then {stage.data.template}: questions would be asked "
            "otherwise than they were learned; take one template"
        )


def check_distil(stage: Stage) -> None:
    """Raise ConfigError where there is no teacher, or none that this student can learn from."""
    distil, data = stage.distil, stage.data
    said = f"distil.answers={distil.answers}, distil.loss={distil.loss}"
    if not stage.teacher:
        raise ConfigError(f"{said}: nobody teaches; name the stages that train the teacher in the sweep's `teacher`")
    if stage.grpo.on:
        raise ConfigError(
            f"{said}: a stage learns from a teacher or from rewards (grpo.on=true); make two stages of it"
        )
    _check_unread(distil)
    teacher = stage.teacher[-1]
    if _tokens(teacher) != _tokens(stage):
        one, other = _apart(teacher, stage)
        raise ConfigError(f"teacher: {one}: has other tokens than its student ({other}); one tokenizer is needed")
    if teacher.data.template != data.template:
        raise ConfigError(
            f"teacher: data.template={teacher.data.template}: is asked otherwise than its student "
            f"(data.template={data.template})"
        )
    if distil.answers == "teacher":
        _check_answers(data)
    if distil.loss != "tokens":
        check_length(teacher.model, data.seq_len, "teacher: data.seq_len")
        if (schedule := stage.model.pipeline.schedule) != "none":
            raise ConfigError(
                f"model.pipeline.schedule={schedule}: has no part in distil.loss={distil.loss}; take "
                "model.pipeline.schedule=none"
            )


def _check_answers(data: DataConfig) -> None:
    if data.source != "problem":
        raise ConfigError(
            f"distil.answers=teacher: data.source={data.source} asks nothing; take data.source=problem, or "
            "distil.answers=data with another distil.loss"
        )
    if data.order != "mixed":
        raise ConfigError(
            f"data.order={data.order}: a teacher's answers come as they are written; take data.order=mixed"
        )


def _check_unread(distil: DistilConfig) -> None:
    """A value that nothing reads would make an arm another one by name only."""
    usual = DistilConfig()
    for name, reads in (
        ("chosen", distil.answers == "teacher"),
        ("answer_temperature", distil.answers == "teacher"),
        ("temperature", distil.loss != "tokens"),
    ):
        if (value := getattr(distil, name)) != getattr(usual, name) and not reads:
            other = "distil.loss=forward_kl or reverse_kl" if name == "temperature" else "distil.answers=teacher"
            raise ConfigError(f"distil.{name}={value}: is read with {other} only; add it")


def _tokens(stage: Stage) -> list[Any]:
    """Equal where two stages' tokens mean the same."""
    return [stage.model.vocab_size, *tokens_of(stage.data)]


def _apart(one: Stage, other: Stage) -> tuple[str, str]:
    """The first key by which the tokens of two stages are others, as each of them has it."""
    names = ["model.vocab_size", *(f"data.{name}" for name in (*OF_THE_WORDS, *OF_THE_TEXT))]
    names.remove("data.template")  # which changes no token, and has a line of its own
    key = next(name for name in names if value_of(one, name) != value_of(other, name))
    return f"{key}={as_typed(value_of(one, key))}", f"{key}={as_typed(value_of(other, key))}"
