"""A sweep's run on disk: plan.json, trials.json, and one folder under runs/<sweep> for each plan.

The first plan of a scale has runs/<sweep>/<scale>. Another one (more seeds, fewer arms, changed code) never writes over
what that has found: it gets runs/<sweep>/<scale>@<hash of the plan>, and says which plan had trials before it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.files import read_json
from ablations.identity import sha
from models.typed import ConfigError

PLAN, STATE = "plan.json", "trials.json"
BEGUN = "begun"
"""What trials.json says from the first trial on, before there is anything to say of it."""
FORMAT = 1
NEEDED = ("sweep", "scale", "baseline", "seeds", "arms")
HOW_IT_WAS_ASKED = ("command", "sweep_file")
"""What plan.json tells besides the plan: other words may ask for the same one."""


def read_plan(folder: Path) -> dict[str, Any]:
    """plan.json. Raises ConfigError where the file is no plan, or one of another version."""
    plan = _read_mapping(folder / PLAN)
    if plan.get("format") != FORMAT:
        found = f"format={plan['format']}" if "format" in plan else "no plan"
        raise ConfigError(f"{folder / PLAN}: {found}: this version reads plans of format {FORMAT}; move {folder} away")
    for key in NEEDED:
        if key not in plan:
            raise ConfigError(f"{folder / PLAN}: has no {key}, so it is damaged; restore it, or move {folder} away")
    return plan


def read_state(folder: Path) -> dict[str, Any]:
    """trials.json, empty where there is none yet. Raises ConfigError where the file is something else."""
    return _read_mapping(folder / STATE) if (folder / STATE).is_file() else {}


def folder_of(runs: Path, results: Path, document: Mapping[str, Any]) -> Path:
    """Where the run with the plan `document` lies, or is to lie: under the name that it was published by, if it was."""
    usual: Path = runs / document["sweep"] / document["scale"]
    own = usual.with_name(f"{usual.name}@{sha(_planned(document))[:8]}")
    if (own / PLAN).is_file() or (results / document["sweep"] / own.name / PLAN).is_file():
        return own
    return own if (usual / PLAN).is_file() and has_trials(usual) and differing(read_plan(usual), document) else usual


def folders_of_scale(parent: Path, scale: str) -> list[Path]:
    """The folders of all plans of one sweep (`parent`) at one scale."""
    return [folder for folder in (parent / scale, *sorted(parent.glob(f"{scale}@*"))) if (folder / PLAN).is_file()]


def has_trials(folder: Path) -> bool:
    """Whether anything was trained under the folder's plan."""
    state = read_state(folder)
    return any(state.get(key) for key in (BEGUN, "search", "confirm"))


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two plans differ, by the dotted names of plan.json."""
    return sorted(_differing(_planned(one), _planned(other), ""))


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> list[str]:
    names = []
    for name in {*one, *other}:
        here, there = one.get(name), other.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping) and prefix + name != "arms":
            names += _differing(here, there, "" if name == "keys" and not prefix else f"{prefix}{name}.")
        elif here != there:
            names.append(prefix + name)
    return names


def listed(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _planned(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key not in HOW_IT_WAS_ASKED}


def _read_mapping(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a group of keys; restore it, or move it away")
    return values
