"""Sweep and scale files: found, read and checked; every slip in one is a line that names the file and the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from least_sweep import SWEEP, line

from ablations.config import sweepfile
from ablations.config.compose import compose
from ablations.config.resolve import thinned
from ablations.home import ROOT

MOE = ["sweep=moe_balance", "scale=cpu"]


def arms(**changes: Any) -> dict[str, Any]:
    return {**SWEEP["arms"], **changes}


BAD_FILES: list[tuple[dict[str, Any], list[str]]] = [
    ({"seedz": 3}, ["mine.yaml: seedz: no such key", "did you mean seeds?"]),
    ({"at_least": {"model.d_modl": 64}}, ["mine.yaml at_least: model.d_modl: no such key"]),
    (
        {"at_least": {"model.d_model": 64}, "common": {"model.d_model": 32}},
        ["mine.yaml at_least.model.d_model: also in `common`"],
    ),
    ({"at_most": {"train.token": 64}}, ["mine.yaml at_most: train.token: no such key"]),
    (
        {"at_most": {"train.tokens": 64_000}, "common": {"train.tokens": 32_000}},
        ["mine.yaml at_most.train.tokens: also in `common`"],
    ),
    (
        {"at_most": {"model.d_model": 64}, "at_least": {"model.d_model": 65}},
        ["mine.yaml at_most.model.d_model=64: below at_least.model.d_model=65; none is both"],
    ),
    ({"seeds": "six"}, ["mine.yaml: seeds=six: expected a whole number"]),
    ({"seeds": 1}, ["seeds=1", "at least 2"]),
    ({"name": "x"}, ["named by its file"]),
    ({"question": ""}, ["question: missing"]),
    ({"_target_": "os.system"}, ["_target_: no such key"]),
    ({"control": {}}, ["control: empty; name a small harm"]),
    ({"control": {"train.token_fraction": 1.0}}, ["mine.yaml control: nothing: the training is the baseline's"]),
    ({"control": {"train.threads": 2}}, ["control: train.threads=2: the training is the baseline's"]),
    ({"control": {"train.perturb": 1e-6}}, ["control: train.perturb=1e-06: the training is the baseline's"]),
    ({"control": {"eval.split": "validation"}}, ["control: eval.split=validation: the training is the baseline's"]),
    ({"control": {"optim.eps": 1e-3, "eval.tokens": 4096}}, ["is scored on other text than the baseline"]),
    ({"control": {"train.token_fraction": 1.0000001}}, ["comes to the baseline's own", "tokens; take fewer"]),
    (
        {"common": {"model.feed_forward": "dense"}, "primary": "max_vio_global"},
        ["primary=max_vio_global: no arm here has"],
    ),
    ({"primary": "gradient_cosine"}, ["primary=gradient_cosine: no arm here has a named recipe"]),
    (
        {"metrics": ["max_vio_global_layer99"]},
        ["metrics[0]=max_vio_global_layer99: no arm here has that many MoE layers"],
    ),
    ({"control": {"train.token_fraction": 5}}, ["control: train.token_fraction=5.0: trains on more tokens"]),
    ({"control": {"train.tokens": 10**9}}, ["control: train.tokens=1000000000: trains on more tokens"]),
    ({"search": {"seeds": [1]}}, ["search.seeds=[1]: 1 is not above the confirmation's seeds", "0 to 7"]),
    ({"first_seed": 996}, ["search.seeds=[1000, 1001]: 1000 is not above", "996 to 1003", "such as 1004"]),
    ({"seeds": 2000}, ["search.seeds=[1000, 1001]: 1000 is not above the confirmation's seeds"]),
    (
        {"expected": [{"arm": "long"}, {"arm": "long", "against": "short"}]},
        ["expected[1]: the same claim as expected[0]"],
    ),
    (
        {
            "expected": [
                {"arm": "long", "kind": "equal", "margin": 0.1},
                {"arm": "short", "against": "long", "kind": "equal", "margin": 0.1},
            ]
        },
        ["expected[1]: the same claim as expected[0]"],
    ),
    ({"metrics": ["loss", "loss"]}, ["metrics=['loss', 'loss']: loss stands in it twice"]),
    ({"matched": {"equal": ["kv_bytes", "kv_bytes"]}}, ["kv_bytes stands in it twice"]),
    ({"arms": arms(long={"set": {"train.tokens": 10**20}})}, ["at most 64 bits"]),
    (
        {"arms": arms(long={"set": {"train.tokens": 10**14}})},
        ["mine.yaml arm long: train.tokens=", "at most 1,000,000"],
    ),
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
    ({"metrics": ["foo/bar"]}, ["metrics[0]=foo/bar: no such task is scored", "eval.tasks: python_bits_per_byte"]),
    ({"primary": "python_cloze/ac"}, ["primary=python_cloze/ac: python_cloze gives no ac", "did you mean acc?"]),
    ({"metrics": ["mtp_loss_1"]}, ["metrics[0]=mtp_loss_1: no arm here has that many MTP modules"]),
    ({"metrics": ["max_vio_floor"]}, ["metrics[0]=max_vio_floor: no such metric"]),
    (
        {"expected": [{"arm": "long", "metric": "routing_entropy", "kind": "better"}]},
        ["expected[0].metric=routing_entropy: neither lower nor higher is better", "kind equal or value"],
    ),
    (
        {"expected": [{"arm": "long", "metric": "routing_entropy", "kind": "not_worse", "margin": 1}]},
        ["expected[0].metric=routing_entropy: neither"],
    ),
    (
        {"search": {"constraint_metric": "loss", "constraint_max": 0.1}},
        ["search.constraint_metric=loss: has no known maximum", "max_vio_global"],
    ),
    ({"expected": [{"arm": "lnog"}]}, ["expected[0].arm=lnog: no such arm", "did you mean long?"]),
    ({"expected": [{"arm": "long", "against": "shrt"}]}, ["expected[0].against=shrt: no such arm"]),
    ({"expected": [{"arm": "short"}]}, ["compared with itself"]),
    ({"expected": [{"metric": "loss"}]}, ["expected[0]: missing key arm"]),
    ({"expected": [{"arm": "long", "metric": "bpb"}]}, ["expected[0].metric=bpb: no such metric"]),
    ({"expected": [{"arm": "long", "kind": "equal"}]}, ["kind equal needs a margin"]),
    ({"expected": [{"arm": "long", "kind": "value", "region": [1]}]}, ["kind value needs [low, high]"]),
    ({"expected": [{"arm": "long", "kind": "bettr"}]}, ["did you mean better?"]),
    ({"expected": [{"arm": "long", "region": [0, 1]}]}, ["expected[0].region=[0.0, 1.0]: kind better has a margin"]),
    (
        {"expected": [{"arm": "long", "kind": "value", "region": [0, 1], "margin": 1}]},
        ["expected[0].margin=1.0: kind value has a region"],
    ),
    ({"contrasts": {"aa": {"weights": {"long": 1, "short": -1}}}}, ["contrasts.aa: reserved"]),
    ({"contrasts": {"long": {"weights": {"long": 1, "short": -1}}}}, ["contrasts.long: arms.long is called long too"]),
    ({"doses": {"control": {"values": {"short": 1, "long": 2}}}}, ["doses.control: reserved"]),
    (
        {
            "doses": {"sl": {"values": {"short": 1, "long": 2}, "at": 3}},
            "contrasts": {"sl_at": {"weights": {"long": 1, "short": -1}}},
        },
        ["doses.sl: contrasts.sl_at is called sl_at too"],
    ),
    (
        {"doses": {"sl": {"values": {"short": 1, "long": 2}}}, "expected": [{"arm": "sl_at"}]},
        ["expected[0].arm=sl_at: doses.sl has no `at`; say at which dose"],
    ),
    (
        {"factorial": {"factors": {"aa": {"optim.eps": 1}, "b": {"optim.beta2": 0.9}}, "generators": "a b"}},
        [": reserved"],
    ),
    (
        {"factorial": {"factors": {x: {f"optim.{x}": 0.5} for x in ("eps", "beta1")}, "generators": "a B"}},
        ["factorial.generators=a B: letters are small"],
    ),
    (
        {"factorial": {"factors": {x: {f"optim.{x}": 0.5} for x in ("eps", "beta1")}, "generators": "a b+"}},
        ["factorial.generators=a b+: `b+` is no word of letters, with a sign before it at most; write it as `abc`"],
    ),
    (
        {
            "factorial": {
                "factors": {
                    **{x: {f"optim.{x}": 0.5} for x in ("eps", "beta1", "beta2")},
                    "d": {"optim.clip_norm": 1.0},
                },
                "generators": "a b  c abc",
            }
        },
        ["factorial.factors.d={'optim.clip_norm': 1.0}: the baseline has it already"],
    ),
    (
        {"arms": arms(more={"design": "branch", "onto": "long", "set": {"optim.eps": 1e-3}}), "branch_at": 0.5},
        ["arms.more.onto=long: has design=scratch, and more design=branch"],
    ),
    ({"arms": arms(short={"onto": "long"})}, ["arms.short.onto=long: the baseline stands on nothing"]),
    ({"matched": {"equal": ["params"]}}, ["matched.equal[0]=params: expected one of"]),
    ({"matched": {"tolerance": -1}}, ["matched.tolerance=-1", "must not be negative"]),
    ({"matched": {"knob": "model.d_model"}}, ["matched.knob=model.d_model: expected one of"]),
    (
        {"arms": arms(long={"set": {"model.n_layers": 2}}), "matched": {"knob": "model.n_layers"}},
        ["arms.long.matched.knob=model.n_layers: the arm sets it", "keep one"],
    ),
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
    "question: ${nothing}\n": ["mine.yaml: question=${nothing}: ${...} is not filled in"],
    "question: x\narms: [{a: '${oc.env:HOME}'}]\n": ["mine.yaml: arms.a=${oc.env:HOME}: ${...} is not filled in"],
    "question: &x\n  again: *x\n": ["mine.yaml: nested too deeply, or without an end (an anchor, &, must not"],
    "a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)): [
        "mine.yaml: its anchors (&, *) written out come to",
        "at most 100,000",
    ],
    "arms: &x [*x]\n": ["mine.yaml: nested too deeply, or without an end"],
    "question: " + "[" * 5000 + "\n": ["mine.yaml: nested too deeply, or without an end"],
    "question: 2020-01-01\n": ["mine.yaml"],
    "question: !!python/object:os.system x\n": ["mine.yaml:1"],
    "seeds: " + "9" * 5000 + "\n": ["mine.yaml"],
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


def test_thinning_keeps_neighbours_from_the_middle() -> None:
    sweep = compose(["sweep=toy", f"sweeps_dir={ROOT / 'tests/ablations/sweeps'}", "scale=cpu"]).sweep
    one = thinned(sweep, 1, 1)
    assert one.search.keys == {"optim.lr": [0.005]} and one.search.seeds == [1000]
    assert one.arms["bias"].search == {"model.moe.balance.update_speed": [0.01]}
    assert thinned(sweep, 2, None).search.keys == {"optim.lr": [0.0025, 0.005]}
    assert thinned(sweep, None, None) == thinned(sweep, 9, 9) == sweep
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


def test_a_scale_may_differ_from_another_in_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, longer = (sweepfile.scale_config(name) for name in ("cpu", "cpu_long"))
    assert longer.train.tokens >= 4 * usual.train.tokens and longer.optim == usual.optim
    assert (longer.train.threads, longer.model, longer.eval) == (usual.train.threads, usual.model, usual.eval)
    monkeypatch.setattr(sweepfile, "SCALES", tmp_path)
    (tmp_path / "one.yaml").write_text("from: two")
    for text, part in [("from: one", "one.yaml: from=two"), ("from: three", "two.yaml: from=three: another scale")]:
        (tmp_path / "two.yaml").write_text(text)
        assert part.partition(": ")[2] in line(["sweep=moe_balance", "scale=two"])


def test_the_default_scale_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for gpu in (False, True):
        monkeypatch.setattr(sweepfile.Path, "exists", lambda path, gpu=gpu: gpu)
        assert sweepfile.default_scale() == ("gpu" if gpu else "cpu")


def test_at_least_raises_what_a_scale_has_smaller_and_nothing_else(folder: Callable[..., list[str]]) -> None:
    given = folder(SWEEP, at_least={"model.d_model": 160, "model.n_layers": 2})
    model = compose(given).model
    assert (model.d_model, model.n_layers) == (160, 3), "raised; the scale's own is larger"
    assert compose([*given, "model.d_model=96"]).model.d_model == 96, "the command line has the last word"
    assert compose([*given[:2], "scale=smoke"]).model.d_model == 32, "smoke tests the way, not the question"
    assert compose([*given, "raise_sizes=false"]).model.d_model == 128
    assert compose([*given, "model=small"]).model.d_model == 256


def test_at_most_lowers_what_a_scale_has_larger_and_nothing_else(folder: Callable[..., list[str]]) -> None:
    given = folder(SWEEP, at_most={"train.tokens": 300_000, "train.microbatches": 4})
    train = compose(given).train
    assert (train.tokens, train.microbatches) == (300_000, 1), "lowered; the scale's own is smaller"
    assert compose([*given, "train.tokens=400_000"]).train.tokens == 400_000, "the command line has the last word"
    assert compose([*given[:2], "scale=smoke"]).train.tokens < 300_000


def test_what_a_sweep_gives_for_search_and_control_replaces_the_usual(folder: Callable[..., list[str]]) -> None:
    sweep = compose(folder(SWEEP, search={"keys": {}}, control={"optim.eps": 1e-3})).sweep
    assert sweep.search.keys == {} and sweep.control == {"optim.eps": 1e-3}
    usual = compose(folder(SWEEP)).sweep
    assert list(usual.search.keys) == ["optim.lr"] and usual.control == {"train.token_fraction": 0.9}
