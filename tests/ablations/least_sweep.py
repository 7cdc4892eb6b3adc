"""The least that a sweep file can be, and the line that a wrong one earns."""

from typing import Any

import pytest

from ablations.config.compose import compose
from models.base.typed import ConfigError

SWEEP: dict[str, Any] = {
    "question": "Does a warmup help?",
    "source": "nobody",
    "baseline": "short",
    "arms": {
        "short": {"set": {"optim.warmup_fraction": 0.05}},
        "long": {"set": {"optim.warmup_fraction": 0.3}, "search": {"optim.weight_decay": [0.05, 0.1]}},
    },
}
"""The least that a sweep file can be, but for one searched strength."""


def line(overrides: list[str]) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)
