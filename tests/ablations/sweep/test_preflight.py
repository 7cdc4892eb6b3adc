"""What is checked before anything is begun, and what the plan says about text, time and its numbers."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from ablations import run
from ablations.config.compose import compose
from ablations.home import ROOT
from ablations.sweep import preflight
from ablations.sweep.announce import describe
from ablations.sweep.planning import make_plan
from ablations.sweep.registration import registered
from models.base.typed import ConfigError


def test_a_gpu_that_is_not_there_is_one_line(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = plan("train.device=cuda")
    assert "Expected" in describe(made), "a plan can be made for another machine"
    with pytest.raises(ConfigError, match=r"^train.device=cuda: torch sees no CUDA device on this machine"):
        preflight.check_start(made)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    preflight.check_start(made)


def test_what_is_drawn_has_no_end_that_its_tokens_are_cut_to(runs: Path) -> None:
    words = ["scale=smoke", "eval.tokens=999999999999", f"runs_dir={runs}"]
    drawn = make_plan(compose(["sweep=recall", *words]))
    assert drawn.held_out is None and preflight.is_long(drawn)
    assert not [line for line in preflight.text_remarks(drawn) if "max_bytes" in line]
    assert make_plan(compose(["sweep=packing", *words])).held_out is not None


def test_a_compiler_that_is_not_there_is_one_line(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.training.compiled.missing_compiler", lambda device: f"one for {device}")
    preflight.check_start(plan())
    made = plan("train.compile=true")
    assert "blocks compiled" in describe(made) and "blocks compiled" not in describe(plan())
    with pytest.raises(ConfigError, match=r"^train.compile=true: this machine lacks one for cpu; install it, or take"):
        preflight.check_start(made)


def test_no_crowd_of_workers_or_threads(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for word in ("launch.workers=17", "train.threads=17"):
        with pytest.raises(ConfigError, match=f"^{word}: this machine has 4 cores; at most 16"):
            preflight.check_start(plan(word))
    preflight.check_start(plan("launch.workers=16"))


def test_more_than_a_day_is_begun_when_told_twice(plan: Any) -> None:
    long = plan("train.tokens=200_000_000", "eval.tokens=2048")
    assert "more than a day is begun with yes_really=true" in describe(long)
    with pytest.raises(ConfigError, match=r"^yes_really=false: this is expected to take .* h .*, more than a day"):
        preflight.check_start(long)
    preflight.check_start(plan("train.tokens=200_000_000", "eval.tokens=2048", "yes_really=true"))
    assert "more than a day" not in describe(plan())


def test_a_run_asks_before_it_conducts(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("ablations.sweep.conductor.Conductor.run", lambda self: pytest.fail("nothing is conducted"))
    here = str(Path(__file__).parents[1] / "sweeps")
    words = ["sweep=toy", f"sweeps_dir={here}", "scale=smoke", f"runs_dir={runs}", "eval.tasks=[]"]
    assert run.main([*words, "train.tokens=200_000_000"]) == 2
    assert capsys.readouterr().err.startswith("error: yes_really=false: ")
    assert run.main([*words, "train.tokens=200_000_000", "dry_run=true"]) == 0


def test_text_that_is_not_there_stops_the_plan_too(plan: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.path=.*none.txt: cannot be read"):
        plan("data.source=text", f"data.path={tmp_path / 'none.txt'}")


def test_the_plan_says_what_the_text_gives(plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"train": 1024, "validation": 4096, "test": 4000}
    monkeypatch.setattr("ablations.sweep.plan.cached_tokens", lambda *_: known)
    assert "Text      1,024 training tokens, each read 3 times in a trial\n" in describe(plan())
    assert plan("eval.tokens=4_000").minutes == plan("eval.tokens=99_999_999_999").minutes, "what there is"
    small = describe(plan("eval.tokens=4001"))
    assert "eval.tokens=4001: the smaller held-out split has 4,000; what there is is used" in small
    assert "held-out" not in describe(plan("eval.tokens=4000"))
    monkeypatch.setattr("ablations.sweep.plan.cached_tokens", lambda *_: None)
    assert "eval.tokens=2001: data.max_bytes=2000 cannot give as many" in describe(
        plan("data.max_bytes=2000", "eval.tokens=2001")
    )


def test_a_prepared_corpus_is_known(plan: Any, runs: Path) -> None:
    """`runs` holds the data that every trial of these tests reads."""
    assert "Text      " in describe(plan())


def test_a_scale_says_what_its_numbers_are_worth(plan: Any) -> None:
    made = plan()
    assert "these numbers mean nothing" in made.config.note
    assert f"Note      {made.config.note}\n" in describe(made)
    assert registered(made, {}).note == made.config.note
    bare = dataclasses.replace(made, config=dataclasses.replace(made.config, note=""))
    assert "Note" not in describe(bare)
    assert plan("scale=cpu").config.note == ""


def test_the_plan_of_a_cluster_says_what_it_costs_and_needs() -> None:
    """By hand: 92 trials of 48B tokens at 24,500 a second, of which more than half train a half; 15.7B parameters of 16
    bytes over eight GPUs."""
    words = ["sweep=moe_balance", "scale=cluster", "search=fresh", "launch=slurm", "launch.workers=16"]
    shown = describe(make_plan(compose(words)))
    assert "slurm: 16 at once, each with 64 CPUs and 8 GPUs" in shown
    assert "up to 8 processes share a trial's batches" in shown
    hours = float(re.search(r"about ([\d,]+) GPU hours", shown)[1].replace(",", ""))  # type: ignore[index]
    assert 0.5 < hours / (92 * 48e9 / 24_500 / 3600) < 0.75
    told = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    assert f"for `moe_balance` about {round(hours, -2):,.0f} GPU hours" in told
    memory, kept = map(float, re.search(r"about ([\d.]+) GB of each GPU, of which ([\d.]+)", shown).groups())  # type: ignore[union-attr]
    assert memory - kept == pytest.approx(15.7e9 * 16 / 8 / 1e9, rel=0.01)
    with pytest.raises(ConfigError, match="more than a day"):
        preflight.check_start(make_plan(compose([*words[:3], "train.device=cpu"])))
