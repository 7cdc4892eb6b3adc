"""Sweep and scale files: found, read, and checked, so that a slip in one is a line that names the file and the key."""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablations.home import ROOT
from ablations.metrics import METRICS, check_measured, check_named
from ablations.metrics import metric as metric_of
from ablations.schema import Config, ExpectedConfig, SweepConfig
from ablations.trialkeys import TRIAL_GROUPS, TrialKeys, differing, value_of, with_overrides
from models.typed import ConfigError, build, closest

SCALES = ROOT / "ablations" / "scales"
RESERVED = ("aa", "control", "all")
"""Arms that the harness adds by itself, and the word for every arm."""
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
NEIGHBOURS = 2.0
"""Largest ratio between neighbouring learning rates: with a wider grid the estimate of mistuning says nothing."""


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
        folder = Path(os.path.abspath(Path(sweeps_dir).expanduser()))
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
    order = ["smoke", "cpu", "gpu"]
    return sorted((p.stem for p in SCALES.glob("*.yaml")), key=lambda s: (order.index(s) if s in order else 9, s))


def default_scale() -> str:
    """`gpu` where an NVIDIA driver is, seen without importing torch."""
    return "gpu" if Path("/dev/nvidiactl").exists() else "cpu"


def read_yaml(path: Path) -> dict[Any, Any]:
    """A YAML mapping as plain dictionaries. Raises ConfigError with file and line."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.load(path)
        values = OmegaConf.to_container(content, resolve=False)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{shown(path)}: {_first_line(error)}") from None
    except RecursionError:
        raise ConfigError(f"{shown(path)}: nested without an end; an anchor (&) must not stand within itself") from None
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


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_texts(node: Any, file: str, prefix: str) -> None:
    """YAML 1.1 reads the bare words on, off, yes, no, null and numbers as keys that are no text. And a file says by
    itself what it says: nothing is filled in from elsewhere."""
    if isinstance(node, str) and "${" in node:
        raise ConfigError(
            f"{file}: {prefix.rstrip('.')}={node}: ${{...}} is not filled in; write it out, or use an anchor (&)"
        )
    if isinstance(node, list):
        for item in node:
            _check_texts(item, file, prefix)
    elif isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                raise ConfigError(f"{file}: {prefix}{key}: YAML does not read this key as text; write it in quotes")
            _check_texts(value, file, f"{prefix}{key}.")


def read_scale(name: str) -> dict[str, Any]:
    """What a scale sets, as nested dictionaries of trial keys, `launch` and `seeds`, and its `note`."""
    if name not in scale_names():
        names = scale_names()
        raise ConfigError(f"scale={name}: no such scale{closest(name, names)} (scales: {', '.join(names)})")
    path = SCALES / f"{name}.yaml"
    values = read_yaml(path)
    allowed = (*TRIAL_GROUPS, "launch", "seeds", "search_points", "search_seeds", "raise_sizes", "note")
    for key in values:
        if key not in allowed:
            raise ConfigError(f"{shown(path)}: {key}: a scale sets only {', '.join(allowed)}")
    try:
        build(Config, values)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
    return {**values, "scale": name}


def scale_config(name: str) -> Config:
    """A scale by itself, before a sweep has set anything."""
    return build(Config, read_scale(name))


def read_sweep(path: Path) -> SweepConfig:
    """A sweep file as its dataclass, checked as far as that goes without a scale and a command line."""
    values = read_yaml(path)
    if "name" in values:
        raise ConfigError(f"{shown(path)}: name: a sweep is named by its file; remove the key")
    try:
        sweep = build(SweepConfig, {**values, "name": path.stem})
        check_sweep(sweep)
    except ConfigError as error:
        raise ConfigError(f"{shown(path)}: {error}") from None
    _check_keys(sweep, shown(path))
    return sweep


def check_sweep(sweep: SweepConfig) -> None:
    """Raise ConfigError for a sweep that cannot be run or cannot earn a verdict."""
    if not sweep.question.strip():
        raise ConfigError("question: missing; say in a sentence what this sweep asks")
    if len(sweep.arms) < 2:
        raise ConfigError(f"arms: {len(sweep.arms)} given; a sweep compares at least two")
    for name in sweep.arms:
        if not NAME.fullmatch(name):
            raise ConfigError(f"arms.{name}: a name has only letters, digits, - and _, and does not begin with -")
        if name in RESERVED:
            raise ConfigError(f"arms.{name}: reserved ({', '.join(RESERVED)} mean something else); choose another name")
    if sweep.baseline not in sweep.arms:
        near = closest(sweep.baseline, sweep.arms)
        raise ConfigError(f"baseline={sweep.baseline}: not among the arms{near} (arms: {', '.join(sweep.arms)})")
    if sweep.arms[sweep.baseline].optional:
        raise ConfigError(f"arms.{sweep.baseline}.optional=true: the baseline is always run; remove it")
    if not sweep.control:
        raise ConfigError(
            "control: empty; name a small harm, such as {train.token_fraction: 0.9}, or leave the key out"
        )
    seeds = sweep.search.seeds
    if min(seeds) < sweep.seeds:
        raise ConfigError(
            f"search.seeds={seeds}: {min(seeds)} is among the confirmation's seeds (seeds={sweep.seeds}: 0 to "
            f"{sweep.seeds - 1}), which nothing is chosen on; take others, such as 1000"
        )
    _check_points(sweep)
    for place, matched, changes in (
        ("matched", sweep.matched, {}),
        *((f"arms.{name}.matched", arm.matched or sweep.matched, arm.set) for name, arm in sweep.arms.items()),
    ):
        if matched.knob in changes and place != f"arms.{sweep.baseline}.matched":
            raise ConfigError(f"{place}.knob={matched.knob}: the arm sets it, and the solver would undo that; keep one")
    first: dict[tuple[str, ...], int] = {}
    for i, claim in enumerate(sweep.expected):
        _check_claim(claim, f"expected[{i}]", sweep)
        same = first.setdefault((claim.arm, claim.against or sweep.baseline, claim.metric, claim.kind), i)
        if same != i:
            raise ConfigError(f"expected[{i}]: the same claim as expected[{same}]; each is judged once, keep one")
    for place, metric in named_metrics(sweep):
        check_named(place, metric)
    share = sweep.search.constraint_max
    if (sweep.search.constraint_metric is None) != (share is None):
        raise ConfigError("search.constraint_metric, search.constraint_max: one needs the other")
    constrained = sweep.search.constraint_metric
    if constrained is not None and metric_of(constrained).maximum is None:
        known = ", ".join(metric.name for metric in METRICS if metric.maximum is not None)
        raise ConfigError(
            f"search.constraint_metric={constrained}: has no known maximum that search.constraint_max could be a "
            f"share of (these have: {known})"
        )


def check_control(control: TrialKeys, baseline: TrialKeys, file: str) -> None:
    """Raise ConfigError where the control is no harm: it is the baseline, or trains on more."""
    changed = differing(control, baseline)
    if not changed:
        raise ConfigError(f"{file} control: nothing in it differs from the baseline; it must be a known small harm")
    if control.tokens > baseline.tokens:
        what = ", ".join(f"{key}={value_of(control, key)}" for key in changed)
        raise ConfigError(
            f"{file} control: {what}: trains on more tokens than the baseline ({control.tokens:,} against "
            f"{baseline.tokens:,}); it must be a known small harm"
        )


def _check_points(sweep: SweepConfig) -> None:
    grids = {f"search.keys.{key}": (key, points) for key, points in sweep.search.keys.items()}
    for name, arm in sweep.arms.items():
        for key, points in arm.search.items():
            if key in sweep.search.keys:
                raise ConfigError(f"arms.{name}.search.{key}: searched for all arms already (search.keys)")
            if key in arm.set:
                raise ConfigError(f"arms.{name}.search.{key}: also in its `set`; keep one of them")
            grids[f"arms.{name}.search.{key}"] = (key, points)
        for key in arm.set:
            if key in sweep.search.keys:
                raise ConfigError(f"arms.{name}.set.{key}: searched for all arms (search.keys); keep one of them")
    for place, (key, points) in grids.items():
        if not points or points != sorted(set(points)):
            raise ConfigError(f"{place}={points}: needs points in ascending order, each once")
        if points[0] <= 0:
            raise ConfigError(f"{place}={points}: points are log-spaced, so they must be above 0")
        for low, high in itertools.pairwise(points):
            if key == "optim.lr" and high / low > NEIGHBOURS * (1 + 1e-9):
                raise ConfigError(
                    f"{place}={points}: {high:g} is {high / low:.3g} times {low:g}; neighbouring learning rates differ "
                    f"at most by a factor of {NEIGHBOURS:g}"
                )


def _check_claim(claim: ExpectedConfig, place: str, sweep: SweepConfig) -> None:
    for key, arm in (("arm", claim.arm), ("against", claim.against)):
        if arm is not None and arm not in sweep.arms:
            raise ConfigError(f"{place}.{key}={arm}: no such arm{closest(arm, sweep.arms)}")
    if claim.arm == (claim.against or sweep.baseline):
        raise ConfigError(f"{place}.arm={claim.arm}: is compared with itself; name another in `against`")
    check_named(f"{place}.metric", claim.metric, directional=claim.kind in ("better", "not_worse"))
    if claim.kind in ("equal", "not_worse", "identical") and claim.margin is None:
        raise ConfigError(f"{place}.margin: missing; kind {claim.kind} needs a margin above 0")
    region = claim.region
    if claim.kind == "value" and not (region is not None and len(region) == 2 and region[0] < region[1]):
        raise ConfigError(f"{place}.region={region}: kind value needs [low, high]")


def named_metrics(sweep: SweepConfig) -> list[tuple[str, str]]:
    """(place in the file, metric) of every metric that a sweep names."""
    places = [("primary", sweep.primary), *((f"metrics[{i}]", name) for i, name in enumerate(sweep.metrics))]
    places += [(f"expected[{i}].metric", claim.metric) for i, claim in enumerate(sweep.expected)]
    if sweep.search.constraint_metric is not None:
        places.append(("search.constraint_metric", sweep.search.constraint_metric))
    return places


def check_metrics_exist(sweep: SweepConfig, resolved: Mapping[str, TrialKeys], file: str) -> None:
    """Raise ConfigError for a metric that no trial of the arms, given as their trial keys, will have."""
    depth = max(keys.model.mtp.depth for keys in resolved.values())
    for place, metric in named_metrics(sweep):
        check_measured(f"{file}: {place}", metric, resolved[sweep.baseline].eval.tasks, depth)


def _check_keys(sweep: SweepConfig, file: str) -> None:
    """Every dotted key of a sweep exists and takes the value that it is given."""
    defaults = TrialKeys()
    with_overrides(defaults, sweep.common, f"{file} common")
    with_overrides(defaults, sweep.at_least, f"{file} at_least")
    for key in sorted(sweep.at_least.keys() & sweep.common.keys()):
        raise ConfigError(f"{file} at_least.{key}: also in `common`, which wins; keep one of them")
    with_overrides(defaults, sweep.control, f"{file} control")
    grids = [(f"{file} search.keys", sweep.search.keys)]
    for name, arm in sweep.arms.items():
        with_overrides(defaults, arm.set, f"{file} arm {name}")
        grids.append((f"{file} arm {name} search", arm.search))
    for where, grid in grids:
        for key, points in grid.items():
            for point in points:
                with_overrides(defaults, {key: point}, where)


def raised(sweep: SweepConfig, scale: Mapping[str, Any]) -> dict[str, int]:
    """The dotted keys that the sweep's `at_least` raises at a scale."""
    sizes = build(Config, scale).trial
    return {key: least for key, least in sweep.at_least.items() if value_of(sizes, key) < least}


def resolved_arms(sweep: SweepConfig, keys: TrialKeys, file: str) -> dict[str, TrialKeys]:
    """Arm -> its trial keys, searched ones at their first point. Raises ConfigError for an arm that is the baseline."""
    resolved = {}
    for name, arm in sweep.arms.items():
        first = {key: points[0] for key, points in {**sweep.search.keys, **arm.search}.items()}
        resolved[name] = with_overrides(keys, {**arm.set, **first}, f"{file} arm {name}")
    base = sweep.arms[sweep.baseline]
    for name, arm in sweep.arms.items():
        same = arm.search == base.search and not differing(resolved[name], resolved[sweep.baseline])
        if same and name != sweep.baseline:
            raise ConfigError(f"{file} arm {name}: nothing in it differs from the baseline {sweep.baseline}")
    return resolved


def without(sweep: SweepConfig, pinned: set[str]) -> SweepConfig:
    """The sweep with keys removed from its search, for all arms: the command line has pinned them."""

    def left(points: dict[str, list[float]]) -> dict[str, list[float]]:
        return {key: values for key, values in points.items() if key not in pinned}

    arms = {name: dataclasses.replace(arm, search=left(arm.search)) for name, arm in sweep.arms.items()}
    return dataclasses.replace(sweep, arms=arms, search=dataclasses.replace(sweep.search, keys=left(sweep.search.keys)))


def thinned(sweep: SweepConfig, points: int | None, seeds: int | None) -> SweepConfig:
    """The sweep with at most `points` neighbours from the middle of each grid, and at most `seeds` search seeds.

    For scales at which the whole search would cost more than it can tell. Neighbours stay neighbours, so the rule on
    their ratio still holds.
    """

    def middle(grid: dict[str, list[float]]) -> dict[str, list[float]]:
        starts = {
            key: (len(values) - points) // 2 if points and points < len(values) else 0 for key, values in grid.items()
        }
        return {key: values[starts[key] :][:points] for key, values in grid.items()}

    arms = {name: dataclasses.replace(arm, search=middle(arm.search)) for name, arm in sweep.arms.items()}
    search = dataclasses.replace(sweep.search, keys=middle(sweep.search.keys), seeds=sweep.search.seeds[:seeds])
    return dataclasses.replace(sweep, arms=arms, search=search)
