"""The compact table of a result on a terminal: as many columns as fit, and never a number cut."""

import re
import sys
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ablations import numbers
from ablations.judge.result import ArmResult, Result, lack_of_score_signal
from ablations.judge.stats import Difference
from ablations.metrics import is_accuracy
from ablations.metrics import metric as metric_of
from ablations.numbers import ABSENT
from ablations.show.sections.every import seeds_cell
from ablations.show.table import Table

if typing.TYPE_CHECKING:
    import rich.console
    import rich.table

MARKS = {"not above chance": "*", "at the ceiling": "^", "too few items": "~"}
SCORE_HEADS = ("cloze", "score")
NARROW_NAME = 12
"""Characters that a long name of an arm is broken at."""
GAP = 2
"""Characters between columns."""


@dataclass(frozen=True)
class Column:
    head: str
    cells: list[str]
    rank: int
    """Of those that do not fit, the column with the highest rank goes first; rank 0 always stays."""
    narrow: list[str] | None = None
    """The cells in several lines, for where there is little room; None for numbers that stand in one."""
    words: bool = False

    @property
    def width(self) -> int:
        return max(len(line) for cell in (self.head, *self.cells) for line in cell.splitlines())

    @property
    def narrowed(self) -> "Column":
        return self if self.narrow is None else replace(self, cells=self.narrow, narrow=None)


def print_table(console: "rich.console.Console", result: Result) -> None:
    """The compact table; the whole is in table.md. Words are broken and secondary columns left out where there is no
    room, then an interval goes below its difference. On a terminal that is narrower still it is as wide as its numbers.
    """
    columns = fitting(_columns(result), console.width)
    console.print(_table(result, columns), width=max(console.width, _width(columns)), crop=False)


def _table(result: Result, columns: Sequence[Column]) -> "rich.table.Table":
    import rich.box
    import rich.table
    from rich.markup import escape

    scored = any(column.head in SCORE_HEADS for column in columns)
    climbs = any(arm.plan.onto for arm in result.arms.values())
    rival = "the arm that each stands on" if climbs else result.baseline
    table = rich.table.Table(
        title=f"{result.sweep}, scale={result.scale}: difference to {rival}, paired, 95 % simultaneous",
        title_justify="left",
        caption=_caption(result) if scored else None,
        caption_justify="left",
        box=rich.box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
    )
    for column in columns:
        table.add_column(
            escape(column.head), justify="left" if column.words else "right", no_wrap=True, min_width=column.width
        )
    for arm, cells in zip(result.arms.values(), zip(*(column.cells for column in columns), strict=True), strict=True):
        table.add_row(*map(escape, cells), style=None if arm.kind == "arm" else "dim")
    return table


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those that are shown in this width, in their order."""
    kept = list(columns)
    while _width([c.narrowed if c.words else c for c in kept]) > width:
        last = max(kept, key=lambda column: column.rank)
        if last.rank == 0:
            return [column.narrowed for column in kept]
        kept.remove(last)
    for words in sorted((c for c in kept if c.words), key=lambda column: -column.rank):
        if _width(kept) > width:
            kept[kept.index(words)] = words.narrowed
    return kept


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _broken(name: str) -> str:
    """A name in lines of at most `NARROW_NAME` characters, broken behind `_` and `-` where there are any."""
    lines = [""]
    for piece in re.findall(rf"[^_-]{{1,{NARROW_NAME - 1}}}[_-]?|[_-]", name):
        if len(lines[-1]) + len(piece) > NARROW_NAME:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)


def _columns(result: Result) -> list[Column]:
    arms, metric = list(result.arms.values()), metric_of(result.primary)
    common = result.common_seeds
    head = metric.label if common is not None or not result.all_records else f"{metric.label} (own seeds)"
    differences = [result.usual(arm) for arm in arms]
    names, seeds = [arm.name for arm in arms], [seeds_cell(arm) for arm in arms]
    chosen, changes = [numbers.settings(arm.chosen) for arm in arms], [_difference(d) for d in differences]
    found = [
        Column("arm", names, 0, [_broken(name) for name in names], words=True),
        Column("chosen", chosen, 4, [text.replace(", ", ",\n") for text in chosen], words=True),
        Column("seeds", seeds, 2, [text.replace(", ", ",\n") for text in seeds], words=True),
        Column(head, [numbers.fixed(arm.mean(metric.name, common), metric.digits) for arm in arms], 1),
        Column("difference", changes, 0, [text.replace(" [", "\n[") for text in changes]),
        Column("Holm p", [numbers.p_value(d.p_holm if d else None) for d in differences], 5),
        Column("MaxVio", [numbers.fixed(arm.mean("max_vio_global", common), 3) for arm in arms], 3),
    ]
    accuracy = _accuracy(result)
    if accuracy is not None:
        head = SCORE_HEADS["cloze" not in accuracy]
        found.append(Column(head, [_score(arm, accuracy) for arm in arms], 6))
    rates = [arm.speed.tokens_per_second if arm.speed else None for arm in arms]
    if any(rate is not None for rate in rates):
        found.append(Column("tok/s", [numbers.count(rate) for rate in rates], 7))
    memory = [arm.speed.peak_training_bytes if arm.speed else None for arm in arms]
    if any(size is not None for size in memory):
        found.append(Column("MiB", [_mebibytes(size) for size in memory], 8))
    return found


def _difference(d: Difference | None) -> str:
    if d is None:
        return ABSENT
    places = metric_of(d.metric).digits
    band = numbers.interval(d.low, d.high, places)
    return numbers.signed(d.mean, places) + (f" {band}" if band != ABSENT else "")


def _accuracy(result: Result) -> str | None:
    return next((name for name in result.score_metrics if is_accuracy(name)), None)


def _score(arm: ArmResult, accuracy: str) -> str:
    lack = lack_of_score_signal(arm, accuracy)
    return numbers.fixed(arm.mean(accuracy), 4) + ("" if lack is None else MARKS[lack])


def _caption(result: Result) -> str | None:
    """What the marks beside scores mean, of those that are there."""
    accuracy = _accuracy(result)
    if accuracy is None:
        return None
    lacks = {lack_of_score_signal(arm, accuracy) for arm in result.arms.values()}
    said = [f"{mark} no signal: {lack}" for lack, mark in MARKS.items() if lack in lacks]
    return "; ".join(said) or None


def _mebibytes(size: float | None) -> str:
    return ABSENT if size is None else f"{size / 2**20:,.0f}"


def print_tables(tables: Sequence[Table]) -> None:
    """One below the other, each as wide as its cells; a table without rows is its note."""
    import rich.box
    import rich.console
    import rich.table
    from rich.markup import escape

    console = rich.console.Console(width=None if sys.stdout.isatty() else 120, soft_wrap=False, highlight=False)
    for table in tables:
        shown = rich.table.Table(
            title=escape(table.title),
            title_justify="left",
            caption=escape(table.note) or None,
            caption_justify="left",
            box=rich.box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
        )
        for i, head in enumerate(table.columns):
            shown.add_column(escape(head), justify="left" if i in table.words else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*map(escape, row))
        console.print(shown)
        console.print()
