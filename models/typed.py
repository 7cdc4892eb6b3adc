"""Dictionaries into typed dataclasses, and the one kind of error that a user's setting may end in."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: the key, its value, the rule, and the fix."""


def closest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """The dataclass `cls` from nested dictionaries; missing keys keep their defaults.

    Raises ConfigError on an unknown key, a wrong type, or a value outside a Literal. `at` is the key of the whole.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or cls.__name__}={values}: expected a group of keys")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{at}.{key}" if at else key
        if key not in known:
            raise ConfigError(f"{path}: no such key{closest(key, known)} (known: {', '.join(known)})")
        arguments[key] = _checked(hints[key], value, path)
    return cls(**arguments)


def _checked(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` wants it, or ConfigError."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            choices = [str(choice) for choice in args]
            raise ConfigError(f"{path}={value}: expected one of {', '.join(choices)}{closest(str(value), choices)}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        options = [arg for arg in args if arg is not type(None)]
        errors = []
        for option in options:
            try:
                return _checked(option, value, path)
            except ConfigError as error:
                errors.append(error)
        raise errors[0]
    if origin is list:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}={value}: expected a list")
        return [_checked(args[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={value}: expected a mapping")
        return {str(k): _checked(args[1], item, f"{path}.{k}") for k, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}={value}: expected {hint.__name__}, got {type(value).__name__}")
    return value
