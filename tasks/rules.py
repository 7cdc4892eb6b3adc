"""The rules between the keys of a source. What a single key must keep stands in its type, and what the rest of a trial
asks of it in `ablations.config.trialrules`."""

from typing import Any

from models.base.typed import ConfigError
from tasks.config import DRAWN, DataConfig
from tasks.problems.chosen import PROBLEMS, problem_of
from tasks.skills.chosen import SKILLS, skill_of
from tasks.text.fim import reserved
from tasks.text.sources import weights_of

OF_THE_WORDS = ("source", "skill", "problem", "template", "settings")
"""Keys that say what is learned of a rule, and how it is written."""
OF_THE_TEXT = ("source", "path", "name", "text_field", "domains", "weights", "skills", "max_bytes", "fim_rate")
"""Keys that a tokenizer of text depends on."""


def check_source(data: DataConfig) -> None:
    """Raise ConfigError for a key that its source lacks, or has no use for."""
    for source, name, wanted in (
        ("text", "path", "FILE_OR_FOLDER"),
        ("hf", "name", "DATASET"),
        ("skill", "skill", f"NAME, one of {', '.join(SKILLS)}"),
        ("problem", "problem", f"NAME, one of {', '.join(PROBLEMS)}"),
    ):
        value = getattr(data, name)
        if data.source == source and not value:
            raise ConfigError(f"data.source={source}: needs data.{name}={wanted}")
        if data.source != source and value is not None:
            raise ConfigError(f"data.{name}={value}: is read with data.source={source} only; add data.source={source}")
    if data.text_field != "text" and data.source not in ("text", "hf", "domains"):
        raise ConfigError(f"data.text_field={data.text_field}: is of rows, which data.source={data.source} has none of")
    _check_drawn(data)
    _check_domains(data)


def _check_drawn(data: DataConfig) -> None:
    """What is drawn from a rule has keys of its own, and none of documents; a problem's instances are such."""
    for name, default, read, why in (
        ("settings", None, DRAWN, "is read with data.source=skill or problem only"),
        ("answers_only", False, DRAWN, "is read with data.source=skill or problem only"),
        ("template", "plain", ("problem",), "is read with data.source=problem only"),
    ):
        if (value := getattr(data, name)) != default and data.source not in read:
            amid = "; among text (data.skills) a skill is as it is, leave this out" if data.skills else ""
            raise ConfigError(f"data.{name}={value}: {why}{amid or f'; add data.source={read[-1]}'}")
    without = {"skill": (("fim_rate", None), ("mask_documents", False)), "problem": (("fim_rate", None),)}
    for name, default in without.get(data.source, ()):
        if (value := getattr(data, name)) != default:
            raise ConfigError(
                f"data.{name}={value}: is about documents of text, which data.source={data.source} has none of; "
                "leave it out"
            )


def _check_domains(data: DataConfig) -> None:
    if data.source != "domains":
        for name, default in (("domains", None), ("weights", None), ("domain_per", "sequence")):
            if (value := getattr(data, name)) != default:
                raise ConfigError(
                    f"data.{name}={value}: is read with data.source=domains only; add data.source=domains"
                )
    elif data.domains is not None and len(data.domains) < 2:
        raise ConfigError(f"data.domains={data.domains}: two or more; for one kind of text take data.source=text")
    else:
        weights_of(data)
    if data.domain_per == "batch" and data.ramp_from != 1:
        raise ConfigError(
            f"data.ramp_from={data.ramp_from}: batches of one domain each have one size; take data.ramp_from=1 or "
            "data.domain_per=sequence"
        )


def tokens_of(data: DataConfig) -> list[Any]:
    """Equal where the tokens of two sources mean the same: words of what is drawn, and else all that a tokenizer is
    learned from. Raises ConfigError for a setting that a skill or a problem does not have."""
    if data.source == "problem":
        return [*problem_of(data).words]
    if data.source == "skill":
        return [*skill_of(data).words]
    text = {name: getattr(data, name) for name in OF_THE_TEXT}
    return [*(text | {"fim_rate": reserved(data.fim_rate)}).values()]  # whatever the rate, it reserves the same tokens


def needed_by(key: str, data: DataConfig) -> str | None:
    """What would have to be said for this key of `data` to be read, where that is no rule of its own: a scale may give
    it to all, and a person who sets it means something by it. None where it is read."""
    if key == "max_bytes" and data.source in DRAWN:
        return "text, data.source=text, hf, domains, stdlib or python_packages"
    return None
