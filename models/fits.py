"""Whether a model can go on from another's parameters: it has all of them, in the same shapes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.base.typed import ConfigError
from models.config import ModelConfig
from models.transformer import Transformer

PREFIX = "transformer."
"""Of a parameter's name in a checkpoint of the Trainer."""
WHY = "a branch keeps its trunk's parameters, so compare the two from scratch"


def check_fits(trunk: ModelConfig, arm: ModelConfig) -> None:
    """Raise ConfigError where the arm's model cannot take the trunk's parameters, before either is built."""
    with torch.device("meta"):
        theirs, own = (dict(Transformer(model).named_parameters()) for model in (trunk, arm))
    check_shapes(theirs, own)


def check_same(earlier: ModelConfig, later: ModelConfig) -> None:
    """Raise ConfigError where a stage's model cannot begin with what the stage before it has left, before either is
    built."""
    with torch.device("meta"):
        theirs, own = (dict(Transformer(model).state_dict()) for model in (earlier, later))
    for name in sorted(theirs.keys() | own.keys()):
        shapes = [tuple(state[name].shape) if name in state else None for state in (theirs, own)]
        if shapes[0] != shapes[1]:
            one, other = (shape or "not there" for shape in shapes)
            raise ConfigError(f"{name}: is {one} in a stage and {other} in the next; a chain keeps one model's shape")


def check_shapes(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise ConfigError for one of `theirs` that `own` lacks, or has in another shape."""
    if lost := sorted(theirs.keys() - own.keys()):
        raise ConfigError(f"{lost[0].removeprefix(PREFIX)}: the trunk has it and this arm has not; {WHY}")
    for name, value in theirs.items():
        if own[name].shape != value.shape:
            shapes = f"{tuple(value.shape)} in the trunk and {tuple(own[name].shape)} in this arm"
            raise ConfigError(f"{name.removeprefix(PREFIX)}: is {shapes}; {WHY}")
