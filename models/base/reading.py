"""What a stranger may have written: read so that it can be wrong, and nothing worse."""

import json
import math
import re
from pathlib import Path
from typing import Any

MOST_BYTES = 100_000_000
"""Of a JSON file."""
MOST_DIGITS = 100
"""Of a whole number."""
MOST_SAID = 1500

_UNSEEN = re.compile(r"[\0-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What a terminal obeys (tabs and ends of lines aside), and what turns the direction of a text round."""


def json_of(path: Path) -> Any:
    """Raises ValueError, with the reason, where the file is no JSON as its standard has it (which knows no NaN), is
    nested beyond reading, or has more than MOST_BYTES; OSError where it cannot be read."""
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ValueError(f"{size:,} bytes; at most {MOST_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _refused(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    """Python would read 1e999 as infinity, and could not write it again."""
    if math.isinf(value := float(text)):
        raise ValueError(f"{text[:20]} is larger than any number here")
    return value


def _whole(text: str) -> int:
    """Python would read one of 400 digits, and could not reckon with it."""
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a whole number of {len(text):,} digits; at most {MOST_DIGITS}")
    return int(text)


def visible(value: Any) -> Any:
    """A JSON value whose texts show what they hold: control characters are escaped, which a terminal would obey."""
    if isinstance(value, str):
        return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    if isinstance(value, dict):
        return {visible(key): visible(inner) for key, inner in value.items()}
    return [visible(inner) for inner in value] if isinstance(value, list) else value


def one_line(said: object) -> str:
    """A text as one line that can be shown, of at most MOST_SAID characters: a value in it may be of any length."""
    line = str(visible(" ".join(str(said).split())))
    return line if len(line) <= MOST_SAID else f"{line[: MOST_SAID // 2]} ... {line[-MOST_SAID // 3 :]}"
