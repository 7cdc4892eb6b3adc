"""The dotted keys of a run: which exist, what each takes, and the nearest to a mistyped one."""

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ablations.config.schema import Config, SweepConfig
from models.base.typed import ConfigError, as_typed, build, in_words, nested, options, suggestion


@dataclass(frozen=True)
class Key:
    """One dotted key: the type that it takes, and its default."""

    name: str
    hint: Any
    default: Any

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.hint)

    @property
    def is_text(self) -> bool:
        """Takes any text (a path, a name), so that its value needs no quoting on the command line."""
        return str in options(self.hint)


@functools.cache
def all_keys() -> dict[str, Key]:
    """Every key of the schema by its dotted name, groups before their members."""
    return {key.name: key for key in _walk(Config, "")}


def _walk(cls: Any, prefix: str) -> Iterable[Key]:
    hints = typing.get_type_hints(cls)
    for f in _settable(cls):
        key = Key(prefix + f.name, hints[f.name], default_of(f))
        yield key
        if key.is_group:
            yield from _walk(key.hint, key.name + ".")


def default_of(field: "dataclasses.Field[Any]") -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _settable(cls: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.metadata.get("key", True)]


def unknown_key(name: str) -> ConfigError:
    """The error for a key that the schema does not have."""
    part = name.split(".")[0]
    if part in {f.name for f in dataclasses.fields(SweepConfig)} and part not in all_keys():
        return ConfigError(
            f"{name}: a key of a sweep's file, not of the command line; edit the file in sweeps/, or copy it and give "
            "the copy another name"
        )
    words = [key for key in all_keys() if not key.startswith("sweep.")]
    known = suggestion(name, words) or f" (known: {', '.join(k for k in words if '.' not in k)}; all of them: --help)"
    return ConfigError(f"{name}: no such key{known}")


def describe(hint: Any) -> str:
    """What a key takes, in a user's words."""
    parts = []
    for option in options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            parts.append("one of " + ", ".join(str(arg) for arg in args))
        elif origin is list:
            parts.append("a list" if args[0] is Any else f"a list of {describe(args[0]).removeprefix('a ')}s")
        elif origin is dict:
            parts.append("a mapping" if args[1] is Any else f"a mapping of names to {describe(args[1])}")
        elif dataclasses.is_dataclass(option):
            parts.append("a group of keys")
        else:
            parts.append("a value" if option is Any else in_words(option))
    if type(None) in typing.get_args(hint):
        parts.append("null")
    return " or ".join(parts)


def settings(config: Config) -> dict[str, Any]:
    """A composed config's keys as nested dictionaries."""
    values = dataclasses.asdict(config)
    return {f.name: values[f.name] for f in _settable(Config)}


def leaves_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The dotted leaves of nested dictionaries of keys."""
    return {leaf: value for name, inner in tree.items() for leaf, value in flat(name, inner).items()}


def flat(name: str, value: Any) -> dict[str, Any]:
    """The dotted leaves of a value given to a key: a group's mapping is taken apart, anything else is one leaf."""
    key = all_keys().get(name)
    if key is None:
        raise unknown_key(name)
    if not key.is_group:
        return {name: value}
    if not isinstance(value, Mapping):
        shown = "null" if value is None else value
        raise ConfigError(f"{name}={shown}: expected a group of keys; set one of them, such as {_member(name)}=VALUE")
    leaves: dict[str, Any] = {}
    for member, inner in value.items():
        of_member = flat(f"{name}.{member}", inner)
        if twice := sorted(leaves.keys() & of_member.keys()):
            raise ConfigError(f"{twice[0]}: given twice ({leaves[twice[0]]} and {of_member[twice[0]]}); keep one")
        leaves |= of_member
    return leaves


def _member(group: str) -> str:
    return next(key for key in all_keys() if key.startswith(group + "."))


def accepted(name: str, value: Any) -> Any:
    """`value` as the key takes it. Raises ConfigError, in one line, for a wrong type, choice or size."""
    hint = all_keys()[name].hint
    if not _fits(hint, value):
        raise ConfigError(f"{name}={as_typed(value)}: expected {describe(hint)}{_fix(name, hint, value)}")
    node: Any = build(Config, nested({name: value}))
    for part in name.split("."):
        node = getattr(node, part)
    return node


def _fits(hint: Any, value: Any) -> bool:
    """Whether the value is of the type; which choices and sizes there are is `build`'s to say."""
    if value is None:
        return hint is Any or type(None) in typing.get_args(hint)
    for option in options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if option is Any:
            return True
        if origin is Literal:
            fits = isinstance(value, str) and (value in args or bool not in options(hint))
        elif origin is list:
            fits = isinstance(value, list) and all(_fits(args[0], item) for item in value)
        elif origin is dict:
            fits = isinstance(value, Mapping) and all(_fits(args[1], item) for item in value.values())
        elif option in (int, float):
            fits = isinstance(value, (int, option)) and not isinstance(value, bool)
        else:
            fits = isinstance(value, option)
        if fits:
            return True
    return False


def _fix(name: str, hint: Any, value: Any) -> str:
    """What was probably meant."""
    kinds = options(hint)
    if int in kinds and isinstance(value, float) and value.is_integer():
        return f"; write {value:.0f}"
    if bool in kinds and str(value).lower() in ("1", "yes", "on", "0", "no", "off"):
        return f"; write {name}={str(str(value).lower() in ('1', 'yes', 'on')).lower()}"
    if typing.get_origin(kinds[0]) is list and isinstance(value, str | int | float):
        return f"; write {name}=[{value}]"
    return ""
