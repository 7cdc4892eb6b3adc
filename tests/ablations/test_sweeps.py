"""Every sweep of the project, the whole way at scale=smoke in this process: plan, guards, search, trials, report.

Of sweeps that differ in their arms alone one trains here, the others with `-m slow`; those go their way here with jobs
that train nothing.
"""

from pathlib import Path
from typing import Any

import pytest

from ablations.config.compose import compose
from ablations.config.sweepfile import read_sweep
from ablations.guards.arm import GUARDS
from ablations.home import ROOT
from ablations.report import write_report
from ablations.show.figures.every import _FIGURES as FIGURES
from ablations.sweep.planning import make_plan
from ablations.trial.requests import GuardsRequest
from models.base.typed import build
from models.config import ModelConfig

SWEEPS = {path.stem: path for path in sorted((ROOT / "sweeps").glob("*.yaml"))}
QUICK = (
    "sweeps_dir=null",
    "eval.tokens=2048",
    "search=fresh",
    "search_points=1",
    "search_seeds=1",
    "seeds=2",
    "arms=null",
)
SEARCHED = ("moe_balance",)
"""The others search in the same way; pinning their learning rate saves the suite a quarter of the time."""
TIMED = ("attention", "moe_balance", "mtp_depth", "pipeline")
"""With lm-eval scores and their checkpoints, from which arms decode; the others train alone."""
ANSWERING = ("grpo", "sft_masking", "post_training")
SKILLED = ("recall", "induction", "planning", "planning_depth", "memory", "curriculum", "context_recall", *ANSWERING)
SLOW = (
    *("balance_scope", "experts", "gating", "memory", "outliers", "packing", "schedule"),
    *("context", "context_4k", "context_stages", "context_recall"),
    *("v3_ladder", "v3_leave_one_out", "v3_screen", "grpo", "post_training", "curriculum_text", "attention"),
    *("induction", "planning", "planning_depth", "sft_masking"),
)
"""Their kin train here: moe_balance, mtp_depth, recall, precision and curriculum; fine-tuning, teachers, rewards and
longer contexts in trial/test_distil, test_rewards and test_context."""
DRAWN = ("moe_balance", "pipeline")
"""Between them they have every figure but some of lengths, contexts, skills; matplotlib costs more than the trials."""
TOO_SHORT = {("masked", "packed"), ("v3", "v3_frozen_bias"), ("dr_grpo", "sft"), ("masked", "open")}
"""Twelve steps on short sequences have no document's end to mask, no step in V3's tail, and no answer that is right."""
ANSWERED = (
    "train.tokens=10240",
    "eval.tasks=[problem_greedy,problem_samples]",
    "eval.items=2",
    "eval.tokens=2048",
)
SHORTER = {
    "pipeline": ["data.seq_len=32", "train.tokens=1024", "arms=[dualpipe_p4_m8]", "model.n_layers=4"],
    "attention": ["optim.lr=0.0035", "arms=[mla,gqa,mqa]"],
    "packing": ["train.tokens=1536", "arms=[masked,fim]"],
    "precision": ["train.tokens=1024", "optim.lr=0.0035", "arms=[v3,fp8_tensor]"],
    "balance_scope": ["train.tokens=1536", "arms=[strong_batch,bias_local]"],
    "mtp_depth": ["train.tokens=1536", "optim.lr=0.0035", "arms=[chained_2,parallel_1]"],
    "experts": ["optim.lr=0.0035", "arms=[fine,dense]"],
    "gating": ["optim.lr=0.0035", "arms=[softmax,groups]"],
    "schedule": ["optim.lr=0.0035", "arms=[v3,v3_ramp]"],
    "v3_ladder": ["arms=[experts,fine]"],
    "v3_leave_one_out": ["arms=[without_fine]"],
    "v3_screen": ["train.tokens=1536", "arms=[run_16]"],
    "recall": ["train.tokens=3072", "arms=[mla_64]"],
    "induction": ["train.tokens=3072", "arms=[parallel_1]"],
    "planning": ["train.tokens=3456", "arms=[linear_1]"],
    "planning_depth": ["train.tokens=3456", "arms=[chained_2]"],
    "memory": ["train.tokens=3072", "arms=[finer,dense]"],
    "curriculum": ["train.tokens=2048", "arms=[easy_to_hard,staged]"],
    "curriculum_text": ["train.tokens=2048", "arms=[easy_to_hard]"],
    "outliers": ["data.seq_len=32", "train.tokens=1024", "arms=[tensor_18,tile_18]"],
    "grpo": ["arms=[sft,dr_grpo]", *ANSWERED],
    "sft_masking": ["arms=[masked]", *ANSWERED],
    "post_training": ["arms=[base,distil]", "distil.chosen=finished", *ANSWERED],
    "context_recall": ["train.tokens=20480", "arms=[yarn]"],
    "context_stages": ["train.tokens=10240", "eval.tokens=2048"],
    "context_4k": ["train.tokens=40960", "arms=[yarn]", "eval.tokens=4096"],
    "context": ["optim.lr=0.0035", "arms=[yarn]", "eval.tokens=2048", "eval.lengths=[128,1024]"],
}
"""Two steps and arms, and a layer for each rank: a pipeline sets its own sizes, in FP64, and its arms differ in little.
Half the steps where every product is emulated; of the screen the run that has all its toggles on; of a dose one end;
of many arms that differ in little a few."""
ARMS = {
    "pipeline": {"none", "dualpipe_p4_m8"},
    "v3_screen": {"plain", "run_16"},
    "attention": {"mha", "mla", "gqa", "mqa"},
    "packing": {"packed", "masked", "fim"},
    "precision": {"bf16", "v3", "fp8_tensor"},
    "balance_scope": {"sequence", "strong_batch", "bias_local"},
    "mtp_depth": {"none", "chained_2", "parallel_1"},
    "experts": {"gshard", "fine", "dense"},
    "gating": {"sigmoid", "softmax", "groups"},
    "schedule": {"cosine", "v3", "v3_ramp"},
    "v3_ladder": {"dense", "experts", "fine"},
    "v3_leave_one_out": {"v3", "without_fine"},
    "recall": {"mha_256", "mla_64"},
    "induction": {"none", "parallel_1"},
    "planning": {"none", "linear_1"},
    "planning_depth": {"none", "chained_2"},
    "memory": {"gshard", "finer", "dense"},
    "curriculum": {"mixed", "easy_to_hard", "staged"},
    "curriculum_text": {"mixed", "easy_to_hard"},
    "outliers": {"fp32", "tensor_18", "tile_18"},
    "context": {"plain", "yarn"},
    "context_4k": {"plain", "yarn"},
    "context_recall": {"plain", "yarn"},
    "grpo": {"grpo", "sft", "dr_grpo"},
    "sft_masking": {"open", "masked"},
    "post_training": {"sft", "base", "distil"},
}
"""What is left of those."""


def usual_arms(name: str) -> set[str]:
    return ARMS.get(name) or {arm for arm, entry in read_sweep(SWEEPS[name]).arms.items() if not entry.optional}


OF_WHOLE_TRAININGS = {"moe_balance": {"aa_scratch"}, "precision": {"aa_scratch", "control_scratch"}}
"""Diagnostics of sweeps that have these beside their branches; a control where a claim on them needs one."""


def guarded(model: ModelConfig) -> bool:
    """Arms whose tables show what guards found; `benchmarks/guards.py` looks at every arm of all sweeps."""
    return model.pipeline.schedule != "none" or model.precision.recipe == "fp8_tensor"


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch, pool: Any, request: pytest.FixtureRequest) -> Any:
    """The inline pool with the real jobs."""
    from ablations.sweep import jobs

    def guards(arguments: dict[str, Any], report: Any) -> dict[str, Any]:
        looks = jobs.KINDS if guarded(build(GuardsRequest, arguments).keys.model) else pool_kinds
        return looks["guards"](arguments, report)

    pool_kinds = pool.kinds
    timed = request.node.callspec.params["name"] in TIMED
    monkeypatch.setattr(
        pool, "kinds", jobs.KINDS | {"guards": guards} | ({} if timed else {"speed": pool_kinds["speed"]})
    )
    # A pipeline's guard on real ranks starts them; test_ranks_command.py sees it pass and fail.
    monkeypatch.setattr("ablations.guards.arm.GUARDS", tuple(g for g in GUARDS if g.name != "ranks"))
    monkeypatch.setattr("ablations.trial.speed.CHUNK_ROUNDS", 1)
    monkeypatch.setattr("ablations.trial.speed.TRAINING_ROUNDS", 6)
    monkeypatch.setattr("tasks.context.NEEDLES", 1)
    monkeypatch.setattr("ablations.trial.context.DEPTHS", (0.0, 1.0))
    monkeypatch.setattr("tasks.context.REPEATED", 512)
    # A process for every arm of every sweep would take half a minute; test_speed.py measures memory.
    monkeypatch.setattr("ablations.sweep.jobs.training_memory", lambda arms, *_: dict.fromkeys(arms, 1e8))
    return pool


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_fits_the_scale_of_a_gpu(name: str) -> None:
    """What a machine with one takes unless it is told otherwise."""
    plan = make_plan(compose([f"sweep={name}", "scale=gpu", "train.device=cpu"]))
    assert plan.baseline.keys.stages[-1].stop > 15


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in SWEEPS])
@pytest.mark.usefixtures("real")
def test_a_sweep_runs_the_whole_way(name: str, conduct: Any, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name not in DRAWN:
        monkeypatch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])
    # The form for a phone is the same figure once more; show/test_figures.py compares them.
    monkeypatch.setattr("ablations.show.figures.every._with_narrow", lambda picture, result: picture)
    pinned = [] if name in SEARCHED else ["optim.lr=0.0035"]
    pinned = SHORTER.get(name, pinned)
    scored = ["eval.tasks=[python_bits_per_byte]", "eval.items=2"] if name in TIMED else []
    conductor = conduct(f"sweep={name}", *QUICK, *pinned, *scored)
    result = write_report(runs, name, "smoke", None)
    sweep = read_sweep(SWEEPS[name])
    usual = usual_arms(name)
    second = OF_WHOLE_TRAININGS.get(name, set())
    assert set(result.arms) == {*usual, "aa", "control", *second} and not result.missing
    for arm in result.arms.values():
        assert arm.of_status("complete") == result.seeds, (arm.name, [r.reason for r in arm.records.values()])
        too_short = any(arm.name in pair for pair in TOO_SHORT)
        failed = {guard.name for guard in arm.guards if not guard.passed and guard.name not in sweep.waive}
        assert failed <= ({"distinct"} if too_short else set())
        assert arm.chunks or (arm.speed.tokens_per_second > 0 and arm.speed.peak_training_bytes == 1e8)
    assert len(result.verdicts) == len(sweep.expected)
    assert {arm.name for arm in result.arms.values() if arm.chunks} == usual - {"none"} or name != "pipeline"
    assert {v.outcome for v in result.verdicts} <= {"agrees", "disagrees", "not resolved", "no signal here", "void"}
    first = sweep.first_seed
    losses = {name: arm.values["loss"][first] for name, arm in result.arms.items() if name != "aa"}
    same = {(a, b) for a in losses for b in losses if a < b and losses[a] == losses[b]}
    assert same <= TOO_SHORT or name == "pipeline", f"arms that differ in name only: {same}"
    depths = {n: arm.records[first].config["model"]["mtp"]["depth"] for n, arm in result.arms.items()}
    drafting = {n for n, depth in depths.items() if depth and len(set(depths.values())) > 1}
    drafted = {n for n, arm in result.arms.items() if arm.speed and arm.speed.speculative_speedup}
    assert drafted == (drafting if name in TIMED else set())
    drawn = {path.stem for path in (runs / name / "smoke/figures").glob("*.svg")}
    elsewhere = {"lengths", "positions", "needles", "capacity", "rewards"}
    elsewhere |= {"timelines", "memory"} if name == "moe_balance" else set()
    assert drawn == ({*FIGURES} - elsewhere if name in DRAWN else set())
    table = (runs / name / "smoke" / "table.md").read_text()
    assert all(f"| {arm} |" in table for arm in result.arms)
    assert conductor.state.chosen.keys() == result.arms.keys()
    if name == "attention":
        sizes = {name: arm.plan.kv_bytes for name, arm in result.arms.items()}
        assert sizes["mqa"] < sizes["gqa"] < sizes["mha"] and sizes["mla"] < sizes["gqa"], sizes
        assert all(arm.speed.decode_tokens_per_second > 0 for arm in result.arms.values())
        assert "decoded tokens/s" in table
    assert ("right 1 behind an answer" in table) == (name.startswith(("induction", "planning")))
    assert ("## Skill" in table) == (name in SKILLED)
    assert ("## Answers" in table) == (name in ANSWERING)
    of_text = name.startswith("context") and name not in SKILLED
    assert ("## Loss by position" in table) == ("## What a context costs" in table) == of_text
    assert ("## Precision" in table) == (name in ("precision", "outliers", "v3_screen"))
    assert ("## Pipeline" in table) == (name == "pipeline")
    if name == "precision":
        assert "fp8_tensor: in FP8 training, later tokens change earlier logits" in table
        assert "FP8 is emulated: quantised operands in tiles and blocks of 4" in table
        assert result.arms["bf16"].values["loss_error"] == {0: 0.0, 1: 0.0}
        assert all(result.arms["v3"].values["loss_error"].values())


@pytest.mark.parametrize("name", SLOW)
def test_with_jobs_that_train_nothing_it_goes_the_same_way(
    name: str, conduct: Any, runs: Path, without_figures: None
) -> None:
    conductor = conduct(f"sweep={name}", *QUICK, *SHORTER[name])
    result = write_report(runs, name, "smoke", None)
    assert (
        set(result.arms) == {*usual_arms(name), "aa", "control"} == conductor.state.chosen.keys() and not result.missing
    )
    assert len(result.verdicts) == len(read_sweep(SWEEPS[name]).expected) > 0
    table = (runs / name / "smoke" / "table.md").read_text()
    assert all(f"| {arm} |" in table for arm in result.arms)


def test_every_text_that_an_arm_learns_from_is_guarded(conduct: Any, pool: Any) -> None:
    """Stand-in jobs: a fill-in-the-middle arm learns from another arrangement of the text than the baseline."""
    conduct("sweep=packing", *QUICK, "optim.lr=0.0035")
    rates = [build(GuardsRequest, job.arguments).keys.data.fim_rate for job in pool.ran["data_guard"]]
    assert sorted(rates) == [0.0, 0.1, 0.5]
