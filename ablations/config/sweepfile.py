"""Sweep and scale files: found and read, so that a slip in one is a line that names the file and the key."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.config.designs import laid_out
from ablations.config.schema import NAME, Config, SweepConfig
from ablations.config.sweeprules import check_keys, check_sweep
from ablations.config.trialkeys import TRIAL_GROUPS
from ablations.home import ROOT
from models.base.reading import visible
from models.base.typed import ConfigError, build, closest

MOST_VALUES, MOST_BYTES = 100_000, 1_000_000
"""Of a YAML file, with what its anchors repeat; the largest sweep of ours has 20 thousand bytes."""
SCALES = ROOT / "ablations" / "config" / "scales"


def shown(path: Path) -> str:
    """A path as a user would write it: relative to the checkout or the current directory."""
    for base in (ROOT, Path.cwd()):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


def sweep_files(sweeps_dir: str | None) -> dict[str, list[Path]]:
    """Sweep name -> its files, from the checkout's sweeps/ and `sweeps_dir` (relative to the current directory)."""
    folders = [ROOT / "sweeps"]
    if sweeps_dir is not None:
        folder = Path(os.path.abspath(os.path.expanduser(sweeps_dir)))
        if not folder.is_dir():
            raise ConfigError(f"sweeps_dir={sweeps_dir}: no such folder")
        if folder.resolve() != folders[0].resolve():
            folders.append(folder)
    files: dict[str, list[Path]] = {}
    for path in sorted(path for folder in folders for path in folder.glob("*.y*ml")):
        if path.suffix in (".yaml", ".yml") and not path.name.startswith("."):
            files.setdefault(path.stem, []).append(path)
    return files


def find_sweep(name: str, sweeps_dir: str | None) -> Path:
    """The file of a sweep, or ConfigError with the nearest name."""
    files = sweep_files(sweeps_dir)
    if name not in files:
        raise ConfigError(f"sweep={name}: no such sweep{closest(name, files)} (sweeps: {', '.join(files) or 'none'})")
    if not NAME.fullmatch(name):
        raise ConfigError(f"{shown(files[name][0])}: a sweep's file name has only letters, digits, - and _; rename it")
    if len(files[name]) > 1:
        raise ConfigError(f"sweep={name}: {' and '.join(map(shown, files[name]))} share the name; rename one of them")
    return files[name][0]


def scale_names() -> list[str]:
    order = ["smoke", "cpu", "cpu_long", "gpu"]
    return sorted((p.stem for p in SCALES.glob("*.yaml")), key=lambda s: (order.index(s) if s in order else 9, s))


WRITTEN_AS = {
    "horizon": "`horizons: [0.5]`",
    "dose": "`doses`",
    "factorial": "`factorial`",
    "ladder": "`onto` in each arm",
    "leave_one_out": "an arm for each part that is left out",
}
"""Designs that a file has by other keys; `design` says where arms begin."""


def default_scale() -> str:
    """`gpu` where an NVIDIA driver is, seen without importing torch."""
    return "gpu" if Path("/dev/nvidiactl").exists() else "cpu"


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML mapping as plain dictionaries. Raises ConfigError with file and line."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    _check_size(path)
    try:
        content = OmegaConf.load(path)
        values = OmegaConf.to_container(content, resolve=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{shown(path)}: {_first_line(error)}") from None
    except RecursionError:
        raise ConfigError(
            f"{shown(path)}: nested too deeply, or without an end (an anchor, &, must not stand within itself)"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        if "Invalid loaded object type" in str(error):
            raise ConfigError(f"{shown(path)}: not a mapping of keys to values") from None
        raise ConfigError(f"{shown(path)}: cannot be read ({error})") from None
    except Exception as error:  # PyYAML's errors have no base that is typed; a mark is what they share
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{shown(path)}{line}: not YAML: {_first_line(getattr(error, 'problem', None) or error)}"
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"{shown(path)}: not a mapping of keys to values")
    _check_texts(values, shown(path), "")
    return values


def _check_size(path: Path) -> None:
    """Raise ConfigError for a file that says more than any sweep does, or whose anchors do, written out."""
    import yaml

    if path.is_file() and (length := path.stat().st_size) > MOST_BYTES:
        raise ConfigError(f"{shown(path)}: {length:,} bytes; a sweep's file has at most {MOST_BYTES:,}")

    written: dict[int, int] = {}

    def size(node: yaml.Node | None) -> int:
        if node is None or id(node) in written:
            return written.get(id(node), 0)
        written[id(node)] = 1  # while it is counted: an anchor within itself is another's to refuse
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        written[id(node)] = 1 + sum(map(size, parts))
        return written[id(node)]

    try:
        values = size(yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader))
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError):
        return  # said where it is loaded
    if values > MOST_VALUES:
        raise ConfigError(
            f"{shown(path)}: its anchors (&, *) written out come to {values:,} values; at most {MOST_VALUES:,}"
        )


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_texts(node: Any, file: str, prefix: str) -> None:
    """YAML 1.1 reads the bare words on, off, yes, no, null and numbers as keys that are no text. And a file says by
    itself what it says: nothing is filled in from elsewhere."""
    if isinstance(node, str) and "${" in node:
        raise ConfigError(
            f"{file}: {prefix.rstrip('.')}={node}: ${{...}} is not filled in; write it out, or use an anchor (&)"
        )
    if isinstance(node, str) and visible(node) != node:
        raise ConfigError(f"{file}: {prefix.rstrip('.')}={node}: holds a control character; write it without")
    if isinstance(node, list):
        for item in node:
            _check_texts(item, file, prefix)
    elif isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                raise ConfigError(f"{file}: {prefix}{key}: YAML does not read this key as text; write it in quotes")
            _check_texts(value, file, f"{prefix}{key}.")


def read_scale(name: str) -> dict[str, Any]:
    """What a scale sets, as nested dictionaries of trial keys, `launch` and `seeds`, and its `note`. With `from: NAME`
    it sets what that scale does, and differs in what it names itself."""
    if name not in scale_names():
        names = scale_names()
        raise ConfigError(f"scale={name}: no such scale{closest(name, names)} (scales: {', '.join(names)})")
    return {**_own_and_inherited(name, ()), "scale": name}


def _own_and_inherited(name: str, above: tuple[str, ...]) -> dict[str, Any]:
    path = SCALES / f"{name}.yaml"
    values = read_yaml(path)
    parent = values.pop("from", None)
    allowed = (*TRIAL_GROUPS, "launch", "seeds", "search_points", "search_seeds", "raise_sizes", "note")
    for key in values:
        if key not in allowed:
            raise ConfigError(f"{shown(path)}: {key}: a scale sets only from, {', '.join(allowed)}")
    if parent is not None:
        others = [other for other in scale_names() if other not in (name, *above)]
        if parent not in others:
            raise ConfigError(f"{shown(path)}: from={parent}: another scale, one of {', '.join(others) or 'none'}")
        values = _over(_own_and_inherited(parent, (*above, name)), values)
    try:
        build(Config, values)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
    return values


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `values` put over it, group by group."""
    found = dict(base)
    for key, value in values.items():
        inner = isinstance(value, dict) and isinstance(found.get(key), dict)
        found[key] = _over(found[key], value) if inner else value
    return found


def scale_config(name: str) -> Config:
    """A scale by itself, before a sweep has set anything."""
    return build(Config, read_scale(name))


def read_sweep(path: Path) -> SweepConfig:
    """A sweep file as its dataclass, checked as far as that goes without a scale and a command line."""
    values = read_yaml(path)
    if "name" in values:
        raise ConfigError(f"{shown(path)}: name: a sweep is named by its file; remove the key")
    if (written := WRITTEN_AS.get(str(design := values.get("design")))) is not None:
        raise ConfigError(f"{shown(path)}: design={design}: is scratch or branch; a {design} is written as {written}")
    try:
        sweep = laid_out(build(SweepConfig, {**values, "name": path.stem}))
        check_sweep(sweep)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
    check_keys(sweep, shown(path))
    return sweep
