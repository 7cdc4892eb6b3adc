"""What a command line composes to, and that everything wrong with one is a line that helps."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from ablations import sweepfile
from ablations.config import (
    chosen_arms,
    compose,
    config_yaml,
    explicit_overrides,
    help_text,
    trial_keys,
    typed_trial,
    with_overrides,
)
from ablations.home import ROOT
from ablations.keys import all_keys, twin
from ablations.schema import Config
from models.typed import ConfigError

MOE = ["sweep=moe_balance", "scale=cpu"]

SWEEP: dict[str, Any] = {
    "question": "Does a warmup help?",
    "source": "nobody",
    "baseline": "short",
    "arms": {
        "short": {"set": {"optim.warmup_fraction": 0.05}},
        "long": {"set": {"optim.warmup_fraction": 0.3}, "search": {"optim.weight_decay": [0.05, 0.1]}},
    },
}
"""The least that a sweep file can be, but for one searched strength."""


def line(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a sweep file into a folder of the user's; returns the overrides that name it."""

    def write(content: dict[str, Any] | str, stem: str = "mine", **changes: Any) -> list[str]:
        text = content if isinstance(content, str) else OmegaConf.to_yaml(OmegaConf.create({**content, **changes}))
        (tmp_path / f"{stem}.yaml").write_text(text)
        return [f"sweep={stem}", f"sweeps_dir={tmp_path}", "scale=cpu"]

    return write


WRONG = [
    # no sweep, or not that one
    ([], ["sweep=NAME is required", "moe_balance"]),
    (["sweep="], ["sweep=NAME is required"]),
    (["sweep=moe_balanc"], ["no such sweep", "did you mean moe_balance?"]),
    (["sweep=../models"], ["no such sweep"]),
    (["sweeps=moe_balance"], ["the key is `sweep`", "write sweep=moe_balance"]),
    (["moe_balance"], ["expected KEY=VALUE", "did you mean sweep=moe_balance?"]),
    (["--sweep=moe_balance"], ["no such option", "did you mean sweep=moe_balance?"]),
    (["sweep=moe_balance,other"], ["one sweep at a time"]),
    ([*MOE, "-m"], ["-m: no such option"]),
    (["sweep=moe_balance", "scale=gp"], ["no such scale", "did you mean gpu?", "smoke, cpu, gpu"]),
    ([*MOE, "sweeps_dir=/nowhere"], ["sweeps_dir=/nowhere: no such folder"]),
    # unknown keys
    ([*MOE, "model.moe.topk=4"], ["model.moe.topk: no such key", "did you mean model.moe.top_k?"]),
    ([*MOE, "moe.top_k=2"], ["did you mean model.moe.top_k?"]),
    ([*MOE, "lr=1e-3"], ["did you mean optim.lr?"]),
    ([*MOE, "models.d_model=64"], ["did you mean model.d_model?"]),
    ([*MOE, "model.moe.balance={knd: bias}"], ["did you mean model.moe.balance.kind?"]),
    ([*MOE, "foo=1"], ["foo: no such key", "--help"]),
    ([*MOE, "hydra.run.dir=x"], ["hydra.run.dir: no such key"]),
    ([*MOE, "model@optim=x"], ["model@optim: no such key"]),
    # forms that Hydra has and we have not
    ([*MOE, "+new.key=1"], ["+new.key=1: keys are neither added nor removed"]),
    ([*MOE, "++optim.lr=1"], ["neither added nor removed; write optim.lr=1"]),
    ([*MOE, "~optim.lr"], ["neither added nor removed; write optim.lr=VALUE"]),
    ([*MOE, "optim.lr=1e-3,3e-3"], ["multirun", "sweep file"]),
    ([*MOE, "optim.lr=range(1,3)"], ["multirun"]),
    ([*MOE, "arms=none,bias"], ["multirun", "arms=[a,b]"]),
    ([*MOE, "optim.lr"], ["optim.lr: expected KEY=VALUE"]),
    ([*MOE, "=3"], ["expected KEY=VALUE"]),
    ([*MOE, "optim.lr=(1"], ["optim.lr=(1", "expected a number"]),
    ([*MOE, "optim.lr=${optim.eps}"], ["expected a number"]),
    ([*MOE, "optim.lr=1e-3", "optim.lr=2e-3"], ["optim.lr: given twice (0.001 and 0.002)"]),
    # wrong types and choices
    ([*MOE, "model.moe.top_k=four"], ["model.moe.top_k=four: expected a whole number"]),
    ([*MOE, "model.moe.top_k=true"], ["model.moe.top_k=true: expected a whole number"]),
    ([*MOE, "model.moe.top_k=null"], ["model.moe.top_k=null: expected a whole number"]),
    ([*MOE, "train.tokens=1e6"], ["expected a whole number; write 1000000"]),
    ([*MOE, "optim.lr=fast"], ["optim.lr=fast: expected a number"]),
    ([*MOE, "dry_run=maybe"], ["dry_run=maybe: expected true or false"]),
    ([*MOE, "eval.tasks=hellaswag"], ["expected a list", "write eval.tasks=[hellaswag]"]),
    ([*MOE, "model.moe=3"], ["expected a group of keys", "model.moe.n_routed_experts"]),
    ([*MOE, "model.dtype=float23"], ["expected one of auto, float32", "did you mean float32?"]),
    ([*MOE, "optim.schedule=cosin"], ["did you mean cosine?"]),
    ([*MOE, "search=fesh"], ["did you mean fresh?"]),
    # arms and seeds
    ([*MOE, "arms=[none,bais]"], ["arms=bais: no such arm", "did you mean bias?"]),
    ([*MOE, "arms=[]"], ["at least one arm besides the baseline aux_loss"]),
    ([*MOE, "arms=aux_loss"], ["at least one arm besides the baseline aux_loss"]),
    ([*MOE, "seeds=0"], ["seeds=0: needs at least 1"]),
    ([*MOE, "seeds=-3"], ["seeds=-3: needs at least 1"]),
    ([*MOE, "seeds=[]"], ["one or more seeds"]),
    ([*MOE, "seeds=[1,-1]"], ["none negative"]),
    ([*MOE, "seeds=[1,2,1]"], ["each seed once"]),
    ([*MOE, "seeds=[7,1001]"], ["1001 is a search seed"]),
    ([*MOE, "seeds=auto"], ["expected a whole number or a list of whole numbers"]),
    # what an arm or the control sets is theirs
    ([*MOE, "model.moe.balance.kind=bias"], ["set by arms aux_loss, none, batch_aux_loss, bias of sweeps/moe_balance"]),
    (
        [*MOE, "model.moe.balance={scope: batch}"],
        ["model.moe.balance.scope=batch: set by arms aux_loss, batch_aux_loss"],
    ),
    ([*MOE, "train.token_fraction=0.5"], ["the control of sweeps/moe_balance.yaml sets it to 0.9"]),
    ([*MOE, "sweep.name=x"], ["sweep file's own"]),
    ([*MOE, "sweep.arms={}"], ["sweep file's own"]),
    ([*MOE, "sweep.search.keys={optim.lr: [1e-3,3e-3]}"], ["sweep.search.keys.optim.lr", "factor of 2"]),
    # combinations that cannot work
    ([*MOE, "model.moe.top_k=32"], ["model.moe.top_k=32", "n_routed_experts=16"]),
    ([*MOE, "train.tokens=2100"], ["moe_balance.yaml control: train.tokens=2100", "less than one batch"]),
    ([*MOE, "launch.workers=0"], ["launch.workers=0: needs at least 1"]),
    ([*MOE, "launch.expected_tokens_per_second=0"], ["must be above 0"]),
    ([*MOE, "runs_dir="], ["runs_dir=: must not be empty"]),
]


@pytest.mark.parametrize(("overrides", "parts"), WRONG, ids=[" ".join(o) or "nothing" for o, _ in WRONG])
def test_a_wrong_command_line_is_one_line_that_helps(overrides: list[str], parts: list[str]) -> None:
    message = line(overrides)
    for part in parts:
        assert part in message


RULES: list[tuple[dict[str, Any], list[str]]] = [
    ({"data.batch_size": 10}, ["data.batch_size=10", "train.microbatches=4", "12"]),
    ({"train.tokens": 1000}, ["less than one batch", "2048"]),
    ({"eval.tokens": 100}, ["less than one sequence (data.seq_len=128)"]),
    ({"data.seq_len": 1}, ["data.seq_len=1: must be at least 2"]),
    ({"optim.lr": 0}, ["optim.lr=0.0: must be above 0"]),
    ({"optim.lr": float("nan")}, ["optim.lr=nan: must be a finite number"]),
    ({"optim.lr": float("inf")}, ["optim.lr=inf: must be a finite number"]),
    ({"optim.warmup_fraction": 1}, ["optim.warmup_fraction=1.0: must be below 1"]),
    ({"optim.schedule": "wsd", "optim.decay_fraction": 0.95}, ["more than the whole run"]),
    ({"optim.final_lr_ratio": 1.5}, ["must be at most 1"]),
    ({"optim.weight_decay": -0.1}, ["optim.weight_decay=-0.1: must not be negative"]),
    ({"train.validate_every": 2}, ["train.validate_every=2.0: must be at most 1"]),
    ({"train.threads": 0}, ["train.threads=0: must be above 0"]),
    ({"model.attention.q_lora_rank": 0}, ["model.attention.q_lora_rank=0: must be above 0"]),
    ({"model.attention.qk_rope_head_dim": 7}, ["must be even"]),
    ({"eval.items": 0}, ["eval.items=0: must be above 0"]),
    ({"data.source": "text"}, ["data.source=text: needs data.path="]),
    ({"data.source": "hf"}, ["data.source=hf: needs data.name="]),
    ({"data.path": "x.txt"}, ["is read with data.source=text only"]),
    ({"data.fim_rate": 1.5}, ["data.fim_rate=1.5: must be at most 1"]),
    ({"data.fim_rate": -0.1}, ["data.fim_rate=-0.1: must not be negative"]),
    ({"data.ramp_from": 0}, ["data.ramp_from=0.0: must be above 0"]),
    ({"data.ramp_from": 1.5}, ["data.ramp_from=1.5: must be at most 1"]),
    ({"data.ramp_over": 0}, ["data.ramp_over=0.0: must be above 0"]),
]


@pytest.mark.parametrize(("changes", "parts"), RULES, ids=[str(c) for c, _ in RULES])
def test_what_no_trial_can_be(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        typed_trial(with_overrides(trial_keys(Config()), changes, "here"))
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def arms(**changes: Any) -> dict[str, Any]:
    return {**SWEEP["arms"], **changes}


BAD_FILES: list[tuple[dict[str, Any], list[str]]] = [
    ({"seedz": 3}, ["mine.yaml: seedz: no such key", "did you mean seeds?"]),
    ({"seeds": "six"}, ["mine.yaml: seeds=six: expected int"]),
    ({"seeds": 1}, ["seeds=1", "at least 2"]),
    ({"name": "x"}, ["named by its file"]),
    ({"question": ""}, ["question: missing"]),
    ({"_target_": "os.system"}, ["_target_: no such key"]),
    ({"baseline": "shrt"}, ["baseline=shrt: not among the arms", "did you mean short?"]),
    ({"arms": {"short": {}}}, ["at least two"]),
    ({"arms": arms(aa={})}, ["arms.aa: reserved"]),
    ({"arms": arms(control={})}, ["arms.control: reserved"]),
    ({"arms": arms(all={})}, ["arms.all: reserved"]),
    ({"arms": arms(**{"a/b": {}})}, ["arms.a/b: a name has only letters"]),
    ({"arms": arms(über={})}, ["arms.über: a name has only letters"]),
    ({"arms": arms(**{"-x": {}})}, ["does not begin with -"]),
    ({"arms": {**SWEEP["arms"], False: {}}}, ["arms.False", "write it in quotes"]),
    ({"arms": {**SWEEP["arms"], 7: {}}}, ["arms.7", "write it in quotes"]),
    ({"matched": {True: ["total_params"]}}, ["matched.True", "write it in quotes"]),
    ({"arms": arms(long={"sett": {}})}, ["arms.long.sett: no such key", "did you mean set?"]),
    (
        {"arms": arms(long={"set": {"optim.warmup": 1}})},
        ["mine.yaml arm long: optim.warmup: no such key", "warmup_frac"],
    ),
    ({"arms": arms(long={"set": {"optim": {"lr": 1}}})}, ["arm long: optim is a group", "optim.lr"]),
    ({"arms": arms(long={"set": {"runs_dir": "x"}})}, ["arm long: runs_dir: not a key of a trial"]),
    ({"arms": arms(long={"set": {"optim.schedule": "wds"}})}, ["arm long: optim.schedule=wds", "did you mean wsd?"]),
    ({"arms": arms(long={"set": {"model.moe.top_k": 99}})}, ["mine.yaml arm long: model.moe.top_k=99"]),
    ({"arms": arms(long={"set": {"optim.warmup_fraction": 0.05}})}, ["arm long: nothing in it differs"]),
    ({"arms": arms(long={"set": {"optim.lr": 1e-3}})}, ["arms.long.set.optim.lr: searched for all arms"]),
    ({"arms": arms(long={"search": {"optim.lr": [1e-3]}})}, ["searched for all arms already"]),
    ({"arms": arms(long={"set": {"optim.eps": 1}, "search": {"optim.eps": [1.0]}})}, ["also in its `set`"]),
    ({"arms": arms(long={"search": {"optim.epz": [1.0]}})}, ["arm long search: optim.epz: no such key"]),
    ({"arms": arms(long={"search": {"optim.eps": []}})}, ["needs points in ascending order"]),
    ({"arms": arms(short={"set": {"optim.eps": 1e-7}, "optional": True})}, ["the baseline is always run"]),
    (
        {"search": {"keys": {"optim.lr": [1e-3, 3e-3]}}},
        ["search.keys.optim.lr", "0.003 is 3 times 0.001", "factor of 2"],
    ),
    ({"search": {"keys": {"optim.lr": [2e-3, 1e-3]}}}, ["ascending order"]),
    ({"search": {"keys": {"optim.lr": [0.0, 1e-3]}}}, ["must be above 0"]),
    ({"search": {"keys": {"optim.lrr": [1e-3]}}}, ["mine.yaml search.keys: optim.lrr", "did you mean optim.lr?"]),
    ({"search": {"seeds": [1, 1]}}, ["search.seeds=[1, 1]"]),
    ({"search": {"constraint_metric": "max_vio_global"}}, ["one needs the other"]),
    ({"search": {"constraint_metric": "max_vio_global", "constraint_max": 2}}, ["search.constraint_max=2"]),
    ({"common": {"modle.d_model": 3}}, ["mine.yaml common: modle.d_model", "did you mean model.d_model?"]),
    ({"control": {"train.token_fractio": 0.9}}, ["mine.yaml control: train.token_fractio", "train.token_fraction?"]),
    ({"primary": "los"}, ["primary=los: no such metric", "did you mean loss?"]),
    ({"metrics": ["loss", "max_vio"]}, ["metrics[1]=max_vio: no such metric"]),
    ({"expected": [{"arm": "lnog"}]}, ["expected[0].arm=lnog: no such arm", "did you mean long?"]),
    ({"expected": [{"arm": "long", "against": "shrt"}]}, ["expected[0].against=shrt: no such arm"]),
    ({"expected": [{"arm": "short"}]}, ["compared with itself"]),
    ({"expected": [{"metric": "loss"}]}, ["expected[0]: missing key arm"]),
    ({"expected": [{"arm": "long", "metric": "bpb"}]}, ["expected[0].metric=bpb: no such metric"]),
    ({"expected": [{"arm": "long", "kind": "equal"}]}, ["kind equal needs a margin"]),
    ({"expected": [{"arm": "long", "kind": "value", "region": [1]}]}, ["kind value needs [low, high]"]),
    ({"expected": [{"arm": "long", "kind": "bettr"}]}, ["did you mean better?"]),
    ({"matched": {"equal": ["params"]}}, ["matched.equal[0]=params: expected one of"]),
]


@pytest.mark.parametrize(("changes", "parts"), BAD_FILES, ids=[str(p) for _, p in BAD_FILES])
def test_a_slip_in_a_sweep_file_names_the_file_and_the_key(
    folder: Callable[..., list[str]], changes: dict[str, Any], parts: list[str]
) -> None:
    message = line(folder(SWEEP, **changes))
    assert "mine.yaml" in message
    for part in parts:
        assert part in message


BROKEN = {
    "arms:\n  a: [1\n  b: 2\n": ["mine.yaml:3", "not YAML"],
    "question: x\nquestion: y\n": ["mine.yaml:2", "duplicate key"],
    "- a\n- b\n": ["not a mapping"],
    "just words": ["just words: no such key"],
    "": ["mine.yaml"],
    "question: ${nothing}\n": ["mine.yaml", "nothing"],
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_file_that_is_no_sweep_at_all(folder: Callable[..., list[str]], text: str) -> None:
    message = line(folder(text))
    for part in BROKEN[text]:
        assert part in message


def test_a_file_that_is_no_text(folder: Callable[..., list[str]], tmp_path: Path) -> None:
    overrides = folder(SWEEP)
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00question")
    assert "mine.yaml" in line(overrides)


def test_a_broken_neighbour_does_not_stop_a_sweep(folder: Callable[..., list[str]]) -> None:
    folder("arms: [", stem="broken")
    assert compose(folder(SWEEP)).sweep.name == "mine"


def test_a_sweep_file_works_at_once_and_two_of_one_name_do_not(
    folder: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(SWEEP)
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    config = compose(["sweep=mine", "sweeps_dir=..", "scale=cpu"])
    assert (config.sweep.name, config.sweep.question) == ("mine", SWEEP["question"])
    folder({**SWEEP, "question": "Changed?"})
    assert compose(["sweep=mine", "sweeps_dir=..", "scale=cpu"]).sweep.question == "Changed?"
    assert "no such sweep" in line(["sweep=mine"])
    assert compose([*MOE, "sweeps_dir=.."]).sweep.name == "moe_balance"
    assert "share the name" in line(folder(SWEEP, stem="moe_balance"))
    assert "rename it" in line(folder(SWEEP, stem="my sweep"))
    assert sorted(path.name for path in (tmp_path / "deeper").iterdir()) == []


def test_precedence(folder: Callable[..., list[str]]) -> None:
    """Schema < scale < the sweep's common < command line."""
    smoke = compose(["sweep=moe_balance", "scale=smoke"])
    assert (Config().model.d_model, smoke.model.d_model, smoke.scale) == (128, 32, "smoke")
    assert (smoke.model.norm_eps, smoke.seeds) == (Config().model.norm_eps, 2)
    mine = [*folder(SWEEP, common={"model.d_model": 64, "model.moe.top_k": 1})[:2], "scale=smoke"]
    common = compose(mine)
    assert (common.model.d_model, common.model.moe.top_k, common.model.vocab_size) == (64, 1, 512)
    user = compose([*mine, "model.d_model=96", "seeds=[3,5]"])
    assert (user.model.d_model, user.model.moe.top_k, user.seeds) == (96, 1, [3, 5])


def test_values_arrive_with_their_types() -> None:
    config = compose(
        [
            *MOE,
            "optim.weight_decay=0",
            "model.attention.q_lora_rank=24",
            "seeds=4",
            "eval.tasks=[a,b]",
            "eval.items=null",
        ]
    )
    assert config.optim.weight_decay == 0.0 and isinstance(config.optim.weight_decay, float)
    assert config.model.attention.q_lora_rank == 24
    assert (config.seeds, config.eval.tasks, config.eval.items, config.dry_run) == (4, ["a", "b"], None, False)
    assert compose([*MOE, "model.moe={n_shared_experts: 2, top_k: 2}"]).model.moe.top_k == 2


@pytest.mark.parametrize("path", ["/tmp/a b/(1)", "~/runs", "/tmp/é=1,2", "C:\\runs\\", 'say "no"', "123"])
def test_a_path_needs_no_quoting(path: str) -> None:
    assert compose([*MOE, f"runs_dir={path}"]).runs_dir == path


def test_the_default_scale_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in (False, True):
        monkeypatch.setattr(sweepfile.Path, "exists", lambda path, gpu=gpu: gpu)
        assert sweepfile.default_scale() == ("gpu" if gpu else "cpu")


def test_arms_are_chosen_in_the_sweeps_order_and_the_baseline_always() -> None:
    main = ["aux_loss", "none", "batch_aux_loss", "bias"]
    assert chosen_arms(compose(MOE)) == main
    assert chosen_arms(compose([*MOE, "arms=all"])) == [*main, "microbatch_aux_loss", "bias_aux_loss"]
    assert chosen_arms(compose([*MOE, "arms=[bias_aux_loss,none]"])) == ["aux_loss", "none", "bias_aux_loss"]
    assert chosen_arms(compose([*MOE, "arms=none"])) == ["aux_loss", "none"]


def test_a_searched_key_on_the_command_line_is_pinned_for_all_arms() -> None:
    free = compose(MOE)
    assert "optim.lr" in free.sweep.search.keys and free.sweep.arms["bias"].search
    pinned = compose([*MOE, "optim.lr=3e-3", "model.moe.balance.alpha=0.02"])
    assert pinned.sweep.search.keys == {} and pinned.optim.lr == 3e-3
    assert pinned.sweep.arms["aux_loss"].search == pinned.sweep.arms["batch_aux_loss"].search == {}
    assert pinned.model.moe.balance.alpha == 0.02
    assert pinned.sweep.arms["bias"].search == free.sweep.arms["bias"].search


def test_an_arms_toggle_may_be_set_where_that_arm_is_left_out(folder: Callable[..., list[str]]) -> None:
    third = {"third": {"set": {"optim.beta2": 0.99}}}
    mine = folder(SWEEP, arms=arms(**third))
    assert "set by arm third" in line([*mine, "optim.beta2=0.9"]) and "arms=[...]" in line([*mine, "optim.beta2=0.9"])
    assert compose([*mine, "optim.beta2=0.9", "arms=long"]).optim.beta2 == 0.9


def test_a_fault_of_the_command_line_is_not_blamed_on_the_file() -> None:
    assert line([*MOE, "model.moe.top_k=32"]).startswith("model.moe.top_k=32")


def test_explicit_overrides_are_the_trial_keys() -> None:
    given = [
        "sweep=moe_balance",
        "optim.lr=1e-3",
        "model.moe={top_k: 2, balance: {alpha: 0.1}}",
        "runs_dir=x",
        "seeds=3",
    ]
    assert explicit_overrides(given) == {"optim.lr", "model.moe.top_k", "model.moe.balance.alpha"}


def test_with_overrides_copies_and_types() -> None:
    keys = trial_keys(compose(MOE))
    changed = with_overrides(keys, {"optim.lr": 1, "eval.tasks": ["x"]}, "here")
    assert changed["optim"]["lr"] == 1.0 and isinstance(changed["optim"]["lr"], float)
    assert keys["optim"]["lr"] == Config().optim.lr and keys["eval"]["tasks"] != ["x"]
    assert set(keys) == {"model", "data", "optim", "train", "eval"}
    with pytest.raises(ConfigError, match=r"^sweeps/x.yaml arm y: optim.lr=fast: expected float"):
        with_overrides(keys, {"optim.lr": "fast"}, "sweeps/x.yaml arm y")
    with pytest.raises(ConfigError, match=r"^here: optim.rl: no such key; did you mean optim.lr\?"):
        with_overrides(keys, {"optim.rl": 1}, "here")


def test_typed_trial_holds_what_the_keys_say() -> None:
    keys = with_overrides(trial_keys(compose(MOE)), {"train.token_fraction": 0.5}, "here")
    trial = typed_trial(keys)
    assert {group: dataclasses.asdict(getattr(trial, group)) for group in keys} == keys
    assert (trial.tokens, trial.tokens_per_step, trial.steps) == (256_000, 2048, 125)


def test_composing_changes_nothing_but_what_is_named() -> None:
    """Twice the same, and the schema's defaults wherever scale, sweep and command line say nothing."""
    assert compose(MOE) == compose(MOE)
    assert compose(MOE).optim == Config().optim and compose(MOE).track == Config().track


def test_the_twin_holds_every_default() -> None:
    plain = OmegaConf.to_container(OmegaConf.structured(twin(Config)))
    assert plain == dataclasses.asdict(Config())


def test_config_yaml_reads_back() -> None:
    config = compose([*MOE, "optim.lr=3e-3"])
    assert OmegaConf.to_container(OmegaConf.create(config_yaml(config))) == dataclasses.asdict(config)


def test_thinning_keeps_neighbours_from_the_middle() -> None:
    sweep = compose(MOE).sweep
    one = sweepfile.thinned(sweep, 1, 1)
    assert one.search.keys == {"optim.lr": [0.0035]} and one.search.seeds == [1000]
    assert one.arms["bias"].search == {"model.moe.balance.update_speed": [0.01]}
    assert sweepfile.thinned(sweep, 2, None).search.keys == {"optim.lr": [0.0025, 0.0035]}
    assert sweepfile.thinned(sweep, None, None) == sweepfile.thinned(sweep, 9, 9) == sweep
    sweepfile.check_sweep(one)


@pytest.mark.parametrize("scale", sweepfile.scale_names())
def test_every_scale_composes_and_says_what_it_is(scale: str) -> None:
    assert compose(["sweep=moe_balance", f"scale={scale}", "arms=all"]).scale == scale
    assert (sweepfile.SCALES / f"{scale}.yaml").read_text().startswith("# ")


def test_a_slip_in_a_scale_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweepfile, "SCALES", tmp_path)
    for text, part in [("model: {d_modle: 3}", "model.d_modle: no such key"), ("arms: all", "arms: a scale sets only")]:
        (tmp_path / "tiny.yaml").write_text(text)
        assert "tiny.yaml: " + part in line(["sweep=moe_balance", "scale=tiny"])


def test_help_names_every_key_sweep_and_scale_and_is_quick() -> None:
    text = help_text()
    keys = [k.name for k in all_keys().values() if not k.is_group and not k.name.startswith("sweep")]
    assert [key for key in keys if f"  {key}=" not in text] == []
    assert "moe_balance" in text and "smoke" in text and max(map(len, text.splitlines())) <= 120
    script = (
        "import sys; from ablations.config import help_text; help_text(); "
        "print([m for m in ('torch', 'lightning', 'hydra', 'optuna', 'wandb', 'lm_eval') if m in sys.modules])"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.perf_counter() - start < 1.5


def house(cwd: Path) -> str:
    """What check_house says when started in `cwd`, whose folder Python searches first."""
    script = (
        "from ablations.home import check_house\nfrom models.typed import ConfigError\n"
        "try: check_house(); print('fine')\nexcept ConfigError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("package", ["models", "tasks"])
def test_somebody_elses_package_is_refused(package: str, tmp_path: Path) -> None:
    assert house(tmp_path) == "fine"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise RuntimeError('never imported')")
    assert f"import {package} finds {tmp_path / package} instead of {ROOT / package}" in house(tmp_path)


def test_a_house_without_its_checkout_is_refused() -> None:
    script = "import ablations.home as h, pathlib; h.ROOT = pathlib.Path('/nowhere'); h.check_house()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert "no sweeps/ beside" in done.stderr


def test_a_named_size_stands_between_scale_and_sweep():
    sized = compose(["sweep=attention", "scale=cpu", "model=small", "model.n_layers=4"])
    assert (sized.model.d_model, sized.model.n_layers, sized.model.vocab_size) == (256, 4, 4096)
    assert sized.model.moe.balance.update_speed == 0.01, "the sweep's own keys hold"
    assert sized.data.seq_len == 128


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("model=deepseek_v3", ["model=deepseek_v3", "python -m models.cost deepseek_v3", "model=base"]),
        ("model=smal", ["model=smal: no such size; did you mean small?"]),
    ],
)
def test_a_size_that_cannot_be_trained_is_refused(word, parts):
    with pytest.raises(ConfigError) as error:
        compose(["sweep=attention", "scale=cpu", word])
    assert all(part in str(error.value) for part in parts), error.value
