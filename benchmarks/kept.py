"""What a benchmark found, in a folder under `results/`: JSON for programs, a page for readers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.files import write_json
from ablations.show.render import markdown
from ablations.show.table import Table
from models.base.files import write_atomically
from models.base.typed import ConfigError


def check_folder(out: Path | None) -> None:
    """Before anything runs. Raises ConfigError where a file has the folder's place."""
    if out is not None and out.is_file():
        raise ConfigError(f"out={out}: is a file; name a folder")


def keep(out: Path, name: str, title: str, about: str, tables: Sequence[Table], found: Mapping[str, Any]) -> None:
    """`NAME.json` and `table.md`, whose head is `title` and what it is `about`."""
    lines = [f"# {title}", "", about]
    for table in tables:
        lines += ["", f"## {table.title}", "", *markdown(table), *(["", table.note] if table.note else [])]
    write_json(out / f"{name}.json", found)
    write_atomically(out / "table.md", "\n".join([*lines, ""]))
