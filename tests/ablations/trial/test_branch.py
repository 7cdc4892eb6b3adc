"""A trial that goes on from another's state: with nothing changed the same to the bit, else changed from there on."""

import dataclasses
import errno
import io
import re
import zipfile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from interrupted import Killed, killed_at

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.config.trialrules import check
from ablations.record.record import Record
from ablations.record.steplog import read_steps
from ablations.record.trialdir import STATE
from ablations.trial.fitting import open_data
from ablations.trial.identity import trial_id
from ablations.trial.job import TrialJob
from ablations.trial.resume import weights_in
from ablations.trial.train import run_trial
from models.base.typed import ConfigError

STEPS = 12


def finish(job: TrialJob) -> Record:
    return run_trial(job, lambda event: None)


def branched(given: TrialJob, at: float = 0.5, **changes: Any) -> TrialJob:
    """`given` to a part of its steps, and from there on with the changes."""
    keys = with_overrides(given.keys, {name.replace("__", "."): value for name, value in changes.items()}, "test")
    trunk = dataclasses.replace(given.keys.stages[0], until=at)
    return dataclasses.replace(given, keys=dataclasses.replace(keys, before=[trunk]))


def rows(job: TrialJob) -> list[dict[str, Any]]:
    return read_steps(Path(job.folder) / "steps.jsonl")


@pytest.mark.parametrize(("arm", "at"), [("bias", 0.5), ("bias", 0.1), ("aux_loss", 0.9), ("aa", 0.5)])
def test_a_branch_that_changes_nothing_is_the_uninterrupted_training(job, undisturbed, arm, at):
    whole, given = undisturbed(job("whole", arm)), branched(job("branch", arm), at)
    found = finish(given)
    assert given.keys.trained_steps == STEPS and given.keys.trained_tokens == job("whole", arm).keys.trained_tokens
    assert found.status == "complete" and rows(given) == rows(job("whole", arm))
    for part in ("metrics", "load", "history", "validation"):
        assert getattr(found, part) == getattr(whole, part), part


@pytest.mark.parametrize(
    "changes",
    [
        {"model__moe__balance__kind": "none"},
        {"model__moe__balance__kind": "aux_loss", "model__moe__balance__alpha": 0.1},
        {"optim__lr": 0.02},
        {"optim__weight_decay": 1.0},
        {"optim__schedule": "wsd", "optim__decay_fraction": 0.5},
        {"model__mtp__depth": 1},
        {"model__mtp__depth": 1, "model__mtp__style": "parallel"},
        {"model__mtp__depth": 1, "model__mtp__style": "linear"},
        {"model__attention__qk_norm": True},
        {"data__mask_documents": True},
        {"train__microbatches": 4},
    ],
    ids=str,
)
def test_a_branch_shares_the_trunk_to_the_bit_and_then_goes_its_own_way(job, undisturbed, changes):
    whole, given = job("whole"), branched(job("branch"), **changes)
    undisturbed(whole), finish(given)
    shared, own = rows(whole), rows(given)
    assert own[:6] == shared[:6] and [row["step"] for row in own] == list(range(1, STEPS + 1))
    if changes != {"data__mask_documents": True}:  # so short a text may have no end of a document in it
        assert own[6:] != shared[6:]


def test_an_aa_arm_is_perturbed_where_it_branches_off(job, undisturbed):
    """At its beginning it is the trunk's; else a branched sweep would measure no noise at all."""
    plain, still = branched(job("plain")), branched(job("aa"), train__perturb=1e-6)
    undisturbed(plain), finish(still)
    before, after = ([row["loss"] for row in rows(given)] for given in (plain, still))
    assert before[:6] == after[:6] and before[6:] != after[6:]
    assert after == pytest.approx(before, abs=1e-3)


def test_moments_go_on_with_their_parameters(job):
    """New parts among the old ones move every number in the optimizer; the old ones' moments stay theirs."""
    still = {"optim__lr": 1e-12, "optim__weight_decay": 0.0}
    plain, added = branched(job("plain"), **still), branched(job("added"), model__mtp__depth=1, **still)
    finish(plain), finish(added)
    losses = [[row["loss"] for row in rows(given)] for given in (plain, added)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    before, after = branched(job("slow"), optim__lr=1e-3), branched(job("slow with MTP"), model__mtp__depth=1)
    finish(before), finish(after)
    assert rows(before)[:6] == rows(after)[:6]


@pytest.mark.parametrize("step", [4, 6, 7, 10])
def test_a_killed_branch_goes_on_bit_for_bit(job, undisturbed, step):
    changes = {"model__moe__balance__update_speed": 0.05}
    whole = undisturbed(branched(job("whole"), **changes))
    given = branched(job("killed"), **changes)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    found = finish(given)
    for part in ("metrics", "load", "history", "validation"):
        assert getattr(found, part) == getattr(whole, part), part
    assert rows(given) == rows(branched(job("whole"), **changes))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model__d_model": 48}, "model.embed_tokens.weight: is (512, 32) in the trunk and (512, 48) in this arm"),
        ({"model__n_layers": 1}, "model.layers.1.input_layernorm.weight: the trunk has it and this arm has not"),
        ({"model__moe__n_routed_experts": 4}, "model.layers.1.mlp.gate.weight: is (8, 32) in the trunk and (4, 32) in"),
    ],
    ids=str,
)
def test_a_toggle_that_does_not_fit_the_trunk_is_refused_by_the_parameters_name(job, changes, named):
    with pytest.raises(ConfigError) as refused:
        finish(branched(job(), **changes))
    assert str(refused.value).startswith(named) and "from scratch" in str(refused.value)


def test_an_id_says_where_a_trial_branched_off(job):
    given, text = job(), {"text": "x"}
    half, later, same = (branched(given, at) for at in (0.5, 0.75, 0.5))
    ids = [trial_id(j.keys, 1, [text] * len(j.keys.stages)) for j in (given, half, later, same)]
    assert ids[1] == ids[3] and len(set(ids)) == 3


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"data__batch_size": 4}, "data.batch_size=4, data.seq_len=32: cut other batches than the trunk's (data.b"),
        ({"data__ramp_from": 0.5, "data__ramp_over": 0.9}, "data.seq_len=32, data.ramp_from=0.5, train.micro"),
        ({"data__seq_len": 128}, "data.batch_size=8, data.seq_len=128: cut other batches than the trunk's (data.b"),
        ({"train__tokens": 1280}, "train.tokens=1280: end at step 5, and the trunk at 6; train longer, or branch off"),
    ],
    ids=str,
)
def test_a_branch_goes_on_at_its_trunks_place_in_the_data(job, changes, reason):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        check(branched(job(), **changes).keys)
    check(branched(job()).keys)


LONGER = {"data__seq_len": 128, "data__batch_size": 2}
"""As many tokens in a step as the trunk's 8 sequences of 32."""


def test_a_branch_may_have_longer_sequences_at_the_same_place_in_tokens(job, undisturbed):
    """The trunk to the bit, and from there on the batches that an uninterrupted training on long sequences has then."""
    long = {name.replace("__", "."): value for name, value in LONGER.items()}
    whole, given, alone = job("whole"), branched(job("branch"), **LONGER), job("long", changes=long)
    found = finish(given)
    undisturbed(whole)
    assert rows(given)[:6] == rows(whole)[:6] and rows(given)[6]["loss"] != rows(whole)[6]["loss"]
    for row, other in zip(rows(given), rows(whole), strict=True):
        assert (row["tokens"], row["lr"]) == (other["tokens"], other["lr"])
    assert given.keys.batches[6:] == alone.keys.batches[6:] and given.keys.trained_tokens == whole.keys.trained_tokens
    data, again = open_data(given.keys, given.cache), dataclasses.replace(given, folder=given.folder + " again")
    with mock.patch.object(type(data), "train_sequences", autospec=True, side_effect=type(data).train_sequences) as cut:
        finish(again)
    assert tuple(call.args[2:] for call in cut.mock_calls if call.args[0].seq_len == 128) == given.keys.batches[6:]
    assert "train_loss" in finish(whole).metrics
    assert "train_loss" not in found.metrics, "some of its text was seen before"


def test_a_killed_branch_of_longer_sequences_goes_on_bit_for_bit(job, undisturbed):
    whole, given = undisturbed(branched(job("whole"), **LONGER)), branched(job("killed"), **LONGER)
    with pytest.raises(Killed):
        run_trial(given, killed_at(8))
    again = finish(given)
    assert (again.metrics, again.history, again.validation) == (whole.metrics, whole.history, whole.validation)


def trunk_of(given: TrialJob, folder: str) -> TrialJob:
    """The trial that trains what the branch begins with."""
    (stage,) = given.keys.before
    keys = TrialKeys(stage.model, stage.data, stage.optim, stage.train, given.keys.eval, until=stage.until)
    return dataclasses.replace(given, keys=keys, folder=str(Path(given.folder).parent / folder))


def test_a_trunk_is_trained_once_and_taken_over(job, monkeypatch):
    changes = {"model__moe__balance__kind": "none"}
    alone, given = branched(job("alone"), **changes), branched(job("branch"), **changes)
    trunk = trunk_of(given, "trunk")
    left = finish(trunk)
    assert left.status == "complete" and not left.metrics and left.history["step"] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in Path(trunk.folder).iterdir()) == ["record.json", "state.ckpt", "steps.jsonl"]
    taken = dataclasses.replace(given, trunk=trunk.folder)
    whole = finish(alone)
    steps: list[int] = []
    found = run_trial(taken, lambda event: steps.append(event["step"]) if event["event"] == "step" else None)
    assert steps == list(range(7, STEPS + 1)), "the trunk's are taken over"
    assert rows(taken) == rows(alone)
    for part in ("metrics", "load", "history", "validation"):
        assert getattr(found, part) == getattr(whole, part), part
    assert (Path(trunk.folder) / "state.ckpt").is_file(), "another branch may want it"


def flipped(state: Path) -> bytes:
    """With eight bytes of its largest value changed, which torch reads without a word."""
    with zipfile.ZipFile(state) as entries:
        largest = max(entries.infolist(), key=lambda entry: entry.file_size)
        values, whole = entries.read(largest), state.read_bytes()
    at = whole.index(values) + len(values) // 2
    torch.load(io.BytesIO(changed := whole[:at] + bytes(8) + whole[at + 8 :]), weights_only=True)
    assert changed != whole
    return changed


BROKEN = ("cut short", "flipped", "no checkpoint", "of another seed")


@pytest.mark.parametrize("damage", ["gone", *BROKEN, "without its steps"])
def test_a_trunk_that_cannot_be_read_is_trained_again(job, undisturbed, damage):
    alone, given = branched(job("alone")), branched(job("branch"))
    trunk = trunk_of(given, "trunk")
    undisturbed(trunk)
    state = Path(trunk.folder) / "state.ckpt"
    if damage == "gone":
        state.unlink()
    elif damage == "cut short":
        state.write_bytes(state.read_bytes()[:1000])
    elif damage == "flipped":
        state.write_bytes(flipped(state))
    elif damage == "without its steps":
        (Path(trunk.folder) / "steps.jsonl").write_text("")
    elif damage == "of another seed":
        other = dataclasses.replace(trunk_of(given, "other"), seed=given.seed + 1)
        undisturbed(other)
        state.write_bytes((Path(other.folder) / state.name).read_bytes())
    else:
        state.write_bytes(b"nothing of a checkpoint")
    undisturbed(alone)
    events: list[dict[str, Any]] = []
    record = run_trial(dataclasses.replace(given, trunk=trunk.folder), events.append)
    assert record.status == "complete" and rows(given) == rows(alone)
    said = [e["text"] for e in events if e["event"] == "note"]
    assert len(said) == (damage != "gone") and (state.with_name("state.ckpt.damaged").exists(), state.exists()) == (
        damage in BROKEN, damage == "without its steps"
    )  # fmt: skip
    assert damage != "of another seed" or f"of seed {given.seed + 1}, and not {given.seed}, set aside" in said[0]


@pytest.mark.parametrize("step", [3, 6])
def test_a_killed_trunk_goes_on(job, undisturbed, step):
    given = branched(job("branch"))
    whole, killed = trunk_of(given, "whole"), trunk_of(given, "killed")
    undisturbed(whole)
    with pytest.raises(Killed):
        run_trial(killed, killed_at(step))
    finish(killed)
    assert rows(killed) == rows(whole)
    taken = [dataclasses.replace(given, trunk=t.folder, folder=t.folder + " branch") for t in (whole, killed)]
    assert finish(taken[0]).metrics == finish(taken[1]).metrics


def test_a_state_that_the_system_does_not_give_is_not_set_aside(tmp_path, monkeypatch):
    """A disk that fails for a moment costs a training and not a state: the next reader has it."""
    state = tmp_path / STATE
    torch.save({"state_dict": {}}, state)

    def fails(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("ablations.trial.resume.torch.load", fails)
    said = list[str]()
    assert weights_in(state, 0, said.append) is None and state.exists()
    assert said == [f"{state}: cannot be read (Input/output error); it is trained again"]
