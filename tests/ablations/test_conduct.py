"""What the scheduler does with a plan: which trials it asks for, what it writes down, what it never does twice."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ablations.conduct import GuardFailed, check_writable
from ablations.files import read_json, write_json
from ablations.launch.space import DiskFull
from ablations.records import read_record
from ablations.room import bytes_needed
from ablations.show.results import Result, load_result
from models.typed import ConfigError

FRESH = ("search=fresh", "search_points=2", "search_seeds=2")


pytestmark = pytest.mark.usefixtures("quick_holm")


def load(runs: Path, published: Path | None = None) -> Result:
    return load_result(runs, "toy", "smoke", published)


def searched(pool: Any) -> list[tuple[str, int]]:
    return [(j.arguments["labels"]["arm"], j.arguments["seed"]) for j in pool.ran.get("trial", []) if is_search(j)]


def confirmed(pool: Any) -> list[tuple[str, int]]:
    return [(j.arguments["labels"]["arm"], j.arguments["seed"]) for j in pool.ran.get("trial", []) if not is_search(j)]


def is_search(job: Any) -> bool:
    return job.arguments["labels"]["phase"] == "search"


def test_search_then_confirmation_on_other_seeds_and_another_split(conduct, pool, runs):
    conductor = conduct(*FRESH)
    arms = ["aux_loss", "bias", "control", "aa"]
    assert searched(pool) == [(arm, seed) for arm in arms[:2] for _ in range(4) for seed in [1000]]
    assert confirmed(pool) == [(arm, seed) for seed in [0, 1] for arm in arms]
    jobs = pool.ran["trial"]
    assert {j.arguments["keys"]["eval"]["split"] for j in jobs if is_search(j)} == {"validation"}
    assert {j.arguments["keys"]["eval"]["split"] for j in jobs if not is_search(j)} == {"test"}
    chosen = conductor.state["chosen"]
    assert chosen["aux_loss"] == {"optim.lr": 0.005, "model.moe.balance.alpha": 0.01}
    for job in jobs:
        if not is_search(job):
            arm, keys = job.arguments["labels"]["arm"], job.arguments["keys"]
            assert keys["optim"]["lr"] == 0.005
            strength = "update_speed" if arm == "bias" else "alpha"
            assert keys["model"]["moe"]["balance"][strength] == chosen[arm][f"model.moe.balance.{strength}"]
    state = read_json(runs / "toy/smoke/trials.json")
    assert state == conductor.state
    assert len(state["search"]) == 8
    assert (
        state["search"][0]["loss"]
        == read_record(runs / "trials" / state["search"][0]["id"] / "record.json").metrics["loss"]
    )
    assert set(state["speed"]) == set(arms)


def test_arm_without_a_strength_gets_as_many_search_trials(conduct, pool):
    conduct(*FRESH, "arms=[none,bias]")
    by_arm = {arm: [s for a, s in searched(pool) if a == arm] for arm in ("aux_loss", "none", "bias")}
    assert {arm: len(seeds) for arm, seeds in by_arm.items()} == {"aux_loss": 4, "none": 4, "bias": 4}
    assert sorted(by_arm["none"]) == [1000, 1000, 1001, 1001]


def test_an_optimum_on_the_edge_widens_the_rates_for_all_arms_twice_at_most(conduct, pool, monkeypatch):
    monkeypatch.setattr("stand_in_kinds.BEST_RATE", 0.08)
    conductor = conduct("search=fresh", "search_points=3", "search_seeds=1")
    rates = {
        arm: sorted({r["point"]["optim.lr"] for r in conductor.state["search"] if r["arm"] == arm})
        for arm in ("aux_loss", "bias")
    }
    assert rates == {arm: [0.0025, 0.005, 0.01, 0.02, 0.04] for arm in rates}
    assert len(searched(pool)) == 2 * 5 * 3, "points of earlier generations are not measured again"
    assert [d for d in conductor.state["deviations"] if "still on the edge for aux_loss, bias" in d]


def test_finished_trials_never_run_again_and_the_plan_stays_as_it_was(conduct, pool, runs):
    first = conduct(*FRESH)
    files = {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/record.json")}
    plan = (runs / "toy/smoke/plan.json").read_bytes()
    pool.ran.clear()
    second = conduct(*FRESH)
    assert pool.ran == {}, "nothing at all: guards and speed are known too"
    assert {p: p.stat().st_mtime_ns for p in runs.glob("trials/*/record.json")} == files
    assert (runs / "toy/smoke/plan.json").read_bytes() == plan
    assert second.state["deviations"] == first.state["deviations"]
    assert second.state["chosen"] == first.state["chosen"]
    assert second.state["minutes"] > first.state["minutes"]


def test_only_what_is_missing_runs(conduct, pool, runs):
    first = conduct(*FRESH)
    lost = first.state["confirm"][3]["id"]
    shutil.rmtree(runs / "trials" / lost)
    pool.ran.clear()
    conduct(*FRESH)
    assert [job.key for job in pool.ran["trial"]] == [lost]


def test_an_interrupted_sweep_goes_on_where_it_was(conduct, pool, runs):
    trial, calls = pool.kinds["trial"], []

    def interrupted(arguments: dict[str, Any], report: Any) -> Any:
        calls.append(arguments["id"])
        if len(calls) in (3, 12):
            raise KeyboardInterrupt
        return trial(arguments, report)

    pool.kinds["trial"] = interrupted
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            conduct(*FRESH)
        assert read_json(runs / "toy/smoke/trials.json")["minutes"] > 0
    state = conduct(*FRESH).state
    assert len(calls) == 16 + 2
    assert len(state["confirm"]) == len(load(runs).all_records) == 8
    assert state["deviations"] == conduct(*FRESH).state["deviations"]


def test_a_plan_changed_after_trials_is_a_deviation_before_them_it_is_not(conduct, pool, runs):
    guards = pool.kinds["guards"]
    pool.kinds["guards"] = lambda arguments, report: {"guards": [{"name": "start", "passed": False, "detail": "no"}]}
    with pytest.raises(GuardFailed):
        conduct(*FRESH)
    pool.kinds["guards"] = guards
    assert not [d for d in conduct(*FRESH, "seeds=3").state["deviations"] if "plan" in d]
    state = conduct(*FRESH, "seeds=2").state
    note = "the plan was changed after trials had run under another: seeds"
    assert state["deviations"].count(note) == 1
    assert read_json(runs / "toy/smoke/plan.json")["seeds"] == [0, 1]
    assert note in load(runs).deviations


def test_a_plan_changed_amid_its_search_is_a_deviation(conduct, pool, monkeypatch):
    monkeypatch.setattr("stand_in_kinds.BEST_RATE", 0.08)
    trial = pool.kinds["trial"]

    def stop(arguments: dict[str, Any], report: Any) -> Any:
        if arguments["keys"]["optim"]["lr"] > 0.01:  # the first of the widened search
            raise KeyboardInterrupt
        return trial(arguments, report)

    pool.kinds["trial"] = stop
    words = ("search=fresh", "search_points=3", "search_seeds=1")
    with pytest.raises(KeyboardInterrupt):
        conduct(*words)
    assert confirmed(pool) == []
    pool.kinds["trial"] = trial
    assert [d for d in conduct(*words, "seeds=3").state["deviations"] if "changed after trials had run" in d]


@pytest.mark.parametrize("partial", [True, False])
def test_records_of_a_sweep_that_was_published_unfinished_count_as_done(conduct, pool, runs, tmp_path, partial):
    first = conduct(*FRESH)
    published = tmp_path / "results/toy/smoke/records"
    published.mkdir(parents=True)
    for folder in (runs / "trials").iterdir():
        shutil.copy(folder / "record.json", published / f"{folder.name}.json")
    (published.parent / "manifest.json").write_text(json.dumps({"partial": partial}))
    (published / f"{first.state['confirm'][0]['id']}.json").unlink()
    shutil.rmtree(runs / "trials")
    pool.ran.clear()
    second = conduct(*FRESH)
    assert len(searched(pool)) == (0 if partial else 8)
    assert len(confirmed(pool)) == (1 if partial else 8), "a finished result is there to be checked"
    assert second.state["chosen"] == first.state["chosen"]
    assert second.state["search"] == first.state["search"]
    assert len(load(runs, published).all_records) == 8


def test_a_diverged_trial_is_counted_and_the_sweep_goes_on(conduct, pool, runs):
    trial = pool.kinds["trial"]

    def diverging(arguments: dict[str, Any], report: Any) -> Any:
        result = trial(arguments, report)
        labels, path = arguments["labels"], Path(arguments["trial_dir"]) / "record.json"
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
        if arguments["keys"]["optim"]["lr"] == 0.005:
            raise RuntimeError("out of memory")
        return trial(arguments, report)

    pool.kinds["trial"] = diverging
    state = conduct(*FRESH).state
    assert {point["optim.lr"] for point in state["chosen"].values()} == {0.0025}
    assert [row["loss"] for row in state["search"] if row["point"]["optim.lr"] == 0.005] == [None] * 4


def test_a_failed_trial_is_on_record_and_tried_again(conduct, pool, runs):
    trial, broken = pool.kinds["trial"], True

    def failing(arguments: dict[str, Any], report: Any) -> Any:
        if broken and arguments["labels"] | {"phase": "", "scale": "", "sweep": ""} == failed:
            raise RuntimeError("the worker died")
        return trial(arguments, report)

    failed = {"arm": "bias", "seed": 1, "phase": "", "scale": "", "sweep": ""}
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


def test_a_guard_that_fails_stops_everything_and_is_tried_again(conduct, pool, runs):
    guards = pool.kinds["guards"]

    def leaking(arguments: dict[str, Any], report: Any) -> Any:
        rows = guards(arguments, report)["guards"]
        if arguments["keys"]["model"]["moe"]["balance"]["kind"] == "bias":
            rows[0] = {"name": "causality", "passed": False, "detail": "later tokens change earlier logits"}
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
    names = {"causality", "start", "determinism", "isolation", "budget", "separation"}
    assert {arm: {row["name"] for row in rows} for arm, rows in conductor.state["guards"].items()} == dict.fromkeys(
        ("aux_loss", "bias", "control", "aa"), names
    )


@pytest.mark.parametrize("kind", ["guards", "data_guard"])
def test_a_guard_that_cannot_run_has_not_passed(conduct, pool, kind):
    def broken(arguments: dict[str, Any], report: Any) -> Any:
        raise MemoryError("no room")

    pool.kinds[kind] = broken
    with pytest.raises(GuardFailed, match="did not run: MemoryError: no room"):
        conduct(*FRESH)


def test_an_unequal_arm_is_stopped_by_its_budget(conduct, pool, tmp_path):
    text = (Path(__file__).parent / "sweeps/toy.yaml").read_text()
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
    assert "speed" not in state
    assert "speed was not measured: MemoryError: no room" in state["deviations"]


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="^runs_dir=.*is not a folder that can be written"):
        check_writable(tmp_path / "file" / "runs")
    check_writable(tmp_path / "new" / "runs")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_every_trial_has_a_run_of_this_sweep_s_too(conduct, pool, runs, monkeypatch):
    """Trials that another sweep has trained, or whose run a kill cut short; not those that are mirrored."""
    written = set[str]()
    monkeypatch.setattr("ablations.conduct.is_mirrored", lambda given: given["id"] in written)
    pool.kinds["mirror"] = lambda given, report: written.add(given["id"]) or {}
    state = conduct(*FRESH, "track.mode=offline").state
    used = {row["id"] for row in (*state["search"], *state["confirm"])}
    assert written == used and len(pool.ran["mirror"]) == len(used)
    lost = state["confirm"][0]["id"]
    written.discard(lost)
    pool.ran.clear()
    conduct(*FRESH, "track.mode=offline")
    assert {kind: [job.arguments["id"] for job in jobs] for kind, jobs in pool.ran.items()} == {"mirror": [lost]}


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
    monkeypatch.setattr("ablations.room.free_bytes", lambda folder: 10_000_000)
    with pytest.raises(ConfigError, match="10 MB are free, and this plan writes about .*B, most of it checkpoints"):
        conduct(*words)
    assert pool.ran == {}


def test_a_disk_that_fills_up_is_one_line(conduct, pool, runs, monkeypatch):
    """Where the scheduler itself writes, whatever it writes; the state that cannot be saved hides nothing."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ablations.conduct.write_json", full)
    with pytest.raises(DiskFull) as caught:
        conduct(*FRESH)
    assert caught.value.filename == str(runs) and "the disk is full" in caught.value.strerror
