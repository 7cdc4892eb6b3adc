"""The harness: from a sweep's name to a result table.

For people at a prompt: `ablations.load("runs")` is a pandas frame of all trials, `ablations.curves(frame)` their steps.
"""

from ablations import home as home  # first of all: it says where every later import looks

# isort: split
import importlib
from typing import Any

_FRAMES = ("load", "curves")


def __getattr__(name: str) -> Any:
    """What needs pandas is imported by whoever asks for it, and by its name: no trial depends on it."""
    if name in _FRAMES:
        return getattr(importlib.import_module("ablations.frames"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")


def __dir__() -> list[str]:
    return [*globals(), *_FRAMES]
