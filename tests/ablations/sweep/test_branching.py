"""A sweep whose arms branch off one trunk for each seed: what is trained, in which order, and what cannot be."""

from pathlib import Path

import pytest
from stand_in_kinds import asked

from ablations.judge.gather import load_result
from ablations.show.sections import verdict_table
from ablations.sweep.announce import describe
from models.typed import ConfigError

pytestmark = pytest.mark.usefixtures("quick_holm")

BRANCH = """
question: Does it matter from here on?
source: none
baseline: aux_loss
design: branch
branch_at: 0.5
common: {model.moe.balance.alpha: 0.01, optim.lr: 0.005}
arms:
  aux_loss: {about: the trunk goes on, set: {model.moe.balance.kind: aux_loss}}
  none: {about: no balancing from here on, set: {model.moe.balance.kind: none}}
matched: {equal: [total_params], tolerance: 0.0}
search: {keys: {}}
expected:
  - {arm: none, metric: loss, kind: equal, margin: 0.5, paper: "x"}
"""


def branching(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    text = BRANCH
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/branching.yaml").write_text(text)
    return ["sweep=branching", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all"]


def test_a_trunk_is_trained_once_for_each_seed_and_before_its_branches(conduct, pool, runs, tmp_path):
    conductor = conduct(*branching(tmp_path))
    asked_for = [asked(job) for job in pool.ran["trial"]]
    trunks, branches = asked_for[:2], asked_for[2:]
    assert [(r.trial.keys.until, r.trial.keys.before, r.trial.trunk) for r in trunks] == [(0.5, [], None)] * 2
    assert {r.labels.arm for r in trunks} == {"aux_loss"} and [r.trial.seed for r in trunks] == [0, 1]
    folders = {r.trial.seed: r.trial.folder for r in trunks}
    assert len(branches) == 8 and {r.labels.arm for r in branches} == {"aux_loss", "none", "control", "aa"}
    assert all(r.trial.trunk == folders[r.trial.seed] for r in branches)
    assert all([stage.until for stage in r.trial.keys.stages] == [0.5, 1.0] for r in branches)
    assert {trial.id for trial in conductor.state.confirm} == {r.trial.id for r in branches}, "a trunk confirms nothing"
    result = load_result(runs, "branching", "smoke")
    assert result.plan.branch_at == 0.5 and "at 50% of the steps" in verdict_table(result).note
    pool.ran.clear()
    conduct("sweep=branching", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all")
    assert "trial" not in pool.ran


def test_a_plan_with_a_trunk_counts_it_once(plan, tmp_path):
    branch = plan(*branching(tmp_path), "train.tokens=307200")
    keys = branch.arms["none"].keys
    assert keys.own_tokens == keys.trained_tokens / 2 == branch.baseline.keys.trunk.trained_tokens
    assert branch.trunk_seconds > 0 and "at 50% of its steps" in describe(branch)
    (tmp_path / "sweeps/whole.yaml").write_text(BRANCH.replace("design: branch\nbranch_at: 0.5\n", ""))
    whole = plan("sweep=whole", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all", "train.tokens=307200")
    assert branch.minutes < whole.minutes and whole.trunk_seconds == 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("branch_at: 0.5\n", "", "design=branch, branch_at=None: a branch needs one, and nothing else does"),
        ("design: branch\n", "", "design=scratch, branch_at=0.5: a branch needs one, and nothing else does"),
        ("branch_at: 0.5", "branch_at: 1.0", "branch_at=1.0: must be below 1"),
        ("branch_at: 0.5", "branch_at: 0", "branch_at=0.0: must be above 0"),
        ("{keys: {}}", "{keys: {optim.weight_decay: [0.1, 0.2]}}", "optim.weight_decay is searched for the baseline"),
        (
            "kind: none}",
            "kind: none, model.d_model: 48}",
            "model.embed_tokens.weight: is (512, 32) in the trunk and (512, 48)",
        ),
        (
            "kind: none}",
            "kind: none, data.batch_size: 4}",
            "data.batch_size=4, data.seq_len=32: cut other batches than the trunk",
        ),
        ("kind: none}", "kind: none, train.tokens: 1024}", "train.tokens=1024: end at step 4, the trunk's at 6"),
    ],
)
def test_a_branch_that_cannot_be_is_one_line(plan, tmp_path, old, new, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*branching(tmp_path, (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)
