"""A command line's KEY=VALUE words, read once with Hydra's grammar; everything wrong with one is a line that helps."""

import re
from typing import Any

from ablations.config.keys import accepted, all_keys, describe, flat, unknown_key
from ablations.config.schema import NAME
from ablations.config.sweepfile import sweep_files
from models.base.typed import ConfigError
from tasks.evals.presets import preset

_CHOICES = ("sweep", "scale")
_NAMED = {"launch": "launch.kind", "data": "data.source"}
"""Groups of keys of which one key says what the rest is about."""
_HOME, _IN_QUOTES = r"(?<=[\[,])(~[^,\]]*)", r'"\1"'
"""A path in a list that begins with `~`, which Hydra's grammar does not read."""


def parse(words: list[str]) -> dict[str, Any]:
    """Dotted key -> value of every word, in order; keys known, values of the right type. `model` is a size's name; a
    preset's for `eval` is its tasks; a name for `launch` is its kind, and for `data` its source.

    Raises ConfigError for what is no KEY=VALUE of the schema, and for a key that is given twice.
    """
    given: dict[str, Any] = {}
    for word in words:
        for key, value in _leaves(word).items():
            if key in given:
                raise ConfigError(f"{key}: given twice ({given[key]} and {value}); keep one")
            given[key] = value
    return given


def _leaves(word: str) -> dict[str, Any]:
    key, equals, raw = (part.strip() for part in word.partition("="))
    _check_form(word, key, bool(equals), raw)
    names_size = key == "model" and NAME.fullmatch(raw) is not None  # where `model={...}` is a group of keys
    if key in _CHOICES or names_size:
        return {key: raw.strip("'\"")}
    if key in _NAMED and NAME.fullmatch(raw):
        return {_NAMED[key]: accepted(_NAMED[key], raw)}
    if key == "eval" and NAME.fullmatch(raw):
        return {"eval.tasks": preset(raw)}
    return {leaf: accepted(leaf, value) for leaf, value in flat(key, _value(word, key)).items()}


def _check_form(word: str, key: str, equals: bool, raw: str) -> None:
    """Refuse what is no KEY=VALUE of the schema, in a user's words."""
    if word.startswith("-"):
        name = key.lstrip("-")
        near = f"; did you mean {name}={raw or 'VALUE'}?" if name in all_keys() else ""
        raise ConfigError(f"{word}: no such option{near} (settings are KEY=VALUE; --help lists them)")
    if word[:1] in ("+", "~"):
        bare = key.lstrip("+~")
        if bare not in all_keys():
            raise ConfigError(f"{word}: keys are neither added nor removed; {unknown_key(bare)}")
        raise ConfigError(f"{word}: keys are neither added nor removed; write {bare}={raw or 'VALUE'}")
    if not equals or not key:
        sweep = f"; did you mean sweep={word}?" if word in sweep_files(None) else ""
        raise ConfigError(f"{word}: expected KEY=VALUE{sweep} (--help lists the keys)")
    if key == "sweeps":
        raise ConfigError(f"sweeps={raw}: the key is `sweep`, one question at a time; write sweep={raw or 'NAME'}")
    if key not in all_keys():
        raise unknown_key(key)
    if key in _CHOICES and ("," in raw or raw[:1] in ("[", "{")):
        raise ConfigError(f"{word}: one {key} at a time; run the command once for each")


def _value(word: str, key: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    unreadable = ConfigError(f"{word}: the value cannot be read; expected {describe(all_keys()[key].hint)}")
    try:
        override = OverridesParser.create().parse_overrides([_quoted(word)])[0]
    except (HydraException, RecursionError, ValueError):  # a whole number of 5,000 digits is a ValueError
        raise unreadable from None
    if override.is_sweep_override():
        hint = f"; a list is written {key}=[a,b]" if isinstance(all_keys()[key].default, list) or key == "arms" else ""
        raise ConfigError(
            f"{word}: several values for one key (multirun) are not used: arms are written in a sweep file{hint}"
        )
    value = override.value()
    if not all_keys()[key].is_text and (twice := _doubled(word.partition("=")[2], value)):
        raise ConfigError(f"{word}: has {twice} twice; keep one")
    if "${" in str(value) and not all_keys()[key].is_text:
        raise unreadable
    return value


def _quoted(word: str) -> str:
    """Paths and names as they are: Hydra's grammar stumbles over `~`, `(`, `=`, commas and letters beyond ASCII."""
    key, _, raw = word.partition("=")
    known = all_keys().get(key.strip())
    if known is not None and isinstance(known.default, list):
        return f"{key}={re.sub(_HOME, _IN_QUOTES, raw)}"
    if known is None or not known.is_text or key.strip() == "arms" or raw == "null" or raw[:1] in ("'", '"'):
        return word
    # Hydra unescapes backslashes only in front of a quote, the closing one included.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', raw)
    trailing = raw[len(raw.rstrip("\\")) :]
    return f'{key}="{escaped}{trailing}"'


def _doubled(text: str, value: Any) -> str | None:
    """A key that a group in `text`, like `{a: 1, b:2}`, has twice: Hydra's reader keeps the last without a word, so
    that `value`, which it read, has fewer keys than were written."""
    groups: list[list[str] | None] = []  # the keys of each that is open; None of a list
    written, twice = 0, None
    start = place = 0
    while place < len(text):
        letter, top = text[place], groups[-1] if groups else None
        if letter == "\\":
            place += 1
        elif letter in "'\"":
            place = _closing(text, place)
        elif letter in "{[":
            groups.append([] if letter == "{" else None)
            start = place + 1
        elif letter in "}]" and groups:
            groups.pop()
            start = len(text)
        elif letter == ",":
            start = place + 1
        elif letter == ":" and top is not None and start <= place:
            key = text[start:place].strip().strip("'\"")
            twice = twice or (key if key in top else None)
            top.append(key)
            written += 1
            start = len(text)  # what follows up to the next comma is its value
        place += 1
    return (twice or "one key") if written > _count(value) else None


def _closing(text: str, place: int) -> int:
    """Where the quotes that begin here end; a backslash keeps a quote from ending them."""
    quote, place = text[place], place + 1
    while place < len(text) and text[place] != quote:
        place += 2 if text[place] == "\\" else 1
    return place


def _count(value: Any) -> int:
    """The keys of a value's groups, of those within them too."""
    if isinstance(value, dict):
        return len(value) + sum(map(_count, value.values()))
    return sum(map(_count, value)) if isinstance(value, list) else 0
