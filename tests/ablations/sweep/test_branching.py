"""A sweep whose arms branch off one trunk for each seed: what is trained, in which order, and what cannot be."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from stand_in_kinds import asked

from ablations.judge.families import families_of
from ablations.judge.gather import load_result
from ablations.judge.judging import verdicts_of
from ablations.record.trialdir import whole
from ablations.show.sections.every import sensitivity_table, verdict_table
from ablations.sweep.announce import describe
from ablations.sweep.preflight import check_device
from models.base.typed import ConfigError

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


def test_what_others_go_on_from_is_no_run_in_wandb(conduct, pool, runs, tmp_path):
    """It is the beginning of theirs, and would be one more of the arm that it is of."""
    conduct(*branching(tmp_path), "track.mode=offline")
    modes = {(r.trial.keep, r.track.mode) for r in map(asked, pool.ran["trial"])}
    assert modes == {(True, "disabled"), (False, "offline")}


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


def test_a_damaged_trunk_is_trained_again_once_for_all_that_need_it(conduct, pool, runs, tmp_path, heard):
    conduct(*branching(tmp_path))
    trunks = [asked(job) for job in pool.ran["trial"]][:2]
    branches = [r for r in map(asked, pool.ran["trial"]) if r.trial.trunk == trunks[0].trial.folder]
    state = Path(trunks[0].trial.folder) / "state.ckpt"
    state.write_bytes(b"nothing of a checkpoint")
    for branch in branches[:2]:
        (Path(branch.trial.folder) / "record.json").unlink()
    pool.ran.clear()
    conduct("sweep=branching", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all")
    again = [r.trial.id for r in map(asked, pool.ran["trial"])]
    assert again == [r.trial.id for r in (trunks[0], *branches[:2])]
    assert not state.exists() and state.with_name("state.ckpt.damaged").exists()
    assert f"{state}: damaged, set aside as state.ckpt.damaged; its trial runs again" in heard


def test_what_the_system_does_not_give_is_not_called_damaged(tmp_path):
    """A disk that fails for a moment costs nobody a record."""
    (tmp_path / "bytes").write_bytes(b"nothing of a checkpoint")
    assert [whole(tmp_path / name) for name in ("nothing", "b" * 300, "bytes", ".")] == [True, True, False, False]


def test_bytes_that_name_a_place_before_the_beginning_are_damaged(tmp_path):
    """The system calls a seek to there an invalid argument, and it is the file's fault."""
    torch.save({"a": torch.arange(10)}, tmp_path / "state.ckpt")
    data, refused = (tmp_path / "state.ckpt").read_bytes(), 0
    place = len(data) - 50  # in the zip64 end record: where the directory begins
    for bit in range(8):
        (bad := tmp_path / "bad.ckpt").write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
        try:
            zipfile.ZipFile(bad).testzip()
        except OSError:
            refused += 1
            assert not whole(bad)
        except zipfile.BadZipFile:
            pass
    assert refused


@pytest.mark.parametrize("changed", [{"external_attr": 0x10}, {"compress_type": zipfile.ZIP_BZIP2}])
def test_what_torch_reads_otherwise_than_it_was_written_is_damaged(tmp_path, changed):
    """A folder, which it takes for no bytes at all; bytes of another kind."""
    torch.save({"a": torch.arange(10)}, tmp_path / "state.ckpt")
    assert whole(tmp_path / "state.ckpt")
    with zipfile.ZipFile(tmp_path / "state.ckpt", "a") as entries:  # which writes the directory anew
        entry = next(entry for entry in entries.infolist() if entry.filename.endswith("data/0"))
        for name, value in changed.items():
            setattr(entry, name, value)
        entries.writestr("more", b"")
    assert not whole(tmp_path / "state.ckpt")


def test_a_plan_with_a_trunk_counts_it_once(plan, tmp_path):
    branch = plan(*branching(tmp_path), "train.tokens=307200")
    keys = branch.arms["none"].keys
    assert keys.own_tokens == keys.trained_tokens / 2 == branch.baseline.keys.trunk.trained_tokens
    assert branch.trunk_seconds(branch.arms.values()) > 0 and "at 50% of its steps" in describe(branch)
    (tmp_path / "sweeps/whole.yaml").write_text(BRANCH.replace("design: branch\nbranch_at: 0.5\n", ""))
    whole = plan("sweep=whole", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=all", "train.tokens=307200")
    assert branch.minutes < whole.minutes and whole.trunk_seconds(whole.arms.values()) == 0


def test_a_trunk_of_a_gpu_that_is_not_there_is_one_line(plan, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = plan(*branching(tmp_path, ("branch_at: 0.5\n", "branch_at: 0.5\ntrunk: {train.device: cuda}\n")))
    with pytest.raises(ConfigError, match="^train.device=cuda: torch sees no CUDA device"):
        check_device(made)


def test_a_search_of_branches_is_planned_with_its_trunks(plan, tmp_path):
    search = "{model.moe.balance.update_speed: [0.01, 0.02]}"
    bias = f"  bias: {{about: b, set: {{model.moe.balance.kind: bias}}, search: {search}}}"
    words = branching(tmp_path, ("matched:", f"{bias}\nmatched:"))
    one, two = (plan(*words, "launch.workers=1", "search=fresh", f"search_seeds={n}") for n in (1, 2))
    arm = one.arms["bias"]
    assert one.search_seeds(arm) == [1000] and two.search_seeds(arm) == [1000, 1001]
    each = 2 * one.trial_seconds(arm, scored=False) + one.trunk_seconds([arm])
    assert 60 * (two.minutes - one.minutes) == pytest.approx(each) and one.trunk_seconds([arm]) > 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "branch_at: 0.5\n",
            "",
            "branch_at=null: arms of design=branch need a share of the steps",
        ),
        ("design: branch\n", "", "branch_at=0.5: no arm has design=branch; add that, or leave branch_at out"),
        ("branch_at: 0.5", "branch_at: 1.0", "branch_at=1.0: must be below 1"),
        ("branch_at: 0.5", "branch_at: 0", "branch_at=0.0: must be above 0"),
        (
            "branch_at: 0.5\n",
            "branch_at: 0.5\ntrunk: {train.tokens: 1024}\n",
            "trunk: train.tokens: branch_at says how long it is trained; leave it out",
        ),
        (
            "branch_at: 0.5\n",
            "branch_at: 0.5\ntrunk: {train.token_fraction: 0.5}\n",
            "trunk: train.token_fraction: branch_at",
        ),
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
        (
            "kind: none}",
            "kind: none, train.tokens: 1024}",
            "branch_at=0.5 arm none: train.tokens=1024: end at step 4, and the trunk at 6; train longer",
        ),
        ("kind: none}", "kind: none, train.token_fraction: 0.3}", "train.token_fraction=0.3: end at step 3, and"),
    ],
)
def test_a_branch_that_cannot_be_is_one_line(plan, tmp_path, old, new, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*branching(tmp_path, (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


LONGER = (
    ("branch_at: 0.5\n", "branch_at: 0.5\ntrunk: {data.seq_len: 32, data.batch_size: 8}\n"),
    ("optim.lr: 0.005}", "optim.lr: 0.005, data.seq_len: 128, data.batch_size: 2}"),
)


def test_a_trunk_may_have_shorter_sequences(conduct, pool, runs, tmp_path):
    conductor = conduct(*branching(tmp_path, *LONGER))
    trunks = [request for request in map(asked, pool.ran["trial"]) if request.trial.keys.until < 1]
    assert {(t.trial.keys.data.seq_len, t.trial.keys.data.batch_size) for t in trunks} == {(32, 8)} and len(trunks) == 2
    stages = [[stage.data.seq_len for stage in arm.keys.stages] for arm in conductor.plan.arms.values()]
    assert stages == [[32, 128]] * 4
    assert "of its steps, trained with batch_size=8, seq_len=32" in describe(conductor.plan)
    note = verdict_table(load_result(runs, "branching", "smoke")).note
    assert "at 50% of the steps, trained so far with batch_size=8, seq_len=32; an effect" in note


AT, LENGTHS = "branch_at: 0.5\n", "optim.lr: 0.005}"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([(f"design: branch\n{AT}", "trunk: {data.seq_len: 64}\n")], "no arm branches off it; add design=branch"),
        ([(AT, f"{AT}trunk: {{data.seq_length: 64}}\n")], "trunk: data.seq_length: no such key"),
        ([(AT, f"{AT}trunk: {{eval.tokens: 64}}\n")], "trunk: eval.tokens: what arms branch off is not scored"),
        ([LONGER[0], (LENGTHS, "optim.lr: 0.005, data.seq_len: 128}")], "data.seq_len=128: cut other batches than"),
    ],
)
def test_a_trunk_that_cannot_be_is_one_line(plan, tmp_path, changes, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*branching(tmp_path, *changes))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


BOTH = (
    ("design: branch\n", ""),
    (
        "kind: none}}\n",
        "kind: none}}\n  late: {about: from here on, set: {model.moe.balance.kind: none}, design: branch}\n",
    ),
    ('paper: "x"}', 'paper: "x"}\n  - {arm: late, metric: loss, kind: equal, margin: 0.5, paper: "x"}'),
)


def test_arms_of_two_designs_share_a_baseline_and_have_diagnostics_of_their_own(conduct, pool, runs, tmp_path):
    conductor = conduct(*branching(tmp_path, *BOTH))
    begun = {name: [stage.until for stage in arm.keys.stages] for name, arm in conductor.plan.arms.items()}
    scratch, branch = [1.0], [0.5, 1.0]
    assert begun == {
        "aux_loss": branch, "none": scratch, "late": branch, "control": scratch, "control_branched": branch,
        "aa": scratch, "aa_branched": branch,
    }  # fmt: skip
    trunks = [r for r in map(asked, pool.ran["trial"]) if r.trial.keys.until < 1]
    assert len(trunks) == 2, "one for each seed, whoever asks"
    assert conductor.state.chosen["aa_branched"] == conductor.state.chosen["aux_loss"]
    result = load_result(runs, "branching", "smoke")
    from_scratch, late = result.verdicts
    shown = {v.arm: v for v in result.verdicts}
    assert set(shown) == {"none", "late"} and from_scratch.difference is not None and late.difference is not None
    assert result.is_branched(late.difference) and not result.is_branched(from_scratch.difference)
    assert "late: branched off the baseline's state at 50%" in verdict_table(result).note
    seen = {row[0] for row in sensitivity_table(result).rows}
    assert {"loss", "loss, branched"} <= seen
    assert "late, control_branched, aa_branched go on" in describe(conductor.plan).replace("aux_loss, ", "")


@pytest.mark.parametrize(
    "estimate",
    [
        "contrasts: {gap: {about: x, weights: {none: 1, late: -1}}}",
        "doses: {gap: {values: {aux_loss: 1, none: 2, late: 3}}}",
    ],
)
def test_no_estimate_is_over_arms_of_two_designs(plan, tmp_path, estimate):
    with pytest.raises(ConfigError, match=r"gap: is over arms of two designs \(none scratch, late branch\)"):
        plan(*branching(tmp_path, *BOTH, ("matched:", f"{estimate}\nmatched:")))


def test_a_claim_is_judged_beside_the_diagnostics_of_its_design(conduct, runs, tmp_path):
    """A control that only one design sees speaks for the claims of that design alone."""
    conduct(*branching(tmp_path, *BOTH))
    result = load_result(runs, "branching", "smoke")
    unseen = dict.fromkeys(result.seeds, 4.0)
    base = {**result.arms["aux_loss"].values, "loss": {s: 4.0 + s / 100 for s in result.seeds}}
    values = {
        "aux_loss": base["loss"], "none": {s: 4.001 + s / 101 for s in result.seeds},
        "late": {s: 4.001 + s / 101 for s in result.seeds}, "control": {s: 5.0 + s / 102 for s in result.seeds},
        "control_branched": unseen, "aa": {s: 4.0 + s / 99 for s in result.seeds},
        "aa_branched": {s: 4.0 + s / 99 for s in result.seeds},
    }  # fmt: skip
    arms = {n: replace(a, values={**a.values, "loss": values[n]}, guards=[]) for n, a in result.arms.items()}
    none, late = verdicts_of(arms, result.plan, families_of(arms, result.plan), set())
    assert (none.outcome, late.outcome) == ("agrees", "no signal here"), (none.why, late.why)


def test_a_second_designs_control_is_run_where_a_claim_needs_one(plan, tmp_path):
    """`better` shows by itself; `equal` and `not_worse` are said only beside a harm that is seen."""
    late = 'metric: loss, kind: equal, margin: 0.5, paper: "x"}'
    better = [(old, new.replace(f"late, {late}", 'late, metric: loss, kind: better, paper: "x"}')) for old, new in BOTH]
    (tmp_path / "one").mkdir()
    assert {"aa_branched"} == {name for name in plan(*branching(tmp_path / "one", *better)).arms if "_branched" in name}
    assert "control_branched" in plan(*branching(tmp_path, *BOTH)).arms
    alone = plan("sweep=branching", f"sweeps_dir={tmp_path / 'sweeps'}", "arms=[none]")
    assert not [name for name in alone.arms if "_branched" in name], "no arm that branches, no claim on one"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("design: branch}", "design: branch, optional: true}", None),
        ("branch_at: 0.5\n", "", "arms of design=branch need a share"),
        ("arm: late, metric", "arm: late, against: none, metric", "cannot be compared"),
        ("the trunk goes on, ", "the trunk goes on, design: branch, ", "aux_loss.design: the baseline is the same"),
        ("  late:", "  aa_branched:", "arms.aa_branched: reserved"),
    ],
)
def test_designs_that_cannot_be_mixed_are_one_line(plan, tmp_path, old, new, reason):
    changes = [*BOTH, (old, new)]
    if old == "  late:":
        changes.append(("arm: late", "arm: aa_branched"))
    if reason is None:
        assert "late" in plan(*branching(tmp_path, *changes)).arms
        return
    with pytest.raises(ConfigError) as refused:
        plan(*branching(tmp_path, *changes))
    assert reason in str(refused.value) and "\n" not in str(refused.value)
