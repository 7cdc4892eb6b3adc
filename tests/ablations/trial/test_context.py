"""What a trial measures at `eval.lengths`, and when it measures nothing."""

import dataclasses
import re

import pytest

from ablations.config.trialkeys import with_overrides
from ablations.config.trialrules import check
from ablations.trial.context import context_metrics
from ablations.trial.fitting import build_model, open_data
from ablations.trial.train import run_trial
from models.base.typed import ConfigError
from tasks.config import EvalConfig
from tasks.context import DEPTHS
from tasks.prepared import require_contexts


def test_a_record_has_what_its_lengths_name(job):
    given = job(changes={"eval.lengths": [128, 64], "eval.tasks": []})
    record = run_trial(given, lambda event: None)
    assert {"loss_to_16", "loss_to_32", "loss_to_64", "loss_to_128"} <= record.metrics.keys()
    names = ("passkey_nats", "passkey_margin", "recall_nats")
    assert {f"{name}_{length}" for name in names for length in (64, 128)} <= record.metrics.keys()
    found = record.needles
    assert found is not None and found.lengths == [64, 128] and found.depths == list(DEPTHS)
    for length, nats, margins in zip(found.lengths, found.nats, found.margins, strict=True):
        assert record.metrics[f"passkey_nats_{length}"] == pytest.approx(sum(nats) / len(DEPTHS))
        assert record.metrics[f"passkey_margin_{length}"] == pytest.approx(sum(margins) / len(DEPTHS))
    plain = run_trial(job("plain", changes={"eval.tasks": []}), lambda event: None)
    assert plain.needles is None and plain.metrics.items() <= record.metrics.items(), "and nothing else is changed"


def test_a_search_is_not_asked(job):
    keys = with_overrides(job().keys, {"eval.lengths": [64], "eval.split": "validation"}, "test")
    assert context_metrics(keys, open_data(keys, job().cache), build_model(keys, 1).transformer) == ({}, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"model.rope.scaling": "yarn", "model.rope.factor": 2.0, "model.rope.original_length": 32},
            "eval.lengths=128: beyond the model, whose model.rope.scaling=yarn stretches model.rope.original_length=32 "
            "to 64 tokens; take a model.rope.factor of 4, or no more tokens",
        ),
        ({"data.source": "skill", "data.skill": "copy"}, "eval.lengths=[64, 128]: are of text"),
    ],
)
def test_lengths_that_cannot_be_measured_are_one_line(job, changes, reason):
    keys = with_overrides(job().keys, {"eval.lengths": [64, 128], **changes}, "test")
    if "data.skill" in changes:
        small = {"data.settings": {"copied": [4]}, "data.max_bytes": None}
        keys = with_overrides(keys, small, "test")
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check(keys)


def test_a_context_longer_than_the_test_text_is_refused_before_training(job):
    data = open_data(job().keys, job().cache)
    require_contexts(data, [64])
    with pytest.raises(ConfigError, match=r"eval.lengths=\[64, 1000000\]: a context of 1000000 tokens .* split"):
        require_contexts(data, [64, 1_000_000])


def test_a_trunk_is_not_asked(job):
    keys = with_overrides(job().keys, {"eval.lengths": [64], "eval.samples": 8}, "test")
    branch = dataclasses.replace(keys, before=[dataclasses.replace(keys.stages[0], until=0.5)])
    assert branch.trunk is not None and branch.trunk.eval.lengths == []
    assert branch.trunk.eval.samples == EvalConfig.samples, "one trunk, however many answers"
