"""The keys of one trial: model, data, optim, train, eval; as plain nested dictionaries and as checked dataclasses.

Also imported by the workers, hence without Hydra and OmegaConf.
"""

import copy
import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.keys import TRIAL_GROUPS, all_keys, suggestion, trial_leaves
from ablations.schema import Config, TrainConfig
from models.config import ModelConfig, OptimConfig
from models.pipeline.rules import check_pipeline
from models.rules import check_length, validate
from models.typed import ConfigError, build
from tasks.config import END_OF_TEXT_ID, DataConfig, EvalConfig, ramped


@dataclass(frozen=True)
class TrialKeys:
    """Everything that a trial's numbers depend on, the seed, the code and the data aside."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig

    @property
    def tokens(self) -> int:
        """Tokens that the trial trains on, before rounding to whole batches."""
        return round(self.train.tokens * self.train.token_fraction)

    @property
    def tokens_per_step(self) -> int:
        return self.data.batch_size * self.data.seq_len

    @property
    def sequences(self) -> int:
        """Sequences that the trial trains on: whole batches that fit into the tokens."""
        return self.tokens // self.tokens_per_step * self.data.batch_size

    @functools.cached_property
    def batches(self) -> list[tuple[int, int]]:
        """(first sequence, sequences) of each optimizer step; a ramp makes more, smaller steps of the same tokens."""
        return ramped(self.sequences, self.data, self.microbatches)

    @property
    def model_has_experts(self) -> bool:
        return self.model.dense_layers < self.model.n_layers

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return len(self.batches)

    @property
    def microbatches(self) -> int:
        return self.model.pipeline.microbatches or self.train.microbatches

    def tokens_after(self, steps: int) -> int:
        """Tokens that the first `steps` optimizer steps train on."""
        first, count = self.batches[steps - 1] if steps else (0, 0)
        return (first + count) * self.data.seq_len

    @property
    def places(self) -> list[float]:
        """Where each step begins, in full batches (models.optim.lr_ratio)."""
        return [first / self.data.batch_size for first, _ in self.batches]

    @property
    def full_batches(self) -> int:
        """Steps that the training would have without a ramp: its length in the unit of `places`."""
        return self.sequences // self.data.batch_size

    @property
    def document_end(self) -> int | None:
        """The token that attention stops at in training, where documents are masked."""
        return END_OF_TEXT_ID if self.data.mask_documents else None


_GROUPS: dict[str, Any] = typing.get_type_hints(TrialKeys)


def trial_keys(config: Config) -> dict[str, Any]:
    """The five groups of a composed config as plain nested dictionaries."""
    return {group: dataclasses.asdict(getattr(config, group)) for group in TRIAL_GROUPS}


def get(keys: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted key."""
    node: Any = keys
    for part in name.split("."):
        node = node[part]
    return node


def with_overrides(keys: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A copy of `keys` with the dotted `changes`, types checked.

    Raises ConfigError that begins with `where` (a file and its part) for a key that no trial has or a wrong value.
    """
    changed = copy.deepcopy(dict(keys))
    for name, value in changes.items():
        if name not in trial_leaves():
            raise ConfigError(f"{where}: {_not_a_leaf(str(name))}")
        *groups, last = name.split(".")
        get(changed, ".".join(groups))[last] = copy.deepcopy(value)
    try:
        for group in {str(name).split(".")[0] for name in changes}:
            changed[group] = dataclasses.asdict(build(_GROUPS[group], changed[group], at=group))
        return changed
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def unruled_trial(keys: Mapping[str, Any]) -> TrialKeys:
    """The five groups as dataclasses, each key in its range; no rule between keys is checked. Raises ConfigError."""
    return TrialKeys(**{group: build(_GROUPS[group], keys.get(group, {}), at=group) for group in TRIAL_GROUPS})


def typed_trial(keys: Mapping[str, Any]) -> TrialKeys:
    """The five groups as dataclasses, with every rule between keys checked. Raises ConfigError."""
    trial = unruled_trial(keys)
    validate(trial.model)
    _check_data(trial)
    return trial


def differing(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two trials differ."""
    return [name for name in trial_leaves() if get(left, name) != get(right, name)]


def _not_a_leaf(name: str) -> str:
    if name in all_keys() and name.split(".")[0] in TRIAL_GROUPS:
        members = [leaf for leaf in trial_leaves() if leaf.startswith(name + ".")]
        return f"{name} is a group: write its keys out, such as {members[0]}"
    if name in all_keys():
        return f"{name}: not a key of a trial; an arm can set {', '.join(group + '.*' for group in TRIAL_GROUPS)}"
    return f"{name}: no such key{suggestion(name, trial_leaves())}"


MOST_STEPS = 1_000_000
"""Of a trial; V3's own training took 235,000 (14.8T tokens in batches of 63M)."""


def _check_data(trial: TrialKeys) -> None:
    data, train = trial.data, trial.train
    if data.seq_len < 2:
        raise ConfigError(f"data.seq_len={data.seq_len}: must be at least 2, or no token has a next one")
    count = trial.microbatches
    if data.batch_size % count:
        name = "train.microbatches" if trial.model.pipeline.microbatches is None else "model.pipeline.microbatches"
        raise ConfigError(
            f"data.batch_size={data.batch_size}: must divide evenly into {name}={count}; "
            f"the next that does is {-(-data.batch_size // count) * count}"
        )
    check_pipeline(trial.model, count)
    if trial.tokens < trial.tokens_per_step:
        raise ConfigError(
            f"train.tokens={train.tokens} (x train.token_fraction={train.token_fraction}): less than one batch, which "
            f"is data.batch_size x data.seq_len = {trial.tokens_per_step} tokens"
        )
    if trial.tokens // trial.tokens_per_step > MOST_STEPS:
        raise ConfigError(
            f"train.tokens={train.tokens}: {trial.tokens // trial.tokens_per_step:,} batches of data.batch_size x "
            f"data.seq_len = {trial.tokens_per_step} tokens; at most {MOST_STEPS:,}"
        )
    if trial.eval.tokens < data.seq_len:
        raise ConfigError(f"eval.tokens={trial.eval.tokens}: less than one sequence (data.seq_len={data.seq_len})")
    for source, name in (("text", "path"), ("hf", "name")):
        value = getattr(data, name)
        if data.source == source and not value:
            raise ConfigError(f"data.source={source}: needs data.{name}={_WANTED[name]}")
        if data.source != source and value is not None:
            raise ConfigError(f"data.{name}={value}: is read with data.source={source} only; add data.source={source}")
    optim = trial.optim
    if (
        optim.schedule == "v3"
        and not optim.warmup_fraction <= optim.cosine_from < optim.cosine_until <= optim.tail_from
    ):
        raise ConfigError(
            f"optim.cosine_from={optim.cosine_from}: the v3 schedule needs optim.warmup_fraction <= cosine_from < "
            f"cosine_until <= tail_from (here {optim.warmup_fraction}, {optim.cosine_from}, {optim.cosine_until}, "
            f"{optim.tail_from})"
        )
    kernels = trial.model.precision.kernels
    if kernels in ("torch", "triton") and trial.train.device != "cuda":
        raise ConfigError(f"model.precision.kernels={kernels}: needs train.device=cuda; on a CPU it is emulated")
    check_length(trial.model, data.seq_len)
    if trial.optim.schedule == "wsd" and trial.optim.warmup_fraction + trial.optim.decay_fraction > 1:
        raise ConfigError(
            f"optim.decay_fraction={trial.optim.decay_fraction}: with optim.warmup_fraction="
            f"{trial.optim.warmup_fraction} it is more than the whole run; lower one of them"
        )


_WANTED = {"path": "FILE_OR_FOLDER", "name": "DATASET"}
