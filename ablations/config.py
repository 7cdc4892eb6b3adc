"""From a command line to a checked `Config`, through Hydra.

Precedence: defaults of the dataclasses < scale < a named size (`model=small`) < the sweep's `common` < command line <
an arm's own toggles. An arm's toggle and the command line may not set the same key: one of them would be silently lost.
A searched key on the command line is pinned for all arms.

Hydra parses the overrides and composes the groups `scale` and `sweep`; what it lets through silently (`+new.key=1`) or
explains in several lines is caught here first, in one.
"""

import dataclasses
import difflib
import re
from typing import Any

from ablations.help import help_text
from ablations.keys import TRIAL_GROUPS, all_keys, convert, describe, flat, nested, twin, unknown_key
from ablations.schema import Config
from ablations.sweepfile import (
    NAME,
    check_metrics_exist,
    check_sweep,
    default_scale,
    find_sweep,
    raised,
    read_scale,
    read_sweep,
    resolved_arms,
    scale_names,
    shown,
    sweep_files,
    without,
)
from ablations.trialkeys import TrialKeys, trial_keys, typed_trial, with_overrides
from models.cost import cost
from models.sizes import size
from models.typed import ConfigError, build, closest

__all__ = [
    "TrialKeys",
    "chosen_arms",
    "compose",
    "config_yaml",
    "default_scale",
    "explicit_overrides",
    "help_text",
    "scale_names",
    "trial_keys",
    "typed_trial",
    "with_overrides",
]

_CHOICES = ("sweep", "scale")
TRAINABLE_PARAMS = 1e9
"""A named size beyond this is there to be counted."""


def compose(overrides: list[str]) -> Config:
    """The checked config of `KEY=VALUE ...`. Raises ConfigError, one line; writes nothing."""
    given = _parse(overrides)
    sweeps_dir = given.get("sweeps_dir")
    if given.get("sweep") in (None, ""):
        raise ConfigError(f"sweep=NAME is required; sweeps: {', '.join(sweep_files(sweeps_dir)) or 'none'}")
    path = find_sweep(given["sweep"], sweeps_dir)
    sweep = read_sweep(path)
    scale = read_scale(given.get("scale", default_scale()))
    if "model" in given:
        scale["model"] = _size(given["model"]) | {"dtype": scale.get("model", {}).get("dtype", "auto")}
    explicit = {key for key in given if key.split(".")[0] in TRIAL_GROUPS and key != "model"}

    larger = raised(sweep, scale) if given.get("raise_sizes", scale.get("raise_sizes", True)) else {}
    node = {"sweep": dataclasses.asdict(sweep), **nested({**larger, **sweep.common})}
    lines = [text for text in overrides if _key_of(text) not in _CHOICES and not _names_size(text)]
    config = _hydra(scale, path.stem, node, lines)

    chosen = chosen_arms(config)
    _check_top(config)
    try:
        check_sweep(config.sweep)
    except ConfigError as error:
        raise ConfigError(f"sweep.{error}") from None
    for key in sorted(explicit):
        setters = [name for name in chosen if key in config.sweep.arms[name].set]
        if setters:
            which = f"arm{'s' * (len(setters) > 1)} {', '.join(setters)} of {shown(path)}"
            out = "" if config.sweep.baseline in setters else " or leave the arm out with arms=[...]"
            raise ConfigError(
                f"{key}={given[key]}: set by {which}, which it would undo; take it off the command line{out}"
            )
    for key in sorted(explicit & set(config.sweep.control)):
        raise ConfigError(
            f"{key}={given[key]}: the control of {shown(path)} sets it to {config.sweep.control[key]}; "
            "take it off the command line"
        )
    config = dataclasses.replace(config, sweep=without(config.sweep, explicit))

    keys = trial_keys(config)
    typed_trial(keys)
    resolved = resolved_arms(config.sweep, keys, shown(path))
    check_metrics_exist(config.sweep, resolved, shown(path))
    control = with_overrides(resolved[config.sweep.baseline], config.sweep.control, f"{shown(path)} control")
    for name, arm_keys in [*((f"arm {arm}", resolved[arm]) for arm in chosen), ("control", control)]:
        try:
            typed_trial(arm_keys)
        except ConfigError as error:
            raise ConfigError(f"{shown(path)} {name}: {error}") from None
    return config


def explicit_overrides(overrides: list[str]) -> set[str]:
    """The dotted trial keys that the command line sets."""
    return {key for key in _parse(overrides) if key.split(".")[0] in TRIAL_GROUPS}


def chosen_arms(config: Config) -> list[str]:
    """The arms to run, in the sweep's order: the baseline always, optional ones when named or with `arms=all`."""
    arms = config.sweep.arms
    wanted = [config.arms] if isinstance(config.arms, str) else config.arms
    if wanted is None:
        return [name for name, arm in arms.items() if not arm.optional]
    if wanted == ["all"]:
        return list(arms)
    for name in wanted:
        if name not in arms:
            raise ConfigError(f"arms={name}: no such arm{closest(name, arms)} (arms: {', '.join(arms)}; or arms=all)")
    if not wanted or wanted == [config.sweep.baseline]:
        raise ConfigError(f"arms={wanted}: name at least one arm besides the baseline {config.sweep.baseline}")
    return [name for name in arms if name in wanted or name == config.sweep.baseline]


def config_yaml(config: Config) -> str:
    """The composed config as YAML, for `--cfg job`."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _key_of(text: str) -> str:
    return text.partition("=")[0].strip()


def _parse(overrides: list[str]) -> dict[str, Any]:
    """Dotted leaf -> value of every override, in order; keys known, values of the right type."""
    given: dict[str, Any] = {}
    for text in overrides:
        for key, value in _leaves(text).items():
            if key in given:
                raise ConfigError(f"{key}: given twice ({given[key]} and {value}); keep one")
            given[key] = value
    return given


def _leaves(text: str) -> dict[str, Any]:
    key, equals, raw = (part.strip() for part in text.partition("="))
    _check_form(text, key, bool(equals), raw)
    if key in _CHOICES or _names_size(text):
        return {key: raw.strip("'\"")}
    leaves = flat(key, _value(text, key))
    for leaf in leaves:
        if leaf == "sweep.name" or leaf.startswith(("sweep.arms", "sweep.common", "sweep.control", "sweep.expected")):
            raise ConfigError(f"{leaf}: is the sweep file's own; edit the file, or copy it to another name")
    return {leaf: convert(leaf, value) for leaf, value in leaves.items()}


def _names_size(text: str) -> bool:
    """`model=small`, where `model={...}` is a group of keys."""
    key, _, raw = (part.strip() for part in text.partition("="))
    return key == "model" and NAME.fullmatch(raw) is not None


def _size(name: str) -> dict[str, Any]:
    """The model keys of a named size that can be trained here."""
    config, _ = size(name, "model")
    if cost(config, 1).total_params > TRAINABLE_PARAMS:
        raise ConfigError(
            f"model={name}: is counted (python -m models.cost {name}), not trained on one machine; "
            f"the largest that is: model=base"
        )
    return dataclasses.asdict(config)


def _check_form(text: str, key: str, equals: bool, raw: str) -> None:
    """Refuse what is no KEY=VALUE of the schema, in a user's words."""
    if text.startswith("-"):
        name = key.lstrip("-")
        near = f"; did you mean {name}={raw or 'VALUE'}?" if name in all_keys() else ""
        raise ConfigError(f"{text}: no such option{near} (settings are KEY=VALUE; --help lists them)")
    if text[:1] in ("+", "~"):
        bare = key.lstrip("+~")
        if bare not in all_keys():
            raise ConfigError(f"{text}: keys are neither added nor removed; {unknown_key(bare)}")
        raise ConfigError(f"{text}: keys are neither added nor removed; write {bare}={raw or 'VALUE'}")
    if not equals or not key:
        sweep = f"; did you mean sweep={text}?" if text in sweep_files(None) else ""
        raise ConfigError(f"{text}: expected KEY=VALUE{sweep} (--help lists the keys)")
    if key == "sweeps":
        raise ConfigError(f"sweeps={raw}: the key is `sweep`, one question at a time; write sweep={raw or 'NAME'}")
    if key not in all_keys():
        raise unknown_key(key)
    if key in _CHOICES and ("," in raw or raw[:1] in ("[", "{")):
        raise ConfigError(f"{text}: one {key} at a time; run the command once for each")


def _value(text: str, key: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_overrides([_quoted(text)])[0]
    except HydraException:
        raise ConfigError(f"{text}: the value cannot be read; expected {describe(all_keys()[key].hint)}") from None
    if override.is_sweep_override():
        hint = f"; a list is written {key}=[a,b]" if isinstance(all_keys()[key].default, list) or key == "arms" else ""
        raise ConfigError(
            f"{text}: several values for one key (multirun) are not used: arms are written in a sweep file{hint}"
        )
    return override.value()


def _quoted(text: str) -> str:
    """Paths and names as they are: Hydra's grammar stumbles over `~`, `(`, `=`, commas and letters beyond ASCII."""
    key, _, raw = text.partition("=")
    known = all_keys().get(key.strip())
    if known is None or not known.is_text or key.strip() == "arms" or raw == "null" or raw[:1] in ("'", '"'):
        return text
    # Hydra unescapes backslashes only in front of a quote, the closing one included.
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', raw)
    trailing = raw[len(raw.rstrip("\\")) :]
    return f'{key}="{escaped}{trailing}"'


def _hydra(scale: dict[str, Any], name: str, node: dict[str, Any], lines: list[str]) -> Config:
    """Compose with Hydra: the schema's twin, the two groups, the command line."""
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    order = ["_self_", {"scale": scale["scale"]}, {"sweep": name}]
    root = dataclasses.make_dataclass(
        "Root", [("defaults", list[Any], dataclasses.field(default_factory=lambda: order))], bases=(twin(Config),)
    )
    store = ConfigStore.instance()
    store.store(name="ablations", node=root)
    store.store(group="scale", name=scale["scale"], node=scale, package="_global_")
    store.store(group="sweep", name=name, node=node, package="_global_")
    try:
        with hydra.initialize(version_base="1.3", config_path=None):
            composed = hydra.compose(config_name="ablations", overrides=[_quoted(line) for line in lines])
        values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    assert isinstance(values, dict)
    return build(Config, {str(key): value for key, value in values.items()})


def _check_top(config: Config) -> None:
    seeds = config.seeds
    if isinstance(seeds, int) and seeds < 1:
        raise ConfigError(f"seeds={seeds}: needs at least 1")
    if isinstance(seeds, list):
        if not seeds or min(seeds) < 0:
            raise ConfigError(f"seeds={seeds}: needs one or more seeds, none negative")
        if len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds={seeds}: each seed once; the same trial twice is no second measurement")
        shared = sorted(set(seeds) & set(config.sweep.search.seeds))
        if shared:
            raise ConfigError(f"seeds={seeds}: {shared[0]} is a search seed of this sweep; confirmation needs new ones")
    if config.launch.workers is not None and config.launch.workers < 1:
        raise ConfigError(f"launch.workers={config.launch.workers}: needs at least 1, or null for one per core")
    if not config.launch.expected_tokens_per_second > 0:
        raise ConfigError(
            f"launch.expected_tokens_per_second={config.launch.expected_tokens_per_second}: must be above 0"
        )
    for key in ("runs_dir", "results_dir", "track.project"):
        group, _, last = key.rpartition(".")
        if getattr(getattr(config, group) if group else config, last) == "":
            near = difflib.get_close_matches("null", [str(all_keys()[key].default)]) or [str(all_keys()[key].default)]
            raise ConfigError(f"{key}=: must not be empty (default: {near[0]})")
