"""What happened in each optimizer step, kept line by line: the truth, of which a tracker shows a mirror."""

import json
from pathlib import Path
from typing import IO, Any

from models.base.files import write_atomically

STEPS = "steps.jsonl"
COLUMNS = ("step", "tokens", "loss", "aux_loss", "max_vio", "lr")
"""Numbers that every line has."""


class StepLog:
    """`STEPS`: one line per optimizer step, flushed per line. A resumed trial cuts it back to its checkpoint."""

    def __init__(self, path: Path, keep_steps: int = 0) -> None:
        rows = [row for row in read_steps(path) if row["step"] <= keep_steps] if keep_steps else []
        if len(rows) != keep_steps:
            raise ValueError(f"{path} lacks steps that the checkpoint has")
        self.rows: list[dict[str, Any]] = rows
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file: IO[str] = path.open("a")

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Whole lines of a step log, up to the first that is none: a kill cut it short, or it is damaged."""
    rows = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        if (row := _row(line)) is None:
            break
        rows.append(row)
    return rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return None
    return row if all(isinstance(row.get(name), int | float) for name in COLUMNS) else None
