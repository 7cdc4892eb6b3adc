"""The project's workspace as code: one view of a sweep, one over all of them.

Runs are grouped by arm, the baseline first, with the mean over seeds and the band from the lowest to the highest seed,
in the colours of our figures. `wandb-workspaces` makes the objects; ids are ours, so that what is saved again replaces
what was saved before. Its `_to_model` is private and the only way to what would be sent.
"""

import importlib.util
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ablations.board.sections import ANSWER, PAIRED, TEST, Section, sections_of
from ablations.files import sha
from ablations.judge.result import Result
from ablations.metrics import metric as metric_of
from ablations.show.answer import answer
from ablations.show.figures.palette import look_of
from ablations.show.render import markdown
from ablations.show.sections.costs import speed_table
from ablations.show.sections.every import verdict_table
from ablations.show.table import Table
from ablations.trial.tracking import PLACE
from models.base.typed import ConfigError

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

AXIS = "tokens"
BAND = {"groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
"""Over the seeds of an arm."""
COLUMNS = 24
"""Of a grid of panels."""


def check_package() -> None:
    """Raise ConfigError where `wandb-workspaces` is not installed."""
    if importlib.util.find_spec("wandb") is None or importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("dashboard: wandb-workspaces is not installed; `pip install -e '.[dashboard]'` brings it")


def sweep_view(result: Result, entity: str, project: str) -> "Workspace":
    import wandb_workspaces.workspaces as ws

    columns = [f"summary:{prefix}{result.primary}" for prefix in (TEST, PAIRED)]
    runs = ws.RunsetSettings(
        filters=f"Config('sweep') == '{result.sweep}' and Config('trial') in {trials_of(result)}",
        groupby=[ws.Config("arm")],
        order=[ws.Ordering(ws.Config(PLACE)), ws.Ordering(ws.Config("arm"))],
        group_colors=dict(colours(result)),
        pinned_columns=["config:seed.value", *columns],
    )
    return _view(f"{result.sweep}, {result.run}", [result], runs, entity, project)


def overview(results: Sequence[Result], entity: str, project: str) -> "Workspace":
    """Every sweep of which there is a run at this scale, grouped by sweep and then by arm."""
    import wandb_workspaces.workspaces as ws

    scale = results[0].scale
    runs = ws.RunsetSettings(
        filters=f"Config('phase') == 'confirm' and Config('share') == 1 and Config('scale') == '{scale}'",
        groupby=[ws.Config("sweep"), ws.Config("arm")],
        order=[ws.Ordering(ws.Config("sweep")), ws.Ordering(ws.Config(PLACE)), ws.Ordering(ws.Config("arm"))],
        group_colors={
            ws.GroupPath(result.sweep, arm): colour for result in results for arm, colour in colours(result).items()
        },
    )
    return _view(f"all sweeps, {scale}", results, runs, entity, project)


def _view(name: str, results: Sequence[Result], runs: Any, entity: str, project: str) -> "Workspace":
    import wandb_workspaces.workspaces as ws

    sections = [
        ws.Section(name=section.name, panels=panels(section, results), is_open=True) for section in sections_of(results)
    ]
    settings = ws.WorkspaceSettings(x_axis=AXIS, max_runs=100)
    view = ws.Workspace(
        entity=entity, project=project, name=name, sections=sections, settings=settings, runset_settings=runs
    )
    view._internal_name = f"nw-{sha(['view', name])[:11]}-v"
    view._internal_runset_id = sha(["runs", name])[:12]
    return view


def colours(result: Result) -> dict[str, str]:
    """By arm, as in our figures."""
    return {arm: str(look["color"]) for arm, look in look_of(result).items()}


def trials_of(result: Result) -> list[str]:
    """The ids of the confirmation's trials that the tables are made of, sorted."""
    return sorted({record.id for record in result.all_records})


def panels(section: Section, results: Sequence[Result], words: bool = True) -> list[Any]:
    """Of one section, in rows of three. `words`: with what only we can say, as text."""
    import wandb_workspaces.reports.v2 as wr

    curves = [
        wr.LinePlot(title=title, x=AXIS, y=[key], title_x=AXIS, max_runs_to_show=100, **BAND)
        for key, title in section.curves.items()
    ]
    bars = [
        wr.BarPlot(title=title, metrics=[key], title_x=_unit(key), max_runs_to_show=100, **BAND)
        for key, title in section.bars.items()
    ]
    texts = [wr.MarkdownPanel(markdown=text) for text in _texts(section, results)] if words else []
    found, width, height = [*texts, *curves, *bars], COLUMNS // 3, 6
    for place, panel in enumerate(found):
        panel._id = sha([section.name, place])[:12]
        panel.layout = wr.Layout(x=place % 3 * width, y=place // 3 * height, w=width, h=height)
    return found


def _unit(key: str) -> str:
    return metric_of(key.removeprefix(PAIRED).removeprefix(TEST)).unit


def _texts(section: Section, results: Sequence[Result]) -> list[str]:
    """The answer, and what was timed apart from the trials: no run of a trial holds it."""
    if section.name == ANSWER:
        return ["\n".join(_answered(result, len(results) == 1)) for result in results]
    if section.name == "speed":
        return ["\n".join(markdown(table)) for table in map(speed_table, results) if table.rows]
    return []


def _answered(result: Result, whole: bool) -> Iterable[str]:
    yield from (f"**{result.plan.question}**", "", answer(result))
    if whole and result.verdicts:
        yield from ("", *markdown(_short(verdict_table(result))))


def _short(table: Table) -> Table:
    """Without the reasons, for which a panel is too small."""
    return Table(table.title, table.columns[:-1], [row[:-1] for row in table.rows], words=table.words)


def specification(view: "Workspace") -> dict[str, Any]:
    """What would be sent, as the package's own model reads it back. Raises ValueError where that is another one."""
    from wandb_workspaces.workspaces.internal import View

    model = view._to_model()
    text = model.model_dump_json(by_alias=True, exclude_none=True)
    if View.model_validate_json(text) != model:
        raise ValueError(f"{view.name}: the workspace's model does not read back what it writes")
    dumped: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped
