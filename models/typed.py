"""Dictionaries into typed dataclasses, the range of each field, and the one kind of error that a user's setting may
end in.

A field says its range in its type: `Annotated[float, Above(0), AtMost(1)]`. `build` keeps it, and `check_fields` does
for what was made in Python.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: the key, its value, the rule, and the fix."""


@dataclass(frozen=True)
class Above:
    limit: float

    def broken(self, value: float) -> str | None:
        """The rule that `value` breaks, in words."""
        return None if value > self.limit else f"must be above {self.limit:g}"


@dataclass(frozen=True)
class AtLeast:
    limit: float

    def broken(self, value: float) -> str | None:
        if value >= self.limit:
            return None
        return f"must be at least {self.limit:g}" if self.limit else "must not be negative"


@dataclass(frozen=True)
class AtMost:
    limit: float

    def broken(self, value: float) -> str | None:
        return None if value <= self.limit else f"must be at most {_shown(self.limit)}"


@dataclass(frozen=True)
class Below:
    limit: float

    def broken(self, value: float) -> str | None:
        return None if value < self.limit else f"must be below {self.limit:g}"


def _shown(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


def closest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """The dataclass `cls` from nested dictionaries; missing keys keep their defaults.

    Raises ConfigError on an unknown key, a wrong type, or a value outside a Literal or its range. `at` is the key of
    the whole.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{at or cls.__name__}={values}: expected a group of keys")
    hints = _hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        path = f"{at}.{key}" if at else key
        if key not in known:
            raise ConfigError(f"{path}: no such key{closest(key, known)} (known: {', '.join(known)})")
        arguments[key] = _checked(hints[key], value, path)
    return cls(**arguments)


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(cls: type) -> dict[str, Any]:
    """With the ranges; resolved once for each class."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def check_fields(config: Any, at: str = "") -> None:
    """Raise ConfigError for a field of a dataclass, or of those inside it, that `build` would not have taken."""
    hints = _hints(type(config))
    for f in dataclasses.fields(config):
        value, path = getattr(config, f.name), f"{at}.{f.name}" if at else f.name
        if dataclasses.is_dataclass(value):
            check_fields(value, path)
        else:
            _checked(hints[f.name], value, path)


def _checked(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` wants it, or ConfigError."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if typing.get_origin(hint) is Annotated:
        plain, *limits = typing.get_args(hint)
        value = _checked(plain, value, path)
        rules = (limit.broken(value) for limit in limits)
        if rule := next((rule for rule in rules if rule is not None), None):
            raise ConfigError(f"{path}={value}: {rule}")
        return value
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
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{path}={value}: must be a finite number")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{path}={value}: expected {hint.__name__}, got {type(value).__name__}")
    return value
