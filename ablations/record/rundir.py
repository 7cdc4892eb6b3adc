"""Where a run lies: one folder under runs/<sweep> for each plan.

The first plan of a scale has runs/<sweep>/<scale>. Another one (more seeds, fewer arms, changed code) never writes over
what that has found: it gets runs/<sweep>/<scale>@<hash of the plan>, and says which plan had trials before it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.files import sha
from ablations.record.documents import PLAN, PlanDocument, SweepState
from models.base.typed import ConfigError

HOW_IT_WAS_ASKED = ("command", "sweep_file")
"""What plan.json tells besides the plan: other words may ask for the same one."""


def folder_of(runs: Path, results: Path, document: PlanDocument) -> Path:
    """Where the run with the plan `document` lies, or is to lie: under the name that it was published by, if it was."""
    usual = runs / document.sweep / document.scale
    own = usual.with_name(f"{usual.name}@{sha(_planned(document))[:8]}")
    if (own / PLAN).is_file() or (results / document.sweep / own.name / PLAN).is_file():
        return own
    if not (usual / PLAN).is_file():
        return usual
    try:
        state = SweepState.read(usual)
    except ConfigError:  # whoever finds it damaged takes it for begun
        state = SweepState(started=True)
    if not state.begun or state.plan_sha == document.sha:
        return usual
    return own if differing(PlanDocument.read(usual), document) else usual


def folders_of_scale(parent: Path, scale: str) -> list[Path]:
    """The folders of all plans of one sweep (`parent`) at one scale."""
    return [folder for folder in (parent / scale, *sorted(parent.glob(f"{scale}@*"))) if (folder / PLAN).is_file()]


def differing(one: PlanDocument, other: PlanDocument) -> list[str]:
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


def _planned(document: PlanDocument) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(document).items() if key not in HOW_IT_WAS_ASKED}
