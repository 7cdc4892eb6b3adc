"""JSON: in files that are either whole or absent, and its hash."""

import hashlib
import json
from pathlib import Path
from typing import Any

from models.base.files import write_atomically
from models.base.reading import json_of, visible
from models.base.typed import ConfigError


def write_json(path: Path, value: Any) -> None:
    """As `as_json` has it."""
    write_atomically(path, as_json(value))


def as_json(value: Any) -> str:
    """Deterministic JSON: sorted keys, no NaN."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Its texts can be shown: control characters come escaped. Raises ConfigError where the file holds something else,
    OSError where it cannot be read."""
    try:
        return visible(json_of(path))
    except ValueError as error:
        raise ConfigError(f"{path}: not readable as JSON ({error}); restore it, or remove it") from error


def sha(value: Any) -> str:
    """sha256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
