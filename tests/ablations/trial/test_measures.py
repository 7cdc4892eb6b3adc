"""What a trial measures where a toggle changes what there is to measure: MTP, dense, ramp, documents, FIM."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from interrupted import Killed, killed_at

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.record.record import Record
from ablations.record.steplog import read_steps
from ablations.trial.bare import train_steps
from ablations.trial.fitting import build_model, open_data
from ablations.trial.job import TrialJob
from ablations.trial.measures import test_metrics as measured
from ablations.trial.measures import training_loss
from ablations.trial.train import run_trial
from models.checkpoint import load_checkpoint
from models.measure.uniform import max_vio_floor
from models.module import LanguageModel

torch.set_num_threads(1)

Jobs = Callable[..., TrialJob]
Finish = Callable[[TrialJob], Record]
RAMP = {"data.ramp_from": 0.25, "data.ramp_over": 0.5}


def finish(job: TrialJob) -> Record:
    return run_trial(job, lambda event: None)


def trained(given: TrialJob, steps: int = 4) -> tuple[TrialKeys, Any, LanguageModel]:
    """Keys, data and the module of a trial after its first steps."""
    keys, data = given.keys, open_data(given.keys, given.cache)
    module = build_model(keys, given.seed)
    train_steps(module, [data.train_sequences(given.seed, *batch) for batch in keys.batches[:steps]], keys)
    return keys, data, module


def learning_rates(keys: TrialKeys) -> list[float]:
    """Of every step, over the peak."""
    scheduler = build_model(keys, 1).configure_optimizers()["lr_scheduler"]["scheduler"]
    return [scheduler.lr_lambdas[0](step) for step in range(keys.steps)]


@pytest.fixture(scope="module")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, folder = random.Random(0), tmp_path_factory.mktemp("short")
    lines = [{"text": f"{source.choice('abc')}{source.randrange(10**4)} " * 3} for _ in range(3000)]
    (folder / "short.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "short.jsonl"


@pytest.fixture
def short_documents(job: Jobs, short_text: Path) -> Jobs:
    """`job`, on a corpus in which every sequence holds several documents."""
    text = {"data.source": "text", "data.path": str(short_text), "data.max_bytes": None}

    def make(folder: str = "a", changes: dict[str, Any] | None = None) -> TrialJob:
        given = job(folder, changes={**text, "model.vocab_size": 300, **(changes or {})})
        return replace(given, cache=str(short_text.parent / "cache"))

    return make


# --- multi-token prediction


@pytest.mark.parametrize("style", ["chained", "parallel", "linear"])
def test_mtp_is_measured_at_every_depth_and_apart_from_the_main_model(
    job: Jobs, undisturbed: Finish, style: str
) -> None:
    plain = undisturbed(job("plain"))
    given = job("mtp", changes={"model.mtp.depth": 2, "model.mtp.style": style})
    record = finish(given)
    metrics = record.metrics
    assert {name for name in metrics if name.startswith("mtp_")} == {
        *("mtp_loss_1", "mtp_loss_2", "mtp_acceptance_1", "mtp_acceptance_2", "mtp_tokens_per_forward")
    }
    for depth in (1, 2):
        assert metrics["loss"] - 0.5 < metrics[f"mtp_loss_{depth}"] < 7, "near the main loss, and learning"
    assert 1 >= metrics["mtp_acceptance_1"] >= metrics["mtp_acceptance_2"] >= 0, "a chain of drafts only breaks"
    accepted = metrics["mtp_acceptance_1"] + metrics["mtp_acceptance_2"]
    assert metrics["mtp_tokens_per_forward"] == pytest.approx(1 + accepted)
    assert record.history["loss"][0] == plain.history["loss"][0], "the main model begins with the same weights"
    assert metrics["loss"] != plain.metrics["loss"], "and its training is another"
    assert not any(name.startswith("mtp") for name in plain.metrics)


def test_max_vio_is_of_the_main_models_layers_alone(job: Jobs) -> None:
    given = job(changes={"model.mtp.depth": 2})
    record, keys = finish(given), given.keys
    assert len(build_model(keys, 1).transformer.routers()) == 3, "one MoE layer, and one in each module"
    assert len(record.load) == 1 and sum(record.load[0]) == pytest.approx(8)
    for kind in ("global", "batch"):
        assert [name for name in record.metrics if name.startswith(f"max_vio_{kind}_layer")] == [
            f"max_vio_{kind}_layer1"
        ]
        assert record.metrics[f"max_vio_{kind}"] == pytest.approx(record.metrics[f"max_vio_{kind}_layer1"])
    assert max(record.load[0]) - 1 == pytest.approx(record.metrics["max_vio_global"])
    steps = read_steps(Path(given.folder) / "steps.jsonl")
    assert all(len(row["max_vio_layers"]) == 1 for row in steps)
    floor = max_vio_floor(keys.tokens_per_step, 8, 2)
    assert record.metrics["max_vio_batch_floor"] == floor, "as many tokens as without MTP"


def test_the_experts_of_the_mtp_modules_are_balanced_too(job: Jobs) -> None:
    """The published slip: an update that walks the main model's layers only."""
    _, _, module = trained(job(changes={"model.mtp.depth": 2}))
    moved = [float(router.e_score_correction_bias.abs().sum()) for router in module.transformer.routers()]
    assert len(moved) == 3 and all(moved), moved


def test_an_mtp_trial_goes_on_bit_for_bit(job: Jobs) -> None:
    changes = {"model.mtp.depth": 1, "model.mtp.tail_from": 0.5}
    whole, given = finish(job("whole", changes=changes)), job("killed", changes=changes)
    with pytest.raises(Killed):
        run_trial(given, killed_at(8))
    again = finish(given)
    assert (again.metrics, again.history, again.validation) == (whole.metrics, whole.history, whole.validation)


# --- a dense model


def test_a_dense_model_has_no_balance_to_measure(job: Jobs) -> None:
    given = job(changes={"model.feed_forward": "dense"})
    record = finish(given)
    assert record.status == "complete"
    assert 4 < record.metrics["loss"] < record.history["loss"][0]
    assert record.metrics.keys() == {"loss", "loss_by_file", "train_loss", "bits_per_byte", "flops"}
    assert record.load == []
    assert all(row["max_vio_layers"] == [] for row in read_steps(Path(given.folder) / "steps.jsonl"))


def test_a_dense_model_with_mtp(job: Jobs) -> None:
    metrics = finish(job(changes={"model.feed_forward": "dense", "model.mtp.depth": 1})).metrics
    assert "mtp_loss_1" in metrics and not any("max_vio" in name for name in metrics)


# --- a ramp


def test_a_ramp_makes_more_steps_of_the_same_tokens(job: Jobs, undisturbed: Finish) -> None:
    plain, given = job("plain"), job("ramp", changes=RAMP)
    before, keys = plain.keys, given.keys
    assert (keys.sequences, keys.full_batches) == (before.sequences, before.steps) == (96, 12)
    assert keys.steps > before.steps and sum(count for _, count in keys.batches) == 96
    record, without = undisturbed(given), undisturbed(plain)
    assert record.history["step"] == [float(t) for t in range(1, keys.steps + 1)]
    assert record.validation["step"][-1] == keys.steps
    assert record.metrics["loss"] != without.metrics["loss"]
    rates, rates_without = (dict(zip(k.step_starts, learning_rates(k), strict=True)) for k in (keys, before))
    shared = rates.keys() & rates_without.keys()
    assert len(shared) > 6 and all(rates[place] == rates_without[place] for place in shared), "a function of the tokens"
    data = open_data(keys, given.cache)
    taken = [data.train_sequences(1, *batch) for batch in keys.batches]
    assert torch.equal(torch.cat(taken), torch.cat([data.train_batch(1, t) for t in range(12)]))


@pytest.mark.parametrize("step", [2, 5, 11])
def test_a_ramped_trial_goes_on_bit_for_bit(job: Jobs, undisturbed: Finish, step: int) -> None:
    whole, given = undisturbed(job("whole", changes=RAMP)), job("killed", changes=RAMP)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    again = finish(given)
    assert (again.metrics, again.history, again.validation) == (whole.metrics, whole.history, whole.validation)
    logs = [Path(given.folder).parent / name / "steps.jsonl" for name in ("whole", "killed")]
    assert logs[0].read_bytes() == logs[1].read_bytes()


# --- documents


def test_masked_measuring_changes_the_loss_and_nothing_else(short_documents: Jobs) -> None:
    open_, masked = finish(short_documents("a")), finish(short_documents("b", {"eval.mask_documents": True}))
    assert open_.history == masked.history, "training does not know how it is measured"
    for name in ("loss", "bits_per_byte", "max_vio_global"):
        assert open_.metrics[name] != masked.metrics[name]
    assert open_.validation["loss"] != masked.validation["loss"]
    assert open_.validation["step"] == masked.validation["step"]


@pytest.mark.parametrize("training", [False, True])
def test_measuring_leaves_the_model_as_it_was(short_documents: Jobs, training: bool) -> None:
    given = short_documents("a", {"data.mask_documents": training, "model.mtp.depth": 1})
    keys, data, module = trained(given)
    masking = replace(keys, eval=replace(keys.eval, mask_documents=True))
    model = module.transformer
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert model.training
    first = measured(keys, data, model)
    other = measured(masking, data, model)
    assert other[0]["loss"] != first[0]["loss"] and other[0]["mtp_loss_1"] != first[0]["mtp_loss_1"]
    assert measured(keys, data, model) == first, "measuring is a function of the weights"
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_masked_training_sees_its_own_document_only(short_documents: Jobs) -> None:
    """Another text in the first document moves later documents' logits, unless documents are masked."""
    moved = {}
    for masked in (False, True):
        keys, data, module = trained(short_documents("a", {"data.mask_documents": masked}), steps=2)
        tokens = next(row for row in data.train_sequences(1, 0, 8)[:, :-1] if 3 < int((row == 0).nonzero()[0]) < 20)
        end = int((tokens == 0).nonzero()[0])
        changed = tokens.clone()
        changed[:end] = 1 + (changed[:end] + 7) % (keys.model.vocab_size - 1)
        with torch.no_grad():
            inputs = (row[None] for row in (tokens, changed))
            before, after = (module.transformer(x, document_end=keys.document_end).logits for x in inputs)
        moved[masked] = (after - before).abs()[0, end + 1 :].max()
        assert (after - before).abs()[0, :end].max() > 1e-3
    assert moved[False] > 1e-3 and moved[True] < 1e-5, moved


# --- fill in the middle


def test_trials_with_and_without_fim_are_measured_on_the_same_tokens(short_documents: Jobs) -> None:
    never, always = (finish(short_documents(str(rate), {"data.fim_rate": rate})) for rate in (0.0, 1.0))
    assert never.history["loss"] != always.history["loss"]
    assert (never.data["fim"]["documents"], always.data["fim"]["documents"]) == (0, always.data["documents"]["train"])
    assert never.data["tokenizer_sha256"] == always.data["tokenizer_sha256"]
    for split in ("validation", "test"):
        assert never.data["tokens_sha256"][split] == always.data["tokens_sha256"][split]
    assert always.metrics["loss"] / never.metrics["loss"] == pytest.approx(
        always.metrics["bits_per_byte"] / never.metrics["bits_per_byte"]
    ), "the same tokens stand for the same bytes"


def test_loss_on_other_text(job: Jobs) -> None:
    """The second test set is scored as the first is; the training loss is that of the last fifth of the steps, each by
    its tokens, and stands for new text only."""
    given = job(changes={"data.ramp_from": 0.25, "data.ramp_over": 1.0, "eval.tasks": ["python_cloze"]})
    record = finish(given)
    keys, data = given.keys, open_data(given.keys, given.cache)
    rows = read_steps(Path(given.folder) / "steps.jsonl")
    tail = rows[-(keys.steps // 5) :]
    tokens = [count for _, count in keys.batches[-len(tail) :]]
    assert len(set(tokens)) > 1, "a ramp: steps of different sizes"
    expected = sum(row["loss"] * n for row, n in zip(tail, tokens, strict=True)) / sum(tokens)
    assert record.metrics["train_loss"] == pytest.approx(expected, rel=1e-12)
    model, _ = load_checkpoint(Path(given.folder) / "checkpoint")
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in data.evaluation_batches("by_file", keys.eval.tokens // 4):
            logits = model.eval()(batch[:, :-1]).logits
            total += float(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"))
            count += batch[:, 1:].numel()
    assert record.metrics["loss_by_file"] == pytest.approx(total / count, rel=1e-6)
    assert record.metrics["loss_by_file"] != record.metrics["loss"]
    search = job("search", changes={"eval.split": "validation", "eval.tasks": []})
    assert "loss_by_file" not in finish(search).metrics, "nothing is chosen on it"


def test_a_second_epoch_has_no_training_loss(short_documents: Jobs) -> None:
    given = short_documents()
    epoch = open_data(given.keys, given.cache).windows("train")
    tokens = (epoch // given.keys.data.batch_size + 2) * given.keys.tokens_per_step
    keys = with_overrides(given.keys, {"train.tokens": tokens}, "test")
    assert keys.sequences > epoch
    rows = [{"loss": 4.0}] * keys.steps
    assert training_loss(keys, open_data(keys, given.cache), rows) == {}
    assert training_loss(given.keys, open_data(keys, given.cache), rows[: given.keys.steps]) == {"train_loss": 4.0}
    short = open_data(keys, given.cache)
    short.__dict__["epoch"] = given.keys.sequences - 1  # batches of one domain leave some of a corpus out
    assert training_loss(given.keys, short, rows[: given.keys.steps]) == {}
    del short.__dict__["epoch"]
