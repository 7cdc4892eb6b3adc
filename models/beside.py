"""What a checkpoint's config.json has beside the model, for whoever reads or passes it on."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from models.base.typed import ConfigError

KINDS: dict[str, tuple[type, str]] = {
    "data": (dict, "a group of keys"),
    "end_of_text": (str, "text"),
    "chat_template": (str, "text"),
}
SHOWN = 80
"""Of a wrong value, characters."""
PLACES = ("path", "name", "text_field", "domains", "weights", "domain_per")
"""Data keys that say where text lies, and what it is mixed of."""
_OF_A_PACKAGE = re.compile(r"[\w.-]+/\*\.\w+")
"""Files of an installed package, as in `data.domains`."""


def check_kinds(values: Mapping[str, Any], place: str) -> None:
    """Raise ConfigError where what is kept beside a model is of another kind than we write it."""
    for key, (kind, wanted) in KINDS.items():
        if (value := values.get(key)) is not None and not isinstance(value, kind):
            shown = json.dumps(value)
            shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]} ..."
            raise ConfigError(f"{place}{key}={shown}: expected {wanted}; mend it, or take it out")


def without_places(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data keys as they mean the same elsewhere: text that lies in this machine's files is text, wherever it lies."""
    name, domains = str(data.get("name")), data.get("domains")
    files = isinstance(domains, dict) and not all(_OF_A_PACKAGE.fullmatch(str(where)) for where in domains.values())
    folder = data.get("source") == "hf" and _is_folder(name)
    if not (data.get("path") or files or folder):
        return dict(data)
    return {key: value for key, value in data.items() if key not in PLACES} | {"source": "text"}


def _is_folder(name: str) -> bool:
    """Whether a dataset's name is a place of this machine, alone or before its :SUBSET; also one that is gone."""
    if name.startswith(("/", "~", ".")):
        return True
    return os.sep in name and any(map(os.path.isdir, (name, re.split("[:@]", name)[0])))
