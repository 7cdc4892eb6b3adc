"""What a table is, before it is Markdown, a terminal's or a page's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are finished text. The columns in `words` read from the left, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    words: tuple[int, ...] = (0,)
