"""The metrics, in one list: how each is called and written, and which way is better.

Records hold numbers under these names (`ablations/trial/measures.py` takes them); sweeps name them, verdicts ask for
their direction, tables for their labels. A name may have a place for an index: `mtp_loss_<k>` stands for `mtp_loss_1`
and so on. The scores of lm-eval are not listed: they are `task/metric`, and `score` says what is known of them.
"""

import functools
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from models.base.typed import ConfigError, closest
from models.precision.config import ROLES
from tasks.config import SKILLS
from tasks.evals.answers import BITS, MARGIN
from tasks.evals.known import OUR_METRICS, OUR_TASKS
from tasks.evals.problems import PASSES, SAMPLES
from tasks.positions import ends_of_bins

BITS_PER_BYTE = "bits per byte"
ANSWER_NATS = "nats an answer"
Direction = Literal["lower", "higher"]
Part = Literal[
    "experts",
    "mtp",
    "recipe",
    "skill",
    "level",
    "ahead",
    "skills",
    "greedy",
    "samples",
    "context",
    "position",
    "base",
    "teacher",
]
Topic = Literal["loss", "context", "skill", "answers", "balance", "precision", "speed"]


@dataclass(frozen=True)
class Parts:
    """Of what an arm's model can be measured."""

    moe_layers: int = 0
    mtp_depth: int = 0
    recipe: bool = False
    """Whether its precision is a named recipe."""
    skill: bool = False
    """Whether it learns a skill or a problem, which asks and is answered."""
    contexts: tuple[int, ...] = ()
    """Lengths at which it is measured what is made of a context."""
    greedy: bool = False
    """Whether it answers a problem's questions greedily."""
    skills: tuple[int, ...] = ()
    """Numbers, from 1, among the known skills of those that it learns beside text."""
    samples: int = 0
    """Answers that are drawn to each of a problem's questions."""
    base: bool = False
    """Whether the distance from what its first stage left is measured."""
    teacher: bool = False
    """Whether it has learned from a teacher."""
    levels: tuple[int, ...] = ()
    """Of what is asked; empty where nobody has looked."""

    def of(self, part: Part, at: int | None = None) -> int:
        """How many there are; of contexts, where one `at` that length is measured, as many; of answers that are drawn,
        where pass@`at` is."""
        positions = ends_of_bins(max(self.contexts)) if self.contexts else []
        return {
            "experts": self.moe_layers,
            "mtp": self.mtp_depth,
            "recipe": int(self.recipe),
            "skill": int(self.skill),
            "level": max(1, at or 0) if self.skill and (not self.levels or at in self.levels) else 0,
            "ahead": self.mtp_depth if self.skill else 0,
            "skills": at if at in self.skills else 0,
            "greedy": int(self.greedy),
            "samples": self.samples if at is None else at if at in PASSES and at <= self.samples else 0,
            "context": at if at in self.contexts else 0,
            "position": at if at in positions else 0,
            "base": int(self.base),
            "teacher": int(self.teacher),
        }[part] or 0


_WANTING: dict[Part, str] = {
    "experts": "that many MoE layers (the most is {most}; model.n_layers, model.first_k_dense, model.feed_forward)",
    "mtp": "that many MTP modules (the most is {most}; model.mtp.depth)",
    "recipe": "a named recipe of precision (model.precision.recipe)",
    "skill": "a skill to learn, whose answers are counted (data.source=skill or problem)",
    "level": "answers of that level (data.source=skill, data.skill, data.settings; data.source=problem)",
    "ahead": "a skill to learn and that many MTP modules (the most is {most}; data.source=skill, model.mtp.depth)",
    "skills": "that skill to learn beside text (data.skills)",
    "greedy": "a problem answered greedily (eval.tasks=[problem_greedy], data.source=problem)",
    "samples": (
        "that many answers drawn to each question of a problem (eval.tasks=[problem_samples], data.source=problem; "
        f"pass@k is of k={', '.join(map(str, PASSES))}, up to eval.samples)"
    ),
    "base": "stages that all learn a problem (data.source=problem)",
    "teacher": "a stage that learns from a teacher (distil.answers, distil.loss)",
    "context": "a context of that length measured (eval.lengths)",
    "position": "a bin of positions that ends there: powers of two, and the longest context (eval.lengths)",
}

_TOPICS: dict[Part, Topic] = {
    "experts": "balance",
    "mtp": "speed",
    "recipe": "precision",
    "skill": "skill",
    "level": "skill",
    "ahead": "skill",
    "skills": "skill",
    "greedy": "answers",
    "samples": "answers",
    "context": "context",
}
"""Of what is no loss. Drafts that are accepted are time that is saved."""


@dataclass(frozen=True)
class Metric:
    name: str
    label: str
    """In prose and in heads of columns."""
    unit: str
    """Empty for a number without one."""
    digits: int
    """Decimals that the noise of small runs leaves meaningful."""
    better: Direction | None
    """None: neither way is, and no claim of `better` or `not_worse` can be made."""
    always: bool = False
    """Compared in every sweep, whatever it lists."""
    maximum: str | None = None
    """The metric that holds the largest value this one can have: then it measures balance, and is read as a share."""
    needs: Part | None = None
    """What of a model it measures: trials without it have no such number."""
    at: int | None = None
    """The layer, the module, or the skill among all, where a name says one."""
    yardstick: bool = False
    """Follows from sizes alone: shown beside a metric, never asked for."""

    jump: bool = False
    """It comes all at once, in some seeds and not in others: no t holds for it, and it has no interval."""

    about: Topic | None = None
    """Its topic, where neither its unit nor what it needs says so."""

    @property
    def topic(self) -> Topic | None:
        """Under which it is looked for; None for what a model can do, a task's score."""
        if self.of_loss:
            return "loss"
        return self.about or (_TOPICS[self.needs] if self.needs is not None else None)

    @property
    def of_loss(self) -> bool:
        """Whether it is a loss, in nats or in bits: what moves the loss moves it in proportion."""
        return self.better == "lower" and self.unit in ("nats", BITS_PER_BYTE)

    @property
    def falls_at_jumps(self) -> bool:
        """Whether it is of nats, or of bits, which are fewer of what a model has come to know all at once."""
        return self.of_loss or (self.unit == ANSWER_NATS and self.better == "lower")

    @functools.cached_property
    def index(self) -> str | None:
        """`k`, `i`, `role` or `skill` where the name stands for several."""
        place = re.search(r"<(\w+)>", self.name)
        return place[1] if place else None


_INDICES = {
    "k": "[1-9][0-9]*",
    "i": "[1-9][0-9]*",
    "level": "0|[1-9][0-9]*",
    "role": "|".join(ROLES),
    "skill": "|".join(SKILLS),
}
_NUMBERS = {name: number for number, name in enumerate(SKILLS, start=1)}

METRICS = (
    Metric("loss", "loss", "nats", 4, "lower", always=True),
    Metric("loss_by_file", "loss on files of the training packages", "nats", 4, "lower", always=True),
    Metric("train_loss", "training loss, last fifth", "nats", 4, "lower", always=True),
    Metric("loss_at_<i>", "loss at <i> % of the tokens", "nats", 4, "lower"),
    Metric("bits_per_byte", "bits per byte", BITS_PER_BYTE, 4, "lower", always=True),
    Metric("max_vio_global", "MaxVio_global", "", 3, "lower", always=True, maximum="max_vio_max", needs="experts"),
    Metric("max_vio_batch", "MaxVio_batch", "", 3, "lower", always=True, maximum="max_vio_max", needs="experts"),
    Metric(
        "max_vio_global_layer<i>", "MaxVio_global of layer <i>", "", 3, "lower", maximum="max_vio_max", needs="experts"
    ),
    Metric(
        "max_vio_batch_layer<i>", "MaxVio_batch of layer <i>", "", 3, "lower", maximum="max_vio_max", needs="experts"
    ),
    Metric("max_vio_floor", "MaxVio floor", "", 3, None, yardstick=True, needs="experts"),
    Metric("max_vio_batch_floor", "MaxVio_batch floor", "", 3, None, yardstick=True, needs="experts"),
    Metric("max_vio_max", "MaxVio maximum", "", 3, None, yardstick=True, needs="experts"),
    Metric("routing_entropy", "routing entropy", "nats", 3, None, always=True, needs="experts"),
    Metric("mtp_loss_<k>", "MTP loss at depth <k>", "nats", 4, "lower", needs="mtp"),
    Metric("mtp_acceptance_<k>", "MTP acceptance at depth <k>", "", 4, "higher", needs="mtp"),
    Metric("mtp_tokens_per_forward", "MTP tokens per forward", "", 4, "higher", needs="mtp"),
    Metric("loss_to_<i>", "loss at positions to <i>", "nats", 4, "lower", needs="position"),
    Metric("passkey_nats_<i>", "nats of a passkey in <i> tokens", "nats a token", 3, "lower", needs="context"),
    Metric("passkey_margin_<i>", "margin of a passkey in <i> tokens", "nats a token", 3, "higher", needs="context"),
    Metric("recall_nats_<i>", "nats of text read twice in <i> tokens", "nats a token", 3, "lower", needs="context"),
    Metric("answer_nats", "nats of an answer", ANSWER_NATS, 4, "lower", needs="skill"),
    Metric("answer_nats_level<level>", "nats of an answer at level <level>", ANSWER_NATS, 4, "lower", needs="level"),
    Metric("answer_accuracy", "answers right", "", 4, "higher", needs="skill", jump=True),
    Metric("answer_accuracy_level<level>", "answers right at level <level>", "", 4, "higher", needs="level", jump=True),
    Metric("answer_chance", "answers right by chance", "", 4, None, yardstick=True, needs="skill"),
    Metric("answer_ceiling", "answers right at best", "", 4, None, yardstick=True, needs="skill"),
    Metric("right_ahead_<k>", "right <k> tokens behind an answer", "", 4, "higher", needs="ahead", jump=True),
    Metric("item_accuracy", "items with all answers right", "", 4, "higher", needs="skill", jump=True),
    Metric("greedy_right", "greedy answers right", "", 4, "higher", needs="greedy"),
    Metric("pass_<k>", "pass@<k>", "", 4, "higher", needs="samples"),
    Metric("pass_gap", "pass@8 - pass@1", "", 4, "lower", needs="samples"),
    Metric("answers_formatted", "sampled answers formatted", "", 4, "higher", needs="samples"),
    Metric("answers_ended", "sampled answers ended", "", 4, "higher", needs="samples"),
    Metric("answer_tokens", "tokens of a sampled answer", "tokens", 2, None, needs="samples"),
    Metric("kl_from_base", "KL from the base", ANSWER_NATS, 3, None, needs="base", about="answers"),
    Metric("item_accuracy_<skill>", "<skill>: items right", "", 4, "higher", needs="skills", jump=True),
    Metric("answer_nats_<skill>", "<skill>: nats of an answer", ANSWER_NATS, 4, "lower", needs="skills"),
    Metric("answer_accuracy_<skill>", "<skill>: answers right", "", 4, "higher", needs="skills", jump=True),
    Metric("tokens_to_half", "tokens until halfway", "tokens", 0, "lower", needs="skill", jump=True),
    Metric("reached_half", "came halfway", "", 3, "higher", needs="skill", jump=True),
    Metric("without_signal", "groups of answers without signal", "", 3, None, about="answers"),
    Metric("flops", "FLOPs of the training", "FLOPs", 0, "lower", about="speed"),
    Metric("teacher_flops", "FLOPs of the teacher's training", "FLOPs", 0, "lower", needs="teacher", about="speed"),
    Metric("loss_error", "relative loss error", "", 5, "lower", about="precision"),
    Metric("gradient_cosine", "gradient cosine", "", 5, "higher", needs="recipe"),
    Metric("unpromoted_error", "error of unpromoted adds", "", 4, "lower", needs="recipe"),
    Metric("saved_bytes_per_token", "saved bytes per token", "bytes", 0, "lower", needs="recipe"),
    Metric("rounding_error_<role>", "rounding error of the <role>", "", 4, "lower", needs="recipe"),
    Metric("underflow_<role>", "underflow of the <role>", "", 4, "lower", needs="recipe"),
    Metric("saturation_<role>", "saturation of the <role>", "", 4, "lower", needs="recipe"),
)
"""What records hold. `loss_by_file`: on the second test set, where the corpus has one; `train_loss`: of the last fifth
of the steps, where no text was seen twice; `loss_at_<i>`: of a shorter training off the same trunk, a record of its
own; `loss_to_<i>`: of the positions behind the bin before, which mostly ends at half of that; `pass_<k>`: estimated
without bias (tasks/evals/problems.py). Floor: what perfectly uniform routing shows on as many tokens; maximum: E/k - 1;
`batch`: over the last tenth of training; `loss_error` is made from the curves of two trials."""

AT_A_SHARE = "loss_at_<i>"
COUNTED = "reached_half"
"""1 or 0: what is compared is of how many seeds."""


def at_shares(shares: Iterable[float]) -> dict[str, float]:
    """Metric -> share of the tokens, shortest first, of arms that are finished at several."""
    return {AT_A_SHARE.replace("<i>", str(round(100 * share))): share for share in sorted(shares)}


ALWAYS = tuple(metric.name for metric in METRICS if metric.always)

ACCURACIES = ("acc", "acc_norm", "exact_match")
_HIGHER = (*ACCURACIES, MARGIN, "f1", "bleu", "chrf", "rouge1", "rouge2", "rougeL", "mcc", "pass@1")
_LOWER = ("bits_per_byte", BITS, "byte_perplexity", "word_perplexity", "perplexity", "ter", "brier_score")


def find(name: str) -> Metric | None:
    """The metric of a name, its index filled in; None where there is none. Of scores every `task/metric` is one."""
    if "/" in name:
        return score(name)
    for metric in METRICS:
        if metric.index is None:
            if name == metric.name:
                return metric
        elif match := _pattern(metric).fullmatch(name):
            at = int(match[1]) if match[1].isdecimal() else _NUMBERS.get(match[1])
            return replace(metric, name=name, at=at, label=metric.label.replace(f"<{metric.index}>", match[1]))
    return None


def indices(name: str, among: Iterable[str]) -> list[int]:
    """Which of the numbers that `name` has a place for occur, in order: of `mtp_loss_<k>` the k."""
    pattern = _pattern(next(metric for metric in METRICS if metric.name == name))
    return sorted(int(match[1]) for match in map(pattern.fullmatch, among) if match)


def metric(name: str) -> Metric:
    """For eyes: as `find`, but a name of an earlier version is shown as it is, without a direction."""
    return find(name) or Metric(name, name.replace("_", " "), "", 4, None)


def score(name: str) -> Metric:
    """What is known of lm-eval's `task/metric`: the task alone is its label where that names the metric too."""
    task, _, what = name.partition("/")
    label = (task if what in task else f"{task} {what}").replace("_", " ")
    better: Direction | None = "higher" if _plain(what) in _HIGHER else "lower" if _plain(what) in _LOWER else None
    unit = BITS_PER_BYTE if _plain(what) in ("bits_per_byte", BITS) else ""
    return Metric(name, label, unit, 4, better)


def is_accuracy(name: str) -> bool:
    """Whether it is a share of items, which a guess gets right by chance."""
    return "/" in name and _plain(name.partition("/")[2]) in ACCURACIES


def share_of_maximum(values: Mapping[str, float], name: str) -> float | None:
    """A metric over the largest value that it can have, from one record's metrics. None where either is not there."""
    maximum = metric(name).maximum
    value, most = values.get(name), values.get(maximum) if maximum is not None else None
    if value is None or most is None:
        return None
    return value / most if most > 0 else 0.0  # every expert gets every token: there is nothing to balance


def check_named(place: str, name: str, directional: bool = False) -> None:
    """Raise ConfigError unless a sweep can name this metric; `directional`: in a claim that one arm is better."""
    known = [metric.name for metric in METRICS if not metric.yardstick]
    found = find(name)
    if found is None or found.yardstick:
        listed = ", ".join([*known, "task/metric"])
        raise ConfigError(f"{place}={name}: no such metric{closest(name, known)} (known: {listed})")
    if directional and found.better is None:
        raise ConfigError(
            f"{place}={name}: neither lower nor higher is better for it, so nothing can be better or worse; "
            "claim kind equal or value"
        )


def check_measured(place: str, name: str, tasks: Collection[str], arms: Collection[Parts]) -> None:
    """Raise ConfigError for a score that no task in `tasks`, which are scored, gives, and for a part of a model that
    none of `arms` has. Groups of tasks and files bring names of their own: beside them, a task that is not ours may be
    any."""
    task, slash, what = name.partition("/")
    if slash and task not in tasks and (task in OUR_TASKS or set(tasks) <= set(OUR_TASKS)):
        scored = ", ".join(tasks) or "none"
        raise ConfigError(f"{place}={name}: no such task is scored{closest(task, tasks)} (eval.tasks: {scored})")
    if slash and task in OUR_TASKS:
        given = OUR_METRICS[task]
        if task == SAMPLES and what in given:
            raise ConfigError(f"{place}={name}: is a metric by its own name; write {what}")
        if what not in given:
            raise ConfigError(f"{place}={name}: {task} gives no {what}{closest(what, given)} ({', '.join(given)})")
    found = find(name)
    if found is not None and found.needs is not None:
        most = max(arm.of(found.needs, found.at) for arm in arms)
        if most < (found.at or 1):
            wanting = _WANTING[found.needs].format(most=most)
            raise ConfigError(f"{place}={name}: no arm here has {wanting}")


@functools.cache
def _pattern(metric: Metric) -> re.Pattern[str]:
    before, after = metric.name.split(f"<{metric.index}>")
    return re.compile(f"{re.escape(before)}({_INDICES[str(metric.index)]}){re.escape(after)}")


def _plain(what: str) -> str:
    """lm-eval's name of a metric without that of the filter."""
    return what.split(",")[0]
