"""What a trial's keys must keep among each other, in whichever of its stages they stand."""

import dataclasses
from typing import Any

import pytest

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.config.trialrules import MOST_STEPS, check
from models.base.typed import ConfigError

KEYS = TrialKeys()

RULES: list[tuple[dict[str, Any], list[str]]] = [
    ({"data.batch_size": 10}, ["data.batch_size=10", "train.microbatches=4", "12"]),
    (
        {"data.batch_size": 10, "model.pipeline.microbatches": 3, "model.pipeline.schedule": "1f1b"},
        ["data.batch_size=10", "model.pipeline.microbatches=3", "12"],
    ),
    ({"train.tokens": 1000}, ["less than one batch", "2048"]),
    ({"train.tokens": 2048, "train.token_fraction": 0.9}, ["x train.token_fraction=0.9): less than one batch"]),
    ({"train.tokens": 2048 * (MOST_STEPS + 1)}, ["1,000,001 batches of", "at most 1,000,000"]),
    (
        {"data.epochs": 2, "train.tokens": 2048 * 3},
        ["data.epochs=2: the stage's 3 batches of 48 sequences are no whole"],
    ),
    (
        {"data.epochs": 2, "data.ramp_from": 0.5, "data.ramp_over": 0.9},
        ["data.epochs=2: the stage's ", "data.ramp_from=1"],
    ),
    ({"data.seq_len": 1}, ["data.seq_len=1: must be at least 2"]),
    ({"optim.schedule": "wsd", "optim.decay_fraction": 0.95}, ["more than the whole run"]),
    ({"optim.schedule": "v3", "optim.cosine_from": 0.9, "optim.cosine_until": 0.8}, ["optim.cosine_from=0.9: the v3"]),
    ({"model.attention.qk_rope_head_dim": 7}, ["must be even"]),
    ({"model.precision.kernels": "torch"}, ["model.precision.kernels=torch: needs train.device=cuda"]),
    (
        {"train.compile": True, "model.precision.recipe": "fp8_row"},
        ["train.compile=true: model.precision.recipe=fp8_row multiplies by", "take train.compile=false"],
    ),
    (
        {"train.compile": True, "model.pipeline.schedule": "1f1b", "model.pipeline.stages": 2},
        ["train.compile=true: model.pipeline.schedule=1f1b takes blocks apart"],
    ),
    (
        {"train.compile": True, "model.dtype": "float64", "model.moe.backend": "loop"},
        ["train.compile=true: model.dtype=float64 is for exactness"],
    ),
    ({"train.compile": True, "data.ramp_from": 0.5}, ["train.compile=true: data.ramp_from=0.5 makes batches of many"]),
    ({"data.source": "text"}, ["data.source=text: needs data.path="]),
    ({"data.source": "hf"}, ["data.source=hf: needs data.name="]),
    ({"data.source": "skill"}, ["data.source=skill: needs data.skill=NAME, one of recall, "]),
    (
        {"data.source": "skill", "data.skill": "grammar", "data.settings": {"depths": [1], "by": 0.0}},
        ["data.settings={'depths': [1], 'by': 0.0}: nothing is to be learned, for a guess answers data.skill=grammar"],
    ),
    ({"data.source": "problem"}, ["data.source=problem: needs data.problem=NAME, one of sums, "]),
    ({"data.problem": "sums"}, ["data.problem=sums: is read with data.source=problem only; add data.source=problem"]),
    (
        {"data.source": "skill", "data.skill": "recall", "data.problem": "sums"},
        ["data.problem=sums: is read with data.source=problem only; add data.source=problem"],
    ),
    ({"data.path": "x.txt"}, ["is read with data.source=text only"]),
    (
        {"data.text_field": "content"},
        ["data.text_field=content: is of rows, which data.source=python_packages has none"],
    ),
    ({"data.domains": {"a": "x.txt", "b": "y.txt"}}, ["data.domains=", "is read with data.source=domains only"]),
    ({"data.domain_per": "batch"}, ["data.domain_per=batch: is read with data.source=domains only"]),
    ({"data.weights": {"prose": 2.0}}, ["data.weights={'prose': 2.0}: is read with data.source=domains only"]),
    (
        {"data.source": "domains", "data.weights": {"prose": 2.0}},
        ["data.weights={'prose': 2.0}: algebra has none; give every domain one"],
    ),
    ({"data.source": "domains", "data.domains": {"a": "x.txt"}}, ["data.domains=", "two or more"]),
    (
        {"data.source": "domains", "data.domain_per": "batch", "data.ramp_from": 0.2},
        ["data.ramp_from=0.2: batches of one domain each have one size"],
    ),
]


@pytest.mark.parametrize("stage", ["only", "first", "last"])
@pytest.mark.parametrize(("changes", "parts"), RULES, ids=[str(changes) for changes, _ in RULES])
def test_what_no_stage_can_be(changes: dict[str, Any], parts: list[str], stage: str) -> None:
    changed = with_overrides(KEYS, changes, "here")
    match stage:
        case "first":
            changed = dataclasses.replace(KEYS, before=changed.stages)
        case "last":
            changed = dataclasses.replace(changed, before=KEYS.stages)
    with pytest.raises(ConfigError) as caught:
        check(changed)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_epochs_without_a_ramp_do_not_speak_of_one() -> None:
    with pytest.raises(ConfigError, match=r"no whole number for each; change train\.tokens$"):
        check(with_overrides(KEYS, {"data.epochs": 2, "train.tokens": 2048 * 3}, "here"))


def test_the_batches_of_a_ramp_are_laid_out_once_for_all_arms() -> None:
    """A cluster's plan has hundreds of thousands, and each arm is asked for them several times."""
    changes = {"data.ramp_from": 0.25, "train.tokens": 2048 * 100}
    one, other = (with_overrides(KEYS, changes | {"optim.lr": lr}, "here") for lr in (0.001, 0.002))
    assert one.batches is other.batches and one.steps == len(one.batches)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"eval.samples": 8}, "eval.samples=8: is read by problem_samples only; add it to eval.tasks"),
        ({"eval.tasks": ["problem_samples"]}, "eval.tasks=problem_samples: answers are judged by a problem's rule; "),
        (
            {"eval.tasks": ["problem_greedy"], "data.source": "skill", "data.skill": "recall"},
            "eval.tasks=problem_greedy: answers are judged by a problem's rule; ",
        ),
        (
            {"data.source": "problem", "data.problem": "sums", "data.seq_len": 32, "eval.tasks": ["problem_samples"]},
            "data.seq_len=32: a question of data.problem=sums takes up to 36 tokens with its answer; ",
        ),
    ],
)
def test_what_answers_are_asked_for_where_none_are_judged(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(with_overrides(KEYS, changes, "here"))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    problem = {"data.source": "problem", "data.problem": "sums", "data.skill": None, "data.seq_len": 128}
    check(with_overrides(KEYS, {"eval.tasks": ["problem_samples"], **changes, **problem}, "here"))


def test_what_is_scored_is_a_sequence_at_least() -> None:
    with pytest.raises(ConfigError, match=r"^eval.tokens=100: less than one sequence \(data.seq_len=128\)$"):
        check(with_overrides(KEYS, {"eval.tokens": 100}, "here"))


def test_what_can_be_trained_comes_back() -> None:
    edge = with_overrides(KEYS, {"train.tokens": 2048, "eval.tokens": 128}, "here")
    two = dataclasses.replace(edge, before=KEYS.stages)
    for keys in (KEYS, edge, two, with_overrides(KEYS, {"train.tokens": 2048 * MOST_STEPS}, "here")):
        assert check(keys) is keys
