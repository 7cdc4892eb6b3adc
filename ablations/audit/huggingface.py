"""Causal language models of transformers: from a folder, without a network, and without code of the folder's own."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablations.audit.subject import Plain, Subject
from ablations.guards.probes import same_dice
from models.base.reading import json_of
from models.base.typed import ConfigError


class HuggingFace(Plain):
    """Its loss is the cross entropy alone: an auxiliary loss of experts, which some add to it, is left out."""

    def call(self, tokens_BT: torch.Tensor, **more: Any) -> Any:
        more.setdefault("use_cache", False)
        if hasattr(self.module.config, "output_router_logits"):
            more.setdefault("output_router_logits", False)
        return super().call(tokens_BT, **more)

    def doubled(self, module: nn.Module) -> nn.Module:
        """One expert after the other: the grouped product has no FP64."""
        switch = getattr(module, "set_experts_implementation", None)
        if callable(switch):
            switch("eager")
        return super().doubled(module)

    def fresh(self) -> Subject | None:
        if not self.trained:
            return self
        from transformers import AutoModelForCausalLM

        with same_dice():
            module = AutoModelForCausalLM.from_config(self.module.config)
        return HuggingFace(module.to(torch.float32).eval())


def load(folder: Path, target: str) -> HuggingFace:
    """In FP32. Raises ConfigError for a folder that is not such a model's."""
    if not list(folder.glob("*.safetensors")):
        raise ConfigError(f"{target}: holds no .safetensors; pickles are not read (save_pretrained writes safetensors)")
    _check_stays(folder, target)
    try:
        with quiet():
            from transformers import AutoConfig, AutoModelForCausalLM

            local = {"local_files_only": True, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(folder, **local)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, config=config, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
            )
    except Exception as error:  # transformers raises whatever its files make it stumble over
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise ConfigError(f"{target}: transformers cannot load it as a causal language model ({said})") from error
    module, found = loaded
    if missing := sorted(found["missing_keys"]):
        more = f" and {len(missing) - 1} more" * (len(missing) > 1)
        raise ConfigError(f"{target}: its weights lack {missing[0]}{more}; save the whole model there")
    return HuggingFace(module.eval(), trained=True)


def _check_stays(folder: Path, target: str) -> None:
    """Raise ConfigError for a folder whose files have transformers open others, outside of it."""
    if (folder / "adapter_config.json").exists():
        raise ConfigError(
            f"{target}: holds adapter_config.json, which names another model; merge them, and save the whole model"
        )
    index = folder / "model.safetensors.index.json"
    try:
        shards = json_of(index)["weight_map"].values() if index.is_file() else ()
        away = [shard for shard in shards if Path(shard).name != shard]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{target}: {index.name} has no weight_map from tensors to files ({error})") from error
    if away:
        raise ConfigError(f"{target}: {index.name} names {away[0]}, which is no file of this folder")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is looked for on a hub, and nothing is said but what we say."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        from transformers.utils import logging

        level = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
        logging.set_verbosity(level)
    finally:
        os.environ.pop("HF_HUB_OFFLINE")
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before
