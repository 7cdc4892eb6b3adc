"""DeepSeek-V3 as toggles, in plain PyTorch.

At a prompt: `models.build("tiny", {"attention.kind": "mha"})`, `models.load(checkpoint)`, `models.complete(...)`.
"""

import importlib
from typing import Any

_PROMPT = ("build", "load", "complete")


def __getattr__(name: str) -> Any:
    """Imported by whoever asks for it, and by its name: no trial depends on it."""
    if name in _PROMPT:
        return getattr(importlib.import_module("models.prompt"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return [*globals(), *_PROMPT]
