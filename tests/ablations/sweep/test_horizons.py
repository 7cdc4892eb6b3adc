"""Arms finished at several lengths: what is trained, what is the same to the bit, and verdicts that turn round."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from stand_in_kinds import asked

from ablations.config.schema import ExpectedConfig
from ablations.config.trialkeys import with_overrides
from ablations.judge.families import families_of
from ablations.judge.gather import load_result
from ablations.judge.judging import verdicts_of
from ablations.judge.stats import Difference
from ablations.judge.verdicts import Verdict, at_every_length
from ablations.record.steplog import read_steps
from ablations.show.sections.every import all_tables
from ablations.sweep.announce import describe
from ablations.sweep.horizons import at_share
from ablations.trial.job import TrialJob
from ablations.trial.train import run_trial
from models.base.typed import ConfigError

WSD = {"optim.schedule": "wsd", "optim.warmup_fraction": 0.1, "optim.decay_fraction": 0.5, "optim.final_lr_ratio": 0.0}
SHARES = [0.25, 0.5]
SWEEP = """
question: Does it fade?
source: none
baseline: aux_loss
horizons: [0.5, 0.25]
common: {model.moe.balance.alpha: 0.01, optim.schedule: wsd, optim.warmup_fraction: 0.1, optim.decay_fraction: 0.5}
arms:
  aux_loss: {about: a loss, set: {model.moe.balance.kind: aux_loss}}
  none: {about: no balancing, set: {model.moe.balance.kind: none}}
matched: {equal: [total_params], tolerance: 0.0}
search: {keys: {optim.lr: [0.005, 0.01]}, seeds: [1000]}
expected:
  - {arm: none, metric: loss, kind: better, paper: "x"}
"""


def written(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    text = SWEEP
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "sweeps").mkdir(parents=True)
    (tmp_path / "sweeps/lengths.yaml").write_text(text)
    return ["sweep=lengths", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all"]


def finish(given: TrialJob) -> Any:
    return run_trial(given, lambda event: None)


def losses(given: TrialJob) -> list[tuple[int, float, float]]:
    return [(row["step"], row["loss"], row["lr"]) for row in read_steps(Path(given.folder) / "steps.jsonl")]


def test_a_shorter_one_is_a_training_of_its_own_and_the_whole_is_as_without(job: Any) -> None:
    """To the bit: 12 steps, off whose constant part trainings of 3 and 6 steps branch."""
    whole = job("whole", changes=WSD)
    finish(whole)
    for share in (*SHARES, 1.0):
        given = dataclasses.replace(job(f"at {share}", changes=WSD), keys=at_share(whole.keys, share, SHARES))
        alone = job(
            f"alone {share}", changes={**WSD, "train.token_fraction": share, "optim.warmup_fraction": 0.1 / share}
        )
        found, expected = finish(given), finish(alone)
        assert losses(given) == losses(alone) and len(losses(given)) == round(12 * share)
        names = expected.metrics.keys()
        assert {name: found.metrics[name] for name in names} == expected.metrics
    assert losses(given) == losses(whole)


def test_trunks_are_chained_and_shared(conduct: Any, pool: Any, runs: Path, tmp_path: Path) -> None:
    conductor = conduct(*written(tmp_path))
    requests = [asked(job) for job in pool.ran["trial"]]
    searched, rest = requests[:4], requests[4:]
    assert all(not r.trial.keys.before and r.labels.phase == "search" for r in searched)
    places = [[stage.until for stage in r.trial.keys.stages] for r in rest]
    arms, seeds = 4, 2
    assert {r.labels.arm for r in rest if r.trial.keys.until < 1} == {"aux_loss", "none", "control", "aa"}, (
        "each its own"
    )
    chains = ([0.125], [0.125, 0.25], [0.125, 1.0], [0.125, 0.25, 1.0])
    counts = {tuple(chain): places.count(list(chain)) for chain in chains}
    assert counts == {(0.125,): 8, (0.125, 0.25): 8, (0.125, 1.0): 8, (0.125, 0.25, 1.0): 16} and arms * seeds == 8
    tokens = {(r.trial.keys.train.token_fraction, len(r.trial.keys.stages)) for r in rest if r.trial.keys.until == 1}
    assert {fraction for fraction, _ in tokens} == {0.25, 0.5, 1.0, 0.225, 0.45, 0.9}
    chosen = conductor.state.chosen["none"]["optim.lr"]
    none = [r.trial.keys for r in rest if r.labels.arm == "none"]
    assert all(stage.optim.lr == chosen for keys in none for stage in keys.stages), "the trunk has the chosen value too"
    assert [t.share for t in conductor.state.confirm][:3] == [0.25, 0.5, 1.0]
    result = load_result(runs, "lengths", "smoke")
    none = result.arms["none"]
    assert none.values["loss_at_25"].keys() == {0, 1} and not result.missing
    assert none.shorter[0.25]["loss"] == none.values["loss_at_25"]
    assert none.shorter.keys() == {0.25, 0.5} and "max_vio_global" in none.shorter[0.5]
    table = all_tables(result)["lengths"]
    lengths = [column for column in table.columns if column.startswith("loss at")]
    assert lengths == ["loss at 768 tokens", "loss at 1.54k tokens", "loss at 3.07k tokens"]
    assert "also 25%, 50% of the tokens" in describe(conductor.plan)
    pool.ran.clear()
    conduct("sweep=lengths", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all")
    assert "trial" not in pool.ran


def test_lengths_cost_their_decays_alone(plan: Any, tmp_path: Path) -> None:
    lengths = plan(*written(tmp_path), "train.tokens=30720000")
    base = lengths.baseline.keys
    own = [at_share(base, share, SHARES) for share in (*SHARES, 1.0)]
    assert own[0].own_tokens == pytest.approx(0.125 * base.trained_tokens, rel=0.01)
    assert own[1].own_tokens == pytest.approx(0.25 * base.trained_tokens, rel=0.01)
    extra = lengths.shorter_seconds(lengths.baseline) / lengths.trial_seconds(lengths.baseline)
    assert 0.3 < extra < 0.45


@pytest.mark.parametrize(
    ("kind", "margin", "at_end", "before", "outcome"),
    [
        ("better", None, -0.05, -0.02, "agrees"),
        ("better", None, -0.05, 0.02, "depends on the length"),
        ("better", None, 0.05, -0.02, "depends on the length"),
        ("better", 0.1, -0.001, 0.002, "disagrees"),
        ("better", 0.01, -0.05, 0.002, "depends on the length"),
        ("equal", 0.1, -0.001, 0.002, "agrees"),
        ("equal", 0.01, 0.05, -0.02, "depends on the length"),
        ("not_worse", 0.01, 0.005, -0.004, "agrees"),
        ("not_worse", 0.01, 0.02, -0.02, "depends on the length"),
    ],
)
def test_a_verdict_that_turns_round_depends_on_the_length(
    sweep_run: Any, tmp_path: Path, kind: Any, margin: float | None, at_end: float, before: float, outcome: str
) -> None:
    sweep_run(tmp_path)
    result = load_result(tmp_path, "moe_balance", "cpu")
    plan = dataclasses.replace(
        result.plan, horizons=SHARES, expected=[ExpectedConfig("bias", kind=kind, margin=margin)]
    )
    base = result.arms["aux_loss"].values["loss"]
    arms = dict(result.arms)
    for name, arm in arms.items():
        shift = {"bias": (at_end, before), "control": (0.2, 0.2)}.get(name, (0.0, 0.0))
        own = {s: v + shift[0] + s * 1e-5 * (name != "aux_loss") for s, v in base.items()}
        if name == "aa":
            own = {s: v + (-1) ** s * 1e-5 for s, v in base.items()}
        earlier = {s: v + 0.5 + shift[1] for s, v in base.items()}
        values = {**arm.values, "loss": own, "loss_at_25": own, "loss_at_50": earlier}
        arms[name] = dataclasses.replace(arm, values=values, shorter={0.25: {"loss": own}, 0.5: {"loss": earlier}})
    (verdict,) = verdicts_of(arms, plan, families_of(arms, plan), set())
    assert verdict.outcome == outcome, verdict.why
    if outcome == "depends on the length":
        assert verdict.open
        assert verdict.why.endswith(" after 50 % of the tokens, with the other sign.")


@pytest.mark.parametrize("metric", ["bits_per_byte", "max_vio_global", "loss_by_file"])
@pytest.mark.parametrize(
    ("margin", "outcome"), [(None, "depends on the length"), (0.006, "depends on the length"), (0.011, "disagrees")]
)
def test_whatever_is_claimed_may_turn_round(
    sweep_run: Any, tmp_path: Path, metric: str, margin: float | None, outcome: str
) -> None:
    """In its own values at either length, and its own unit."""
    sweep_run(tmp_path)
    result = load_result(tmp_path, "moe_balance", "cpu")
    claim = ExpectedConfig("bias", kind="better", metric=metric, margin=margin)
    plan = dataclasses.replace(result.plan, horizons=SHARES, expected=[claim])
    base, arms = result.arms["aux_loss"].values["loss"], dict(result.arms)
    for name, arm in arms.items():
        end, before = (0.02, -0.01) if name == "bias" else (0.0, 0.0)
        noise = {s: (-1) ** s * 1e-5 * (name != "aux_loss") for s in base}
        own = {s: v / 2 + end + noise[s] for s, v in base.items()}
        earlier = {s: v / 2 + 0.5 + before + noise[s] for s, v in base.items()}
        arms[name] = dataclasses.replace(
            arm, values={**arm.values, metric: own}, shorter={0.25: {metric: own}, 0.5: {metric: earlier}}
        )
    (verdict,) = verdicts_of(arms, plan, families_of(arms, plan), set())
    assert verdict.outcome == outcome, verdict.why


@pytest.mark.parametrize(
    "earlier", [None, Difference("a", "b", "loss", 0, 0.0, 0.0, None, None, None, 1, 1, None, None)]
)
def test_a_verdict_whose_shorter_training_is_missing_says_so(earlier: Difference | None) -> None:
    d = Difference("a", "b", "loss", 6, -0.05, 0.01, 0.06, -0.06, -0.04, 0.01, 0.01, 0.9, 0.01)
    found = Verdict("a", "b", "loss", "better", "agrees", "it is below.", d, None)
    seen = at_every_length(found, ExpectedConfig("a", against="b"), earlier, 0.5, {})
    assert seen.outcome == "agrees" and seen.caveat == "not seen at the length before"
    assert seen.why.endswith("; the shorter training that it must hold at was not finished.")


def test_shares_are_whole_percentages_whatever_floats_make_of_them(plan: Any, tmp_path: Path) -> None:
    assert 100 * 0.55 != 55
    assert plan(*written(tmp_path, ("[0.5, 0.25]", "[0.55, 0.28]"))).sweep.horizons == [0.55, 0.28]


def test_a_plan_says_that_other_shapes_end_at_one_length(plan: Any, tmp_path: Path) -> None:
    """None of horizons, of branches, and of arms whose models are shaped alike."""
    other = ("none: {about: no balancing, set: {", "none: {about: slimmer, set: {model.moe.moe_intermediate_size: 8, ")
    free = ("{equal: [total_params], tolerance: 0.0}", "{equal: [total_params], tolerance: 1.0}")
    once = ("horizons: [0.5, 0.25]\n", "")
    said = "Lengths   one, and none differs in shape: horizons in the sweep's file ask whether an order lasts\n"
    assert said in describe(plan(*written(tmp_path / "one", other, free, once)))
    module = ("none: {about: no balancing, set: {", "none: {about: a module more, set: {model.mtp.depth: 1, ")
    branch = ("horizons: [0.5, 0.25]\n", "design: branch\nbranch_at: 0.5\n")
    settled = ("search: {keys: {optim.lr: [0.005, 0.01]}, seeds: [1000]}", "search: {keys: {}}")
    assert said in describe(plan(*written(tmp_path / "whole", module, once, settled)))
    told = {"alike": (once,), "several": (other, free), "branch": (module, branch, settled)}
    for name, changes in told.items():
        assert "Lengths   one" not in describe(plan(*written(tmp_path / name, *changes)))


@pytest.mark.parametrize(
    ("claim", "at_end", "before", "holds"),
    [
        ({"kind": "value", "region": [-0.01, 0.01]}, -0.001, 0.001, True),
        ({"kind": "value", "region": [0.1, 0.2]}, -0.01, 0.01, True),  # short of it at both
        ({"kind": "value", "region": [0.1, 0.2]}, 0.15, -0.15, False),
        ({"kind": "value", "region": [-0.01, 0.01]}, 0.5, -0.5, False),
        ({"kind": "identical", "margin": 0.01}, 0.0, -0.5, False),
        ({"kind": "identical", "margin": 0.01}, -0.001, 0.001, True),
        ({"kind": "better"}, 0.5, 0.0, True),  # such as counts of none at all
    ],
)
def test_what_holds_is_asked_as_each_kind_can_be(
    claim: dict[str, Any], at_end: float, before: float, holds: bool
) -> None:
    low, high = at_end - 0.001, at_end + 0.001
    d = Difference("a", "b", "loss", 6, at_end, 0.01, abs(at_end), low, high, 0.01, 0.01, 0.9, 0.01)
    found = Verdict("a", "b", "loss", claim["kind"], "agrees", "it is so.", d, None)
    earlier = dataclasses.replace(d, mean=before, largest=abs(before))
    seen = at_every_length(found, ExpectedConfig("a", against="b", **claim), earlier, 0.5, {})
    assert (seen is found) == holds and (seen.outcome == "depends on the length") != holds


def test_what_shorter_trainings_are_not_asked_has_nothing_to_hold(sweep_run: Any, tmp_path: Path) -> None:
    sweep_run(tmp_path)
    result = load_result(tmp_path, "moe_balance", "cpu")
    metrics, horizons = ("python_cloze/answer_margin", "loss"), [0.5]
    expected = [ExpectedConfig("bias", kind="value", region=[-9.0, 9.0], metric=metric) for metric in metrics]
    plan = dataclasses.replace(result.plan, horizons=horizons, expected=expected)
    arms = {
        name: dataclasses.replace(
            arm, values={**arm.values, metrics[0]: arm.values["loss"]}, shorter={0.5: {"max_vio_global": {0: 1.0}}}
        )
        for name, arm in result.arms.items()
    }
    found = verdicts_of(arms, plan, families_of(arms, plan), set())
    assert [verdict.caveat for verdict in found] == [None, None], "of the shorter ones there is neither"
    bare = {name: dataclasses.replace(arm, shorter={}) for name, arm in arms.items()}
    found = verdicts_of(bare, plan, families_of(bare, plan), set())
    assert {verdict.caveat for verdict in found if verdict.outcome == "agrees"} == {"not seen at the length before"}


def test_beside_divergence_a_sign_says_nothing() -> None:
    d = Difference("a", "b", "loss", 6, 0.05, 0.01, 0.06, 0.04, 0.06, 0.01, 0.01, 0.9, 0.01)
    found = Verdict("a", "b", "loss", "better", "disagrees", "it is above.", d, None)
    claim, earlier = ExpectedConfig("a", against="b"), dataclasses.replace(d, mean=-0.05, low=-0.06, high=-0.04)
    turned = at_every_length(found, claim, earlier, 0.5, {})
    assert turned.outcome == "depends on the length" and turned.open
    assert at_every_length(found, claim, earlier, 0.5, {"a": 1}) is found


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("optim.schedule: wsd", "optim.schedule: cosine", "branch off: optim.schedule=wsd (here cosine)"),
        ("{model.moe.balance.kind: none}", "{optim.warmup_fraction: 0.2}", "arm none: horizons=[0.5, 0.25]: the"),
        ("warmup_fraction: 0.1", "warmup_fraction: 0.2", "optim.warmup_fraction=0.2 below 0.125"),
        ("[0.5, 0.25]", "[0.5, 1.0]", "must be below 1"),
        ("[0.5, 0.25]", "[0.5, 0.255]", "is no whole percentage"),
        ("metric: loss", "metric: loss_at_30", "no arm is finished there"),
        ("horizons: [0.5, 0.25]", "horizons: [0.5]\ndesign: branch\nbranch_at: 0.5", "nothing shorter to branch off"),
    ],
)  # fmt: skip
def test_lengths_that_cannot_be_are_one_line(plan: Any, tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(*written(tmp_path, (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


def test_a_searched_rate_is_the_trunks_too(job: Any) -> None:
    keys = with_overrides(job(changes=WSD).keys, {"optim.lr": 0.02}, "test")
    assert [stage.optim.lr for stage in at_share(keys, 1.0, SHARES).stages] == [0.02] * 3


def test_a_claim_on_a_shorter_training_is_of_its_metrics_family(conduct: Any, tmp_path: Path) -> None:
    """Also where nothing is claimed of the loss at the end."""
    conductor = conduct(*written(tmp_path, ("metric: loss,", "metric: loss_at_25,")), "seeds=2")
    (verdict,) = load_result(conductor.runs, "lengths", "smoke").verdicts
    assert (verdict.metric, verdict.difference.kind, verdict.difference.comparisons) == ("loss_at_25", "claim", 1)
