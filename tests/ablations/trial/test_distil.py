"""A trial that learns from a teacher: who trains that, what comes of it, and that it goes on to the bit when killed."""

import dataclasses
from pathlib import Path

import pytest
from interrupted import Killed, killed_at

from ablations.config.trialkeys import TrialKeys, with_overrides
from ablations.record.record import Record
from ablations.record.steplog import read_steps
from ablations.record.trialdir import STATE, TEACHER
from ablations.trial.chain import BASE
from ablations.trial.identity import trial_id
from ablations.trial.job import TrialJob
from ablations.trial.teacher import Untaught
from ablations.trial.train import run_trial
from models.cost import cost

PROBLEM = {
    "data.source": "problem",
    "data.problem": "sums",
    "data.settings": {"digits": [1]},
    "data.max_bytes": None,
    "data.seq_len": 32,
    "data.batch_size": 32,
    "model.vocab_size": 64,
    "eval.tasks": [],
    "train.tokens": 6 * 32 * 32,
}
WRITTEN = {"distil.answers": "teacher", "distil.chosen": "finished"}
TOKENS = 4 * 32 * 32


@pytest.fixture
def chain(job):
    """`chain(folder, {key: value})`: a trial of a pre-training and a stage that learns from a teacher, which has been
    trained for longer, with a larger model."""

    def make(folder: str = "a", teacher: dict[str, object] | None = None, **changes: object) -> TrialJob:
        first = job(folder, changes=PROBLEM)
        larger = {"model.n_layers": 3, "train.tokens": 9 * 32 * 32, **(teacher or {})}
        taught = with_overrides(first.keys, larger, "test").stages
        changed = {name.replace("__", "."): value for name, value in changes.items()} or WRITTEN
        keys = with_overrides(first.keys, {"train.tokens": TOKENS} | changed, "test")
        return dataclasses.replace(first, keys=dataclasses.replace(keys, before=first.keys.stages, teacher=taught))

    return make


def finish(given: TrialJob) -> Record:
    return run_trial(given, lambda event: None)


def rows(given: TrialJob) -> list[dict[str, float]]:
    return read_steps(Path(given.folder) / "steps.jsonl")


def numbers(record: Record) -> dict[str, object]:
    return {k: v for k, v in dataclasses.asdict(record).items() if k != "timings"}


def teacher_of(given: TrialJob, folder: Path, keep: bool = True) -> TrialJob:
    keys = given.keys.taught_by
    assert isinstance(keys, TrialKeys)
    return dataclasses.replace(given, id="t" * 16, keys=keys, folder=str(folder), keep=keep, teacher=None)


@pytest.fixture
def taught(undisturbed):
    """`taught(trial)`: with a teacher that others have trained."""

    def given(trial: TrialJob) -> TrialJob:
        other = teacher_of(trial, Path(trial.folder).with_name("taught"))
        if not Path(other.folder).exists():
            undisturbed(other)
        return dataclasses.replace(trial, teacher=other.folder)

    return given


def test_the_record_says_what_the_teacher_wrote_and_cost(chain, undisturbed):
    given = chain()
    record, logged = undisturbed(given), rows(given)
    assert record.status == "complete" and len(logged) == 10
    first, second = record.stages
    student, teacher = (cost(stage.model, 32).flops_per_token for stage in (given.keys, given.keys.teacher[0]))
    assert teacher > student and first.drawn == 0
    assert second.drawn == round(sum(row["drawn"] for row in logged[6:])) > TOKENS, "more is written than is learned"
    assert second.tokens == TOKENS and second.flops == pytest.approx(TOKENS * student + second.drawn * teacher / 3)
    assert record.metrics["teacher_flops"] == pytest.approx(9 * 32 * 32 * teacher)
    assert record.metrics["kl_from_base"] > 0
    left = {path.name for path in Path(given.folder).iterdir()}
    assert TEACHER not in left and BASE not in left, "nothing is left of its teacher and its base"


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl"])
def test_a_distribution_is_learned_from(chain, taught, undisturbed, loss):
    given = taught(chain("a", distil__loss=loss))
    record, logged = undisturbed(given), rows(given)
    assert all("distil_loss" in row for row in logged[6:]) and not any("distil_loss" in row for row in logged[:6])
    student, teacher = (cost(stage.model, 32).flops_per_token for stage in (given.keys, given.keys.teacher[0]))
    second = record.stages[1]
    assert second.drawn == 0 and second.flops == pytest.approx(TOKENS * (student + teacher / 3))


def test_the_ways_of_learning_differ_and_begin_alike(chain, taught, undisturbed):
    ways = {
        "data": {"optim__weight_decay": 0.1},
        "written": {"distil__answers": "teacher", "distil__chosen": "finished"},
        "forward": {"distil__loss": "forward_kl"},
        "reverse": {"distil__loss": "reverse_kl"},
        "warm": {"distil__loss": "forward_kl", "distil__temperature": 4.0},
        "both": {"distil__answers": "teacher", "distil__chosen": "finished", "distil__loss": "forward_kl"},
    }
    found = {}
    for name, changes in ways.items():
        given = chain(name, **changes)
        if name == "data":
            given = dataclasses.replace(given, keys=dataclasses.replace(given.keys, teacher=[]))
        else:
            given = taught(given)
        found[name] = undisturbed(given).metrics["loss"], [row["loss"] for row in rows(given)]
    assert len({loss for loss, _ in found.values()}) == len(ways), found
    assert len({tuple(losses[:6]) for _, losses in found.values()}) == 1
    assert found["forward"][1][6] == found["data"][1][6] == found["warm"][1][6], "the same text, told the same loss of"
    assert found["written"][1][6] == found["both"][1][6] != found["data"][1][6]


@pytest.mark.parametrize(("step", "loss"), [(6, "tokens"), (8, "tokens"), (7, "forward_kl")])
def test_killed_it_goes_on_bit_for_bit(chain, taught, undisturbed, step, loss):
    changes = {"distil__answers": "teacher", "distil__chosen": "finished", "distil__loss": loss}
    whole, given = taught(chain("whole", **changes)), taught(chain("killed", **changes))
    expected = undisturbed(whole)
    with pytest.raises(Killed):
        run_trial(given, killed_at(step))
    assert numbers(finish(given)) == numbers(expected)
    assert rows(given) == rows(whole)


def test_a_teacher_that_others_have_trained_is_the_one_that_it_trains_itself(chain, taught, undisturbed):
    alone, given = chain("alone"), taught(chain("given"))
    state = Path(given.teacher) / STATE
    assert state.is_file()
    events = list[int]()
    found = run_trial(given, lambda event: events.append(event["steps"]) if event["event"] == "step" else None)
    assert set(events) == {10}, "the teacher is not trained again"
    assert numbers(found) == numbers(undisturbed(alone))
    state.write_bytes(state.read_bytes()[:1000])
    damaged = dataclasses.replace(chain("damaged"), teacher=given.teacher)
    assert numbers(finish(damaged)) == numbers(found), "what cannot be read is trained anew"


def test_a_teacher_that_has_diverged_is_said(chain):
    with pytest.raises(Untaught, match=r"the teacher diverged: .* at step \d"):
        finish(chain(teacher={"optim.lr": 1e30}))


def test_the_distance_from_the_first_stage_is_none_where_nothing_is_learned(chain, job, taught, undisturbed):
    still = {"optim__lr": 1e-12, "optim__weight_decay": 0.0, "model__moe__balance__update_speed": 0.0}
    given = taught(chain("still", distil__loss="forward_kl", **still))
    assert finish(given).metrics["kl_from_base"] < 1e-6
    assert finish(job("one", changes=PROBLEM)).metrics["kl_from_base"] == 0.0
    assert "kl_from_base" not in undisturbed(job("text")).metrics


def test_the_distance_is_the_same_whoever_has_trained_the_first_stages(chain, job, taught, undisturbed):
    alone = undisturbed(taught(chain("alone", distil__loss="forward_kl")))
    given = taught(chain("given", distil__loss="forward_kl"))
    trunk = dataclasses.replace(job("trunk", changes=PROBLEM), keep=True)
    finish(trunk)
    assert (Path(trunk.folder) / BASE).is_file()
    found = finish(dataclasses.replace(given, trunk=trunk.folder))
    assert found.metrics == alone.metrics and alone.metrics["kl_from_base"] > 0
    kept = (Path(trunk.folder) / BASE).read_bytes()
    (Path(trunk.folder) / BASE).write_bytes(kept[:1000])
    damaged = dataclasses.replace(given, folder=f"{given.folder} damaged", trunk=trunk.folder)
    assert finish(damaged).metrics == alone.metrics
    (Path(trunk.folder) / BASE).unlink()
    without = dataclasses.replace(given, folder=f"{given.folder} without", trunk=trunk.folder)
    assert finish(without).metrics == alone.metrics, "without it the stages are trained again"


def test_an_id_holds_the_teacher(chain):
    one, other = chain().keys, chain(teacher={"optim.lr": 0.001}).keys
    assert [stage.model.n_layers for stage in one.all_stages] == [2, 3, 2]
    assert trial_id(one, 0, [{}] * 3) != trial_id(other, 0, [{}] * 3)
    with pytest.raises(ValueError, match="2 texts of 3 stages"):
        trial_id(one, 0, [{}] * 2)


def test_what_is_read_a_second_time_is_written_once(chain, taught):
    given = taught(chain(**{key.replace(".", "__"): value for key, value in WRITTEN.items()}, data__epochs=2))
    logged = finish(given) and rows(given)[6:]
    assert [row["drawn"] > 0 for row in logged] == [True, True, False, False]
