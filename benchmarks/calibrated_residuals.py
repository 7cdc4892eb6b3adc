"""The noise of real sweeps: what is left of their losses after arms and seeds.

Part of `python -m benchmarks.calibration`.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablations.files import read_json
from tasks.config import DRAWN

FEWEST = 3
"""Seeds, of which a residual says anything."""


def real_residuals(results: Path, metric: str = "loss") -> np.ndarray:
    """Of the published sweeps of text at scale=cpu, on the test split [arms x seeds, flat], each in units of its class.

    A class is what one sweep trains in one design: from scratch or off a trunk, with so many FLOPs a token. Their
    spreads differ by a factor of fifty, and pooled as they are the noisiest would be all that is drawn. Skills come as
    a jump and have no such noise (`calibrated_jumps`). Arms are told apart by their resolved configs. Empty where
    nothing is published.
    """
    pool = [
        _standardised(rows) for folder in sorted(results.glob("*/cpu/records")) for rows in _classes(folder, metric)
    ]
    return np.concatenate(pool) if pool else np.empty(0)


def resampled(residuals: np.ndarray) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """Draws with replacement from residuals [any], brought to mean 0 and unit variance."""
    pool = (residuals - residuals.mean()) / residuals.std()
    return lambda rng, shape: rng.choice(pool, shape)


def _classes(folder: Path, metric: str) -> list[np.ndarray]:
    """Losses [arms, seeds] of each class of one sweep that has two arms of seeds in common."""
    classes: dict[Any, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        config = record["config"]
        of_text = config.get("data", {}).get("source") not in DRAWN
        if record["status"] == "complete" and of_text and config.get("eval", {}).get("split") == "test":
            which = bool(config.get("before")), record["metrics"].get("flops")
            classes[which][json.dumps(config, sort_keys=True)][record["seed"]] = record["metrics"][metric]
    return [table for arms in classes.values() if (table := _common(arms)) is not None]


def _common(arms: Mapping[str, Mapping[int, float]]) -> np.ndarray | None:
    rows = [arm for arm in arms.values() if len(arm) >= FEWEST]
    seeds = sorted(set.intersection(*(set(arm) for arm in rows))) if rows else []
    if len(rows) < 2 or len(seeds) < FEWEST:
        return None
    return np.array([[arm[seed] for seed in seeds] for arm in rows])


def _standardised(table: np.ndarray) -> np.ndarray:
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    scale = left.std()
    return (left / scale).ravel() if scale > 0 else np.empty(0)
