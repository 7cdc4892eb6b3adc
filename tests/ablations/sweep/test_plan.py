"""The plan: arms and their keys, budgets, seeds, published values, and what is written down before the first trial."""

import dataclasses
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from least_sweep import SWEEP
from stand_in_kinds import asked

from ablations.config.compose import compose
from ablations.config.schema import Config, SweepConfig
from ablations.config.trialkeys import differing
from ablations.files import read_json
from ablations.record.documents import PLAN, STATE, PlanDocument, SweepState
from ablations.sweep.announce import describe
from ablations.sweep.planning import make_plan
from ablations.sweep.registration import registered
from models.base.typed import ConfigError

FRESH = ("search=fresh", "search_points=2", "search_seeds=1")
ARMS: dict[str, Any] = SWEEP["arms"]


def test_baseline_first_control_and_aa_last_and_each_differs_as_declared(plan):
    made = plan("arms=[none,bias]")
    assert list(made.arms) == ["aux_loss", "none", "bias", "control", "aa"]
    base = made.baseline.keys
    assert differing(made.arms["control"].keys, base) == ["train.token_fraction"]
    assert differing(made.arms["aa"].keys, base) == ["train.perturb"]
    assert made.arms["aa"].keys.train.perturb == 1e-6
    assert set(differing(made.arms["bias"].keys, base)) == {
        *("model.moe.balance.kind", "model.moe.balance.alpha", "model.moe.balance.update_speed")
    }
    assert [arm.name for arm in made.searched_arms] == ["aux_loss", "none", "bias"]
    assert all(arm.keys.model.dtype == "float32" for arm in made.arms.values())


def test_auto_is_resolved_in_every_arm(plan):
    made = plan("model.dtype=auto")
    assert {arm.keys.model.dtype for arm in made.arms.values()} <= {"float32", "bfloat16"}


SCALES = ("smoke", "cpu", "cpu_long", "gpu")


def compiled(sweep: str, runs: Path, **changed: str) -> set[Any]:
    """Of all stages, trunks and teachers of all arms."""
    words = {"model.dtype": "bfloat16", "train.compile": "auto", "runs_dir": str(runs), **changed}
    made = make_plan(compose([f"sweep={sweep}", "scale=smoke", *(f"{key}={value}" for key, value in words.items())]))
    return {stage.train.compile for arm in made.arms.values() for stage in arm.keys.all_stages}


def test_blocks_are_compiled_in_all_arms_or_in_none(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ablations.sweep.planning.missing_compiler", lambda device: None)
    monkeypatch.setattr("sys.platform", "linux")
    assert compiled("moe_balance", runs, arms="all") == {True}, "of branches' trunks, too"
    assert compiled("sft_masking", runs) == {True}, "of every stage"
    for other in ("precision", "post_training", "schedule"):
        assert compiled(other, runs) == {False}, "not all of its arms can be"
    for key, value in {"train.compile": "false", "model.dtype": "float32", "train.device": "cuda"}.items():
        assert compiled("moe_balance", runs, **{key: value}) == {False}
    told = {"train.compile": "true", "model.dtype": "float32"}
    assert compiled("moe_balance", runs, **told) == {True}, "who is told obeys"
    monkeypatch.setattr("sys.platform", "darwin")
    assert compiled("moe_balance", runs) == {False}
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ablations.sweep.planning.missing_compiler", lambda device: f"one for {device}")
    assert compiled("moe_balance", runs) == {False}
    by_scale = {scale: compose(["sweep=moe_balance", f"scale={scale}"]).trial.train.compile for scale in SCALES}
    assert by_scale == {"smoke": False, "cpu": "auto", "cpu_long": "auto", "gpu": False}, "where it was measured to pay"


def test_equal_budgets(plan):
    made = plan("arms=all", "search=fresh", "search_points=3", "search_seeds=3")
    spent = {a.name: len(a.grid(made.shared)) * len(made.search_seeds(a)) for a in made.searched_arms}
    assert set(spent.values()) == {27}
    assert len(made.search_seeds(made.arms["none"])) == 9
    assert made.search_trials == 27 * 5


def test_a_seed_that_an_arm_is_searched_on_judges_nothing(plan: Any) -> None:
    """None has a point and so nine seeds, which the listed three do not tell."""
    words = ("arms=all", "search=fresh", "search_points=3", "search_seeds=3")
    with pytest.raises(
        ConfigError, match=r"^seeds=\[7, 1008\]: none is searched on 1008 too, and nothing may be chosen"
    ):
        plan(*words, "seeds=[7,1008]")
    assert plan(*words, "seeds=[7,1009]").seeds == [7, 1009]


def test_a_pinned_key_is_searched_for_no_arm(plan):
    made = plan("search=fresh", "optim.lr=0.007", "arms=[none,bias]")
    assert made.shared == {}
    assert made.search_seeds(made.arms["none"]) == [], "it has nothing to choose"
    assert {arm.keys.optim.lr for arm in made.arms.values()} == {0.007}
    assert made.arms["bias"].grid(made.shared) == [{"model.moe.balance.update_speed": x} for x in (0.003, 0.01)]


def test_confirmation_seeds_begin_where_the_file_says():
    config = Config(sweep=SweepConfig(first_seed=8, seeds=3))
    assert config.confirmation_seeds == [8, 9, 10]
    assert dataclasses.replace(config, seeds=2).confirmation_seeds == [8, 9]
    assert dataclasses.replace(config, seeds=[1, 5]).confirmation_seeds == [1, 5]


def test_confirmation_seeds_are_their_own(plan):
    assert plan("seeds=3").seeds == [0, 1, 2]
    assert plan("seeds=[7,9]").seeds == [7, 9]
    for seeds in ("seeds=[5,1000]", "seeds=1001"):
        with pytest.raises(ConfigError, match=r"^seeds=.*1000 is a search seed"):
            plan(seeds)
    with pytest.raises(ConfigError, match=r"^seeds=.*1001 is a search seed"):
        plan("seeds=[5,1001]")  # the second one is none either


@pytest.fixture
def published(conduct, runs, tmp_path):
    """Publishes plan.json and state.json of a fresh search; returns their folder."""
    conduct(*FRESH)
    folder = tmp_path / "results/toy/smoke"
    folder.mkdir(parents=True)
    for name in (PLAN, STATE):
        shutil.copy(runs / "toy/smoke" / name, folder)
    return folder


def test_published_values_are_pinned_and_nothing_is_searched(published, conduct, pool, plan):
    made = plan("search_points=2")
    state = SweepState.read(published)
    assert made.published.chosen == state.chosen and made.published.mistuning == state.mistuning
    assert (made.fresh_because, made.search_trials) == (None, 0)
    assert "published values, nothing is searched" in describe(made)
    pool.ran.clear()
    conductor = conduct("search_points=2", "seeds=[5,6]")
    requests = [asked(job) for job in pool.ran["trial"]]
    assert [request.labels.phase for request in requests] == ["confirm"] * 8
    strengths = {request.trial.keys.model.moe.balance.alpha for request in requests}
    assert state.chosen["aux_loss"]["model.moe.balance.alpha"] in strengths
    assert conductor.state.chosen == state.chosen
    assert conductor.state.search == state.search != [], "the page shows the search"
    assert plan(*FRESH).published is None


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model.d_model=48"], "the published search had model.d_model=32, here it is 48"),
        (["train.tokens=6144"], "the published search had train.tokens=3072, here it is 6144"),
        (["optim.lr=0.01"], "optim.lr=0.0025, here it is 0.01"),
        (["arms=[none,bias]"], "has no arm none as it is now"),
        (["search_points=3"], "has no arm aux_loss as it is now"),
        (["search_seeds=3"], "had no seed 1001 for arm aux_loss"),
        (["scale=cpu"], "no published search of toy at scale=cpu"),
    ],
)
def test_a_search_is_made_where_the_published_one_was_another(published, plan, words, reason):
    points = [] if any("search_points" in word for word in words) else ["search_points=2"]
    made = plan(*points, *words)
    assert made.published is None
    assert reason in made.fresh_because
    assert f"({made.fresh_because}, so it searches afresh)" in describe(made)
    assert made.search_trials > 0


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("branch_at: 0.5\ndesign: branch\n", "had another `design` in its file"),
        ("trunk: {optim.lr: 0.004}\n", "had another `trunk` in its file"),
        ("stages: {first: {optim.lr: 0.1}}\n", "had another `stages` in its file"),
    ],
)
def test_a_search_is_made_where_the_file_trains_its_arms_otherwise(published, plan, line, reason):
    """What no key of the baseline shows: here the published plan's own file says something else."""
    path = published / PLAN
    earlier = read_json(path)
    assert plan("search_points=2").published is not None
    path.write_text(json.dumps(earlier | {"sweep_file": earlier["sweep_file"] + line}))
    assert reason in plan("search_points=2").fresh_because
    path.write_text(json.dumps(earlier | {"sweep_file": earlier["sweep_file"] + "# said otherwise\n"}))
    assert plan("search_points=2").published is not None
    rule = earlier["search_rule"] | {"constraint_max": 0.05}
    path.write_text(json.dumps(earlier | {"search_rule": rule}))
    assert "had search.constraint_max=0.05, here it is" in plan("search_points=2").fresh_because


@pytest.mark.parametrize("word", ["eval.tokens=4096", "eval.items=10", "train.threads=2", "seeds=4", "arms=[bias]"])
def test_what_changes_no_choice_keeps_the_published_values(published, plan, word):
    assert plan("search_points=2", word).published is not None


@pytest.mark.parametrize("name", [PLAN, STATE])
def test_a_published_file_that_was_cut_off_is_one_line(published, plan, name):
    content = (published / name).read_bytes()
    (published / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match=rf"{name}: not readable as JSON \(.*\); restore it, or remove it$"):
        plan("search_points=2")


def test_a_key_that_did_not_exist_then_had_its_default(published, plan):
    """A published search stays valid when the schema grows."""
    path = published / PLAN
    earlier = read_json(path)
    del earlier["keys"]["data"]["fim_rate"], earlier["keys"]["data"]["ramp_from"]
    del earlier["keys"]["model"]["mtp"], earlier["keys"]["model"]["moe"]["scoring"]
    path.write_text(json.dumps(earlier))
    assert plan("search_points=2").published is not None
    for word, said in (
        ("data.ramp_from=0.5", "data.ramp_from=1.0, here it is 0.5"),
        ("model.mtp.depth=1", "mtp.depth=0"),
    ):
        made = plan("search_points=2", word)
        assert made.published is None and said in made.fresh_because


def test_the_published_search_of_this_checkout_is_found():
    """It was made before most of today's keys existed."""
    words = ["sweep=moe_balance", "scale=cpu", "track.mode=disabled"]
    made = make_plan(compose(words))
    assert (made.fresh_because, made.search_trials) == (None, 0)
    assert made.published.chosen.keys() >= set(made.arms)
    optional = make_plan(compose([*words, "arms=[bias,batch_aux_loss]"]))
    assert optional.published.chosen["batch_aux_loss"] == {}, "it searches nothing, and needs no published search"
    assert make_plan(compose([*words, "arms=[bias_aux_loss]"])).published is None


def test_a_result_without_a_search_has_no_values_to_pin(plan, tmp_path):
    made = plan()
    assert made.published is None
    assert made.fresh_because == "no published search of toy at scale=smoke"


def test_where_nothing_is_searched_nothing_needs_a_published_search(plan):
    made = plan("optim.lr=0.005", "model.moe.balance.alpha=0.01", "model.moe.balance.update_speed=0.01")
    assert (made.published.chosen["bias"], made.fresh_because, made.search_trials) == ({}, None, 0)


def test_the_document_is_plain_deterministic_and_holds_the_rule(plan, tmp_path):
    made = plan(*FRESH)
    document = registered(made, {"text": "abc"})
    text = json.dumps(dataclasses.asdict(document), sort_keys=True, allow_nan=False)
    assert json.loads(text) == dataclasses.asdict(document)
    document.write(tmp_path)
    assert PlanDocument.read(tmp_path) == document, "what is read back equals it, or every run would look changed"
    assert registered(plan(*FRESH), {"text": "abc"}) == document
    assert registered(made, {"text": "abd"}).data != document.data
    assert document.arms["control"].tokens == 2560
    assert document.arms["control"].set["train.token_fraction"] == 0.9
    assert document.arms["control"].train_flops == made.arms["control"].cost.flops_per_token * 2560
    assert document.keys == made.baseline.keys
    assert document.seeds == [0, 1]
    assert "Holm" in document.decision_rule
    assert len(document.expected) == 2
    assert document.search_rule.keys == {"optim.lr": [0.0025, 0.005]}
    assert document.search == "fresh"


def test_the_document_names_the_usual_arms_that_a_run_leaves_out(plan):
    """Optional arms are no part of the family, unless they run."""
    arms = plan("arms=all").sweep.arms
    usual = [name for name, arm in arms.items() if not arm.optional]
    for words, left in (("arms=bias", set(usual) - {"aux_loss", "bias"}), ("arms=all", set())):
        assert set(registered(plan(words), {}).left_out) == left


def test_a_rung_that_is_not_run_is_stepped_over(plan: Any) -> None:
    """And what stands on it is compared with the next below."""
    made = plan("sweep=v3_ladder", "arms=[mla,bias,mtp]")
    assert {name: arm.onto for name, arm in registered(made, {}).arms.items() if arm.onto} == {
        "mla": "dense",  # experts and fine are not run either
        "bias": "mla",
        "mtp": "bias",
    }
    assert [made.rival(name) for name in ("dense", "mla", "bias", "control")] == ["dense", "dense", "mla", "dense"]


@pytest.mark.parametrize(
    "words",
    [
        FRESH,
        (*FRESH, "optim.lr=0.005", "data.path={text}", "data.source=text", "seeds=[4,9]", "arms=[none,bias]"),
        ("search_points=2", "model.moe.balance.alpha=0.01", "launch.workers=3", "track.project=mine"),
    ],
)
def test_the_plan_keeps_the_command_that_makes_it_again(plan, words, tmp_path):
    text = tmp_path / "a b" / "it's (here).txt"
    text.parent.mkdir()
    text.write_text("def f(): pass\n")
    document = registered(plan(*(word.replace("{text}", str(text)) for word in words)), {"text": "abc"})
    typed = shlex.split(document.command)
    assert typed[:4] == ["python", "-m", "ablations.run", "sweep=toy"] and "search=fresh" in typed
    assert "scale=smoke" in typed
    assert not [w for w in typed if w.startswith(("runs_dir", "launch", "track"))], "where and how it ran is no plan's"
    again = registered(make_plan(compose([*typed[3:], "track.mode=disabled"])), {"text": "abc"})
    assert again == document
    assert document.sweep_file == (Path(__file__).parents[1] / "sweeps/toy.yaml").read_text()


def test_the_command_says_where_the_published_values_were_found(published, plan, tmp_path):
    typed = shlex.split(registered(plan("search_points=2", f"results_dir={tmp_path}"), {}).command)
    assert {"search=published", f"results_dir={tmp_path}"} <= set(typed)
    typed = shlex.split(registered(plan(*FRESH, f"results_dir={tmp_path}"), {}).command)
    assert not [word for word in typed if word.startswith("results_dir")]


def test_what_is_about_to_happen(plan):
    text = describe(plan(*FRESH, "launch.workers=2"))
    for part in (
        "auxiliary-loss-free",
        "(baseline)",
        "fresh, 4 trials per arm, 8 in all",
        "4 arms x 2 seeds (0, 1) = 8 trials",
        "float32, 12 steps of 256 tokens in 1 microbatch,",
        "2 workers",
    ):
        assert part in text
    assert plan(*FRESH, "launch.workers=1").minutes > plan(*FRESH, "launch.workers=4").minutes
    assert plan(*FRESH, "seeds=8").minutes > plan(*FRESH, "seeds=2").minutes
    mtp = plan("sweep=mtp_depth", "sweeps_dir=null", "arms=[chained_1]")
    assert mtp.trial_seconds(mtp.arms["chained_1"]) > 1.2 * mtp.trial_seconds(mtp.arms["none"]), "more FLOPs, more time"
    types = [plan(*FRESH, f"model.dtype={dtype}").minutes for dtype in ("bfloat16", "float32")]
    assert types == sorted({*types}), "a scale's speed is of BF16"
    often = [plan(*FRESH, f"train.validate_every={share}").minutes for share in (0.5, 0.05)]
    assert often == sorted({*often}), "validation takes time"
    fp8 = plan("sweep=precision", "sweeps_dir=null", "arms=[v3]", "train.tokens=102400")
    v3, bf16 = (fp8.trial_seconds(fp8.arms[name], scored=False) for name in ("v3", "bf16"))
    assert v3 > 1.4 * bf16, "rounded by emulation"
    gpu = plan("sweep=induction", "sweeps_dir=null", "arms=null", "scale=gpu", "train.tokens=16384000")
    microbatches = gpu.baseline.keys.steps * gpu.baseline.keys.microbatches
    assert gpu.trial_seconds(gpu.baseline) > 0.002 * microbatches > 60, "to launch small kernels takes time"


ALL = ("search_points=null", "search_seeds=null")
FEW, ENOUGH = [0.001, 0.002, 0.004], [0.001, 0.002, 0.004, 0.008]


@pytest.mark.parametrize(
    ("rates", "of_its_own", "seeds", "warned"),
    [
        (ENOUGH, None, [1000, 1001], False),
        (FEW, None, [1000, 1001], True),
        (ENOUGH, None, [1000], True),
        ([0.001], None, [1000], False),  # nothing is chosen
        (None, ENOUGH, [1000, 1001], False),
        (None, FEW, [1000, 1001], True),
    ],
)
def test_a_search_that_can_bound_no_rate_is_told_of_before(
    plan: Any, tmp_path: Path, rates: Any, of_its_own: Any, seeds: list[int], warned: bool
) -> None:
    arms = {name: {**arm, "search": {"optim.lr": of_its_own} if of_its_own else {}} for name, arm in ARMS.items()}
    search = {"keys": {"optim.lr": rates} if rates else {}, "seeds": seeds}
    (tmp_path / "own.yaml").write_text(json.dumps({**SWEEP, "arms": arms, "search": search}))
    text = describe(plan("sweep=own", f"sweeps_dir={tmp_path}", "arms=null", "search=fresh", *ALL))
    assert ("fewer than 4 learning rates or 2 seeds leave what is claimed of the loss open" in text) == warned


ANSWERS = "eval.tasks=[problem_greedy,problem_samples]"


def test_answers_that_are_written_take_time(plan):
    problem = ("data.source=problem", "data.problem=sorting", "data.settings={numbers: [2]}", "data.max_bytes=null")

    def seconds(*words: str) -> float:
        made = plan(*problem, *words)
        return made.trial_seconds(made.baseline)

    none, greedy = seconds("eval.tasks=[skill_answers]"), seconds("eval.tasks=[problem_greedy]")
    few, many = (seconds(ANSWERS, f"eval.samples={n}") for n in (8, 64))
    assert none < greedy < few < many
    assert (many - greedy) / (few - greedy) == pytest.approx(8)
    made = plan(*problem, ANSWERS)
    assert made.trial_seconds(made.baseline, scored=False) == pytest.approx(
        plan(*problem, "eval.tasks=[skill_answers]").trial_seconds(made.baseline, scored=False)
    )


def test_an_arm_by_two_names_is_refused(folder: Any) -> None:
    arms = {"short": {"set": {"optim.warmup_fraction": 0.05}}, "long": {"set": {"optim.warmup_fraction": 0.3}}}
    content = {**SWEEP, "arms": {**arms, "again": arms["long"]}}
    with pytest.raises(ConfigError, match="^sweep=mine arms long and again: the same in every key"):
        make_plan(compose(folder(content)))
    make_plan(compose([*folder(content), "arms=[long]"]))
