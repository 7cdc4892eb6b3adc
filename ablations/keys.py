"""The dotted keys of a run: which exist, what each takes, the nearest to a mistyped one, and OmegaConf's view."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ablations.schema import Config
from models.typed import ConfigError, build, closest

TRIAL_GROUPS = ("model", "data", "optim", "train", "eval")
"""The keys that can change a trial's numbers. What no group here holds must not."""


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


def options(hint: Any) -> list[Any]:
    """The types that a hint allows, None left out."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [arg for arg in typing.get_args(hint) if arg is not type(None)]
    return [hint]


@functools.cache
def all_keys() -> dict[str, Key]:
    """Every key of the schema by its dotted name, groups before their members."""
    return {key.name: key for key in _walk(Config, "")}


def _walk(cls: Any, prefix: str) -> Iterable[Key]:
    hints = typing.get_type_hints(cls)
    for f in _settable(cls):
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        key = Key(prefix + f.name, hints[f.name], default)
        yield key
        if key.is_group:
            yield from _walk(key.hint, key.name + ".")


def _settable(cls: Any) -> list[dataclasses.Field[Any]]:
    return [f for f in dataclasses.fields(cls) if f.metadata.get("key", True)]


@functools.cache
def trial_leaves() -> tuple[str, ...]:
    """The dotted names that an arm may set or search."""
    return tuple(k.name for k in all_keys().values() if not k.is_group and k.name.split(".")[0] in TRIAL_GROUPS)


def suggestion(name: str, choices: Iterable[str]) -> str:
    """`; did you mean X?` for a dotted key: a forgotten prefix first, then a slip of the finger."""
    choices = list(choices)
    for tail in (name, name.rpartition(".")[2]):
        ends = [choice for choice in choices if choice.endswith("." + tail)]
        if len(ends) == 1:
            return f"; did you mean {ends[0]}?"
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else closest(name, choices)


def unknown_key(name: str) -> ConfigError:
    """The error for a key that the schema does not have."""
    words = [key for key in all_keys() if not key.startswith("sweep.")]
    known = suggestion(name, words) or f" (known: {', '.join(k for k in words if '.' not in k)}; all of them: --help)"
    return ConfigError(f"{name}: no such key{known}")


def describe(hint: Any) -> str:
    """What a key takes, in a user's words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Any: "a value"}
    parts = []
    for option in options(hint):
        origin, args = typing.get_origin(option), typing.get_args(option)
        if origin is Literal:
            parts.append("one of " + ", ".join(str(arg) for arg in args))
        elif origin is list:
            parts.append("a list" if args[0] is Any else f"a list of {describe(args[0]).removeprefix('a ')}s")
        elif origin is dict:
            parts.append("a mapping")
        else:
            parts.append("a group of keys" if dataclasses.is_dataclass(option) else words[option])
    if type(None) in typing.get_args(hint):
        parts.append("null")
    return " or ".join(parts)


def settings(config: Config) -> dict[str, Any]:
    """A composed config's keys as nested dictionaries."""
    values = dataclasses.asdict(config)
    return {f.name: values[f.name] for f in _settable(Config)}


def nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """{`a.b`: 1} as {`a`: {`b`: 1}}."""
    tree: dict[str, Any] = {}
    for name, value in dotted.items():
        *groups, last = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return tree


def flat(name: str, value: Any) -> dict[str, Any]:
    """The dotted leaves of a value given to a key: a group's mapping is taken apart, anything else is one leaf."""
    key = all_keys().get(name)
    if key is None:
        raise unknown_key(name)
    if not key.is_group:
        return {name: value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{name}={value}: expected a group of keys; set one of them, such as {_member(name)}=VALUE")
    leaves: dict[str, Any] = {}
    for member, inner in value.items():
        leaves |= flat(f"{name}.{member}", inner)
    return leaves


def _member(group: str) -> str:
    return next(key for key in all_keys() if key.startswith(group + "."))


def convert(name: str, value: Any) -> Any:
    """`value` as the key takes it. Raises ConfigError, in one line, for a wrong type or choice.

    OmegaConf settles what counts as a number, text or a truth value; `models.config.build` settles the choices.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    hint = all_keys()[name].hint
    one = dataclasses.make_dataclass("One", [("value", hint)])
    try:
        node = OmegaConf.structured(twin(one))
        node.value = value
        return build(one, OmegaConf.to_container(node)).value  # type: ignore[arg-type]
    except OmegaConfBaseException:
        fix = f"; write {value:.0f}" if isinstance(value, float) and value.is_integer() else ""
        if isinstance(value, str | int | float) and typing.get_origin(hint) is list:
            fix = f"; write {name}=[{value}]"
    except ConfigError as error:
        if "expected one of" in str(error):
            raise ConfigError(name + str(error).removeprefix("value")) from None
        fix = ""
    shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
    raise ConfigError(f"{name}={shown}: expected {describe(hint)}{fix}")


@functools.cache
def twin(cls: Any) -> Any:
    """A dataclass tree as OmegaConf can hold it, for Hydra's ConfigStore.

    OmegaConf knows neither `Literal` nor unions with lists, and treats frozen dataclasses as read-only: choices become
    text and such unions become Any, which `build` checks afterwards. Numbers, truth values, lists and mappings keep
    their types, so that Hydra refuses what does not fit.
    """
    hints = typing.get_type_hints(cls)
    fields: list[Any] = []
    for f in _settable(cls):
        hint = _twin_hint(hints[f.name])
        if typing.get_origin(hints[f.name]) is dict:  # OmegaConf would add a default's keys to those that are given
            fields.append((f.name, hint, dataclasses.field(default_factory=dict)))
        elif dataclasses.is_dataclass(hints[f.name]):
            fields.append((f.name, hint, dataclasses.field(default_factory=hint)))
        elif f.default is not dataclasses.MISSING:
            fields.append((f.name, hint, dataclasses.field(default=f.default)))
        elif f.default_factory is not dataclasses.MISSING:
            fields.append((f.name, hint, dataclasses.field(default_factory=f.default_factory)))
        else:
            fields.append((f.name, hint))
    return dataclasses.make_dataclass(cls.__name__, fields)


def _twin_hint(hint: Any) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return twin(hint)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return str
    if origin in (typing.Union, types.UnionType):
        kinds = options(hint)
        plain = len(kinds) == 1 and typing.get_origin(kinds[0]) not in (list, dict)
        return _twin_hint(kinds[0]) | None if plain else Any
    if origin is list:
        return list[_twin_hint(args[0])]  # type: ignore[misc]
    if origin is dict:
        return dict[str, _twin_hint(args[1])]  # type: ignore[misc]
    return hint
