"""A trained model on disk: `model.safetensors` and `config.json` in one folder. Nothing is unpickled."""

import dataclasses
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from models.config import ModelConfig
from models.transformer import Transformer
from models.typed import ConfigError, build

FORMAT = 1


def save_checkpoint(path: Path, model: Transformer, extra: dict[str, Any] | None = None) -> None:
    """Write weights and config atomically; `extra` is kept in config.json (data keys, tokenizer fingerprint)."""
    from safetensors.torch import save

    path.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    config = {"format": FORMAT, "model": dataclasses.asdict(model.config), **(extra or {})}
    _replace(path / "model.safetensors", save(tensors))
    _replace(path / "config.json", json.dumps(config, indent=1, sort_keys=True).encode())


def load_checkpoint(path: Path, device: str = "cpu") -> tuple[Transformer, dict[str, Any]]:
    """The model in eval mode and its config.json. Raises ConfigError where the folder is not a whole checkpoint."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config_path, weights_path = path / "config.json", path / "model.safetensors"
    for file in (config_path, weights_path):
        if not file.is_file():
            raise ConfigError(f"checkpoint={path}: {file.name} is missing; name a folder with {file.name} in it")
    try:
        extra = json.loads(config_path.read_text())
        if extra["format"] != FORMAT:
            raise ConfigError(f"checkpoint={path}: format={extra['format']}: this version reads format {FORMAT}")
        config = build(ModelConfig, extra["model"], "model")
        tensors = load_file(weights_path)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, SafetensorError) as error:
        raise ConfigError(f"checkpoint={path}: unreadable ({error}); it is truncated or not ours") from error
    model = Transformer(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"checkpoint={path}: weights and config.json do not fit ({reason})") from error
    return model.to(device).eval(), extra


def _replace(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)
