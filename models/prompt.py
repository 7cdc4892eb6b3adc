"""A model in a few lines, for people at a prompt.

import models
model = models.build("tiny", {"attention.kind": "mha"})
logits_BTV = model(tokens_BT).logits
model, tokenizer = models.load("runs/trials/ID/checkpoint")
print(models.complete(model, tokenizer, "def main(", 40))
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from models.base.typed import ConfigError
from models.base.typed import build as built
from models.checkpoint import load_checkpoint
from models.config import ModelConfig
from models.decoding.generate import greedy
from models.sizes import size
from models.transformer import Transformer, initialise, resolve_dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def build(name: str = "tiny", changes: Mapping[str, Any] | None = None, seed: int = 0) -> Transformer:
    """A model of a named size (models/sizes.py), its dotted keys changed as a sweep's arm does (`attention.kind`, or
    `model.attention.kind`), with the initial weights that a trial of this seed has. Raises ConfigError for a size or a
    key that there is not, and for a model that cannot be."""
    if not isinstance(name, str) or not isinstance(changes or {}, Mapping):
        raise ConfigError(f"build: expected a size and a mapping of keys to values, not {name!r} and {changes!r}")
    config, _ = size(name)
    values = dataclasses.asdict(config)
    for key, value in (changes or {}).items():
        if not isinstance(key, str):
            raise ConfigError(f"build: {key!r}: a key is text, as in attention.kind")
        *path, last = key.removeprefix("model.").split(".")
        group = values
        for part in path:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{key}: {part} is a value and no group of keys")
        group[last] = value
    changed = built(ModelConfig, values, "model")
    resolved = resolve_dtype(changed.dtype, "cpu", changed.precision.recipe)
    model = Transformer(built(ModelConfig, {**values, "dtype": resolved}, "model"))
    initialise(model, seed, model.config.std)
    return model.eval()


def load(checkpoint: str | Path, device: str = "cpu") -> "tuple[Transformer, Tokenizer]":
    """The model of a checkpoint's folder, a trial's or a converted one, and its tokenizer. Raises ConfigError where it
    is not a whole one."""
    from tokenizers import Tokenizer

    try:
        folder = Path(checkpoint).expanduser()
    except (TypeError, RuntimeError):
        raise ConfigError(f"load: expected the path of a checkpoint's folder, not {checkpoint!r}") from None
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: torch sees no CUDA device here; take cpu")
    model, _ = load_checkpoint(folder, device)
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(f"checkpoint={folder}: tokenizer.json is missing")
    try:
        return model, Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library has no class of its own
        raise ConfigError(f"checkpoint={folder}: tokenizer.json is unreadable ({error})") from None


def complete(model: Transformer, tokenizer: "Tokenizer", text: str, new_tokens: int = 40) -> str:
    """The text that the model finds most likely after `text`."""
    ids = tokenizer.encode(text).ids
    if not ids:
        raise ConfigError("text: empty; give a prompt of at least one token")
    device = model.lm_head.weight.device
    following = greedy(model, torch.tensor([ids], device=device), new_tokens)[0]
    return str(tokenizer.decode(following.tolist()))
