"""`python -m ablations.dashboard sweep=NAME [scale=cpu] [report=true]`: a run's workspace in Weights & Biases.

With a login it makes the project's views of this sweep and of all sweeps, uploads the runs that were written offline
and are not there yet, and prints where to look; `report=true` writes a report too. Without one it writes what would be
sent to runs/NAME/SCALE/workspace.json. Needs `pip install -e '.[dashboard]'`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ablations.board import report, server
from ablations.board.workspace import check_package, overview, specification, sweep_view
from ablations.config.schema import ENTITY, PROJECT, TrackConfig
from ablations.files import write_json
from ablations.home import ROOT, check_house
from ablations.judge.gather import load_result
from ablations.judge.result import Result
from ablations.record.documents import PLAN
from ablations.record.manifest import MANIFEST
from ablations.record.record import RECORDS
from ablations.trial.uploads import api_key, remembered, resolve_mode
from models.base.command import keys_of, parse
from models.base.streams import obeyed, spoken
from models.base.typed import ConfigError, NotEmpty

SPECIFICATION = "workspace.json"


@dataclass(frozen=True)
class DashboardConfig:
    """The command's keys."""

    sweep: str = ""
    scale: str = "cpu"
    run: str | None = None
    """The run's folder under runs/<sweep>, where that is not the scale's name alone."""
    entity: Annotated[str, NotEmpty(), ENTITY] | None = None
    """null: where the run's trials went, else that of the login."""
    project: Annotated[str, NotEmpty(), PROJECT] | None = None
    """null: where the run's trials went."""
    report: bool = False
    runs_dir: Path = Path("runs")


def asked(words: Sequence[str]) -> DashboardConfig:
    """Raises ConfigError for anything but the command's keys."""
    config = parse(DashboardConfig, words)
    if not config.sweep:
        raise ConfigError("sweep: name the sweep to show, as in `python -m ablations.dashboard sweep=moe_balance`")
    for key, value in (("sweep", config.sweep), ("scale", config.scale), ("run", config.run or "-")):
        if not value or Path(value).name != value or value.startswith("."):
            raise ConfigError(f"{key}={value}: expected the name of a folder under {config.runs_dir}")
    return config


def load(config: DashboardConfig, sweep: str, run: str) -> Result:
    return load_result(config.runs_dir, sweep, run, ROOT / "results" / sweep / run / RECORDS)


def others(config: DashboardConfig, result: Result) -> list[Result]:
    """This result, and those of all other sweeps at this scale. What cannot be read is told, and left out."""
    found = [result]
    for plan in sorted(config.runs_dir.glob(f"*/{result.scale}/{PLAN}")):
        if plan.parent.parent.name != result.sweep:
            try:
                found.append(load(config, plan.parent.parent.name, result.scale))
            except (ConfigError, OSError) as error:
                print(f"left out of the view of all sweeps: {' '.join(str(error).split())}", file=sys.stderr)
    return sorted(found, key=lambda one: one.sweep)


def _check_names(entity: str | None, project: str) -> None:
    """Raise ConfigError for what W&B takes for no team's or project's name."""
    for key, value, rule in (("entity", entity, ENTITY), ("project", project, PROJECT)):
        if value is not None and (said := rule.broken(value)) is not None:
            raise ConfigError(f"{key}={value}: {said}")


def dashboard(config: DashboardConfig) -> list[str]:
    """What to say at the end. Raises ConfigError where it cannot be made."""
    if (config.runs_dir / config.sweep / (config.run or config.scale) / MANIFEST).is_file():
        raise ConfigError(
            f"runs_dir={config.runs_dir}: holds published results, to which nothing is added; name the runs folder "
            "that they come from (a published page is for browsing as it is)"
        )
    result = load(config, config.sweep, config.run or config.scale)
    if not result.all_records:
        raise ConfigError(
            f"sweep={config.sweep} scale={config.scale}: no trial has ended yet, so there is nothing to show"
        )
    check_package()
    folder = config.runs_dir / result.sweep / result.run
    track = remembered(folder) or TrackConfig()
    entity = config.entity or track.entity or os.environ.get("WANDB_ENTITY")
    project = config.project or track.project
    _check_names(entity, project)
    results = others(config, result)
    if resolve_mode("auto") != "online":
        made = {view.name: specification(view) for view in _views(result, results, entity or "", project)}
        write_json(folder / SPECIFICATION, made)
        return _offline(config, folder)
    entity = entity or server.default_entity()
    lines = server.save_views(_views(result, results, entity, project), entity, project)
    waiting, there = server.offline_runs(result, config.runs_dir)
    if waiting:
        print(f"uploading {len(waiting)} runs, {there} are there", flush=True)
        server.upload(waiting, config.runs_dir, entity, project)
    if config.report:
        lines.append(server.save_report(report.report_of(result, entity, project)))
    return lines


def _views(result: Result, results: Sequence[Result], entity: str, project: str) -> list[Any]:
    return [sweep_view(result, entity, project), overview(results, entity, project)]


def _offline(config: DashboardConfig, folder: Path) -> list[str]:
    why = f"WANDB_MODE={os.environ['WANDB_MODE']}" if api_key() else "no login (`wandb login`)"
    lines = [str(folder / SPECIFICATION), f"nothing was uploaded: {why}" + (", and so no report" * config.report)]
    page = f"open {folder / 'page.html'}, or " if (folder / "page.html").is_file() else ""
    runs = config.runs_dir / "wandb"
    return [*lines, f"to browse here: {page}`wandb leet {runs}` in a terminal"]


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 with one line on stderr where the command cannot be obeyed."""
    words = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(words):
        print(f"{__doc__}\nKeys: {' '.join(keys_of(DashboardConfig))}")
        return 0

    def work() -> int:
        check_house()
        print(*dashboard(asked(words)), sep="\n")
        return 0

    return obeyed(work)


if __name__ == "__main__":
    sys.exit(spoken(main))
