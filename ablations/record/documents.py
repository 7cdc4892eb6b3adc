"""What a sweep writes beside its tables: the plan, before the first trial, and how far it has come.

`plan.json` is written once and never changed; its hash is the pre-registration. `state.json` is written anew whenever
something is settled. Both are these classes and nothing else: whoever reads one gets it typed and checked.
"""

import dataclasses
import hashlib
import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from ablations.config.schema import NAME, ContrastConfig, ExpectedConfig, MatchedConfig, SearchConfig
from ablations.config.trialkeys import TrialKeys
from ablations.files import as_json, read_json, write_json
from ablations.record.guardresult import GuardResult
from models.base.typed import PLAIN, Above, AtLeast, AtMost, Below, ConfigError, build
from models.cost import Cost

PLAN, STATE, JOURNAL = "plan.json", "state.json", "optuna.journal"
FORMAT: Final = 1
ArmKind = Literal["arm", "aa", "control"]
PlainName = Annotated[str, PLAIN]
"""Files are named by it."""
Count = Annotated[int, AtLeast(1)]
Share = Annotated[float, Above(0), Below(1)]
MOST_FLOPS = 1e30
"""Of a token."""
Point = dict[str, float]
"""Searched keys and their values."""


@dataclass(frozen=True)
class ArmDocument:
    """An arm as the plan fixes it, and what it costs (models/cost.py)."""

    about: str
    kind: ArmKind
    """`arm`, `aa` (the baseline, weights perturbed by 1e-6) or `control` (the known small harm)."""
    set: dict[str, Any]
    search: dict[str, list[float]]
    tokens: Count
    total_params: Count
    active_params: Count
    flops_per_token: Annotated[float, Above(0), AtMost(MOST_FLOPS)]
    kv_bytes: Annotated[int, AtLeast(0)]
    matched: MatchedConfig
    """What it was held to."""
    mtp_params: int = 0
    embedding_params: int = 0
    solved: dict[str, Any] = field(default_factory=dict)
    """The matching knob, where it was turned."""
    onto: str | None = None
    """The arm that it adds to, and is compared with instead of the baseline."""
    branched: bool = False
    """Whether it goes on from the baseline's state at `PlanDocument.branch_at`."""
    keys: str = ""
    """Hash of all its keys, of earlier stages and of teachers too; a searched one has the baseline's value. Empty in
    plans of before."""

    @property
    def train_flops(self) -> float:
        return self.flops_per_token * self.tokens

    @property
    def tokens_per_active_parameter(self) -> float:
        return self.tokens / self.active_params


def shape_of(size: Cost | ArmDocument) -> tuple[int, ...]:
    """What differs where arms differ in their parameters, those of MTP modules among them, or in their cache."""
    return size.total_params, size.active_params, size.mtp_params, size.kv_bytes


@dataclass(frozen=True)
class PlanDocument:
    """Everything that is fixed before the first trial, and the rule by which it will be judged."""

    sweep: PlainName
    scale: PlainName
    question: str
    source: str
    search: Literal["published", "fresh"]
    search_rule: SearchConfig
    baseline: str
    primary: str
    metrics: list[str]
    seeds: list[int]
    arms: dict[str, ArmDocument]
    expected: list[ExpectedConfig]
    matched: MatchedConfig
    decision_rule: str
    code: str
    """Hash of the code that a trial's numbers depend on."""
    data: str
    """Hash of the baseline's data."""
    keys: TrialKeys
    """The baseline's."""
    bits: dict[str, str] = field(default_factory=dict)
    """Versions and instruction set, which move the bits of the same trials. Empty in plans of before."""
    task_files: list[str] = field(default_factory=list)
    """Of each task that is a file, the hash of all that it leads to."""
    design: Literal["scratch", "branch"] = "scratch"
    branch_at: Share | None = None
    """Where arms branch off the baseline, as a share of the steps."""
    horizons: list[Share] = field(default_factory=list)
    """Shares of the tokens at which every arm is finished too."""
    looks: list[Count] = field(default_factory=list)
    """After how many seeds the claims are looked at, where that is more than once: the run ends at the first look that
    leaves none open."""
    contrasts: dict[str, ContrastConfig] = field(default_factory=dict)
    """Estimates over more than two arms: weighted sums of their values, seed by seed."""
    left_out: list[str] = field(default_factory=list)
    """Arms that the sweep usually has and this run does without; the families count their comparisons all the same."""
    values: dict[str, Point] = field(default_factory=dict)
    """Those of a published search, by arm; empty where values are searched."""
    command: str = ""
    """What was typed."""
    sweep_file: str = ""
    """The sweep's file as it was read."""
    note: str = ""
    """What the scale says about its numbers."""
    format: Literal[1] = FORMAT

    def rival(self, claim: ExpectedConfig) -> str:
        """What a claim compares with: empty for a contrast, which is a difference by itself."""
        return claim.against or ("" if claim.arm in self.contrasts else self.baseline)

    def members(self, claim: ExpectedConfig) -> list[str]:
        """The arms that a claim is about."""
        if claim.arm in self.contrasts:
            return list(self.contrasts[claim.arm].weights)
        return [claim.arm, self.rival(claim)]

    def reach(self, claim: ExpectedConfig) -> float:
        """By how much an estimate moves where arms on one side of it are each 1 worse than they could be."""
        contrast = self.contrasts.get(claim.arm)
        return 1.0 if contrast is None else math.fsum(weight for weight in contrast.weights.values() if weight > 0)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises ConfigError where the file is none of ours, OSError where it cannot be read."""
        plan = _read(cls, folder / PLAN)
        if plan.baseline not in plan.arms:
            raise ConfigError(
                f"{folder / PLAN}: baseline={plan.baseline}: is none of its arms ({', '.join(plan.arms)})"
            )
        for name in (*plan.arms, *plan.contrasts):
            if not NAME.fullmatch(name):
                raise ConfigError(f"{folder / PLAN}: {name}: a name has only letters, digits, - and _")
        if (wrong := _wrong(plan)) is not None:
            raise ConfigError(f"{folder / PLAN}: {wrong}")
        return dataclasses.replace(plan, command=_quoted(plan.command, folder / PLAN)) if plan.command else plan

    def write(self, folder: Path) -> str:
        """Returns the SHA-256 of the bytes written."""
        write_json(folder / PLAN, dataclasses.asdict(self))
        return sha_of(folder / PLAN)

    @property
    def sha(self) -> str:
        """SHA-256 of the bytes that `write` writes."""
        return hashlib.sha256(as_json(dataclasses.asdict(self)).encode()).hexdigest()


@dataclass(frozen=True)
class SearchTrial:
    """One trial of the search, scored on the search-validation split; its numbers are None where it did not finish."""

    arm: str
    point: Point
    seed: int
    id: PlainName
    loss: float | None = None
    max_vio_global: float | None = None
    share: float | None = None
    """The constrained metric over its maximum; None where the search had no constraint."""


@dataclass(frozen=True)
class ConfirmTrial:
    arm: str
    seed: int
    id: PlainName
    share: Annotated[float, Above(0), AtMost(1)] = 1.0
    """Of the tokens, where the arm is finished at several lengths."""


@dataclass(frozen=True)
class Speed:
    """Of one arm, measured apart from its trials."""

    tokens_per_second: Annotated[float, Above(0)]
    seconds_per_token: list[Annotated[float, Above(0)]] = field(default_factory=list)
    """One for each round in which all arms were timed in turn."""
    peak_training_bytes: float | None = None
    decode_tokens_per_second: float | None = None
    speculative_speedup: float | None = None
    speculative_tokens_per_forward: float | None = None
    speculative_acceptance: list[float] = field(default_factory=list)
    """By depth."""


Chunks = dict[str, list[float]]
"""Seconds of a pipeline's chunks by stage: f, b, i, w."""


@dataclass
class SweepState:
    """How far a sweep has come under its plan. What is finished is a record; this says which belong to it."""

    plan_sha: str = ""
    """SHA-256 of the plan.json that it belongs to."""
    deviations: list[str] = field(default_factory=list)
    """What the result must say of itself."""
    started: bool = False
    """From the first trial on, before there is anything to say of it."""
    minutes: float = 0.0
    guards: dict[str, list[GuardResult]] = field(default_factory=dict)
    """By arm."""
    guard_keys: dict[str, str] = field(default_factory=dict)
    """Arm -> hash of what its guards saw; they are not run again for the same."""
    search: list[SearchTrial] = field(default_factory=list)
    mistuning: dict[str, float | None] = field(default_factory=dict)
    chosen: dict[str, Point] = field(default_factory=dict)
    confirm: list[ConfirmTrial] = field(default_factory=list)
    looked: int = 0
    """How many of the plan's seeds the run has come to, where it looks more than once."""
    settled: bool = False
    """Whether no further look is to come."""
    speed: dict[str, Speed] = field(default_factory=dict)
    chunks: dict[str, Chunks] = field(default_factory=dict)
    format: Literal[1] = FORMAT

    @classmethod
    def read(cls, folder: Path) -> Self:
        """An empty state where there is none yet. Raises ConfigError, OSError as `PlanDocument.read`."""
        return _read(cls, folder / STATE) if (folder / STATE).is_file() else cls()

    def write(self, folder: Path) -> None:
        write_json(folder / STATE, dataclasses.asdict(self))

    @property
    def begun(self) -> bool:
        """Whether anything was trained under it."""
        return self.started or bool(self.search or self.confirm)

    @property
    def trial_ids(self) -> list[str]:
        """Of confirmation and search, each once, sorted."""
        return sorted({trial.id for trial in self.confirm} | {trial.id for trial in self.search})


def _wrong(plan: PlanDocument) -> str | None:
    """What its types do not say, and whoever reckons with it relies on: the part, and the rule that it breaks."""
    if empty := [name for name, contrast in plan.contrasts.items() if not contrast.weights]:
        return f"contrasts.{empty[0]}.weights: must not be empty"
    if own := [name for name, arm in plan.arms.items() if arm.onto == name]:
        return f"arms.{own[0]}.onto={own[0]}: an arm adds to another one"
    if not plan.seeds:
        return "seeds: must not be empty"
    if plan.looks and (sorted(set(plan.looks)) != plan.looks or plan.looks[-1] > len(plan.seeds)):
        return f"looks={plan.looks}: must ascend, to at most its {len(plan.seeds)} seeds"
    return None


def _quoted(typed: str, path: Path) -> str:
    """The words for `ablations.run`, each in the quotes that keep a shell from more than passing them on: readers type
    what a page shows. Raises ConfigError for another command."""
    try:
        words = shlex.split(typed)
    except ValueError:
        words = []
    if words[:3] != ["python", "-m", "ablations.run"]:
        raise ConfigError(f"{path}: command={typed}: no command of ablations.run")
    return shlex.join(words)


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _read(cls: Any, path: Path) -> Any:
    values = read_json(path)
    try:
        return build(cls, values)
    except (ConfigError, TypeError) as error:  # TypeError: a key without a default is missing
        raise ConfigError(f"{path}: not a file of this version ({error}); restore it, or remove it") from None
