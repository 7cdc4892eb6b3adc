"""A sweep whose arms are chains of stages: which trials it has, in which order, and which chains cannot be."""

from dataclasses import replace
from pathlib import Path

import pytest
from stand_in_kinds import asked

from ablations.record.rundir import differing
from ablations.sweep.announce import describe
from ablations.sweep.registration import registered
from models.base.typed import ConfigError

STAGES = """
question: What does each stage bring?
source: none
baseline: sft
stages:
  pretrain: {data.settings: {digits: [1], wrong: 0.5}, train.tokens: 8192}
  sft: {data.answers_only: true, train.tokens: 4096}
  rl: {grpo.on: true, grpo.answer_tokens: 10, data.batch_size: 16, train.tokens: 2048}
common:
  data.source: problem
  data.problem: sums
  data.settings: {digits: [1]}
  data.template: chat
  data.max_bytes: null
  data.seq_len: 32
  data.batch_size: 32
  model.vocab_size: 64
arms:
  base: {about: as it is after pre-training, stages: [pretrain]}
  sft: {about: fine-tuned, stages: [pretrain, sft]}
  rl: {about: rewarded, stages: [pretrain, sft, rl]}
  free: {about: rewarded without KL, stages: [pretrain, sft, rl], set: {grpo.kl_weight: 0.0}}
control: {optim.lr: 0.0001}
matched: {equal: [total_params], tolerance: 0.0}
search: {keys: {}}
primary: answer_nats
"""
SKILL = "data.source: skill, data.skill: automaton, data.problem: null, data.template: plain, "
SKILL += "data.settings: null, data.seq_len: 128"


def written(tmp_path: Path, *changes: tuple[str, str]) -> list[str]:
    text = STAGES
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/staged.yaml").write_text(text)
    return ["sweep=staged", f"sweeps_dir={tmp_path / 'sweeps'}", "eval.tasks=[skill_answers]", "arms=all"]


def test_arms_are_their_chains_and_judged_at_the_last_stage(plan, tmp_path):
    arms = plan(*written(tmp_path)).arms
    assert {name: len(arm.keys.stages) for name, arm in arms.items() if name not in ("aa", "control")} == {
        "base": 1, "sft": 2, "rl": 3, "free": 3
    }  # fmt: skip
    base, sft, rl, free = (arms[name].keys for name in ("base", "sft", "rl", "free"))
    assert base.data.settings == {"digits": [1], "wrong": 0.5} and sft.data.settings == {"digits": [1]}
    assert sft.before == base.stages and rl.before == sft.stages and free.before == sft.stages
    assert (rl.grpo.on, rl.grpo.kl_weight, free.grpo.kl_weight, sft.grpo.on) == (True, 0.04, 0.0, False)
    assert not any(keys.branched for keys in (base, sft, rl, free)) and rl.trunk is not None


def test_another_stage_on_the_way_is_another_plan(plan, tmp_path):
    """Of one arm alone: the baseline and every arm's last stage are as they were."""
    taught = []
    for decay in ("0.02", "0.03"):
        (tmp_path / decay).mkdir()
        more = ("  rl: {grpo.on", f"  more: {{optim.weight_decay: {decay}, train.tokens: 4096}}\n  rl: {{grpo.on")
        longer = ("stages: [pretrain, sft, rl], set", "stages: [pretrain, more, sft, rl], set")
        taught.append(registered(plan(*written(tmp_path / decay, more, longer)), {}))
    assert differing(*taught) == ["arms"] and taught[0].sha != taught[1].sha
    assert [name for name in taught[0].arms if taught[0].arms[name] != taught[1].arms[name]] == ["free"]


def test_a_chain_that_others_go_on_from_is_trained_once(conduct, pool, tmp_path):
    conduct(*written(tmp_path))
    asked_for = [asked(job) for job in pool.ran["trial"]]
    chains = [[stage.grpo.on for stage in r.trial.keys.stages] for r in asked_for if r.trial.keep]
    assert chains == [[False]] * 2 + [[False, False]] * 2, "pre-training, then fine-tuning, once for each seed"
    kept = {(len(r.trial.keys.stages), r.trial.seed): r.trial.folder for r in asked_for if r.trial.keep}
    begun = {"rl": 2, "free": 2, "base": 1, "sft": 2}
    arms = [r for r in asked_for if not r.trial.keep and r.labels.arm in begun]
    assert [r.labels.arm for r in arms].count("base") == 2 and len(arms) == 8
    assert all(r.trial.trunk == kept[begun[r.labels.arm], r.trial.seed] for r in arms), "what is there is scored alone"
    ids = [r.trial.id for r in asked_for]
    assert len(ids) == len(set(ids))


def test_what_only_a_longer_chain_begins_with_is_shared_too(conduct, pool, tmp_path):
    """Nobody ends with fine-tuning here but the chain that goes on from it."""
    words = written(tmp_path, ("baseline: sft", "baseline: rl"))
    conduct(*words[:3], "arms=[base]")
    kept = [r for r in map(asked, pool.ran["trial"]) if r.trial.keep]
    assert [len(r.trial.keys.stages) for r in kept] == [1, 1, 2, 2]
    bases = [r for r in map(asked, pool.ran["trial"]) if r.labels.arm == "base" and not r.trial.keep]
    assert bases and all(
        r.trial.trunk == next(k.trial.folder for k in kept if k.trial.seed == r.trial.seed) for r in bases
    )


def test_a_plan_counts_what_is_shared_once(plan, tmp_path):
    made = plan(*written(tmp_path))
    whole = sum(
        made.trial_seconds(replace(made.baseline, keys=keys), scored=False) for keys in made.arms["rl"].keys.trunks
    )
    assert made.trunk_seconds(made.arms.values()) == pytest.approx(whole), (
        "pre-training and fine-tuning, whoever goes on from them"
    )
    assert "every arm goes on" not in describe(made)


def taught(*more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The sweep with a teacher, and two arms that learn from it, one of which goes on from there to rewards."""
    stage = "  distil: {distil.answers: teacher, data.answers_only: true, train.tokens: 4096}\n"
    arms = "  distil: {about: taught, stages: [pretrain, distil]}\n"
    arms += "  both: {about: taught and rewarded, stages: [pretrain, distil, rl]}\n"
    arms += "  soft: {about: its distribution, stages: [pretrain, distil], set: {distil.loss: forward_kl}}\n"
    return (
        ("stages:\n  pretrain", "teacher: [pretrain, sft, rl]\nstages:\n  pretrain"),
        ("  sft: {data.answers_only", stage + "  sft: {data.answers_only"),
        ("arms:\n", "arms:\n" + arms),
        *more,
    )


def test_a_teacher_is_trained_once_and_before_those_that_learn_from_it(conduct, pool, tmp_path):
    conduct(*written(tmp_path, *taught()))
    asked_for = [asked(job) for job in pool.ran["trial"]]
    folders = [r.trial.folder for r in asked_for]
    assert len(folders) == len(set(folders))
    learning = [r for r in asked_for if r.trial.keys.taught_by is not None]
    assert {r.labels.arm for r in learning} == {"distil", "both", "soft"} and len(learning) == 8, "a trunk each too"
    for request in learning:
        teacher = next(r for r in asked_for if r.trial.folder == request.trial.teacher)
        assert folders.index(request.trial.teacher) < folders.index(request.trial.folder)
        assert teacher.trial.keep and teacher.trial.seed == request.trial.seed
        assert [stage.grpo.on for stage in teacher.trial.keys.stages] == [False, False, True]
    rewarded = [r for r in asked_for if r.labels.arm == "rl" and not r.trial.keep]
    teachers = {r.trial.teacher for r in learning}
    assert len(teachers) == 2 and {r.trial.trunk for r in rewarded} == teachers, "an arm that is the teacher is scored"
    assert all(r.trial.teacher is None for r in asked_for if r.labels.arm in ("base", "sft", "rl", "free"))


def test_a_plan_knows_who_teaches(plan, tmp_path):
    made = plan(*written(tmp_path, *taught()))
    keys = {name: arm.keys for name, arm in made.arms.items()}
    assert keys["distil"].teacher == keys["rl"].stages and keys["soft"].teacher == keys["distil"].teacher
    assert keys["both"].teacher == [] and keys["both"].before[1].teacher == keys["rl"].stages
    assert keys["both"].taught_by == keys["distil"].taught_by and keys["sft"].taught_by is None
    assert [len(each.all_stages) for each in (keys["sft"], keys["distil"], keys["both"])] == [2, 5, 6]
    assert all(stage.model.dtype != "auto" for stage in keys["both"].all_stages)
    trunks = [keys for arm in made.arms.values() for keys in arm.keys.trunks]
    assert keys["distil"].taught_by in trunks and made.trunk_seconds(made.arms.values()) > 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "teacher: [pretrain, sft, rl]\n",
            "",
            "distil.answers=teacher, distil.loss=tokens: nobody teaches; name the s",
        ),
        (
            "teacher: [pretrain, sft, rl]",
            "teacher: [pretrain, stf]",
            "teacher: stf: no such stage; did you mean sft? (",
        ),
        ("teacher: [pretrain, sft, rl]", "teacher: [rl]", "teacher: grpo.on=true: is the first stage"),
        ("teacher: [pretrain, sft, rl]", "teacher: [pretrain, distil]", "teacher: distil.answers=teacher, distil.loss"),
        (
            "teacher: [pretrain, sft, rl]\nstages:\n",
            "teacher: [other]\nstages:\n  other: {data.problem: sorting, data.settings: null, data.seq_len: 64}\n",
            "teacher: data.problem=sorting: has other tokens than its student (data.problem=sums); one",
        ),
        (
            "teacher: [pretrain, sft, rl]\nstages:\n",
            "teacher: [other]\nstages:\n  other: {model.vocab_size: 128}\n",
            "teacher: model.vocab_size=128: has other tokens than its student (model.vocab_size=64)",
        ),
        (
            "teacher: [pretrain, sft, rl]\nstages:\n",
            "teacher: [other]\nstages:\n  other: {data.template: plain}\n",
            "teacher: data.template=plain: is asked otherwise than its student (data.template=chat)",
        ),
        (
            "distil.answers: teacher",
            "distil.answers: teacher, grpo.on: true, grpo.answer_tokens: 9, data.batch_size: 16",
            "a stage learns from a",
        ),
        (
            "distil.answers: teacher",
            "distil.answers: teacher, data.order: easy_to_hard",
            "data.order=easy_to_hard: a teac",
        ),
        (
            "distil.answers: teacher",
            "distil.answers: teacher, distil.temperature: 2.0",
            "distil.temperature=2.0: is read",
        ),
        (
            "distil.answers: teacher",
            "distil.loss: forward_kl, distil.chosen: finished",
            "distil.chosen=finished: is read",
        ),
        (
            "distil.answers: teacher",
            f"distil.answers: teacher, {SKILL}",
            "stages: data.source=problem, and then data.source=skill: the first's tokens mean other things",
        ),
        ("distil.answers: teacher", "distil.answers: teachr", "distil.answers=teachr: expected one of data, teacher"),
        ("distil.loss: forward_kl", "distil.temperature: 0", "distil.temperature=0.0: must be at least 0.001"),
        (
            "distil.loss: forward_kl",
            "distil.loss: forward_kl, model.pipeline.schedule: 1f1b, model.pipeline.stages: 2",
            "model.pipeline.schedule=1f1b: has no part in distil.loss=forward_kl; take",
        ),
    ],
    ids=str,
)
def test_a_teacher_that_cannot_be_is_one_line(plan, tmp_path, old, new, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*written(tmp_path, *taught(), (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            "[pretrain, sft, rl], set",
            "[pretrain, stf, rl], set",
            "arms.free.stages: stf: no such stage; did you mean sft? (",
        ),
        (
            ", stages: [pretrain]}",
            "}",
            "arms.base.stages: missing; name one of this sweep's or more (pretrain, sft, rl",
        ),
        ("  sft: {data", "  more: {optim.lr: 0.1}\n  sft: {data", "stages.more: no arm is trained in it"),
        (
            "baseline: sft",
            "baseline: sft\nhorizons: [0.5, 0.25]",
            "stages: a sweep of stages begins each from finished",
        ),
        (
            "baseline: sft",
            "baseline: sft\ndesign: branch\nbranch_at: 0.5",
            "stages: a sweep of stages begins each from",
        ),
        ("[pretrain, sft, rl], set", "[rl], set", "grpo.on=true: is the first stage"),
        ("[pretrain, sft, rl], set", "[rl, sft], set", "grpo.on=true: is the first stage"),
        (
            "data.batch_size: 16",
            "data.batch_size: 12",
            "data.batch_size=12: counts answers, so it must be a multiple of",
        ),
        (
            "answer_tokens: 10",
            "answer_tokens: 32",
            "grpo.answer_tokens=32: leaves nothing of data.seq_len=32 for the q",
        ),
        ("answer_tokens: 10", "group: 1", "grpo.group=1: must be at least 2"),
        ("answer_tokens: 10", "grop: 4", "grpo.grop: no such key"),
        ("grpo.on: true,", f"grpo.on: true, {SKILL},", "grpo.on=true: data.source=skill asks nothing"),
        ("grpo.on: true,", "grpo.on: true, model.mtp.depth: 1,", "model.mtp.depth=1: has no part in reinforcement lea"),
        (
            "answer_tokens: 10",
            "answer_tokens: 27",
            "grpo.answer_tokens=27: with the longest question 33 tokens, more than data.seq_len=32",
        ),
        (
            "answer_tokens: 10",
            "answer_tokens: 10, grpo.updates: 3",
            "grpo.updates=3: the stage's 4 steps are no whole number of draws",
        ),
        (
            "  pretrain: {",
            "  pretrain: {model.d_model: 48, ",
            "arm sft: lm_head.weight: is (64, 48) in a stage and (64, 32) in the next; a chain keeps one model's shape",
        ),
        (
            "  pretrain: {",
            "  pretrain: {model.mtp.depth: 1, ",
            "in a stage and not there in the next; a chain keeps one",
        ),
        (
            "  pretrain: {data.settings: {digits: [1], wrong: 0.5}",
            "  pretrain: {data.problem: sorting, data.settings: null, data.seq_len: 64",
            "stages: data.problem=sorting, and then data.problem=sums: the f",
        ),
        (
            "  pretrain: {data.settings: {digits: [1], wrong: 0.5}",
            "  pretrain: {" + SKILL,
            "stages: data.source=skill, and then data.source=problem: the f",
        ),
        (
            "  pretrain: {",
            "  pretrain: {data.template: plain, ",
            "stages: data.template=plain, and then chat: questions would be asked otherwise",
        ),
        ("  pretrain: {", "  pretrain: {eval.tokens: 64, ", "stage pretrain: eval.tokens: is of a chain's end; put it"),
        ("baseline: sft", "baseline: sft\nteacher: [pretrain]", "teacher: no stage learns from it; set distil.answers"),
        (
            "set: {grpo.kl_weight: 0.0}",
            "set: {grpo.kl_weight: 0.04}",
            "arms rl and free: the same in every key; an arm by two names",
        ),
    ],
    ids=str,
)
def test_a_chain_that_cannot_be_is_one_line(plan, tmp_path, old, new, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*written(tmp_path, (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


RL = "[pretrain, sft, rl], set: {grpo.kl_weight: 0.0}"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("  sft: {data", "  sft: {grpo.group: 4, data", "stage sft: grpo.group=4: is read only with grpo.on=true"),
        (
            "  sft: {data",
            "  sft: {distil.chosen: finished, data",
            "stage sft: distil.chosen=finished: is read only with",
        ),
        ("[pretrain, sft]", "[pretrain, sft], set: {grpo.kl_weight: 0.1}", "arm sft: grpo.kl_weight=0.1: is read only"),
        (RL, RL[:-1] + ", distil.answer_temperature: 2.0}", "arm free: distil.answer_temperature=2.0: is read only w"),
        (RL, RL[:-1] + ", grpo.kl_estimator: k2}", "arm free: grpo.kl_estimator=k2: is read only with grpo.kl_weight "),
        (RL, RL[:-4] + "0.1, grpo.clip_high: 0.28}", "arm free: grpo.clip_high=0.28: is read only with grpo.updates a"),
        (RL, RL[:-1] + ", data.mask_documents: true}", "arm free: data.mask_documents=True: is read only with grpo.on"),
        ("answer_tokens: 10", "answer_tokens: 10, data.answers_only: true", "stage rl: data.answers_only=True: is rea"),
        (
            "answer_tokens: 10",
            "answer_tokens: 10, data.settings: {digits: [1], wrong: 0.2}",
            "stage rl: data.settings={'digits': [1], 'wrong': 0.2}: is read only with grpo.on=false: its short and",
        ),
        ("control: {optim.lr: 0.0001}", "control: {grpo.group: 4, optim.lr: 0.0001}", "control: grpo.group=4: is read"),
        (
            "data.batch_size: 32",
            "data.batch_size: 32\n  grpo.clip_low: 0.1",
            "grpo.clip_low=0.1: is read only with grpo.u",
        ),
        (
            "data.batch_size: 32",
            "data.batch_size: 32\n  distil.temperature: 2.0",
            "distil.temperature=2.0: is read only w",
        ),
    ],
    ids=str,
)
def test_what_nobody_reads_of_rewards_or_a_teacher_is_one_line(plan, tmp_path, old, new, reason):
    with pytest.raises(ConfigError) as refused:
        plan(*written(tmp_path, (old, new)))
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("answer_tokens: 10", "answer_tokens: 10, grpo.kl_estimator: k2"),
        ("data.batch_size: 32", "data.batch_size: 32\n  grpo.kl_estimator: k2"),
        ("data.batch_size: 32", "data.batch_size: 32\n  data.mask_documents: true"),
        ("answer_tokens: 10", "answer_tokens: 10, grpo.clip_high: 0.28, grpo.updates: 2"),
        (RL, "[pretrain, sft, rl], onto: rl, set: {grpo.kl_weight: 0.0, grpo.updates: 2, grpo.clip_high: 0.28}"),
        (
            RL + "}",
            RL + "}\n  seldom: {about: x, stages: [pretrain, sft, rl], set: {grpo.updates: 2, grpo.clip_low: 0.1}}",
        ),
    ],
    ids=str,
)
def test_what_some_arms_read_may_be_said_for_all(plan, tmp_path, old, new):
    assert plan(*written(tmp_path, (old, new))).arms["rl"].keys.grpo.on
