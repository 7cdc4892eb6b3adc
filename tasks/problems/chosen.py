"""Which problems there are, by the names that `data.problem` takes."""

import dataclasses
from typing import cast

from models.base.typed import ConfigError, build, closest
from tasks.config import DataConfig
from tasks.problems.countdown import Countdown
from tasks.problems.modchain import ModChain
from tasks.problems.problem import Problem
from tasks.problems.sorting import Sorting
from tasks.problems.sums import Sums

PROBLEMS: dict[str, type] = {
    "sums": Sums,
    "modchain": ModChain,
    "sorting": Sorting,
    "countdown": Countdown,
}
AROUND = 3
"""Tokens around a question and its answer, of either template at most: two markers and the end."""


def problem_of(config: DataConfig) -> Problem:
    """As `data.problem` and `data.settings` say. Raises ConfigError for a setting that it does not have."""
    if config.problem not in PROBLEMS:
        names = ", ".join(PROBLEMS)
        said = f"expected one of {names}{closest(str(config.problem), PROBLEMS)}"
        raise ConfigError(f"data.problem={config.problem}: {said}")
    return cast(Problem, build(PROBLEMS[config.problem], config.settings or {}, "data.settings"))


def check_problem(config: DataConfig, vocab_size: int) -> None:
    """Raise ConfigError where no question can be made so, none fits with its answer into a sequence, or the model has
    no token for each word."""
    problem = problem_of(config)
    problem.check()
    if problem.short + problem.wrong > 1:
        raise ConfigError(
            f"data.settings.short={problem.short}: with wrong={problem.wrong} it is more than all answers; lower one"
        )
    question, answer = problem.longest
    if (wanted := question + answer + AROUND) > config.seq_len:
        raise ConfigError(
            f"data.seq_len={config.seq_len}: a question of data.problem={config.problem} takes up to {wanted} tokens "
            "with its answer; lengthen it, or lower data.settings"
        )
    if len(problem.words) > vocab_size:
        raise ConfigError(
            f"model.vocab_size={vocab_size}: data.problem={config.problem} has {len(problem.words)} words; raise it"
        )


def settings_of(problem: Problem) -> dict[str, object]:
    """All of them, those that nobody has set included."""
    return dataclasses.asdict(problem)  # type: ignore[call-overload]
