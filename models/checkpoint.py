"""A trained model on disk: `model.safetensors` and `config.json` in one folder. Nothing is unpickled.

config.json holds the SHA-256 of the weights, so that a file that was cut, changed or put beside another's config is
refused.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from models.base.files import write_atomically
from models.base.reading import json_of
from models.base.typed import ConfigError, build
from models.config import ModelConfig
from models.cost import cost
from models.rules import validate
from models.transformer import Transformer

FORMAT = 2
OWN = ("format", "model", "weights_sha256")
"""What config.json always has; the rest is the caller's."""
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


def save_checkpoint(path: Path, model: Transformer, extra: dict[str, Any] | None = None) -> None:
    """Write weights and config atomically; `extra` is kept in config.json (data keys, tokenizer fingerprint)."""
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = save(tensors)
    written = {"format": FORMAT, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    config = {**(extra or {}), **written, "model": dataclasses.asdict(model.config)}
    write_atomically(path / "model.safetensors", weights)
    write_atomically(path / "config.json", json.dumps(config, indent=1, sort_keys=True))


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[Transformer, dict[str, Any]]:
    """The model in eval mode and its config.json. Raises ConfigError where the folder is not a whole checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    config_path, weights_path = path / "config.json", path / "model.safetensors"
    for file in (config_path, weights_path):
        if not file.is_file():
            if path.suffix in PICKLES or any(other.suffix in PICKLES for other in path.glob("*.*")):
                raise ConfigError(f"checkpoint={path}: a pickle can run code when it is read; only safetensors are")
            raise ConfigError(f"checkpoint={path}: {file.name} is missing; name a folder with {file.name} in it")
    try:
        extra = json_of(config_path)
    except ValueError as error:
        raise ConfigError(
            f"checkpoint={path}: unreadable ({error}); it is truncated or not ours; copy the whole folder again"
        ) from error
    if not isinstance(extra, dict):
        raise ConfigError(f"checkpoint={path}: config.json holds no keys; copy the whole folder again")
    try:
        if extra["format"] != FORMAT:
            raise ConfigError(f"checkpoint={path}: format={extra['format']}: this version reads format {FORMAT}")
        config = build(ModelConfig, extra["model"], "model")
        weights = weights_path.read_bytes()
        tensors = load(weights)
        if hashlib.sha256(weights).hexdigest() != extra["weights_sha256"]:
            raise ConfigError(
                f"checkpoint={path}: model.safetensors is not the file that config.json was written with (its SHA-256 "
                f"differs): cut, changed, or of another checkpoint; copy the whole folder again"
            )
    except (KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(
            f"checkpoint={path}: unreadable ({error}); it is truncated or not ours; copy the whole folder again"
        ) from error
    _check_held(path, config, sum(tensor.numel() for tensor in tensors.values()))
    model = Transformer(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint={path}: weights and config.json do not fit ({reason})") from error
    return model.to(device).eval(), extra


def _check_held(path: Path, config: ModelConfig, held: int) -> None:
    """Raise ConfigError, before a model of any size is made, where there are fewer parameters than it would have."""
    validate(config)
    counted = cost(config, 1)
    if (wanted := counted.total_params + counted.mtp_params) > held:
        raise ConfigError(
            f"checkpoint={path}: weights and config.json do not fit (config.json describes {wanted:,} parameters, and "
            f"model.safetensors has {held:,})"
        )
