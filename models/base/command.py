"""What the smaller commands share: KEY=VALUE words into a dataclass, which is all that a command has to write down.

(`ablations.run`, whose words can be lists and groups, reads them with Hydra's grammar: ablations/config/words.py.)
"""

import contextlib
import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from models.base.typed import ConfigError, build, closest, nested, options

T = TypeVar("T")


def is_pair(word: str) -> bool:
    """Whether a word is KEY=VALUE; the name of a folder may have an equals sign too."""
    return re.fullmatch(r"[\w.]*=.*", word, re.DOTALL) is not None


def parted(cls: type[Any], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words for keys of `cls`, and all others: for a command that hands those on."""
    known = {name for name, _ in _leaves(cls, "")}
    own = [word for word in words if word.partition("=")[0] in known]
    return own, [word for word in words if word not in own]


def parse(cls: type[T], words: Sequence[str], hidden: Sequence[str] = ()) -> T:
    """The words as `cls`, whose groups are dataclasses. Raises ConfigError for anything else than its keys."""
    return build(cls, nested(given(cls, words, hidden)))


def given(cls: type[Any], words: Sequence[str], hidden: Sequence[str] = ()) -> dict[str, Any]:
    """Dotted key -> value of every word, as the key wants it; what is no such value stays text, which `build` refuses.
    `hidden`: keys of the groups that this command has no use for."""
    known = {name: hint for name, hint in _leaves(cls, "") if name not in hidden}
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if key not in known:
            raise ConfigError(f"{key}: no such key{closest(key, known)} (known: {', '.join(known)})")
        if not equals:
            raise ConfigError(f"{key}: expected {key}=VALUE")
        if key in values:
            raise ConfigError(f"{key}: given twice; keep one")
        values[key] = _value(known[key], key, text)
    return values


def keys_of(cls: type[Any], hidden: Sequence[str] = ()) -> list[str]:
    """`key=default` of every key, for a usage text."""
    defaults = {name: _default(cls, name) for name, _ in _leaves(cls, "") if name not in hidden}
    return [f"{name}={value}" for name, value in defaults.items()]


def _leaves(cls: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _leaves(hints[field.name], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hints[field.name]


def _default(cls: Any, name: str) -> str:
    for group in name.split(".")[:-1]:
        cls = typing.get_type_hints(cls)[group]
    field = next(f for f in dataclasses.fields(cls) if f.name == name.rpartition(".")[2])
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else "" if value is dataclasses.MISSING else str(value)


def _value(hint: Any, key: str, text: str) -> Any:
    kinds = options(hint)
    if text == "null" and type(None) in typing.get_args(hint):
        return None
    if Path in kinds:
        if not text.strip():
            raise ConfigError(f"{key}={text}: expected a path; leave the key out for its default")
        return Path(os.path.expanduser(text))
    for choice in (arg for kind in kinds if typing.get_origin(kind) is Literal for arg in typing.get_args(kind)):
        if text.lower() == choice:
            return choice
    if str in kinds or any(typing.get_origin(kind) is Literal for kind in kinds):
        return text
    for number in (int, float):  # YAML takes 1e3 for a word
        if number in kinds:
            with contextlib.suppress(ValueError):
                return number(text)
    return _read(key, text)


def _read(key: str, text: str) -> Any:
    """A value as YAML has it, but that a group's key comes once."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(name, deep=True) for name, _ in node.value]
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise ConfigError(f"{key}={text}: has {name} twice; keep one")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # a safe one
    except ConfigError:
        raise
    except Exception as error:  # also of what a value is made from: a 30th of February, `!!bool x`
        raise ConfigError(f"{key}={text}: not a value (numbers, words, null, or a list like [a,b])") from error
