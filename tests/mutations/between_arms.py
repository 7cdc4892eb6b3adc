"""Mistakes that lie between arms, in their text or seeds, or in how they are judged; mistakes.py has the models'."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import Bench
from mistakes import MISTAKES, Mistake, Plant, after
from pytest import MonkeyPatch

import models.training.optim as optim
from ablations.config.trialkeys import with_overrides
from ablations.record.guardresult import GuardResult
from models.balance import BiasAndAuxLoss

# What arms are compared by


def compared(name: str, story: str, look: Callable[[Bench], list[GuardResult]], *guards: str) -> None:
    MISTAKES[name] = Mistake(story, lambda patch, folder: None, look, guards)


compared("bytes_miscounted", "Bits per byte are not those that lm-eval measures.",
         lambda bench: bench.miscounted(), "scoring")  # fmt: skip
compared(
    "another_split",
    "One arm is scored on the validation split.",
    lambda bench: bench.beside_baseline("bias", {"eval.split": "validation"}, ["eval.split"]),
    "yardstick",
)
compared(
    "another_text",
    "The held-out text depends on how much was read.",
    lambda bench: bench.beside_baseline("bias", {"data.max_bytes": 500_000}, ["data.max_bytes"]),
    "yardstick",
)
compared(
    "second_toggle",
    "A second toggle moves along.",
    lambda bench: bench.beside_baseline("bias", {"optim.weight_decay": 0.0}, []),
    "isolation",
)
compared(
    "unequal_parameters",
    "MHA against MLA at equal steps and unequal parameters: 'wins 1.18x'.",
    lambda bench: bench.beside_baseline("bias", {"model.attention.kind": "mha"}, ["model.attention.kind"]),
    "budget",
)
compared(
    "test_text_learned",
    "A fifth of the test split is in the training part.",
    lambda bench: bench.leaked(0.2),
    "separation",
)
compared(
    "dead_toggle",
    "A key that the arm's attention ignores.",
    lambda bench: bench.finished({"two": {}, "four": {"model.attention.n_kv_heads": 4}}),
    "distinct",
)
compared("searched_on_the_test_seeds", "A seed of the confirmation chose the learning rate.",
         lambda bench: bench.seeds([1000, 3], [0, 1, 2, 3]), "seeds")  # fmt: skip


def _ignored_perturbation(patch: MonkeyPatch, folder: Path) -> None:
    start = __import__("models.transformer", fromlist=["_"]).initialise
    patch.setattr("models.module.initialise", lambda model, seed, std, perturb=0.0: start(model, seed, std))


MISTAKES["perturbation_ignored"] = Mistake(
    "The A/A arm repeats the baseline to the bit, so that no noise is measured.",
    _ignored_perturbation,
    lambda bench: bench.finished({"base": {}, "aa": {"train.perturb": 1e-6}}),
    ("distinct",),
)


# What only a test can know


def tested(story: str, test: str) -> Callable[[Plant], Plant]:
    def named(plant: Plant) -> Plant:
        MISTAKES[plant.__name__] = Mistake(story, plant, lambda bench: [], (), test)
        return plant

    return named


@tested("RoPE's turns also stretch.", "tests/models/test_rope.py::test_turns_have_modulus_one")
def turns_that_stretch(patch: MonkeyPatch, folder: Path) -> None:
    after(patch, __import__("models.rope", fromlist=["_"]), "rope_turns", lambda turns, *_: turns * 1.01)


CONFIRMS = "tests/ablations/sweep/test_conductor.py::test_search_then_confirmation_on_other_seeds_and_another_split"
COUNTS = "tests/ablations/judge/test_result.py::test_diverged_is_counted_and_not_averaged"


@tested("The learning rate is tuned for the baseline alone.", CONFIRMS)
def tuned_for_the_baseline_alone(patch: MonkeyPatch, folder: Path) -> None:
    from ablations.sweep.plan import Plan

    patch.setattr(Plan, "searched_arms", property(lambda self: [self.baseline]))


@tested("Values are chosen on the split that is reported.", CONFIRMS)
def chosen_on_the_test_split(patch: MonkeyPatch, folder: Path) -> None:
    from ablations.sweep import trials

    def reported(keys: Any, changes: Any, where: str) -> Any:
        return with_overrides(keys, {k: v for k, v in changes.items() if k != "eval.split"}, where)

    patch.setattr(trials, "with_overrides", reported)


@tested("The best seed is reported.", COUNTS)
def best_seed_reported(patch: MonkeyPatch, folder: Path) -> None:
    from ablations.judge.result import ArmResult

    def best(self: ArmResult, metric: str, seeds: Any = None) -> float | None:
        return min(self.values.get(metric, {}).values(), default=None)

    patch.setattr(ArmResult, "mean", best)


@tested("Trials that diverged are dropped, which improves their arm's mean.", COUNTS)
def diverged_trials_dropped(patch: MonkeyPatch, folder: Path) -> None:
    from ablations.judge.result import ArmResult

    after(patch, ArmResult, "of_status", lambda seeds, _, status: [] if status == "diverged" else seeds)


@tested(
    "One seed is enough.", "tests/ablations/config/test_compose.py::test_a_wrong_command_line_is_one_line_that_helps"
)
def one_seed(patch: MonkeyPatch, folder: Path) -> None:
    patch.setattr("ablations.config.compose._check_seeds", lambda config: None)


@tested("Losses are read at different places of their schedules.",
        "tests/models/training/test_optim.py::test_cosine_ends_at_its_ratio_with_the_last_token")  # fmt: skip
def read_amid_the_schedule(patch: MonkeyPatch, folder: Path) -> None:
    cosine = optim._cosine
    patch.setattr(optim, "_cosine", lambda progress, floor: cosine(progress / 1.5, floor))


@tested("Two mechanisms balance at once by default.",
        "tests/models/test_balance.py::test_strategies_without_a_bias_move_none")  # fmt: skip
def two_mechanisms_at_once(patch: MonkeyPatch, folder: Path) -> None:
    patch.setitem(__import__("models.balance", fromlist=["_"]).STRATEGIES, "aux_loss", BiasAndAuxLoss)
