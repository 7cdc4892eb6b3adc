"""What a command line composes to, and that everything wrong with one is a line that helps."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from least_sweep import SWEEP, line
from omegaconf import OmegaConf

from ablations.config.compose import FOLDERS, chosen_arms, compose, config_yaml
from ablations.config.help import help_text
from ablations.config.keys import all_keys, settings
from ablations.config.schema import Config
from ablations.config.words import parse
from ablations.home import ROOT
from models.base.typed import ConfigError

MOE = ["sweep=moe_balance", "scale=cpu"]
TOY = ["sweep=toy", f"sweeps_dir={ROOT / 'tests/ablations/sweeps'}", "scale=cpu"]
"""With learning rates and strengths to search."""

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
    (["sweep=moe_balance", "scale=gp"], ["no such scale", "did you mean gpu?", "smoke, cpu, cpu_long, gpu"]),
    ([*MOE, "sweeps_dir=/nowhere"], ["sweeps_dir=/nowhere: no such folder"]),
    # unknown keys
    ([*MOE, "model.moe.topk=4"], ["model.moe.topk: no such key", "did you mean model.moe.top_k?"]),
    ([*MOE, "moe.top_k=2"], ["did you mean model.moe.top_k?"]),
    ([*MOE, "lr=1e-3"], ["did you mean optim.lr?"]),
    ([*MOE, "models.d_model=64"], ["did you mean model.d_model?"]),
    ([*MOE, "model.moe.balance={knd: bias}"], ["did you mean model.moe.balance.kind?"]),
    ([*MOE, "foo=1"], ["foo: no such key", "--help"]),
    (
        [*MOE, "data.domains={a: 1, b: 2}"],
        ["data.domains={'a': 1, 'b': 2}: expected a mapping of names to text"],
    ),
    ([*MOE, "branch_at=0.3"], ["branch_at: a key of a sweep's file, not of the command line"]),
    ([*MOE, "doses.alpha.at=1"], ["doses.alpha.at: a key of a sweep's file"]),
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
    ([*MOE, "data.domains={a: 'x/*.py', b: 'y/*.py', a: 'z/*.py'}"], ["data.domains=", "has a twice; keep one"]),
    ([*MOE, "data.weights={a:1,a:2}"], ["data.weights=", "has a twice; keep one"]),
    ([*MOE, r"data.settings={keys: 'it\'s', keys: 4}"], ["data.settings=", "has keys twice; keep one"]),
    ([*MOE, r"data.settings={a: \}, a: 2}"], ["data.settings=", "has a twice; keep one"]),
    ([*MOE, "data.settings={a: [1, {b: 2, b: 3}]}"], ["data.settings=", "has b twice; keep one"]),
    ([*MOE, "data.settings={1: 1, 1.0: 2}"], ["data.settings=", "has one key twice; keep one"]),
    ([*MOE, "model={moe.top_k: 2, moe: {top_k: 3}}"], ["model.moe.top_k: given twice (2 and 3); keep one"]),
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
    ([*MOE, "seeds=0"], ["seeds=0: must be at least 1"]),
    ([*MOE, "seeds=-3"], ["seeds=-3: must be at least 1"]),
    ([*MOE, "seeds=1"], ["seeds=1: a difference with an error bar needs at least 2"]),
    ([*MOE, "seeds=[3]"], ["seeds=[3]: a difference with an error bar needs at least 2"]),
    ([*MOE, "seeds=[]"], ["seeds=[]: must not be empty"]),
    ([*MOE, "seeds=[1,-1]"], ["seeds[1]=-1: must not be negative"]),
    ([*MOE, "seeds=[1,2,1]"], ["seeds=[1, 2, 1]: 1 stands in it twice"]),
    ([*MOE, "seeds=2000"], ["seeds=2000 (so many are 8 to 2007): 1000 is a search seed"]),
    ([*MOE, "search_points=0"], ["search_points=0: must be at least 1"]),
    ([*MOE, "search_points=-1"], ["search_points=-1: must be at least 1"]),
    ([*MOE, "search_seeds=0"], ["search_seeds=0: must be at least 1"]),
    ([*MOE, "arms=[bias,bias]"], ["bias stands in it twice"]),
    ([*MOE, "eval.tasks=[piqa,piqa]"], ["piqa stands in it twice"]),
    ([*MOE, "eval=smal_lm"], ["eval=smal_lm: no such preset; did you mean small_lm?"]),
    ([*MOE, "eval=small_lm", "eval.tasks=[piqa]"], ["eval.tasks: given twice"]),
    ([*MOE, "eval.data_dir="], ["eval.data_dir=: must not be empty"]),
    (
        [*MOE, "eval.tasks=[piqa,mbpp]"],
        ["eval.tasks=mbpp: runs programs that the model writes; say eval"],
    ),
    (
        [*MOE, "eval.run_model_code=true"],
        ["eval.run_model_code=true: no task here runs programs; add"],
    ),
    ([*MOE, "seeds=[7,1001]"], ["1001 is a search seed"]),
    ([*MOE, "seeds=atuo"], ["seeds=atuo: expected one of auto; did you mean auto?"]),
    ([*MOE, "seeds=[auto,3]"], ["expected a whole number or a list of whole numbers or one of auto"]),
    ([*TOY, "seeds=1e3"], ["seeds=1000.0: expected a whole number"]),
    # what an arm or the control sets is theirs
    ([*MOE, "model.moe.balance.kind=bias"], ["set by arms aux_loss, bias, none, late_bias, late_batch"]),
    (
        [*MOE, "model.moe.balance={scope: batch}"],
        ["model.moe.balance.scope=batch: set by arms aux_loss, late_batch_loss"],
    ),
    ([*MOE, "train.token_fraction=0.5"], ["the control of sweeps/moe_balance.yaml sets it to 0.9"]),
    # what is claimed is written in a file, before the first trial
    ([*MOE, "sweep.name=x"], ["sweep.name: what a sweep asks and claims", "edit sweeps/moe_balance.yaml"]),
    ([*MOE, "sweep.question=Really?"], ["sweep.question: what a sweep asks and claims"]),
    ([*MOE, "sweep.matched.tolerance=1"], ["sweep.matched.tolerance: what a sweep asks"]),
    ([*MOE, "sweep.matched={tolerance: 1}"], ["sweep.matched.tolerance: what a sweep asks"]),
    ([*MOE, "sweep.expected=[]"], ["sweep.expected: what a sweep asks"]),
    ([*MOE, "sweep.arms={}"], ["arms= chooses among them for one run"]),
    ([*MOE, "sweep.seeds=3"], ["seeds= chooses among them for one run"]),
    ([*MOE, "sweep.search.keys={optim.lr: [1e-3,2e-3]}"], ["sweep.search.keys: what a sweep asks"]),
    # combinations that cannot work
    ([*MOE, "model.moe.top_k=32"], ["model.moe.top_k=32", "n_routed_experts=16"]),
    ([*MOE, "train.tokens=1100"], ["control: train.tokens=1100", "less than one batch"]),
    ([*MOE, "launch.workers=0"], ["launch.workers=0: must be at least 1"]),
    ([*MOE, "launch.workers=1000"], ["launch.workers=1000: must be at most 256"]),
    ([*MOE, "train.threads=100000"], ["train.threads=100000: must be at most 256"]),
    ([*MOE, "launch.expected_tokens_per_second=0"], ["must be at least 1"]),
    ([*MOE, "launch.expected_tokens_per_second=nan"], ["must be a finite number"]),
    ([*MOE, "runs_dir="], ["runs_dir=: must not be empty"]),
    ([*MOE, "sweeps_dir="], ["sweeps_dir=: must not be empty"]),
    ([*MOE, "results_dir=' '"], ["results_dir= : must not be empty"]),
    ([*MOE, "runs_dir=~nobody_of_this_name/x"], ["no such user", "./~nobody_of_this_name/x"]),
    ([*MOE, f"train.tokens={10**19}"], ["train.tokens: a whole number has at most 64 bits"]),
    ([*MOE, f"train.tokens={'9' * 5000}"], ["train.tokens", "the value cannot be read"]),
]


@pytest.mark.parametrize(("overrides", "parts"), WRONG, ids=[" ".join(o) or "nothing" for o, _ in WRONG])
def test_a_wrong_command_line_is_one_line_that_helps(overrides: list[str], parts: list[str]) -> None:
    message = line(overrides)
    for part in parts:
        assert part in message


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


@pytest.mark.parametrize("path", ["/tmp/a b/(1)", "/tmp/é=1,2", "/tmp/${x}", "C:\\runs\\", 'say "no"', "123"])
def test_a_path_needs_no_quoting(path: str) -> None:
    assert compose([*MOE, f"runs_dir={path}"]).runs_dir == path


@pytest.mark.parametrize("key", FOLDERS)
def test_a_home_is_expanded_in_every_folder(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert getattr(compose([*MOE, f"{key}=~/mine"]), key) == str(tmp_path / "mine")


@pytest.mark.parametrize(
    "place", ["x, b: y", "a: 1, a: 2", "C:/a/b", "it:s, a"], ids=["comma", "keys", "colon", "colon, comma"]
)
def test_what_only_looks_like_a_key_that_comes_twice(place: str) -> None:
    config = compose([*MOE, "data=domains", f"data.domains={{a: '{place}', b: 'a:b', c: mypy/*.pyi}}"])
    assert config.data.domains == {"a": place, "b": "a:b", "c": "mypy/*.pyi"}


def test_an_escaped_comma_begins_no_key() -> None:
    assert parse([r"data.settings={a: x\,a: 2}"]) == {"data.settings": {"a": "x,a: 2"}}


def test_a_home_is_expanded_in_lists_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for text in ("[~/x.yaml,piqa]", "['~/x.yaml',piqa]", '["~/x.yaml",piqa]'):
        assert compose([*MOE, f"eval.tasks={text}"]).eval.tasks == ["/home/me/x.yaml", "piqa"]


def test_arms_are_chosen_in_the_sweeps_order_and_the_baseline_always() -> None:
    main = ["aux_loss", "none", "batch_aux_loss", "bias"]
    assert chosen_arms(compose(TOY)) == main
    assert chosen_arms(compose([*TOY, "arms=all"])) == [*main, "bias_aux_loss"]
    assert chosen_arms(compose([*TOY, "arms=[bias_aux_loss,none]"])) == ["aux_loss", "none", "bias_aux_loss"]
    assert chosen_arms(compose([*TOY, "arms=none"])) == ["aux_loss", "none"]


def test_a_searched_key_on_the_command_line_is_pinned_for_all_arms() -> None:
    free = compose(TOY)
    assert "optim.lr" in free.sweep.search.keys and free.sweep.arms["bias"].search
    pinned = compose([*TOY, "optim.lr=3e-3", "model.moe.balance.alpha=0.02"])
    assert pinned.sweep.search.keys == {} and pinned.optim.lr == 3e-3
    assert pinned.sweep.arms["aux_loss"].search == pinned.sweep.arms["batch_aux_loss"].search == {}
    assert pinned.model.moe.balance.alpha == 0.02
    assert pinned.sweep.arms["bias"].search == free.sweep.arms["bias"].search


def test_an_arms_toggle_may_be_set_where_that_arm_is_left_out(folder: Callable[..., list[str]]) -> None:
    third = {"third": {"set": {"optim.beta2": 0.99}}}
    mine = folder(SWEEP, arms={**SWEEP["arms"], **third})
    assert "set by arm third" in line([*mine, "optim.beta2=0.9"]) and "arms=[...]" in line([*mine, "optim.beta2=0.9"])
    assert compose([*mine, "optim.beta2=0.9", "arms=long"]).optim.beta2 == 0.9


def test_a_fault_of_the_command_line_is_not_blamed_on_the_file() -> None:
    assert line([*MOE, "model.moe.top_k=32"]).startswith("model.moe.top_k=32")
    assert line(["sweep=grpo", "scale=smoke", "data.epochs=7"]).startswith("arm grpo: data.epochs=7: the stage's")
    assert line([*MOE, "train.tokens=1100"]).startswith("control: train.tokens=1100 (x train.token_fraction=")


def test_composing_changes_nothing_but_what_is_named() -> None:
    """Twice the same, and the schema's defaults wherever scale, sweep and command line say nothing."""
    assert compose(MOE) == compose(MOE)
    given = [*MOE[:1], "scale=smoke"]
    assert compose(given).optim == Config().optim and compose(given).track == Config().track


def test_config_yaml_reads_back() -> None:
    config = compose([*MOE, "optim.lr=3e-3"])
    assert OmegaConf.to_container(OmegaConf.create(config_yaml(config))) == settings(config)


def test_a_config_knows_the_words_and_the_file_that_it_was_made_of() -> None:
    words = [*MOE, "optim.lr=3e-3", "runs_dir=a b"]
    config = compose(words)
    assert config.overrides == tuple(words)
    assert config.sweep_text == (ROOT / "sweeps/moe_balance.yaml").read_text()
    assert "overrides: no such key" in line([*MOE, "overrides=[]"])


def test_help_names_every_key_sweep_and_scale_and_imports_nothing_slow() -> None:
    text = help_text()
    keys = [k.name for k in all_keys().values() if not k.is_group and not k.name.startswith("sweep")]
    assert [key for key in keys if f"  {key}=" not in text] == []
    assert "moe_balance" in text and "smoke" in text and max(map(len, text.splitlines())) <= 120
    script = (
        "import sys; from ablations.config.help import help_text; help_text(); "
        "print([m for m in ('torch', 'lightning', 'hydra', 'optuna', 'wandb', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def house(cwd: Path) -> str:
    """What check_house says when started in `cwd`, whose folder Python searches first."""
    script = (
        "from ablations.home import check_house\nfrom models.base.typed import ConfigError\n"
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


def test_a_folder_where_a_command_is_started_is_nobodys_package(tmp_path: Path) -> None:
    """`python -m` searches the current directory first; whatever its folders are called, they are not imported."""
    for name in ("datasets", "models", "tasks", "yaml"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": ""}

    def started(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)

    for module in ("eval", "run"):
        done = started("-m", f"ablations.{module}", "nonsense=1")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert "nonsense" in done.stderr
    kept = started("-c", "import ablations.home, sys; print('' in sys.path)")
    assert kept.stdout.strip() == "True", "somebody else's program keeps its path"


def test_a_house_without_its_checkout_is_refused() -> None:
    script = "import ablations.home as h, pathlib; h.ROOT = pathlib.Path('/nowhere'); h.check_house()"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert "no sweeps/ beside" in done.stderr


def test_a_named_size_stands_between_scale_and_sweep():
    sized = compose(["sweep=attention", "scale=cpu", "model=small", "model.n_layers=4"])
    assert (sized.model.d_model, sized.model.n_layers, sized.model.vocab_size) == (256, 4, 4096)
    assert sized.model.moe.balance.update_speed == 0.005, "the sweep's own keys hold"
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


def test_a_file_can_stand_in_for_the_sweep_of_its_name(folder: Callable[..., list[str]], tmp_path: Path) -> None:
    """A published result is made again from its own file, where the checkout has another one of that name too."""
    folder({**SWEEP, "question": "What was it then?"}, "moe_balance")
    with pytest.raises(ConfigError, match="share the name"):
        compose(["sweep=moe_balance", f"sweeps_dir={tmp_path}"])
    assert compose(["sweep=moe_balance"], tmp_path / "moe_balance.yaml").sweep.question == "What was it then?"


def test_a_presets_name_is_its_tasks() -> None:
    assert compose(MOE).eval == compose([*MOE, "eval=quick"]).eval
    assert compose([*MOE, "eval=small_lm", "eval.items=7"]).eval.tasks[:2] == ["blimp", "hellaswag"]
    assert compose([*MOE, "eval={items: 7}"]).eval.items == 7
    problem = ["data.source=problem", "data.problem=sums"]
    assert compose([*MOE, "eval=answers", *problem]).eval.tasks == ["problem_greedy", "problem_samples"]


def test_a_home_is_expanded_in_the_folder_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert compose([*MOE, "eval.data_dir=~/copies"]).eval.data_dir == "/home/me/copies"
