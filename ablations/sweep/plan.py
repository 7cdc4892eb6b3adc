"""The plan of a sweep: arms, seeds and budgets, settled before the first trial."""

import functools
import itertools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ablations.config.schema import LOOKS, Config, ContrastConfig, ExpectedConfig, MatchedConfig, SweepConfig
from ablations.config.sweepfile import scale_config
from ablations.config.trialkeys import TrialKeys
from ablations.home import ROOT
from ablations.record.documents import ArmKind, Point, SearchTrial
from ablations.record.guardresult import GuardResult
from ablations.sweep.horizons import at_share
from ablations.sweep.matching import budget, isolation
from models.cost import Cost, cost
from tasks.config import DRAWN
from tasks.evals.problems import tokens_written
from tasks.skills.mixed import text_vocab
from tasks.text.batches import cached_tokens

AA: Final = "aa"
CONTROL: Final = "control"
MOST_ITEMS = 10_000
"""That an lm-eval task has, as a rule."""
IN_FP64, IN_FP8, IN_CHUNKS = 3.0, 1.8, 2.0
"""About how much longer a CPU takes for the same FLOPs in FP64, in FP8, whose rounding it emulates, and as a pipeline's
chunks in one process."""
IN_FP32, COMPILED = 1.7, 0.7
"""And in FP32 instead of BF16, which is what a scale's speed is of (8,350 tokens/s on a processor without, 14,000 are
reckoned with), and with `train.compile` (0.55 to 0.74)."""
LAUNCHING = 0.005
"""Seconds of a microbatch on a GPU at least, which launches thousands of kernels. Reckoned, not measured."""
WRITING = 1.5
"""The same of tokens that are written one after another, with a cache and many answers at once."""


@dataclass(frozen=True)
class Arm:
    """A variant with its resolved keys; searched keys stand at their first point until values are chosen."""

    name: str
    kind: ArmKind
    """`arm`, `aa` (the baseline, weights perturbed) or `control` (the known small harm)."""
    about: str
    set: dict[str, Any]
    search: dict[str, list[float]]
    """This arm's own searched keys (its strength); the sweep's shared ones are in `Plan.shared`."""
    keys: TrialKeys
    matched: MatchedConfig
    """What the budget guard holds it to."""
    solved: dict[str, Any] = field(default_factory=dict)
    """The matching knob, where it was turned."""

    @functools.cached_property
    def cost(self) -> Cost:
        return cost(self.keys.model, self.keys.data.seq_len)

    def grid(self, shared: Mapping[str, list[float]]) -> list[Point]:
        """All points of shared and own keys, in a fixed order."""
        axes = {**shared, **self.search}
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


@dataclass(frozen=True)
class Published:
    """Values of an earlier published search: chosen per arm, their mistuning estimates, and the search's own trials."""

    chosen: dict[str, Point] = field(default_factory=dict)
    mistuning: dict[str, float | None] = field(default_factory=dict)
    search: list[SearchTrial] = field(default_factory=list)


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
    contrasts: dict[str, ContrastConfig] = field(default_factory=dict)
    """Estimates over more than two arms."""

    @property
    def baseline(self) -> Arm:
        return self.arms[self.sweep.baseline]

    @property
    def looks(self) -> list[int]:
        """After how many seeds the claims are looked at; empty where once, at the end."""
        return list(LOOKS) if self.config.seeds == "auto" else []

    def rival(self, arm: str) -> str:
        """What an arm is compared with where no claim says otherwise: the arm that it stands on, or the baseline."""
        return self.onto(arm) or self.sweep.baseline

    def onto(self, arm: str) -> str | None:
        """What an arm of a ladder stands on: the next arm below it that is run."""
        below = self.sweep.arms[arm].onto if arm in self.sweep.arms else None
        while below is not None and below not in self.arms:
            below = self.sweep.arms[below].onto
        return below

    def can_judge(self, claim: ExpectedConfig) -> bool:
        """Whether all the arms are here that a claim is about."""
        return all(name in self.arms for name in self.sweep.members(claim))

    @property
    def searched_arms(self) -> list[Arm]:
        """The A/A arm and the control take the baseline's values."""
        return [arm for arm in self.arms.values() if arm.kind == "arm"]

    def search_seeds(self, arm: Arm) -> list[int]:
        """Equal budgets: the points of the largest grid have the listed seeds each, and an arm with fewer points has
        further ones, from the last on. An arm without anything to choose has none."""
        seeds = self.sweep.search.seeds
        if arm.grid(self.shared) == [{}]:
            return []
        most = max(len(a.grid(self.shared)) for a in self.searched_arms)
        wanted = len(seeds) * most // len(arm.grid(self.shared))
        return [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + wanted - len(seeds))]

    @property
    def search_trials(self) -> int:
        if self.published is not None:
            return 0
        return sum(len(a.grid(self.shared)) * len(self.search_seeds(a)) for a in self.searched_arms)

    @property
    def workers(self) -> int:
        if self.config.launch.workers is not None:
            return self.config.launch.workers
        if self.config.train.device == "cuda":
            return 1
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        return max(1, cores // (self.config.train.threads * self.devices))

    @property
    def devices(self) -> int:
        """The most that one of its trials is trained on."""
        return max(arm.keys.train.devices for arm in self.arms.values())

    @property
    def on_gpu(self) -> bool:
        return any(stage.train.device == "cuda" for arm in self.arms.values() for stage in arm.keys.all_stages)

    def trial_seconds(self, arm: Arm, scored: bool = True) -> float:
        """A rough expectation, from the speed of the scale's own model and what this arm's costs beside it."""
        keys, speed = arm.keys, self.config.launch.expected_tokens_per_second
        speed *= self._scale_flops / arm.cost.flops_per_token
        speed /= IN_FP64 if keys.model.dtype == "float64" else 1.0
        speed /= IN_FP32 if keys.model.dtype == "float32" and keys.train.device == "cpu" else 1.0
        speed *= keys.train.devices  # at best
        speed /= IN_CHUNKS if keys.model.pipeline.schedule != "none" else 1.0
        counting = keys.model.routers > 0 and keys.model.moe.balance.needs_batch_load
        training = keys.own_tokens / speed * (4 / 3 if counting else 1) * (COMPILED if keys.train.compile else 1)
        if keys.train.device == "cuda":
            training = max(training, keys.own_tokens / keys.tokens_per_step * keys.microbatches * LAUNCHING)
        elif keys.model.precision.fp8:
            training *= IN_FP8
        held_out = keys.eval.tokens if self.held_out is None else min(keys.eval.tokens, self.held_out)
        # The test set, a quarter of it again by file, and at each validation; what is asked is asked once more.
        validations = min(1 / keys.train.validate_every, keys.steps)
        evaluated = held_out * (1.25 + 0.25 * validations) * (2 if keys.data.source in DRAWN else 1)
        evaluated += 200 * min(keys.eval.items or 1000, MOST_ITEMS) + 65_536 if scored and keys.eval.tasks else 0
        evaluated += WRITING * tokens_written(keys.eval, keys.data) if scored else 0
        return training + (evaluated / (3 * speed) if keys.until == 1 else 0) + 1

    def shorter_seconds(self, arm: Arm) -> float:
        """Of an arm's shorter trainings, which are their decays."""
        shares = self.sweep.horizons
        found = [at_share(arm.keys, share, shares) for share in shares]
        return sum(self.trial_seconds(replace(arm, keys=keys), scored=False) for keys in found)

    @functools.cached_property
    def trunks(self) -> list[TrialKeys]:
        """What arms go on or learn from, each once."""
        return _trunks_of(self.arms.values())

    def trunk_seconds(self, arms: Iterable[Arm]) -> float:
        """Of what these go on or learn from, for one seed, each once."""
        return sum(self.trial_seconds(replace(self.baseline, keys=keys), scored=False) for keys in _trunks_of(arms))

    @functools.cached_property
    def text(self) -> dict[str, int] | None:
        """Tokens per split of the baseline's text; None where it was not prepared yet."""
        keys = self.baseline.keys
        return cached_tokens(
            keys.data, text_vocab(keys.data, keys.model.vocab_size), Path(self.config.runs_dir) / "data"
        )

    @property
    def held_out(self) -> int | None:
        """Tokens of the smaller held-out split, or what its bytes allow; None where neither is known yet, or where
        it is drawn and has no end."""
        if self.baseline.keys.data.source in ("skill", "problem"):
            return None
        return min(self.text["validation"], self.text["test"]) if self.text else self.baseline.keys.data.max_bytes

    @functools.cached_property
    def _scale_flops(self) -> float:
        """Training FLOPs per token of the model that the scale's speed was measured with."""
        keys = scale_config(self.config.scale).trial
        return cost(keys.model, keys.data.seq_len).flops_per_token

    @property
    def minutes(self) -> float:
        each = sum(self.trial_seconds(arm) + self.shorter_seconds(arm) for arm in self.arms.values())
        confirm = (each + self.trunk_seconds(self.arms.values())) * len(self.seeds)
        search = sum(
            self.trial_seconds(arm, scored=False) * len(arm.grid(self.shared)) * len(self.search_seeds(arm))
            for arm in self.searched_arms
        )
        for seed in {seed for arm in self.searched_arms for seed in self.search_seeds(arm)}:
            search += self.trunk_seconds(arm for arm in self.searched_arms if seed in self.search_seeds(arm))
        seconds = (confirm + (0 if self.published else search)) / self.workers
        return (seconds + 15) / 60


def _trunks_of(arms: Iterable[Arm]) -> list[TrialKeys]:
    found = list[TrialKeys]()
    for arm in arms:
        found += [keys for keys in arm.keys.trunks if keys not in found]
    return found


def results_dir(config: Config) -> Path:
    return Path(config.results_dir) if config.results_dir else ROOT / "results"


def config_guards(plan: Plan, arm: Arm) -> list[GuardResult]:
    """Isolation and budget: what the resolved keys alone can show."""
    base = plan.baseline
    searched = {*plan.shared, *arm.search, *base.search}
    declared = {*searched, *arm.set, *base.set, *arm.solved, *(["train.perturb"] if arm.kind == AA else [])}
    return [isolation(arm.keys, base.keys, declared), budget(arm.keys, base.keys, arm.matched)]
