"""The plan of a sweep: arms, seeds, budgets and rules, settled and written down before the first trial."""

import functools
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablations.config import chosen_arms, trial_keys, with_overrides
from ablations.files import read_json
from ablations.guards import GuardResult, budget, isolation
from ablations.home import ROOT
from ablations.identity import code_hash, sha
from ablations.keys import all_keys, trial_leaves
from ablations.matching import solve
from ablations.schema import Config, MatchedConfig, SweepConfig
from ablations.sweepfile import read_scale, thinned
from ablations.tracking import destination
from ablations.trialkeys import TrialKeys, get, typed_trial
from ablations.verdicts import DECISION_RULE
from models.config import ModelConfig
from models.cost import Cost, cost
from models.precision.products import resolve_kernels
from models.transformer import resolve_dtype
from models.typed import ConfigError, build
from tasks.config import DataConfig

AA, CONTROL = "aa", "control"
PERTURBATION = 1e-6
LEARNING_RATE = "optim.lr"
NOT_FOR_THE_SEARCH = (
    "model.dtype",
    "model.precision.kernels",
    "train.threads",
    "train.device",
    "train.validate_every",
    "train.checkpoint_every",
)
"""Where a trial runs and how often it is looked at: this does not change which searched value is best."""
SIZES_OF_FP8 = ("model.precision.block", "model.precision.promote_every")
"""Nor do these, which a scale sets, where no arm uses FP8."""


IN_FP64, IN_CHUNKS = 3.0, 2.0
"""About how much longer a CPU takes for the same FLOPs in FP64, and as a pipeline's chunks in one process."""


@dataclass(frozen=True)
class Arm:
    """A variant with its resolved keys; searched keys stand at their first point until values are chosen."""

    name: str
    kind: str
    """`arm`, `aa` (the baseline, weights perturbed) or `control` (the known small harm)."""
    about: str
    set: dict[str, Any]
    search: dict[str, list[float]]
    """This arm's own searched keys (its strength); the sweep's shared ones are in `Plan.shared`."""
    keys: dict[str, Any]
    matched: MatchedConfig
    """What the budget guard holds it to."""
    solved: dict[str, Any] = field(default_factory=dict)
    """The matching knob, where it was turned."""

    @property
    def typed(self) -> TrialKeys:
        return typed_trial(self.keys)

    @property
    def cost(self) -> Cost:
        keys = self.typed
        return cost(keys.model, keys.data.seq_len)

    def grid(self, shared: Mapping[str, list[float]]) -> list[dict[str, float]]:
        """All points of shared and own keys, in a fixed order."""
        axes = {**shared, **self.search}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@dataclass(frozen=True)
class Published:
    """Values of an earlier published search: chosen per arm, their mistuning bounds, and the search's own trials."""

    chosen: dict[str, dict[str, float]]
    mistuning: dict[str, float | None]
    search: list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    config: Config
    sweep: SweepConfig
    arms: dict[str, Arm]
    """The sweep's arms, baseline first, then the control and the A/A arm."""
    seeds: list[int]
    shared: dict[str, list[float]]
    published: Published | None
    fresh_because: str | None
    """Why `search=published` falls back to a fresh search, where it does."""

    @property
    def baseline(self) -> Arm:
        return self.arms[self.sweep.baseline]

    @property
    def searched_arms(self) -> list[Arm]:
        """The A/A arm and the control take the baseline's values."""
        return [arm for arm in self.arms.values() if arm.kind == "arm"]

    def search_seeds(self, arm: Arm) -> list[int]:
        """Equal budgets: an arm with a smaller grid spends the rest on more search seeds."""
        most = max(len(a.grid(self.shared)) for a in self.searched_arms)
        return self.sweep.search.seeds[: max(1, most // len(arm.grid(self.shared)))]

    @property
    def search_trials(self) -> int:
        if self.published is not None:
            return 0
        return sum(len(a.grid(self.shared)) * len(self.search_seeds(a)) for a in self.searched_arms)

    @property
    def workers(self) -> int:
        import os

        if self.config.launch.workers is not None:
            return self.config.launch.workers
        if self.config.train.device == "cuda":
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(1, cores // self.config.train.threads)

    def trial_seconds(self, arm: Arm, scored: bool = True) -> float:
        """A rough expectation, from the speed of the scale's own model and what this arm's costs beside it."""
        keys, speed = arm.typed, self.config.launch.expected_tokens_per_second
        speed *= self._scale_flops / arm.cost.flops_per_token
        speed /= IN_FP64 if keys.model.dtype == "float64" else 1.0
        speed /= IN_CHUNKS if keys.model.pipeline.schedule != "none" else 1.0
        counting = keys.model.moe.balance.scope == "batch" and "aux_loss" in keys.model.moe.balance.kind
        training = keys.tokens / speed * (4 / 3 if counting else 1)
        evaluated = keys.eval.tokens * 2 + (200 * (keys.eval.items or 1000) + 65_536 if scored else 0)
        return training + evaluated / (3 * speed) + 1

    @functools.cached_property
    def _scale_flops(self) -> float:
        """Training FLOPs per token of the model that the scale's speed was measured with."""
        scale = read_scale(self.config.scale)
        model, data = build(ModelConfig, scale.get("model", {})), build(DataConfig, scale.get("data", {}))
        return cost(model, data.seq_len).flops_per_token

    @property
    def minutes(self) -> float:
        confirm = sum(self.trial_seconds(arm) for arm in self.arms.values()) * len(self.seeds)
        search = sum(
            self.trial_seconds(arm, scored=False) * len(arm.grid(self.shared)) * len(self.search_seeds(arm))
            for arm in self.searched_arms
        )
        seconds = (confirm + (0 if self.published else search)) / self.workers
        return (seconds + 15) / 60


def make_plan(config: Config) -> Plan:
    """Resolve arms, seeds and searched values. Raises ConfigError; writes nothing."""
    sweep = thinned(config.sweep, config.search_points, config.search_seeds)
    keys = trial_keys(config)
    arms: dict[str, Arm] = {}
    for name in sorted(chosen_arms(config), key=lambda name: name != sweep.baseline):
        entry = sweep.arms[name]
        resolved = _resolve(keys, entry.set, sweep, entry.search, name)
        matched, solved = entry.matched or sweep.matched, {}
        if name != sweep.baseline:
            where = f"sweep={sweep.name} arm {name}"
            solved = solve(resolved, arms[sweep.baseline].keys, matched, where)
            resolved = with_overrides(resolved, solved, where)
        arms[name] = Arm(name, "arm", entry.about, entry.set, entry.search, resolved, matched, solved)
    base = arms[sweep.baseline]
    extras = {
        CONTROL: ("control", f"positive control: {base.name} with a known small harm", dict(sweep.control)),
        AA: ("aa", f"A/A: {base.name} with initial weights perturbed by 1e-6", {"train.perturb": PERTURBATION}),
    }
    for name, (kind, about, changes) in extras.items():
        held = MatchedConfig(equal=[]) if kind == CONTROL else sweep.matched
        changed = with_overrides(base.keys, changes, name)
        arms[name] = Arm(name, kind, about, {**base.set, **changes}, {}, changed, held)
    seeds = config.seeds if isinstance(config.seeds, list) else list(range(config.seeds or sweep.seeds))
    overlap = sorted(set(seeds) & set(sweep.search.seeds))
    if overlap:
        raise ConfigError(f"seeds={config.seeds}: {overlap[0]} is a search seed; confirmation needs seeds of its own")
    shared = dict(sweep.search.keys)
    plan = Plan(config, sweep, arms, seeds, shared, None, None)
    if config.search == "fresh":
        return plan
    if not any(arm.grid(shared)[0] for arm in plan.searched_arms):
        return Plan(config, sweep, arms, seeds, shared, Published({a: {} for a in arms}, {}, []), None)
    published, reason = _published(plan)
    return Plan(config, sweep, arms, seeds, shared, published, reason)


def _resolve(
    keys: dict[str, Any], changes: Mapping[str, Any], sweep: SweepConfig, own: Mapping[str, list[float]], name: str
) -> dict[str, Any]:
    first = {key: points[0] for key, points in {**sweep.search.keys, **own}.items()}
    resolved = with_overrides(keys, {**changes, **first}, f"sweeps/{sweep.name}.yaml arm {name}")
    model, device = resolved["model"], resolved["train"]["device"]
    model["dtype"] = resolve_dtype(model["dtype"], device, model["precision"]["recipe"])
    model["precision"]["kernels"] = resolve_kernels(model["precision"]["kernels"])
    return resolved


def results_dir(config: Config) -> Path:
    return Path(config.results_dir) if config.results_dir else ROOT / "results"


def _published(plan: Plan) -> tuple[Published | None, str | None]:
    """The published search's values where they were found for these very arms, or the reason why there are none."""
    folder = results_dir(plan.config) / plan.sweep.name / plan.config.scale
    if not (folder / "trials.json").is_file() or not (folder / "plan.json").is_file():
        return None, f"no published search of {plan.sweep.name} at scale={plan.config.scale}"
    earlier, trials = read_json(folder / "plan.json"), read_json(folder / "trials.json")
    chosen = trials.get("chosen", {})
    searched = {key for arm in plan.arms.values() for key in (*plan.shared, *arm.search)}
    fp8 = any(arm.typed.model.precision.fp8 for arm in plan.arms.values())
    idle = set(NOT_FOR_THE_SEARCH) | (set() if fp8 else set(SIZES_OF_FP8))
    for arm in plan.searched_arms:
        then = earlier.get("arms", {}).get(arm.name, {})
        now = (arm.set, arm.search, arm.solved)
        if arm.name not in chosen or (then.get("set"), then.get("search"), then.get("solved", {})) != now:
            return None, f"the published search has no arm {arm.name} as it is now"
    for name in trial_leaves():
        if name in searched or name.startswith("eval.") or name in idle:
            continue
        now = get(plan.baseline.keys, name)
        try:
            before = get(earlier["keys"], name)
        except KeyError:  # a key that was not there yet: its default is what everything did before
            before = all_keys()[name].default
        if now != before:
            return None, f"the published search had {name}={before}, here it is {now}"
    return (
        Published(
            {name: dict(values) for name, values in chosen.items()},
            dict(trials.get("mistuning", {})),
            list(trials.get("search", [])),
        ),
        None,
    )


def config_guards(plan: Plan, arm: Arm) -> list[GuardResult]:
    """Isolation and budget: what the resolved keys alone can show."""
    base = plan.baseline
    searched = {*plan.shared, *arm.search, *base.search}
    declared = {*searched, *arm.set, *base.set, *arm.solved, *(["train.perturb"] if arm.kind == AA else [])}
    return [isolation(arm.keys, base.keys, declared), budget(arm.keys, base.keys, arm.matched)]


def plan_document(plan: Plan, data_fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """plan.json: everything that is fixed before the first trial, and the rule by which it will be judged."""
    sweep = plan.sweep
    arms = {}
    for arm in plan.arms.values():
        typed, size = arm.typed, arm.cost
        arms[arm.name] = {
            "about": arm.about,
            "kind": arm.kind,
            "set": arm.set,
            "search": arm.search,
            "solved": arm.solved,
            "matched": asdict(arm.matched),
            "tokens": typed.sequences * typed.data.seq_len,
            **asdict(size),
        }
    return {
        "format": 1,
        "sweep": sweep.name,
        "scale": plan.config.scale,
        "question": sweep.question,
        "source": sweep.source,
        "search": "published" if plan.published else "fresh",
        "search_rule": asdict(sweep.search),
        "baseline": sweep.baseline,
        "primary": sweep.primary,
        "metrics": sweep.metrics,
        "seeds": plan.seeds,
        "arms": arms,
        "expected": [asdict(claim) for claim in sweep.expected],
        "matched": asdict(sweep.matched),
        "decision_rule": DECISION_RULE,
        "code": code_hash(),
        "data": sha(data_fingerprint),
        "keys": plan.baseline.keys,
    }


def describe(plan: Plan) -> str:
    """What the run is about to do, for the eyes."""
    from ablations.launch.phase import duration

    sweep = plan.sweep
    width = max(len(name) for name in plan.arms)
    lines = [
        "",
        f"Question  {' '.join(sweep.question.split())}",
        f"Source    {' '.join(sweep.source.split())}",
        "",
        f"{'arm':{width}}  {'params':>8} {'active':>8} {'tokens':>8} {'tok/active':>10}  what it is",
    ]
    for arm in plan.arms.values():
        typed, size = arm.typed, arm.cost
        tokens = typed.sequences * typed.data.seq_len
        lines.append(
            f"{arm.name:{width}}  {_short(size.total_params):>8} {_short(size.active_params):>8} {_short(tokens):>8} "
            f"{tokens / size.active_params:>10.2f}  {arm.about}" + (" (baseline)" if arm is plan.baseline else "")
        )
    base = plan.baseline.typed
    seeds = ", ".join(map(str, plan.seeds))
    if plan.published is not None:
        search = "published values, nothing is searched"
    else:
        each = max(len(a.grid(plan.shared)) * len(plan.search_seeds(a)) for a in plan.searched_arms)
        search = f"fresh, {each} trials per arm, {plan.search_trials} in all"
        if plan.fresh_because:
            search += f" (search=published was asked for, but {plan.fresh_because})"
    confirm = len(plan.arms) * len(plan.seeds)
    lines += [
        "",
        f"Scale     {plan.config.scale}: {base.model.dtype}, {base.steps} steps of {base.tokens_per_step:,} tokens in "
        f"{base.microbatches} microbatches, data {base.data.source}",
        f"Search    {search}",
        f"Confirm   {len(plan.arms)} arms x {len(plan.seeds)} seeds ({seeds}) = {confirm} trials",
        f"W&B       {destination(plan.config.track, Path(plan.config.runs_dir).absolute())}",
        f"Expected  about {duration(plan.minutes * 60)} with {plan.workers} worker{'s' * (plan.workers != 1)}",
        "",
    ]
    return "\n".join(lines)


def _short(count: float) -> str:
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.{max(0, 2 - int(math.log10(count / size)))}f}{unit}"
    return str(int(count))
