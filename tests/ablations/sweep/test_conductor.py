"""What the scheduler does with a plan: which trials it asks for, what it writes down, what it never does twice."""

import errno
import json
import random
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from stand_in_kinds import asked

from ablations.config.schema import TrackConfig
from ablations.config.trialkeys import value_of
from ablations.files import write_json
from ablations.judge.gather import load_result
from ablations.judge.grid import key_of
from ablations.judge.result import Result
from ablations.launch.space import DiskFull
from ablations.record.documents import PLAN, STATE, PlanDocument, SweepState
from ablations.record.guardresult import GuardResult
from ablations.record.record import read_record
from ablations.show.sections.every import guards_table
from ablations.sweep import guarding
from ablations.sweep.disk import bytes_needed
from ablations.sweep.guarding import GuardFailed
from ablations.sweep.studies import Studies
from ablations.sweep.workplace import check_writable
from ablations.trial.uploads import remembered
from models.base.typed import ConfigError

FRESH = ("search=fresh", "search_points=2", "search_seeds=2")


def load(runs: Path, published: Path | None = None) -> Result:
    return load_result(runs, "toy", "smoke", published)


def searched(pool: Any) -> list[tuple[str, int]]:
    return [(r.labels.arm, r.trial.seed) for r in map(asked, pool.ran.get("trial", [])) if r.labels.phase == "search"]


def confirmed(pool: Any) -> list[tuple[str, int]]:
    return [(r.labels.arm, r.trial.seed) for r in map(asked, pool.ran.get("trial", [])) if r.labels.phase == "confirm"]


def test_search_then_confirmation_on_other_seeds_and_another_split(conduct, pool, runs):
    conductor = conduct(*FRESH)
    arms = ["aux_loss", "bias", "control", "aa"]
    assert searched(pool) == [(arm, seed) for arm in arms[:2] for _ in range(4) for seed in [1000, 1001]]
    assert confirmed(pool) == [(arm, seed) for seed in [0, 1] for arm in arms]
    chosen = conductor.state.chosen
    assert chosen["aux_loss"] == {"optim.lr": 0.005, "model.moe.balance.alpha": 0.01}
    for request in map(asked, pool.ran["trial"]):
        arm, keys = request.labels.arm, request.trial.keys
        assert request.labels.seed == request.trial.seed
        if request.labels.phase == "search":
            assert keys.eval.split == "validation"
        else:
            assert keys.eval.split == "test"
            strength = f"model.moe.balance.{'update_speed' if arm == 'bias' else 'alpha'}"
            assert keys.optim.lr == 0.005 and value_of(keys, strength) == chosen[arm][strength]
    state = SweepState.read(runs / "toy/smoke")
    assert state == conductor.state
    assert len(state.search) == 16
    first = state.search[0]
    assert first.loss == read_record(runs / "trials" / first.id / "record.json").metrics["loss"]
    assert set(state.speed) == set(arms)


def test_what_scoring_needs_is_tried_before_the_first_job(conduct, pool, runs, tmp_path):
    """A text whose lines are too long to ask for: nothing is guarded, trained, or planned."""
    words = random.Random(0)
    lines = ("".join(f"{words.randrange(10**6):x} " for _ in range(60)) for _ in range(400))
    (tmp_path / "prose.txt").write_text("\n".join(lines))
    text = ("data.source=text", f"data.path={tmp_path / 'prose.txt'}")
    with pytest.raises(ConfigError, match="eval.tasks=python_cloze: no item can be made of the test split"):
        conduct(*text, "eval.tasks=[python_bits_per_byte,python_cloze]")
    assert pool.ran == {} and not (runs / "toy").exists()
    conduct(*text, "eval.tasks=[python_bits_per_byte]")
    assert pool.ran["trial"]


def test_arm_without_a_strength_gets_as_many_search_trials(conduct, pool):
    conduct(*FRESH, "arms=[none,bias]")
    by_arm = {arm: [s for a, s in searched(pool) if a == arm] for arm in ("aux_loss", "none", "bias")}
    assert {arm: len(seeds) for arm, seeds in by_arm.items()} == {"aux_loss": 8, "none": 8, "bias": 8}
    assert sorted(by_arm["none"]) == sorted([1000, 1001, 1002, 1003] * 2), "from the last listed one on"


def test_an_optimum_on_the_edge_widens_the_rates_for_all_arms_twice_at_most(conduct, pool, monkeypatch):
    monkeypatch.setattr("stand_in_kinds.BEST_RATE", 0.08)
    conductor = conduct("search=fresh", "search_points=3", "search_seeds=1")
    rates = {
        arm: sorted({r.point["optim.lr"] for r in conductor.state.search if r.arm == arm})
        for arm in ("aux_loss", "bias")
    }
    assert rates == {arm: [0.0025, 0.005, 0.01, 0.02, 0.04] for arm in rates}
    # Only the last strength of bias balances, so that it is widened once; aux_loss gets one more for an equal budget.
    assert len(searched(pool)) == 2 * 5 * 4, "points of earlier generations are not measured again"
    on_edge = "still on the edge of its grid: optim.lr=0.04 of aux_loss (highest), optim.lr=0.04 of bias (highest)"
    assert [d for d in conductor.state.deviations if on_edge in d]


def test_finished_trials_never_run_again_and_the_plan_stays_as_it_was(conduct, pool, runs):
    first = conduct(*FRESH)
    files = {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/record.json")}
    plan = (runs / "toy/smoke" / PLAN).read_bytes()
    pool.ran.clear()
    second = conduct(*FRESH)
    assert pool.ran == {}, "nothing at all: guards and speed are known too"
    assert {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/record.json")} == files
    assert (runs / "toy/smoke" / PLAN).read_bytes() == plan
    assert second.state.deviations == first.state.deviations
    assert second.state.chosen == first.state.chosen
    assert second.state.minutes > first.state.minutes


def test_only_what_is_missing_runs(conduct, pool, runs):
    first = conduct(*FRESH)
    lost = first.state.confirm[3].id
    shutil.rmtree(runs / "trials" / lost)
    pool.ran.clear()
    conduct(*FRESH)
    assert [job.key for job in pool.ran["trial"]] == [lost]


def test_an_interrupted_sweep_goes_on_where_it_was(conduct, pool, runs):
    trial, calls = pool.kinds["trial"], []

    def interrupted(arguments: dict[str, Any], report: Any) -> Any:
        calls.append(arguments["trial"]["id"])
        if len(calls) in (3, 12):
            raise KeyboardInterrupt
        return trial(arguments, report)

    pool.kinds["trial"] = interrupted
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            conduct(*FRESH)
        assert SweepState.read(runs / "toy/smoke").minutes > 0
    state = conduct(*FRESH).state
    assert len(calls) == 24 + 2
    assert len(state.confirm) == len(load(runs).all_records) == 8
    assert state.deviations == conduct(*FRESH).state.deviations


def of_plans(conductor: Any) -> list[str]:
    start = "trials had run under another plan of this sweep before this one was made: "
    return [line for line in conductor.state.deviations if line.startswith(start)]


def test_its_own_trainings_were_not_there_before_a_plan_whose_state_is_lost(conduct, runs):
    conduct(*FRESH)
    (runs / "toy/smoke/state.json").write_text("{")
    again = conduct(*FRESH).state.deviations
    assert any("was damaged" in line for line in again) and not any("on record" in line for line in again)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("words", [("seeds=3",), ("train.tokens=6144",), ("arms=[none,bias]", "seeds=[4,5]")])
def test_another_plan_leaves_what_is_there_and_gets_a_folder_of_its_own(conduct, pool, runs, monkeypatch, words):
    said: list[str] = []
    monkeypatch.setattr("ablations.sweep.conductor.Progress.note", lambda self, text: said.append(text))
    first = conduct(*FRESH)
    whole = contents(runs / "toy/smoke")
    other = conduct(*FRESH, *words)
    assert contents(runs / "toy/smoke") == whole
    assert other.folder.parent == runs / "toy" and other.folder.name.startswith("smoke@")
    where = f"{runs / 'toy/smoke'} holds the result of another plan ("
    assert [line for line in said if line.startswith(where) and line.endswith(f"this one goes to {other.folder}")]
    (note,) = of_plans(other)
    shared = {trial.id for trial in first.state.confirm} & {trial.id for trial in other.state.confirm}
    before = [f"{len(shared)} of {len(other.state.confirm)} trainings were on record before this plan was made"]
    assert [line for line in other.state.deviations if "on record" in line] == before * bool(shared)
    assert not any("on record" in line for line in first.state.deviations)
    assert words[0].partition("=")[0] in note
    pool.ran.clear()
    again, back = conduct(*FRESH, *words), conduct(*FRESH)
    assert (again.folder, back.folder) == (other.folder, first.folder) and pool.ran == {}, "each finds its own"
    assert of_plans(again) == [note] and of_plans(back) == []
    assert len(list((runs / "toy").iterdir())) == 2
    assert len(load_result(runs, "toy", other.folder.name).all_records) == len(other.state.confirm)


@pytest.mark.parametrize(
    ("name", "found"), [("bits", {"instruction_set": "AVX9"}), ("task_fingerprint", {"/home/me/mine.yaml": "ab"})]
)
def test_other_bits_or_an_edited_task_are_another_plan(conduct, runs, monkeypatch, name, found):
    conduct(*FRESH)
    whole = contents(runs / "toy/smoke")
    monkeypatch.setattr(f"ablations.sweep.registration.{name}", lambda *_: found)
    other = conduct(*FRESH)
    assert other.folder.name.startswith("smoke@") and contents(runs / "toy/smoke") == whole
    assert "/home" not in (other.folder / "plan.json").read_text()


@pytest.mark.parametrize("workers", [1, 3])
def test_other_words_for_the_same_plan_are_the_same_plan(conduct, pool, runs, workers):
    first = conduct(*FRESH, "optim.lr=0.005")
    pool.ran.clear()
    second = conduct(*FRESH, "optim.lr=5e-3", f"launch.workers={workers}")
    assert (second.folder, pool.ran) == (first.folder, {})
    assert "optim.lr=0.005" in PlanDocument.read(first.folder).command


def test_a_plan_that_nothing_was_trained_under_makes_way(conduct, pool, runs):
    guards = pool.kinds["guards"]
    pool.kinds["guards"] = lambda arguments, report: {"guards": [asdict(GuardResult("start", False, "no"))]}
    with pytest.raises(GuardFailed):
        conduct(*FRESH)
    pool.kinds["guards"] = guards
    conductor = conduct(*FRESH, "seeds=3")
    assert (conductor.folder, of_plans(conductor)) == (runs / "toy/smoke", [])
    assert PlanDocument.read(runs / "toy/smoke").seeds == [0, 1, 2]


@pytest.mark.parametrize("after", [0, 1, 12])
def test_a_plan_made_amid_the_search_of_another_is_a_deviation(conduct, pool, monkeypatch, after):
    monkeypatch.setattr("stand_in_kinds.BEST_RATE", 0.08)
    trial, calls = pool.kinds["trial"], []

    def stop(arguments: dict[str, Any], report: Any) -> Any:
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(arguments["trial"]["id"])
        return trial(arguments, report)

    pool.kinds["trial"] = stop
    words = ("search=fresh", "search_points=3", "search_seeds=1")
    with pytest.raises(KeyboardInterrupt):
        conduct(*words)
    assert confirmed(pool) == []
    pool.kinds["trial"] = trial
    assert len(of_plans(conduct(*words, "seeds=3"))) == 1


def test_what_was_published_under_a_plans_own_name_goes_on_there(conduct, pool, runs, tmp_path):
    conduct(*FRESH)
    other = conduct(*FRESH, "seeds=3")
    published = tmp_path / "results/toy" / other.folder.name
    (published / "records").mkdir(parents=True)
    for name in (PLAN, STATE):
        shutil.copy(other.folder / name, published)
    for entry in other.state.confirm[:5]:
        shutil.copy(runs / "trials" / entry.id / "record.json", published / "records" / f"{entry.id}.json")
    (published / "manifest.json").write_text(json.dumps({"partial": True}))
    for folder in (runs / "toy", runs / "trials"):
        shutil.rmtree(folder)
    pool.ran.clear()
    again = conduct(*FRESH, "seeds=3")
    assert again.folder == other.folder and len(confirmed(pool)) == 12 - 5


@pytest.mark.parametrize("same", [True, False])
def test_trainings_of_another_plan_that_was_published_unfinished_were_there_before(conduct, runs, tmp_path, same):
    first = conduct(*FRESH)
    published = tmp_path / "results/toy/smoke"
    (published / "records").mkdir(parents=True)
    plan = json.loads((runs / "toy/smoke" / PLAN).read_text())
    (published / PLAN).write_text(json.dumps(plan if same else {**plan, "question": "And this?"}))
    if same:
        shutil.copy(runs / "toy/smoke" / PLAN, published)
    for folder in (runs / "trials").iterdir():
        shutil.copy(folder / "record.json", published / "records" / f"{folder.name}.json")
    (published / "manifest.json").write_text(json.dumps({"partial": True}))
    for name in ("toy", "trials"):
        shutil.rmtree(runs / name)
    again = conduct(*FRESH).state
    count = len(first.state.confirm)
    said = [f"{count} of {count} trainings were on record before this plan was made"]
    assert [line for line in again.deviations if "on record" in line] == ([] if same else said)


DAMAGE: dict[str, tuple[str, bytes, str]] = {
    "a plan cut off": (PLAN, b'{"format": 1, "swe', "not readable as JSON"),
    "a list": (PLAN, b"[1]", "expected a group of keys"),
    "another's": (PLAN, b'{"name": "x"}', r"not a file of this version \(name: no such key"),
    "a later one": (PLAN, b'{"format": 2}', r"not a file of this version \(format=2: "),
    "a part of one": (PLAN, b'{"format": 1, "sweep": "toy"}', r"not a file of this version \(.*missing key scale\)"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_under_a_damaged_plan_no_other_one_begins(conduct, pool, runs, case):
    name, content, words = DAMAGE[case]
    conduct(*FRESH)
    (runs / "toy/smoke" / name).write_bytes(content)
    whole = contents(runs / "toy")
    for act in (lambda: conduct(*FRESH, "seeds=3"), lambda: load(runs)):
        with pytest.raises(ConfigError, match=words) as caught:
            act()
        assert "\n" not in str(caught.value) and f"toy/smoke/{name}" in str(caught.value)
    assert contents(runs / "toy") == whole


@pytest.mark.parametrize("partial", [True, False])
def test_records_of_a_sweep_that_was_published_unfinished_count_as_done(conduct, pool, runs, tmp_path, partial):
    first = conduct(*FRESH)
    published = tmp_path / "results/toy/smoke/records"
    published.mkdir(parents=True)
    for folder in (runs / "trials").iterdir():
        shutil.copy(folder / "record.json", published / f"{folder.name}.json")
    (published.parent / "manifest.json").write_text(json.dumps({"partial": partial}))
    (published / f"{first.state.confirm[0].id}.json").unlink()
    shutil.rmtree(runs / "trials")
    pool.ran.clear()
    second = conduct(*FRESH)
    assert len(searched(pool)) == (0 if partial else 16)
    assert len(confirmed(pool)) == (1 if partial else 8), "a finished result is there to be checked"
    assert second.state.chosen == first.state.chosen
    assert second.state.search == first.state.search
    assert len(load(runs, published).all_records) == 8


def test_a_diverged_trial_is_counted_and_the_sweep_goes_on(conduct, pool, runs):
    trial = pool.kinds["trial"]

    def diverging(arguments: dict[str, Any], report: Any) -> Any:
        result = trial(arguments, report)
        labels, path = arguments["labels"], Path(arguments["trial"]["folder"]) / "record.json"
        if labels["phase"] == "confirm" and labels["arm"] == "bias" and labels["seed"] == 1:
            row = {**json.loads(path.read_text()), "status": "diverged", "reason": "loss nan at step 7", "metrics": {}}
            path.write_text(json.dumps(row))
        return result

    pool.kinds["trial"] = diverging
    conduct(*FRESH, "seeds=3")
    result = load(runs)
    assert len(result.all_records) == 12
    assert result.arms["bias"].of_status("diverged") == [1]
    assert result.arms["bias"].of_status("complete") == [0, 2]
    pool.ran.clear()
    conduct(*FRESH, "seeds=3")
    assert "trial" not in pool.ran, "a divergence is a result"


def test_a_point_that_diverges_is_never_chosen(conduct, pool):
    trial = pool.kinds["trial"]

    def diverging(arguments: dict[str, Any], report: Any) -> Any:
        if arguments["trial"]["keys"]["optim"]["lr"] == 0.005:
            raise RuntimeError("out of memory")
        return trial(arguments, report)

    pool.kinds["trial"] = diverging
    state = conduct(*FRESH).state
    assert {point["optim.lr"] for point in state.chosen.values()} == {0.0025}
    assert [row.loss for row in state.search if row.point["optim.lr"] == 0.005] == [None] * 8


def test_a_failed_trial_is_on_record_and_tried_again(conduct, pool, runs):
    trial, broken = pool.kinds["trial"], True

    def failing(arguments: dict[str, Any], report: Any) -> Any:
        if broken and (arguments["labels"]["arm"], arguments["labels"]["seed"]) == ("bias", 1):
            raise RuntimeError("the worker died")
        return trial(arguments, report)

    pool.kinds["trial"] = failing
    conduct(*FRESH)
    records = load(runs).all_records
    assert [(r.seed, r.status, r.reason) for r in records if r.status != "complete"] == [
        (1, "failed", "RuntimeError: the worker died")
    ]
    broken = False
    pool.ran.clear()
    conduct(*FRESH)
    assert confirmed(pool) == [("bias", 1)]
    assert {r.status for r in load(runs).all_records} == {"complete"}


def test_a_failure_is_never_put_over_the_record_that_another_sweep_made_meanwhile(conduct, pool, runs):
    trial = pool.kinds["trial"]

    def outrun(arguments: dict[str, Any], report: Any) -> Any:
        trial(arguments, report)
        report({"event": "waiting", "owner": "4711"})
        raise RuntimeError("the worker died")

    pool.kinds["trial"] = outrun
    conduct(*FRESH)
    assert {r.status for r in load(runs).all_records} == {"complete"}


def test_a_trial_that_another_sweep_is_at_is_waited_for_and_said(conduct, pool, monkeypatch):
    trial = pool.kinds["trial"]

    def waits(arguments: dict[str, Any], report: Any) -> Any:
        report({"event": "waiting", "owner": "4711"})
        return trial(arguments, report)

    pool.kinds["trial"] = waits
    said: list[str] = []
    monkeypatch.setattr("ablations.sweep.conductor.Progress.note", lambda self, text: said.append(text))
    conduct(*FRESH)
    line = "aux_loss seed 0: process 4711 is at this very trial, for another sweep; its record will be taken"
    assert said.count(line) == 1


def test_a_record_published_meanwhile_comes_before_a_failure_of_here(conduct, pool, runs, tmp_path):
    state = conduct(*FRESH).state
    lost = state.confirm[3].id
    published = tmp_path / "results/toy/smoke/records"
    published.mkdir(parents=True)
    (published.parent / "manifest.json").write_text(json.dumps({"partial": True}))
    place = runs / "trials" / lost / "record.json"
    shutil.copy(place, published / f"{lost}.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "status": "failed", "metrics": {}}))
    pool.ran.clear()
    conduct(*FRESH)
    assert "trial" not in pool.ran
    assert {r.status for r in load(runs, published).all_records} == {"complete"}


def test_a_guard_that_fails_stops_everything_and_is_tried_again(conduct, pool, runs):
    guards = pool.kinds["guards"]

    def leaking(arguments: dict[str, Any], report: Any) -> Any:
        rows = guards(arguments, report)["guards"]
        if arguments["keys"]["model"]["moe"]["balance"]["kind"] == "bias":
            rows[0] = asdict(GuardResult("causality", False, "later tokens change earlier logits"))
        return {"guards": rows}

    pool.kinds["guards"] = leaking
    with pytest.raises(GuardFailed, match="^bias: causality: later tokens change earlier logits$"):
        conduct(*FRESH)
    assert "trial" not in pool.ran
    assert not (runs / "trials").exists()
    pool.kinds["guards"] = guards
    pool.ran.clear()
    conductor = conduct(*FRESH)
    assert [job.key for job in pool.ran["guards"]] == ["guards:bias"], "the others had passed"
    names = {"causality", "start", "determinism", "isolation", "budget", "separation", "yardstick"}
    assert {arm: {row.name for row in rows} for arm, rows in conductor.state.guards.items()} == dict.fromkeys(
        ("aux_loss", "bias", "control", "aa"), names
    )


def test_guards_run_again_when_their_own_code_has_changed(conduct, pool, monkeypatch):
    conduct(*FRESH)
    pool.ran.clear()
    conduct(*FRESH)
    assert "guards" not in pool.ran
    hashed = guarding.code_hash
    monkeypatch.setattr(guarding, "code_hash", lambda entry: hashed(entry) + " mended")
    conduct(*FRESH)
    assert len(pool.ran["guards"]) == 4 and "trial" not in pool.ran


def failing(pool: Any, name: str) -> Any:
    """The stand-in guards, of which one fails for all arms."""
    guards = pool.kinds["guards"]

    def changed(arguments: dict[str, Any], report: Any) -> Any:
        return {"guards": [*guards(arguments, report)["guards"], asdict(GuardResult(name, False, "so it is"))]}

    return changed


def own_sweep(tmp_path: Path, more: str) -> list[str]:
    text = (Path(__file__).parents[1] / "sweeps/toy.yaml").read_text()
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/own.yaml").write_text(text + more)
    return ["sweep=own", f"sweeps_dir={tmp_path / 'sweeps'}"]


def test_one_fault_of_all_arms_is_said_once(conduct, pool):
    pool.kinds["guards"] = failing(pool, "derivative")
    with pytest.raises(GuardFailed, match="^aux_loss, bias, control, aa: derivative: so it is$"):
        conduct(*FRESH)


def test_a_guard_may_be_waived_for_a_reason_that_the_result_shows(conduct, pool, runs, tmp_path):
    pool.kinds["guards"] = failing(pool, "derivative")
    conduct(*FRESH, *own_sweep(tmp_path, "\nwaive: {derivative: gradients are estimates}\n"))
    assert "trial" in pool.ran
    result = load_result(runs, "own", "smoke")
    (guard,) = (g for g in result.arms["bias"].guards if g.name == "derivative")
    assert (guard.passed, guard.said) == (False, "so it is (done without: gradients are estimates)")
    assert "0/4 arms; done without: aux_loss" in str(guards_table(result).rows)
    file = tmp_path / "sweeps/own.yaml"
    file.write_text(file.read_text().replace("waive:", "# waive:"))
    with pytest.raises(GuardFailed, match="derivative: so it is$"):  # in other words, which were not composed before
        conduct(*FRESH, "sweep=own", f"sweeps_dir={tmp_path / 'sweeps'}", "launch.workers=1")


def test_what_arms_are_compared_by_is_never_waived(plan, tmp_path):
    with pytest.raises(ConfigError, match="^sweep=own waive.yardstick: no arm may do without it"):
        plan(*own_sweep(tmp_path, "\nwaive: {yardstick: I say so}\n"))


def test_arms_that_are_not_scored_alike_stop_before_any_guard_of_a_model(conduct, pool, tmp_path):
    text = (Path(__file__).parents[1] / "sweeps/toy.yaml").read_text()
    kind = "      model.moe.balance.kind: bias\n"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/own.yaml").write_text(text.replace(kind, kind + "      eval.split: validation\n"))
    with pytest.raises(GuardFailed, match="^bias: yardstick: .*eval.split=validation, the baseline's test"):
        conduct(*FRESH, "sweep=own", f"sweeps_dir={tmp_path / 'sweeps'}")
    assert not pool.ran


def test_a_published_search_on_a_seed_of_the_confirmation_stops(conduct, pool, runs, tmp_path):
    conduct(*FRESH)
    folder = tmp_path / "results/toy/smoke"
    folder.mkdir(parents=True)
    shutil.copy(runs / "toy/smoke" / PLAN, folder)
    state = SweepState.read(runs / "toy/smoke")
    state.search += [replace(trial, seed=1) for trial in state.search if trial.arm == "bias"]
    state.write(folder)
    pool.ran.clear()
    with pytest.raises(GuardFailed, match="^bias: seeds: searched on seeds 1, 1000, 1001, confirmed on 0, 1: 1 in"):
        conduct("search_points=2")
    assert "trial" not in pool.ran


@pytest.mark.parametrize("kind", ["guards", "data_guard"])
def test_a_guard_that_cannot_run_has_not_passed(conduct, pool, kind):
    def broken(arguments: dict[str, Any], report: Any) -> Any:
        raise MemoryError("no room")

    pool.kinds[kind] = broken
    with pytest.raises(GuardFailed, match="did not run: MemoryError: no room"):
        conduct(*FRESH)


def test_an_unequal_arm_is_stopped_by_its_budget(conduct, pool, tmp_path):
    text = (Path(__file__).parents[1] / "sweeps/toy.yaml").read_text()
    kind = "      model.moe.balance.kind: bias\n"
    assert kind in text
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/unequal.yaml").write_text(text.replace(kind, kind + "      model.n_layers: 3\n"))
    with pytest.raises(GuardFailed, match="bias: budget: total_params, active_params, flops_per_token not within 0"):
        conduct(*FRESH, "sweep=unequal", f"sweeps_dir={tmp_path / 'sweeps'}")
    assert "trial" not in pool.ran


def test_speed_that_cannot_be_measured_is_noted(conduct, pool):
    def broken(arguments: dict[str, Any], report: Any) -> Any:
        raise MemoryError("no room")

    pool.kinds["speed"] = broken
    state = conduct(*FRESH).state
    assert state.speed == {}
    assert "speed was not measured: MemoryError: no room" in state.deviations


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="^runs_dir=.*is not a folder that can be written"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "new" / "runs")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_trial_has_a_run_of_this_sweep_s_too(conduct, pool, runs, monkeypatch):
    """Trials that another sweep has trained, or whose run a kill cut short; not those that are mirrored."""
    written = set[str]()
    monkeypatch.setattr("ablations.sweep.conductor.is_mirrored", lambda given: given.trial.id in written)
    pool.kinds["mirror"] = lambda given, report: written.add(given["trial"]["id"]) or {}
    conductor = conduct(*FRESH, "track.mode=offline")
    assert remembered(conductor.folder) == TrackConfig("offline"), "what the report goes by"
    state = conductor.state
    used = {row.id for row in (*state.search, *state.confirm)}
    assert written == used and len(pool.ran["mirror"]) == len(used)
    lost = state.confirm[0].id
    written.discard(lost)
    pool.ran.clear()
    conduct(*FRESH, "track.mode=offline")
    assert {kind: [asked(job).trial.id for job in jobs] for kind, jobs in pool.ran.items()} == {"mirror": [lost]}


def test_a_wandb_that_fell_back_is_in_the_result(conduct, pool, runs):
    trial, text = pool.kinds["trial"], "Weights & Biases did not work online"

    def falling(arguments: dict[str, Any], report: Any) -> Any:
        write_json(runs / "wandb" / ".fallback.json", {"mode": "offline", "text": text})
        return trial(arguments, report)

    pool.kinds["trial"] = falling
    conduct(*FRESH)
    assert load(runs).deviations.count(text) == 1


def test_a_plan_that_cannot_fit_on_the_disk_trains_nothing(conduct, pool, plan, runs, monkeypatch):
    words = ("eval.tasks=[python_cloze]", "seeds=900")
    needed = bytes_needed(plan(*words))
    parameters = max(arm.cost.total_params for arm in plan(*words).arms.values())
    weights = 4 * 900 * 4 * parameters  # arms, seeds, bytes
    assert needed > weights > bytes_needed(plan("eval.tasks=[]", "seeds=2"))
    assert needed - bytes_needed(plan(*words), done=4 * 900) > weights
    monkeypatch.setattr("ablations.sweep.disk.free_bytes", lambda folder: 10_000_000)
    with pytest.raises(ConfigError, match="10 MB are free, and this plan writes about .*B, most of it checkpoints"):
        conduct(*words)
    assert pool.ran == {}


def test_a_disk_that_fills_up_is_one_line(conduct, pool, runs, monkeypatch):
    """Where the scheduler itself writes, whatever it writes; the state that cannot be saved hides nothing."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ablations.record.documents.write_json", full)
    with pytest.raises(DiskFull) as caught:
        conduct(*FRESH)
    assert caught.value.filename == str(runs) and "the disk is full" in caught.value.strerror


def test_optuna_hears_of_a_point_while_others_wait(conduct, pool, monkeypatch):
    heard, tell = [], Studies.tell

    def listening(self, arm, points, point, found, records):
        heard.append((arm.name, point, len(pool.ran["trial"]), [record.id for record in records]))
        tell(self, arm, points, point, found, records)

    monkeypatch.setattr(Studies, "tell", listening)
    search = conduct("search=fresh").state.search
    points = {(row.arm, key_of(row.point)): [] for row in search}
    for row in search:
        points[row.arm, key_of(row.point)].append(row.id)
    assert {(arm, key_of(point)): ids for arm, point, _, ids in heard} == points and len(heard) == len(points)
    started = [count for _, _, count, _ in heard]
    assert started[0] < started[-1] and len({row.id for row in search}) >= started[-1], "one after the other"
