"""What a board shows of sweeps, section by section: names of what their runs hold, and no W&B.

The answer comes first, then one section for each topic that the sweeps have metrics of (`ablations/metrics.py`).
Differences to the baseline of the same seed come before what they are differences of.
"""

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ablations.judge.result import Result, score_values
from ablations.metrics import Topic
from ablations.metrics import metric as metric_of

ANSWER = "answer"
PAIRED, TEST = "paired/test/", "test/"
"""What a name in a run's summary begins with; then the metric's."""

CURVES: dict[str, dict[str, str]] = {
    "loss": {
        "paired/validation_loss": "validation loss - baseline's",
        "paired/train_loss": "training loss - baseline's",
        "validation/loss": "validation loss",
        "train/loss": "training loss",
    },
    "answers": {
        "train/reward": "mean reward",
        "train/policy_loss": "loss of the policy",
        "train/answer_length": "tokens of an answer",
        "train/kl": "KL from the reference model",
        "train/entropy": "entropy of the policy",
        "train/without_signal": "groups without signal",
    },
    "balance": {
        "validation/max_vio_global": "MaxVio_global, validation",
        "train/max_vio_batch": "MaxVio_batch, training",
    },
    "speed": {"train/tokens_per_second": "tokens per second, as it trained"},
}
"""By topic: what a run logs over its tokens (ablations/trial/mirror.py), and how it is called here."""


@dataclass(frozen=True)
class Section:
    name: str
    curves: dict[str, str]
    """Key in a run's history -> title; over tokens."""
    bars: dict[str, str]
    """Key in a run's summary -> title."""


def sections_of(results: Sequence[Result]) -> list[Section]:
    """A topic of which no sweep here has a metric is left out."""
    names = list(dict.fromkeys(name for result in results for name in _shown(result)))
    asked = dict.fromkeys(name for result in results for name in _asked(result))
    first = [name for name in asked if name in names] + [name for name in names if metric_of(name).topic is None]
    sections = [Section(ANSWER, {}, _bars(dict.fromkeys(first)))]
    rewarded = any(record.answering for result in results for record in result.all_records)
    for topic in typing.get_args(Topic):
        own = [name for name in names if metric_of(name).topic == topic]
        if own or (topic == "speed" and any(arm.speed for result in results for arm in result.arms.values())):
            curves = {} if topic == "answers" and not rewarded else CURVES.get(topic, {})
            sections.append(Section(topic, curves, _bars(own)))
    return sections


def _bars(names: Iterable[str]) -> dict[str, str]:
    labels = {name: metric_of(name).label for name in names}
    differences = {PAIRED + name: f"{label} - baseline's" for name, label in labels.items()}
    return differences | {TEST + name: label for name, label in labels.items()}


def _asked(result: Result) -> list[str]:
    """What the sweep is about: its main metric, and those of its claims."""
    return [result.primary, *(claim.metric for claim in result.expected)]


def _shown(result: Result) -> list[str]:
    """Metrics that are compared and that the runs themselves hold: some are made of several trials."""
    held = {name for record in result.all_records for name in (*record.metrics, *score_values(record))}
    order = dict.fromkeys([*_asked(result), *result.plan.metrics, *sorted(result.differences)])
    return [name for name in order if name in held and name in result.differences]
