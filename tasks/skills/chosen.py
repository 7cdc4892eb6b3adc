"""Which skills there are, by the names that `data.skill` takes."""

import dataclasses
from typing import cast

from models.base.typed import ConfigError, build, closest
from tasks.config import DataConfig
from tasks.skills.automaton import Automaton
from tasks.skills.chain import Chain
from tasks.skills.copy import Copy
from tasks.skills.fuzzy import Fuzzy
from tasks.skills.grammar import Grammar
from tasks.skills.hops import Hops
from tasks.skills.names import Names
from tasks.skills.noisy import Noisy
from tasks.skills.phonebook import Phonebook
from tasks.skills.polynomial import Polynomial
from tasks.skills.recall import Recall
from tasks.skills.skill import Skill
from tasks.skills.star import Star

SKILLS: dict[str, type] = {
    rule.__name__.lower(): rule
    for rule in (Recall, Automaton, Grammar, Names, Star, Hops, Chain, Polynomial, Copy, Fuzzy, Noisy, Phonebook)
}
MOST_MADE = 64
_MADE: dict[tuple[str, str], Skill] = {}
"""A plan asks for the same one often, and some count long until they know their chance."""


def skill_of(config: DataConfig) -> Skill:
    """As `data.skill` and `data.settings` say. Raises ConfigError for a setting that it does not have."""
    if config.skill not in SKILLS:
        names = ", ".join(SKILLS)
        raise ConfigError(f"data.skill={config.skill}: expected one of {names}{closest(str(config.skill), SKILLS)}")
    key = config.skill, repr(config.settings)
    if key not in _MADE:
        if len(_MADE) >= MOST_MADE:
            _MADE.clear()
        _MADE[key] = cast(Skill, build(SKILLS[config.skill], config.settings or {}, "data.settings"))
    return _MADE[key]


def check_skill(config: DataConfig, vocab_size: int) -> None:
    """Raise ConfigError where no item can be made so, or the model has no token for each word."""
    skill = skill_of(config)
    skill.check(config.seq_len)
    if len(skill.words) > vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size}: data.skill={config.skill} has {len(skill.words)} words; raise it"
        )


def check_learnable(config: DataConfig) -> None:
    """Raise ConfigError where a guess is as good as the rule: halfway between them is nowhere."""
    skill = skill_of(config)
    if skill.chance > skill.ceiling - 1e-9:
        raise ConfigError(
            f"data.settings={config.settings}: nothing is to be learned, for a guess answers data.skill={config.skill} "
            f"as well as its rule does ({skill.chance:.3g} right); make it harder"
        )


def settings_of(skill: Skill) -> dict[str, object]:
    """All of them, those that nobody has set included."""
    return dataclasses.asdict(skill)  # type: ignore[call-overload]
