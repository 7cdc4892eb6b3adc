"""A W&B report that reads like our page: answer, claims, tables, and behind them the panels of the runs."""

from typing import TYPE_CHECKING, Any

from ablations.board.result_run import FIGURES
from ablations.board.sections import ANSWER, sections_of
from ablations.board.workspace import COLUMNS, colours, panels, trials_of
from ablations.judge.result import Result
from ablations.show.answer import answer, findings
from ablations.show.page import FIGURES_AFTER
from ablations.show.provenance import commands
from ablations.show.render import failure_lines, markdown
from ablations.show.sections.every import TABLES, all_tables

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report

BEHIND = {"verdicts": ANSWER}
"""Which section's panels stand behind which table; the others have its name."""
RUNS = "trials"
MOST = 128
"""Characters of a report's title."""


def report_of(result: Result, entity: str, project: str) -> "Report":
    """The server is asked which project that is when it is saved."""
    import wandb_workspaces.reports.v2 as wr

    sections, tables = {section.name: section for section in sections_of([result])}, all_tables(result)
    blocks: list[Any] = [wr.MarkdownBlock(f"**{answer(result)}**"), wr.UnorderedList(list(findings(result)))]
    for name in TABLES:
        section = sections.get(BEHIND.get(name, name))
        if name in tables:
            lines = [*markdown(tables[name]), "", tables[name].note]
            blocks += [wr.H2(tables[name].title), wr.MarkdownBlock("\n".join(lines))]
        shown = panels(section, [result], words=False) if section is not None else []
        if shown:
            blocks.append(_grid(result, shown, entity, project))
        if section is not None and section.name == ANSWER:
            blocks.append(_figures(result, entity, project))
    blocks += [wr.H2("Plan"), wr.MarkdownBlock("\n".join(_plan(result)))]
    title = f"{result.sweep} ({result.run}): {result.plan.question}"
    short = title if len(title) <= MOST else f"{title[: MOST - 3]}..."
    return wr.Report(entity=entity, project=project, title=short, description=result.plan.source, blocks=blocks)


def _grid(result: Result, shown: list[Any], entity: str, project: str) -> Any:
    import wandb_workspaces.reports.v2 as wr

    runs = wr.Runset(
        entity=entity,
        project=project,
        name=RUNS,
        filters=f"Config('sweep') == '{result.sweep}' and Config('trial') in {trials_of(result)}",
        groupby=["config.arm"],
    )
    groups = {
        wr.RunsetGroup(RUNS, (wr.RunsetGroupKey(wr.Config("arm"), arm),)): colour
        for arm, colour in colours(result).items()
    }
    return wr.PanelGrid(runsets=[runs], panels=shown, hide_run_sets=True, custom_run_colors=groups)


def _figures(result: Result, entity: str, project: str) -> Any:
    """Our own, from the result's run."""
    import wandb_workspaces.reports.v2 as wr

    only = f"Config('sweep') == '{result.sweep}' and Config('run') == '{result.run}'"
    runs = wr.Runset(entity=entity, project=project, name="result", filters=only)
    keys = [f"{FIGURES}/{name}" for names in FIGURES_AFTER.values() for name in names]
    media = wr.MediaBrowser(media_keys=keys, num_columns=2, layout=wr.Layout(w=COLUMNS, h=16))
    return wr.PanelGrid(runsets=[runs], panels=[media], hide_run_sets=True)


def _plan(result: Result) -> list[str]:
    lines = [
        f"`plan.json`, written before the first trial: SHA-256 `{result.plan_sha}`.",
        "",
        *_items(result.deviations),
    ]
    return [*lines, *_items(failure_lines(result)), "", *(f"    {command}" for command in commands(result))]


def _items(lines: list[str]) -> list[str]:
    return [f"- {line}" for line in lines]
