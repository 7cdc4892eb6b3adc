"""What a table is, before it is Markdown, a terminal's or a page's."""

from dataclasses import dataclass

from ablations import numbers
from ablations.judge.stats import Difference
from ablations.numbers import ABSENT


@dataclass(frozen=True)
class Table:
    """Cells are finished text. The columns in `words` read from the left, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[int, ...] = (0,)
    folded: bool = False
    """A page shows it on demand: it is long, and few read it."""


def difference_cells(d: Difference | None, places: int) -> list[str]:
    """Difference, simultaneous interval, Holm p."""
    if d is None:
        return [ABSENT] * 3
    return [numbers.signed(d.mean, places), numbers.interval(d.low, d.high, places), numbers.p_value(d.p_holm)]
