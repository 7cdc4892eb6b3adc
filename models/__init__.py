"""DeepSeek-V3 as toggles, in plain PyTorch.

At a prompt: `models.build("tiny", {"attention.kind": "mha"})`, `models.load(checkpoint)`, `models.complete(...)`.
"""

import os
import sys

if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    # Somebody's folder, whose files are not to be taken for Python's: as in ablations/home.py.
    _root = os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir))
    try:
        if sys.path[:1] == [os.getcwd()] and sys.path[0] != _root:
            del sys.path[0]
    except FileNotFoundError:  # it was removed, and nothing is imported from it
        pass

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
