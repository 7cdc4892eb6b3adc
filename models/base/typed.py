"""Dictionaries into typed dataclasses, and the one kind of error that a user's setting may end in.

A field's bounds stand in its type: `Annotated[int, AtLeast(1)]`. Numbers are finite, and whole ones fit into 64 bits.
`build` keeps them, and `check_fields` does for what was made in Python.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Protocol, TypeVar

T = TypeVar("T")


class ConfigError(ValueError):
    """A setting that cannot work. The message is one line: the key, its value, the rule, and the fix."""


class _OutOfBounds(ConfigError):
    """Of the right type: among the types of a union, the one that was meant."""


class Bound(Protocol):
    """What a value of the right type must keep besides."""

    def broken(self, value: Any) -> str | None:
        """The rule, as in `must be above 0`; None where the value keeps it."""


@dataclasses.dataclass(frozen=True)
class Above:
    limit: float

    def broken(self, value: Any) -> str | None:
        return None if value > self.limit else f"must be above {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class AtLeast:
    limit: float

    def broken(self, value: Any) -> str | None:
        if value >= self.limit:
            return None
        return f"must be at least {self.limit:,g}" if self.limit else "must not be negative"


@dataclasses.dataclass(frozen=True)
class AtMost:
    limit: float

    def broken(self, value: Any) -> str | None:
        return None if value <= self.limit else f"must be at most {self.limit:,.15g}"


@dataclasses.dataclass(frozen=True)
class Below:
    limit: float

    def broken(self, value: Any) -> str | None:
        return None if value < self.limit else f"must be below {self.limit:g}"


@dataclasses.dataclass(frozen=True)
class Distinct:
    """Of a list: each element once."""

    def broken(self, value: Any) -> str | None:
        twice = next((item for i, item in enumerate(value) if item in value[:i]), None)
        return None if twice is None else f"{twice} stands in it twice; name each once"


@dataclasses.dataclass(frozen=True)
class Fits:
    """Of a text: a pattern, which `rule` says in words."""

    pattern: str
    rule: str

    def broken(self, value: Any) -> str | None:
        return None if re.fullmatch(self.pattern, value) else self.rule


PLAIN = Fits(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", "must be a plain name (letters, digits, _, -, . and @)")
"""A name that can be a file's, and leads nowhere else."""


@dataclasses.dataclass(frozen=True)
class NotEmpty:
    """Of a text or a list."""

    def broken(self, value: Any) -> str | None:
        return None if (value.strip() if isinstance(value, str) else value) else "must not be empty"


def closest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest choice, or an empty string."""
    known = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(word.casefold(), known, n=1, cutoff=0.5)
    return f"; did you mean {known[near[0]]}?" if near else ""


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for a dotted key: a forgotten prefix first, then a slip of the finger."""
    choices = list(choices)
    for tail in (name, name.rpartition(".")[2]):
        ends = [choice for choice in choices if choice.endswith("." + tail)]
        if len(ends) == 1:
            return f"; did you mean {ends[0]}?"
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else closest(name, choices)


def build(cls: type[T], values: Mapping[str, Any], at: str = "") -> T:
    """The dataclass `cls` from nested dictionaries; missing keys keep their defaults.

    Raises ConfigError on an unknown key, a wrong type, a value outside a Literal or its bounds, or a missing key that
    has no default. `at` is the key of the whole.
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
    for name in _required(cls):
        if name not in arguments:
            raise ConfigError(f"{at or cls.__name__}: missing key {name}")
    return cls(**arguments)


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{`a.b`: 1} as {`a`: {`b`: 1}}: dotted keys as `build` takes them."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def options(hint: Any) -> list[Any]:
    """The types that a hint allows, None left out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return [hint]


def in_words(kind: type) -> str:
    """A type as who types it would call it."""
    words: dict[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, kind.__name__)


def as_typed(value: Any) -> str:
    """A value as YAML and the command line have it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(cls: Any) -> dict[str, Any]:
    """With the bounds; resolved once for each class."""
    if cls not in _HINTS:
        _HINTS[cls] = typing.get_type_hints(cls, include_extras=True)
    return _HINTS[cls]


def _required(cls: Any) -> list[str]:
    """The fields without a default."""
    nothing = dataclasses.MISSING
    return [f.name for f in dataclasses.fields(cls) if f.default is nothing and f.default_factory is nothing]


def check_fields(config: Any, at: str = "") -> None:
    """Raise ConfigError for a field of a dataclass, or of those inside it, that `build` would not have taken."""
    hints = _hints(type(config))
    for f in dataclasses.fields(config):
        value, path = getattr(config, f.name), f"{at}.{f.name}" if at else f.name
        if dataclasses.is_dataclass(value):
            check_fields(value, path)
        else:
            _checked(hints[f.name], value, path)


def _is_word(hint: Any) -> bool:
    return typing.get_origin(hint) is Literal


def _checked(hint: Any, value: Any, path: str) -> Any:
    """`value` as `hint` wants it, or ConfigError."""
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _checked(args[0], value, path)
        bounds: tuple[Bound, ...] = args[1:]
        for bound in bounds:
            if (rule := bound.broken(value)) is not None:
                raise _OutOfBounds(f"{path}={value}: {rule}")
        return value
    if origin is Literal:
        if value not in args:
            choices = [str(choice) for choice in args]
            raise ConfigError(f"{path}={value}: expected one of {', '.join(choices)}{closest(str(value), choices)}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = options(hint)
        errors = []
        for option in kinds:
            try:
                return _checked(option, value, path)
            except ConfigError as error:
                errors.append(error)
        words = [e for o, e in zip(kinds, errors, strict=True) if isinstance(value, str) and _is_word(o)]
        raise next((error for error in errors if isinstance(error, _OutOfBounds)), (words or errors)[0])
    if origin is list:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{path}={as_typed(value)}: expected a list")
        if args[0] is float and set(map(type, value)) <= {float} and all(map(math.isfinite, value)):
            return list(value)  # as below, and faster: most of a record are such columns
        return [_checked(args[0], item, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{path}={as_typed(value)}: expected a mapping")
        return {str(k): _checked(args[1], item, f"{path}.{k}") for k, item in value.items()}
    if hint is Any:
        return value
    if not isinstance(value, (int, float) if hint is float else hint) or (hint is not bool and isinstance(value, bool)):
        but = ", got text" if isinstance(value, str) else ""  # which may look like a number
        raise ConfigError(f"{path}={as_typed(value)}: expected {in_words(hint)}{but}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise _OutOfBounds(f"{path}: a whole number has at most 64 bits, this one {value.bit_length()}")
    if hint is float:
        if not math.isfinite(value):
            raise _OutOfBounds(f"{path}={value}: must be a finite number")
        return float(value)
    if isinstance(value, str) and not (value.isascii() or _is_utf8(value)):
        shown = value.encode(errors="surrogateescape").decode(errors="backslashreplace")
        raise ConfigError(f"{path}={shown}: is not UTF-8, in which it would be written down; give it another name")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
