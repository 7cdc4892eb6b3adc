"""The keys of one trial: everything that its numbers depend on, the seed, the code and the data aside.

A trial is a list of stages. The first begins from initial weights, each next one from what the one before it has left:
from its weights where that had come to its end, and where it was stopped on its way (`Stage.until`) from its whole
state, at the same place of its own course. The groups of the command line and of a sweep's arm are the last stage's,
and what is scored at its end.

Also imported by the workers, hence without the rest of the schema: what a trial does not depend on is not here.
"""

import copy
import dataclasses
import functools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from models.base.bounds import Positive, Share
from models.base.typed import Above, AtLeast, AtMost, ConfigError, build, suggestion
from models.config import ModelConfig
from models.post_training.config import DistilConfig, GRPOConfig
from models.training.config import OptimConfig
from tasks.config import END_OF_TEXT_ID, Batches, DataConfig, EvalConfig, batch_count, ramped

Fraction = Annotated[float, Above(0), AtMost(1)]


@dataclass(frozen=True)
class TrainConfig:
    """One stage's training, in tokens."""

    tokens: Annotated[int, Above(0), AtMost(10**15)] = 614_400
    token_fraction: Annotated[float, Above(0), AtMost(1000)] = 1.0
    """Multiplies `tokens`; the positive control trains on 0.9 of them."""
    microbatches: Annotated[int, Above(0)] = 4
    """Microbatches per optimizer step; `data.batch_size` divides evenly into them."""
    perturb: Share = 0.0
    """Relative size of a random change of the initial weights; the A/A arm uses 1e-6."""
    validate_every: Fraction = 0.2
    """Fraction of the run between two validations."""
    checkpoint_every: Annotated[float, AtLeast(1e-6), AtMost(1)] = 0.25
    """Fraction of the run between two resumable checkpoints."""
    spike_nats: Positive = 2.0
    """A loss this far above the running minimum (at first ln(V), as who knows nothing has), each over three steps in a
    row, is a divergence after the warmup."""
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, Above(0), AtMost(256)] = 1
    """CPU threads of one trial. They change bits, so they are part of a trial's id."""
    compile: bool | Literal["auto"] = False
    """Run the model's blocks through torch.compile in training (docs/gpu.md). It rounds otherwise, hence another id.
    `auto`: where all arms of a sweep can be, in BF16 on a CPU under Linux with a C++ compiler."""
    devices: Annotated[int, Above(0), AtMost(64)] = 1
    """Processes that share each batch of one trial (models/training/parallel.py), a GPU each, or `threads` threads."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """How they do: whole copies of the model, or shards of it (FSDP2)."""


@dataclass(frozen=True)
class Stage:
    """One training: a model, what it learns from, and how."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig, kw_only=True)
    distil: DistilConfig = field(default_factory=DistilConfig, kw_only=True)
    teacher: "list[Stage]" = field(default_factory=list, kw_only=True)
    """The training of the model that is learned from, where `distil` says that there is one."""
    until: Fraction = field(default=1.0, kw_only=True)
    """The share of its steps after which it is stopped, for a next stage to go on in its place (a trunk). Its schedule
    is that of its whole course."""

    @property
    def stop(self) -> int:
        """The last step that it takes."""
        return max(1, round(self.until * self.steps))

    @property
    def tokens(self) -> int:
        """Tokens that the stage trains on, before rounding to whole batches."""
        return round(self.train.tokens * self.train.token_fraction)

    @property
    def tokens_per_step(self) -> int:
        """Where the model writes them itself: at most."""
        return self.data.batch_size * self.data.seq_len

    @property
    def sequences(self) -> int:
        """Sequences that the stage trains on: whole batches that fit into the tokens."""
        return self.tokens // self.tokens_per_step * self.data.batch_size

    @property
    def period(self) -> int:
        """Sequences of one of `data.epochs`."""
        return self.sequences // self.data.epochs

    @functools.cached_property
    def batches(self) -> Batches:
        """(first sequence, sequences) of each optimizer step; a ramp makes more, smaller steps of the same tokens."""
        return ramped(self.sequences, self.data, self.microbatches)

    @property
    def model_has_experts(self) -> bool:
        return self.model.dense_layers < self.model.n_layers

    @functools.cached_property
    def steps(self) -> int:
        """Optimizer steps."""
        return batch_count(self.sequences, self.data, self.microbatches)

    @property
    def microbatches(self) -> int:
        return self.model.pipeline.microbatches or self.train.microbatches

    @property
    def parallel(self) -> Literal["none", "ddp", "fsdp"]:
        return self.train.strategy if self.train.devices > 1 else "none"

    def tokens_after(self, steps: int) -> int:
        """Tokens that the first `steps` optimizer steps train on."""
        first, count = self.batches[steps - 1] if steps else (0, 0)
        return (first + count) * self.data.seq_len

    @property
    def step_starts(self) -> list[float]:
        """Where each step begins, in full batches (models.training.optim.lr_ratio)."""
        return [first / self.data.batch_size for first, _ in self.batches]

    @property
    def full_batches(self) -> int:
        """Steps that the training would have without a ramp: its length in the unit of `step_starts`."""
        return self.sequences // self.data.batch_size

    @property
    def document_end(self) -> int | None:
        """The token that attention stops at in training, where documents are masked."""
        return END_OF_TEXT_ID if self.data.mask_documents else None

    @property
    def with_teachers(self) -> "list[Stage]":
        """The stages that its teacher is trained in, and theirs, before the stage itself."""
        return [*(each for stage in self.teacher for each in stage.with_teachers), self]


@dataclass(frozen=True)
class TrialKeys(Stage):
    """The last stage, what is scored at its end, and the stages before it."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    before: list[Stage] = field(default_factory=list)

    @functools.cached_property
    def stages(self) -> list[Stage]:
        """All of them, in order."""
        return [*self.before, Stage(**_stage_fields(self))]

    @property
    def all_stages(self) -> list[Stage]:
        """Those of teachers too."""
        return [each for stage in self.stages for each in stage.with_teachers]

    def goes_on(self, number: int) -> bool:
        """Whether a stage takes the place of the one before it, which was stopped on its way."""
        return number > 0 and self.stages[number - 1].until < 1

    def first_step(self, number: int) -> int:
        """How many steps of its own course a stage finds done."""
        return self.stages[number - 1].stop if self.goes_on(number) else 0

    def done_before(self, number: int) -> tuple[int, int]:
        """Steps and tokens of the whole trial that a stage's own count begins from."""
        steps = tokens = 0
        for i, stage in enumerate(self.stages[:number]):
            first = self.first_step(i + 1)
            steps += stage.stop - first
            tokens += stage.tokens_after(stage.stop) - self.stages[i + 1].tokens_after(first)
        return steps, tokens

    @property
    def trunk(self) -> "TrialKeys | None":
        """The keys of the trial that trains what the last stage goes on from; None where that is initial weights."""
        return TrialKeys.unscored(self.before, self.eval) if self.before else None

    @property
    def has_base(self) -> bool:
        """Whether the distance from what its first stage leaves is measured: on answers, which text has none of."""
        return all(stage.data.source == "problem" and stage.until == 1 for stage in self.stages)

    @property
    def taught_by(self) -> "TrialKeys | None":
        """The keys of the trial that trains the teacher of the stages that have one: it is the same for all."""
        chains = [stage.teacher for stage in self.stages if stage.teacher]
        return TrialKeys.unscored(chains[0], self.eval) if chains else None

    @property
    def trunks(self) -> "Iterator[TrialKeys]":
        """Its trunk, the trial that trains its teacher, theirs, and so on; some may come twice."""
        for keys in (self.trunk, self.taught_by):
            if keys is not None:
                yield keys
                yield from keys.trunks

    @staticmethod
    def unscored(stages: list[Stage], eval: EvalConfig) -> "TrialKeys":
        """The keys of a trial of these stages that is not scored, but validated as those are that go on from it."""
        *before, last = stages
        scored = dataclasses.replace(
            eval, tasks=[], lengths=[], samples=EvalConfig.samples, run_model_code=False, split="test"
        )
        return TrialKeys(**_stage_fields(last), eval=scored, before=before)

    @property
    def branched(self) -> bool:
        """Whether the last stage takes the place of one that was stopped on its way."""
        return self.goes_on(len(self.before))

    @property
    def own_tokens(self) -> int:
        """What the trial trains on, where its trunk has been trained."""
        return self.trained_tokens - (0 if self.trunk is None else self.trunk.trained_tokens)

    @property
    def trained_steps(self) -> int:
        """Over all stages."""
        return self.done_before(len(self.before))[0] + self.stop

    @property
    def trained_tokens(self) -> int:
        """Over all stages, in whole batches."""
        return self.done_before(len(self.before))[1] + self.tokens_after(self.stop)


def _stage_fields(stage: Stage) -> dict[str, Any]:
    return {part.name: getattr(stage, part.name) for part in dataclasses.fields(Stage)}


TRIAL_GROUPS = ("model", "data", "optim", "train", "grpo", "distil", "eval")
"""The keys that can change a trial's numbers. What no group here holds must not."""
OF_A_RUN = ("track", "launch")
"""Groups of a command line alone."""
_GROUPS: dict[str, Any] = {name: typing.get_type_hints(TrialKeys)[name] for name in TRIAL_GROUPS}


@functools.cache
def trial_leaves() -> tuple[str, ...]:
    """The dotted names that an arm may set or search."""
    return tuple(name for group, cls in _GROUPS.items() for name in _leaves(cls, f"{group}."))


def _leaves(cls: Any, prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for part in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[part.name]):
            yield from _leaves(hints[part.name], f"{prefix}{part.name}.")
        else:
            yield prefix + part.name


def value_of(keys: Stage, name: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(getattr, name.split("."), keys)


def with_overrides(keys: TrialKeys, changes: Mapping[str, Any], where: str) -> TrialKeys:
    """`keys` with the dotted `changes`, each of the right type and within its bounds; rules between keys are
    `ablations.config.trialrules.check`'s to judge.

    Raises ConfigError that begins with `where` (a file and its part) for a key that no trial has or a wrong value.
    """
    groups = {name: dataclasses.asdict(getattr(keys, name)) for name in _GROUPS}
    for name, value in changes.items():
        if name not in trial_leaves():
            raise ConfigError(f"{where}: {_not_a_leaf(str(name))}")
        *path, last = name.split(".")
        functools.reduce(dict.__getitem__, path, groups)[last] = copy.deepcopy(value)
    try:
        changed = {str(name).split(".")[0] for name in changes}
        return dataclasses.replace(keys, **{name: build(_GROUPS[name], groups[name], at=name) for name in changed})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def differing(left: TrialKeys, right: TrialKeys) -> list[str]:
    """The dotted keys in which the last stages of two trials, or what is scored at their ends, differ."""
    return [name for name in trial_leaves() if value_of(left, name) != value_of(right, name)]


def unlike(keys: TrialKeys) -> dict[str, Any]:
    """What the stage before the last one has otherwise: dotted keys and its values."""
    trained = [name for name in trial_leaves() if not name.startswith("eval.")]
    return {
        name: value_of(keys.before[-1], name)
        for name in trained
        if keys.before and value_of(keys.before[-1], name) != value_of(keys, name)
    }


def _not_a_leaf(name: str) -> str:
    members = [leaf for leaf in trial_leaves() if leaf.startswith(name + ".")]
    if members:
        return f"{name} is a group: write its keys out, such as {members[0]}"
    group = name.split(".")[0]
    if group in OF_A_RUN or (group not in TRIAL_GROUPS and not suggestion(name, trial_leaves())):
        return f"{name}: not a key of a trial; an arm can set {', '.join(group + '.*' for group in TRIAL_GROUPS)}"
    return f"{name}: no such key{suggestion(name, trial_leaves())}"
