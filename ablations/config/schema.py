"""The keys of a run: one tree of dataclasses, the only schema. `ablations/config/compose.py` composes it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ablations.config.trialkeys import TrainConfig, TrialKeys
from models.base.typed import Above, AtLeast, AtMost, Below, Distinct, Fits, NotEmpty
from models.config import ModelConfig
from models.post_training.config import DistilConfig, GRPOConfig
from models.training.config import OptimConfig
from tasks.config import DataConfig, EvalConfig

LOOKS = (4, 8, 16)
"""Of `seeds=auto`: after so many seeds the claims are looked at."""
NO_KEY = {"key": False}
"""Marks what a composed config knows and nobody can set."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
"""Of a sweep, and of what stands in its tables: an arm, an estimate."""
Text = Annotated[str, NotEmpty()]
Seed = Annotated[int, AtLeast(0), AtMost(2**31 - 1)]
SeedList = Annotated[list[Seed], NotEmpty(), Distinct()]
Count = Annotated[int, AtLeast(1), AtMost(10_000)]


ENTITY = Fits(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*", "a user's or team's name has letters, digits, ., - and _; leave it out for yours"
)
PROJECT = Fits(r"[^/\\#?%:]{1,128}", "a project's name has 1 to 128 characters, and none of /\\#?%:")
"""As W&B takes them."""
Mode = Literal["auto", "offline", "online", "disabled"]


@dataclass(frozen=True)
class TrackConfig:
    """Weights & Biases. It mirrors our own records and changes no number."""

    mode: Mode = "auto"
    """`auto`: online with a login, else offline."""
    project: Annotated[str, NotEmpty(), PROJECT] = "v3-ablations"
    entity: Annotated[str, NotEmpty(), ENTITY] | None = None
    checkpoints: bool = False
    """Keep the confirmation's checkpoints in the artifact of the result's run."""


@dataclass(frozen=True)
class LaunchConfig:
    """How trials are spread over this machine, or over many (docs/cluster.md). Changes no number."""

    kind: Literal["local", "ray", "slurm"] = "local"
    """Also written `launch=ray`. `local`: processes of this machine. `ray`: workers on a Ray cluster. `slurm`: jobs of
    Slurm, in arrays."""
    workers: Annotated[int, AtLeast(1), AtMost(256)] | None = None
    """Trials at once; null takes one per CPU core (one per GPU), and must be said for other machines than this one."""
    address: Text | None = None
    """Of a running Ray cluster, or `auto` for the one that this machine is in; null starts one of this machine alone.
    With `slurm`, `local` tries its jobs out as processes of this machine."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """Options of `sbatch` by their long names, e.g. `{partition: gpu, account: me, mem: 8G, time: 120}` (minutes)."""
    expected_tokens_per_second: Annotated[float, AtLeast(1), AtMost(1e12)] = 15_000.0
    """Training speed of one worker, or of each device of its trial, for the expected minutes in the plan."""
    progress: Literal["auto", "rich", "plain", "none"] = "auto"

    @property
    def elsewhere(self) -> bool:
        """Whether trials may run on other machines than this one."""
        return self.kind == "slurm" or (self.kind == "ray" and self.address is not None)


Design = Literal["scratch", "branch"]
Quantity = Literal["total_params", "active_params", "flops_per_token", "kv_bytes", "train_flops"]
Knob = Literal[
    "model.moe.moe_intermediate_size",
    "model.intermediate_size",
    "model.n_layers",
    "model.attention.n_heads",
    "model.attention.kv_lora_rank",
    "train.token_fraction",
]


@dataclass(frozen=True)
class MatchedConfig:
    """What is held equal to the baseline, within which tolerance, and what is turned to make it so."""

    equal: Annotated[list[Quantity], Distinct()] = field(
        default_factory=lambda: ["total_params", "active_params", "flops_per_token"]
    )
    """`train_flops` is that of the whole training; the others are of the model (models/cost.py)."""
    tolerance: Annotated[float, AtLeast(0), AtMost(1)] = 0.01
    """Largest deviation of a matched quantity from the baseline's, as a share."""
    knob: Knob | None = None
    """Solved for, so that the first of `equal` fits; null leaves arms as they are, and the budget guard stops those
    that do not fit."""


@dataclass(frozen=True)
class ArmConfig:
    """A variant: only the toggles by which it differs from the baseline."""

    about: str = ""
    set: dict[str, Any] = field(default_factory=dict)
    """Dotted keys and their values, e.g. `model.moe.balance.kind: bias`."""
    search: dict[str, list[float]] = field(default_factory=dict)
    """Keys searched for this arm besides the sweep's own, and their points (the strength of a balancing loss)."""
    matched: MatchedConfig | None = None
    """What this arm is matched on, where that is not the sweep's."""
    optional: bool = False
    """Left out unless named in `arms=` or with `arms=all`."""
    onto: str | None = None
    """Another arm, whose `set` this one adds to; it is compared with that arm instead of the baseline (a ladder)."""
    stages: Annotated[list[str], Distinct()] = field(default_factory=list)
    """Where the sweep has `stages`: those that this arm is trained in, one after the other, each from the weights that
    the one before has left. `set`, and all else that is said of an arm, is of the last one."""
    design: Design | None = None
    """How it begins, where that is not as the sweep's `design` says. The baseline is the same either way."""


@dataclass(frozen=True)
class ContrastConfig:
    """A weighted sum of arms, estimated seed by seed as a difference of two arms is."""

    about: str = ""
    weights: dict[str, float] = field(default_factory=dict)
    """Arm -> its weight; they add up to 0."""


@dataclass(frozen=True)
class DoseConfig:
    """The slope of every metric over the strength of something, from arms that differ in it."""

    key: str = ""
    """A dotted key of a number: the arms' values of it are the doses."""
    arms: Annotated[list[str], Distinct()] = field(default_factory=list)
    """Two or more."""
    values: dict[str, float] = field(default_factory=dict)
    """Arm -> its dose, in place of `key` and `arms`, where no key has it as a number."""
    log: bool = False
    """Over the dose's logarithm."""
    at: float | None = None
    """The published dose, whose effect is estimated by the slope, as `<name>_at` ..."""
    over: float | None = None
    """... over this one; null is 0, or 1 on a logarithm."""

    @property
    def members(self) -> list[str]:
        """The arms that the slope is taken over."""
        return list(self.values) or self.arms

    @property
    def reference(self) -> float:
        """The dose that `at` is compared with."""
        return self.over if self.over is not None else 1.0 if self.log else 0.0

    def estimates(self, name: str) -> list[str]:
        """What comes of a dose of this name."""
        return [name] if self.at is None else [name, f"{name}_at"]


@dataclass(frozen=True)
class FactorialConfig:
    """A two-level fractional factorial: the effects of many toggles from runs that each have half of them on."""

    factors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name -> the keys that it sets where it is on; off is the baseline."""
    generators: str = ""
    """A word per factor, as pyDOE3's `fracfact` takes them: `a b c abc` is 2^(4-1)."""


@dataclass(frozen=True)
class SearchConfig:
    """What is searched per arm, with an equal budget for every arm (method: search, then confirm)."""

    keys: dict[str, list[float]] = field(default_factory=lambda: {"optim.lr": [9e-4, 1.3e-3, 1.8e-3, 2.5e-3, 3.6e-3]})
    """Points shared by all arms. Neighbouring learning rates differ at most by a factor of 2; those of the default lie
    around scale=cpu's, near enough to see a cliff among them."""
    seeds: SeedList = field(default_factory=lambda: [1000, 1001])
    """Seeds of search trials, apart from the confirmation's. With fewer than two, or four rates, nothing bounds what a
    learning rate may cost. An arm with a smaller grid spends its budget on more of them, from the last on."""
    constraint_metric: str | None = None
    """Points are eligible only where this metric of the search trial ..."""
    constraint_max: Annotated[float, Above(0), AtMost(1)] | None = None
    """... is at most this share of its maximum (MaxVio: E / top_k - 1); judged again on the confirmation."""


@dataclass(frozen=True)
class ExpectedConfig:
    """A published claim, as a region that a difference must lie in. One verdict each."""

    arm: str
    """An arm, a contrast or a dose."""
    metric: str = "loss"
    against: str | None = None
    """The arm it is compared with; null is the sweep's baseline (a contrast has none)."""
    kind: Literal["better", "not_worse", "equal", "value", "identical"] = "better"
    """`better`: below 0, or by at least `margin`, without which no effect at all stays open. `not_worse`: below
    `margin`. Both are mirrored where higher is better, and refused where the metric has no direction
    (`ablations/metrics.py`). `equal`: within +-margin. `value`: inside `region`. `identical`: no seed differs by more
    than `margin`, a matter of arithmetic and not of statistics, which the A/A arm's tiny change of weights must be seen
    to exceed."""
    margin: Annotated[float, Above(0)] | None = None
    """In the metric's unit; `not_worse`, `equal` and `identical` need one, `better` may have one."""
    region: list[float] | None = None
    """[low, high] of a `value`, in the metric's unit."""
    says: str = ""
    """The claim as a clause for the result's first sentence: `a bias keeps the experts even`."""
    paper: str = ""
    """The paper's own number, with its place."""
    paper_value: float | None = None


@dataclass(frozen=True)
class SweepConfig:
    """One question: a YAML file in sweeps/."""

    name: str = ""
    question: str = ""
    """What is asked, in a sentence. Required."""
    source: str = ""
    """The paper, with its section or table."""
    baseline: str = ""
    """The name of the arm that the others are compared with."""
    common: dict[str, Any] = field(default_factory=dict)
    """Dotted keys that this sweep sets for all its arms."""
    at_least: dict[str, int] = field(default_factory=dict)
    """Dotted keys, and the smallest values that the question makes sense at: a scale's smaller ones are raised."""
    at_most: dict[str, int] = field(default_factory=dict)
    """Dotted keys, and the largest values that the question needs: a scale's larger ones are lowered."""
    arms: dict[str, ArmConfig] = field(default_factory=dict)
    """Name -> what it sets; two or more."""
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trainings that an arm is a chain of (pre-training, supervised fine-tuning, reinforcement learning): name -> the
    dotted keys that it sets beside `common`. Those that arms share are trained once."""
    teacher: Annotated[list[str], Distinct()] = field(default_factory=list)
    """The stages, one after the other, that train the model which others learn from (`distil.*`)."""
    design: Design = "scratch"
    """`scratch`: every arm from its own initial weights. `branch`: for each seed the baseline is trained once up to
    `branch_at`, and every arm goes on from its whole state there; what is estimated is the effect of switching the arm
    on at that point, without the noise of what came before. An arm may have a design of its own."""
    branch_at: Annotated[float, Above(0), Below(1)] | None = None
    """The share of the steps after which arms branch off."""
    trunk: dict[str, Any] = field(default_factory=dict)
    """Dotted keys in which what arms branch off differs from the baseline. Its steps have as many tokens: with
    `data.seq_len: 128, data.batch_size: 8` arms go on to longer sequences."""
    horizons: Annotated[list[Annotated[float, Above(0), Below(1)]], Distinct()] = field(default_factory=list)
    """Shares of the tokens at which every arm is also finished, with a decay of its own off one constant trunk; a
    verdict must then hold its sign at the longest of them."""
    factorial: FactorialConfig | None = None
    """Arms laid out as a factorial, beside those in `arms`."""
    doses: dict[str, DoseConfig] = field(default_factory=dict)
    """Slopes over the strength of a key: a claim names one as its `arm`."""
    contrasts: dict[str, ContrastConfig] = field(default_factory=dict)
    """Weighted sums of arms: a claim names one as its `arm`."""
    control: dict[str, Any] = field(default_factory=lambda: {"train.token_fraction": 0.9})
    """The known small harm that the sweep must be able to see."""
    matched: MatchedConfig = field(default_factory=MatchedConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    seeds: Annotated[int, AtLeast(2), AtMost(10_000)] = 8
    """How many confirmation seeds, unless `seeds=` says otherwise."""
    first_seed: Annotated[int, AtLeast(0), AtMost(100_000)] = 0
    """The first of them. A claim that was written after others were seen is judged on those that nobody has seen."""
    primary: str = "loss"
    """The metric of the main table and of the sentence."""
    metrics: Annotated[list[str], Distinct()] = field(default_factory=lambda: ["loss", "bits_per_byte"])
    """Those that are compared and tabulated."""
    expected: list[ExpectedConfig] = field(default_factory=list)
    """Published claims, each judged once."""
    waive: dict[str, Text] = field(default_factory=dict)
    """Guard -> why an arm need not pass it, which the result then says (docs/guards.md has those that this is open to).
    """

    def rival(self, claim: ExpectedConfig) -> str:
        """What a claim compares with: empty for an estimate that is a difference by itself."""
        return claim.against or ("" if claim.arm in self.estimates else self.baseline)

    @property
    def estimates(self) -> set[str]:
        """What is a difference by itself: contrasts, slopes over doses, and what follows at one."""
        return {*self.contrasts, *(own for name, dose in self.doses.items() for own in dose.estimates(name))}

    def members(self, claim: ExpectedConfig) -> list[str]:
        """The arms that a claim is about."""
        if self.rival(claim):
            return [claim.arm, self.rival(claim)]
        dose = self.doses.get(claim.arm) or self.doses.get(claim.arm.removesuffix("_at"))
        return dose.members if dose is not None else list(self.contrasts[claim.arm].weights)

    def design_of(self, arm: str) -> Design:
        return self.arms[arm].design or self.design

    def designs(self, arms: Iterable[str]) -> list[Design]:
        """Those of these arms, the baseline aside, which is the same in all: the sweep's own first."""
        found = {self.design_of(arm) for arm in arms if arm != self.baseline}
        return sorted(found, key=lambda design: design != self.design)


@dataclass(frozen=True)
class Config:
    """`python -m ablations.run KEY=VALUE ...`"""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    scale: str = "cpu"
    search: Literal["published", "fresh"] = "published"
    """`published` pins each arm's searched values to the published result's and only confirms; `fresh` searches."""
    seeds: Count | SeedList | Literal["auto"] | None = None
    """How many confirmation seeds, or which; `auto` looks at the claims after 4, 8 and 16, and ends when none is open.
    """
    search_points: Count | None = None
    """At most this many points per searched key (the middle ones); null takes the sweep's."""
    search_seeds: Count | None = None
    """At most this many search seeds; null takes the sweep's."""
    arms: str | Annotated[list[str], Distinct()] | None = None
    """A subset of the sweep's arms, or `all`; null takes those that are not optional."""
    runs_dir: Text = "runs"
    results_dir: Text | None = None
    """null: results/ of the checkout."""
    sweeps_dir: Text | None = None
    """null: sweeps/ of the checkout."""
    raise_sizes: bool = True
    """Whether a sweep's `at_least` holds at this scale."""
    dry_run: bool = False
    """Print the plan, and do nothing."""
    yes_really: bool = False
    """Start what is expected to take more than a day."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    distil: DistilConfig = field(default_factory=DistilConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    track: TrackConfig = field(default_factory=TrackConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    overrides: tuple[str, ...] = field(default=(), metadata=NO_KEY)
    """What was typed, word for word."""
    sweep_text: str = field(default="", metadata=NO_KEY)
    """The sweep's file as it was read."""
    note: str = field(default="", metadata=NO_KEY)
    """What the scale says about its numbers."""

    @property
    def confirmation_seeds(self) -> list[int]:
        count = LOOKS[-1] if self.seeds == "auto" else self.seeds or self.sweep.seeds
        first = self.sweep.first_seed
        return count if isinstance(count, list) else list(range(first, first + count))

    @property
    def trial(self) -> TrialKeys:
        """Before an arm has set anything."""
        return TrialKeys(self.model, self.data, self.optim, self.train, self.eval, grpo=self.grpo, distil=self.distil)
