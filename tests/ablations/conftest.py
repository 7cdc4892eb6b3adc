"""A sweep's run folder with known effects, and a scheduler whose pool is this process, both without a trainer."""

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ablations.config.schema import ExpectedConfig, MatchedConfig, SearchConfig, TrainConfig
from ablations.config.trialkeys import TrialKeys
from ablations.judge.verdicts import DECISION_RULE
from ablations.launch.job import Job, Outcome
from ablations.launch.progress import Progress
from ablations.launch.space import DiskFull, full_place
from ablations.record.documents import ArmDocument, ArmKind, ConfirmTrial, PlanDocument, SearchTrial, Speed, SweepState
from ablations.record.guardresult import GuardResult
from ablations.record.record import Record
from ablations.trial.identity import code_hash
from models.base.typed import build, nested
from models.config import ModelConfig, MoEConfig
from models.training.config import OptimConfig
from tasks.config import DataConfig, EvalConfig

torch.set_num_threads(1)
sys.path.append(str(Path(__file__).parent))  # for the stand-in jobs, which real workers import too

STEPS, EXPERTS, TOP_K, LAYERS = 300, 16, 4, 2
KIND, ALPHA, SPEED = "model.moe.balance.kind", "model.moe.balance.alpha", "model.moe.balance.update_speed"

AUX = {ALPHA: 0.01}
ARMS: dict[str, dict[str, Any]] = {
    "aux_loss": {"about": "auxiliary loss per sequence", "loss": 0.0, "sd": 0.0, "max_vio": 0.25, "chosen": AUX},
    "batch_aux_loss": {"about": "per batch", "loss": -0.004, "sd": 0.004, "max_vio": 0.14, "chosen": AUX},
    "bias": {"about": "auxiliary-loss-free", "loss": -0.005, "sd": 0.005, "max_vio": 0.11, "chosen": {SPEED: 0.01}},
    "none": {"about": "no balancing", "loss": 0.018, "sd": 0.004, "max_vio": 2.15, "chosen": {}},
    "control": {"about": "10 % fewer tokens", "loss": 0.030, "sd": 0.003, "max_vio": 0.26, "chosen": AUX},
    "aa": {"about": "weights perturbed by 1e-6", "loss": 0.0, "sd": 0.0007, "max_vio": 0.25, "chosen": AUX},
}  # fmt: skip
KINDS: dict[str, ArmKind] = {"control": "control", "aa": "aa"}

EXPECTED: list[dict[str, Any]] = [
    {"arm": "bias", "kind": "better", "paper": "2408.15664 Table 2: 9.56 to 9.50", "paper_value": -0.0063},
    {"arm": "bias", "metric": "max_vio_global", "kind": "better", "paper": "0.72 to 0.04", "paper_value": -0.68},
    {"arm": "bias", "against": "batch_aux_loss", "kind": "equal", "margin": 0.02, "paper": "V3 4.5.3: 2.253 both",
     "paper_value": 0.0},
    {"arm": "none", "kind": "not_worse", "margin": 0.005, "paper": "none"},
]  # fmt: skip


def _history(
    rng: np.random.Generator, final: float, noise: np.ndarray, arm: dict[str, Any], steps: int
) -> dict[str, list]:
    step = np.arange(1, steps + 1, max(1, steps // 50))
    fall = np.exp(-step / 55.0)
    loss = final + (6.93 - final) * fall + noise[step - 1] + 0.002 * rng.standard_normal(len(step))
    start = 2.4
    max_vio = arm["max_vio"] * 1.3 + (start - arm["max_vio"]) * np.exp(-step / 25.0)
    max_vio = max_vio * np.exp(0.08 * rng.standard_normal(len(step)))
    lr = 0.005 * np.minimum(1, step / 30)
    return {
        "step": step.tolist(),
        "loss": loss.tolist(),
        "aux_loss": (0.01 + 0 * loss).tolist(),
        "max_vio": max_vio.tolist(),
        "lr": lr.tolist(),
    }


def make_record(name: str, seed: int, status: str = "complete", accuracy: float = 0.42) -> Record:
    """A trial of arm `name`: seed level (sd 0.04) plus the arm's effect and noise. Equal calls, equal records."""
    arm = ARMS[name]
    level = 3.9 + 0.04 * np.random.default_rng([7, seed]).standard_normal()
    noise = 0.05 * np.random.default_rng([8, seed]).standard_normal(STEPS)
    rng = np.random.default_rng([sorted(ARMS).index(name), seed])
    loss = float(level + arm["loss"] + arm["sd"] * rng.standard_normal())
    max_vio = float(arm["max_vio"] * np.exp(0.06 * rng.standard_normal()))
    load = rng.dirichlet(np.full(EXPERTS, 40.0 / max(max_vio, 0.05) ** 1.7), size=LAYERS) * EXPERTS
    steps = int(STEPS * (0.9 if name == "control" else 1.0))
    history = _history(rng, loss - 0.05, noise, arm, steps)
    if status != "complete":
        history = {key: column[:40] for key, column in history.items()}
    validation_steps = [round(steps * share) for share in (0.2, 0.4, 0.6, 0.8, 1.0)]
    correct = rng.random(400) < accuracy
    done = status == "complete"
    return Record(
        id=hashlib.sha256(f"{name} {seed}".encode()).hexdigest()[:16],
        seed=seed,
        status=status,  # type: ignore[arg-type]
        config=nested(
            {
                "model.moe.n_routed_experts": EXPERTS,
                "model.moe.top_k": TOP_K,
                "data.batch_size": 16,
                "data.seq_len": 128,
                "optim.lr": 0.005,
                **_set(name),
                **arm["chosen"],
            }
        ),
        reason=None if done else "loss is not finite at step 79",
        metrics={
            "loss": loss,
            "bits_per_byte": loss / math.log(2) / 2.47,
            "max_vio_global": max_vio,
            "max_vio_floor": 0.014,
            "max_vio_max": EXPERTS / TOP_K - 1,
            "max_vio_batch": max_vio * 1.3,
            "routing_entropy": math.log(EXPERTS) - 0.2 * max_vio,
        }
        if done
        else {"loss": 9.9},  # What a diverged trial measured is nothing to average.
        load=load.tolist() if done else [],
        history=history,
        validation={
            "step": [float(s) for s in validation_steps],
            "loss": [loss + (6.93 - loss) * math.exp(-s / 55.0) for s in validation_steps],
            "max_vio_global": [max_vio] * 5,
        },
        scores={
            "python_bits_per_byte": {
                "bits_per_byte": loss / math.log(2) / 2.47,
                "bits_per_byte_stderr": None,
                "n": 60.0,
            },
            "python_cloze": {
                "acc": float(correct.mean()),
                "acc_stderr": 0.023,
                "n": 400.0,
                "chance": 0.25,
                "items": "".join("1" if c else "0" for c in correct),
            },
        }
        if done
        else {},
        timings={"train_s": 38.0 + float(rng.random()), "eval_s": 2.0, "tokens_per_second": 15000.0},
        environment={"torch": "2.13.0", "python": "3.12", "threads": 1, "code": "abc123"},
    )


def put(path: Path, value: Any) -> None:
    """As `write_json` does, without its wait for the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_run(
    runs: Path,
    *,
    seeds: int = 6,
    missing: tuple[tuple[str, int], ...] = (),
    diverged: tuple[tuple[str, int], ...] = (),
    expected: list[dict[str, Any]] | None = None,
    searched: bool = True,
    limit: float | None = None,
    accuracy: float = 0.42,
    arms: tuple[str, ...] = tuple(ARMS),
) -> Path:
    """plan.json, state.json and the records of a run under `runs`; returns the run's folder. `limit`: on MaxVio, as a
    share of its maximum, in the search."""
    folder = runs / "moe_balance" / "cpu"
    rule = SearchConfig(constraint_metric=None if limit is None else "max_vio_global", constraint_max=limit)
    plan = PlanDocument(
        sweep="moe_balance",
        scale="cpu",
        question="Does auxiliary-loss-free balancing keep the load even without costing loss?",
        source="V3 2.1.2 and 4.5; 2408.15664 Table 2",
        search="fresh" if searched else "published",
        search_rule=rule,
        baseline="aux_loss",
        primary="loss",
        metrics=["loss", "bits_per_byte", "max_vio_global"],
        seeds=list(range(seeds)),
        arms={name: _arm(name) for name in arms},
        expected=[build(ExpectedConfig, claim) for claim in (EXPECTED if expected is None else expected)],
        matched=MATCHED,
        decision_rule=DECISION_RULE,
        code=code_hash(),
        data="d" * 40,
        keys=TrialKeys(
            ModelConfig(dtype="float32", moe=MoEConfig(n_routed_experts=EXPERTS, top_k=TOP_K)),
            DataConfig(batch_size=16, seq_len=128),
            OptimConfig(lr=0.005),
            TrainConfig(),
            EvalConfig(),
        ),
    )
    confirm = []
    for name in arms:
        for seed in range(seeds):
            record = make_record(name, seed, "diverged" if (name, seed) in diverged else "complete", accuracy)
            confirm.append(ConfirmTrial(name, seed, record.id))
            if (name, seed) not in missing:
                put(runs / "trials" / record.id / "record.json", dataclasses.asdict(record))
    guards = ("causality", "isolation", "budget", "separation", "start", "determinism")
    state = SweepState(
        plan_sha=plan.write(folder),
        minutes=12.4,
        guards={name: [GuardResult(guard, True) for guard in guards] for name in arms},
        search=[trial for name in arms for trial in _searched(name, rule)] if searched else [],
        mistuning={name: 0.0008 if searched and name not in KINDS else None for name in arms},
        chosen={name: {"optim.lr": 0.005, **ARMS[name]["chosen"]} for name in arms},
        confirm=confirm,
        speed={name: Speed(15_200.0, peak_training_bytes=9.1e8) for name in arms},
    )
    state.write(folder)
    return folder


MATCHED = MatchedConfig(equal=["total_params"])


def _arm(name: str) -> ArmDocument:
    return ArmDocument(
        about=ARMS[name]["about"],
        kind=KINDS.get(name, "arm"),
        set=_set(name),
        search=_strengths(name),
        tokens=int(614_400 * (0.9 if name == "control" else 1)),
        total_params=1_430_000,
        active_params=840_000,
        flops_per_token=5.1e6,
        kv_bytes=480,
        matched=MATCHED,
    )


def _set(name: str) -> dict[str, Any]:
    own: dict[str, dict[str, Any]] = {
        "batch_aux_loss": {"model.moe.balance.scope": "batch"},
        "control": {"train.token_fraction": 0.9},
        "aa": {"train.perturb": 1e-6},
    }
    return {KIND: "aux_loss"} | own[name] if name in own else {KIND: name}


def _strengths(name: str) -> dict[str, list[float]]:
    """What the arm searches beside the learning rate."""
    if name in KINDS:
        return {}
    return {key: [value / 3, value, value * 3] for key, value in ARMS[name]["chosen"].items()}


def _searched(name: str, rule: SearchConfig) -> list[SearchTrial]:
    if name in KINDS:
        return []
    trials, most = [], EXPERTS / TOP_K - 1
    key, values = next(iter(_strengths(name).items()), ("", [0.0]))
    for (i, lr), seed in itertools.product(enumerate([0.0025, 0.0035, 0.005, 0.01]), (1000, 1001)):
        for j, value in enumerate(values):
            scatter = 1e-6 * ((i + 1) * (seed - 999) % 4)  # without any a parabola would miss by the last digits
            loss = 3.95 + 0.02 * math.log(lr / 0.005) ** 2 + ARMS[name]["loss"] + 0.002 * j + scatter
            point = {"optim.lr": lr, **({key: value} if key else {})}
            max_vio = ARMS[name]["max_vio"] * (3.0 if key and j == 0 else 1.0 + 0.3 * j) * (1 + 0.1 * i)
            share = None if rule.constraint_metric is None else max_vio / most
            trials.append(SearchTrial(name, point, seed, f"{name}{i}{j}{seed}", loss, max_vio, share))
    return trials


@pytest.fixture
def sweep_run() -> Any:
    """`write_run`, so that a test says what its run folder holds."""
    return write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/ of a complete sweep; read only."""
    runs = tmp_path_factory.mktemp("finished") / "runs"
    write_run(runs)
    return runs


@pytest.fixture(scope="session", autouse=True)
def listed_once() -> Iterator[None]:
    """The installed packages' files, which every plan and every trial's data ask for, stay as they are."""
    from tasks.text import sources

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "package_files", functools.cache(sources.package_files))
        yield


@pytest.fixture(scope="session")
def data_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The token cache of `scale=smoke`, made once for all processes of tests; each adds to a copy of its own."""
    from tasks.config import DataConfig
    from tasks.text.batches import prepare

    place, own = tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("smoke") / "data"
    shared = (place if worker_id == "master" else place.parent) / "smoke"
    prepare(DataConfig(max_bytes=2_000_000, seq_len=32, batch_size=8), 512, shared)
    return Path(shutil.copytree(shared, own, ignore=shutil.ignore_patterns(".*")))


@pytest.fixture
def runs(tmp_path: Path, data_cache: Path) -> Path:
    """A runs_dir that holds nothing but the token cache."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "data").symlink_to(data_cache)
    return tmp_path / "runs"


class InlinePool:
    """The pool's contract, kept in this process. `ran` has every job of the test, by kind."""

    kinds: dict[str, Any]
    ran: dict[str, list[Job]]

    def __init__(self, workers: int, log_dir: Path, environment: dict[str, str] | None = None, **_: Any) -> None: ...

    def __enter__(self) -> "InlinePool":
        return self

    def __exit__(self, *_: Any) -> None: ...

    def run(self, jobs: list[Job], on_event: Any, limit: int | None = None) -> dict[str, Outcome]:
        outcomes = {}
        for job in jobs:
            self.ran.setdefault(job.kind, []).append(job)
            on_event(job.key, {"event": "started", "attempt": 1})
            arguments = json.loads(json.dumps(job.arguments))
            try:
                result = self.kinds[job.kind](arguments, lambda event, key=job.key: on_event(key, event))
                outcomes[job.key] = Outcome(job.key, result)
            except Exception as error:  # as the worker does, and the pool
                if (place := full_place(error)) is not None:
                    raise DiskFull(Path(place).parent) from error
                outcomes[job.key] = Outcome(job.key, error=f"{type(error).__name__}: {error}")
            on_event(job.key, {"event": "done", "seconds": 0.1, "error": outcomes[job.key].error})
        return outcomes


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[InlinePool]:
    """Puts InlinePool, with jobs that train nothing, in the scheduler's place for a pool."""
    import stand_in_kinds

    class OfThisTest(InlinePool):
        kinds = dict(stand_in_kinds.KINDS)
        ran: dict[str, list[Job]] = {}

    monkeypatch.setattr("ablations.sweep.workplace.Pool", OfThisTest)
    return OfThisTest


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a sweep file into a folder of the user's; returns the overrides that name it."""

    def write(content: dict[str, Any] | str, stem: str = "mine", **changes: Any) -> list[str]:
        text = content if isinstance(content, str) else OmegaConf.to_yaml(OmegaConf.create({**content, **changes}))
        (tmp_path / f"{stem}.yaml").write_text(text)
        return [f"sweep={stem}", f"sweeps_dir={tmp_path}", "scale=cpu"]

    return write


USUAL = {"sweep": "toy", "sweeps_dir": str(Path(__file__).parent / "sweeps"), "scale": "smoke", "arms": "bias"}
USUAL |= {"eval.tasks": "[]", "track.mode": "disabled"}


@functools.cache
def composed(words: tuple[str, ...]) -> Any:
    """Many tests begin with the same words."""
    from ablations.config.compose import compose

    return compose([f"{key}={value}" for key, value in (USUAL | dict(word.split("=", 1) for word in words)).items()])


@pytest.fixture
def plan(runs: Path) -> Any:
    """`plan(KEY=VALUE, ...)`: the plan of a smoke sweep of two arms in `runs`."""
    from ablations.sweep.planning import make_plan

    def make(*words: str) -> Any:
        config = composed((*words, "launch.progress=none"))
        return make_plan(dataclasses.replace(config, runs_dir=str(runs), results_dir=str(runs.parent / "results")))

    return make


@pytest.fixture
def job(plan: Any, data_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`job(folder, arm, {key: value})`: a trial of 12 steps with a checkpoint after 3, 6 and 9."""
    from ablations.config.trialkeys import with_overrides
    from ablations.trial.job import TrialJob

    monkeypatch.setattr("ablations.trial.recorder.REPORT_SECONDS", 0.0)
    made = plan("arms=all")

    def make(folder: str = "a", arm: str = "bias", changes: dict[str, Any] | None = None, seed: int = 1) -> TrialJob:
        usual = {"train.checkpoint_every": 0.25, "train.validate_every": 0.25}
        keys = with_overrides(made.arms[arm].keys, {**usual, **(changes or {})}, "test")
        return TrialJob("0123456789abcdef", keys, seed, str(tmp_path / "trials" / folder), str(data_cache))

    return make


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Any], Record]:
    """`undisturbed(job)`: the record of a trial that nothing interrupts, and in the job's folder what it leaves.

    Trained once for all who ask for the same keys and seed (and have or have not been given trunk and teacher): what
    killed, branched and damaged ones are held against is the same training each time."""
    from ablations.trial.train import run_trial

    known: dict[str, tuple[Path, Record]] = {}

    def trained(job: Any) -> Record:
        places = {"folder": "", "trunk": job.trunk and "given", "teacher": job.teacher and "given"}
        name = json.dumps(dataclasses.asdict(dataclasses.replace(job, **places)), sort_keys=True)
        if name not in known:
            own = tmp_path_factory.mktemp("undisturbed") / "trial"
            known[name] = own, run_trial(dataclasses.replace(job, folder=str(own)), lambda event: None)
        folder, record = known[name]
        shutil.copytree(folder, job.folder)
        return record

    return trained


@pytest.fixture
def conduct(plan: Any, pool: type[InlinePool]) -> Any:
    """`conduct(KEY=VALUE, ...)`: conducts such a sweep in this process, and returns its Conductor."""
    from ablations.sweep.conductor import Conductor

    def run(*words: str) -> Conductor:
        conductor = Conductor(plan(*words))
        conductor.run()
        return conductor

    return run


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a report's time, and only `published` needs it."""
    monkeypatch.setattr("ablations.show.figures.every.draw_figures", lambda result: [])


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the user reads."""
    lines: list[str] = []
    monkeypatch.setattr(Progress, "note", lambda self, text: lines.append(text))
    return lines
