"""What `--help` prints: the questions, the scales, and every key with its default, read off the schema itself."""

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import ablations.schema
import models.config
import tasks.config
from ablations.keys import all_keys, options
from ablations.schema import Config
from ablations.sweepfile import SCALES, default_scale, read_yaml, scale_names, sweep_files
from models.typed import ConfigError

_WIDTH = 118
_USAGE = """\
python -m ablations.run sweep=NAME [KEY=VALUE ...]

Does a component of DeepSeek-V3 help, by how much, and can this experiment even tell? Trains every arm of a sweep on
the same batches, tests the differences, and prints a table with error bars and a verdict.
"""
_EXAMPLES = """\
Examples
  python -m ablations.run sweep=moe_balance                     the published settings, confirmed on new seeds
  python -m ablations.run sweep=moe_balance dry_run=true        what it would do and how long it would take
  python -m ablations.run sweep=moe_balance scale=smoke         the whole way in seconds; the numbers mean nothing
  python -m ablations.run sweep=moe_balance search=fresh arms=all seeds=8
  python -m ablations.run sweep=moe_balance optim.lr=3e-3       a searched key is pinned for all arms
  python -m ablations.run sweep=attention model=small           a named model size (tiny, small, base)
  python -m ablations.run sweep=mine sweeps_dir=~/questions     a sweep file of your own
  python -m ablations.run sweep=moe_balance --cfg job           the composed keys, and nothing is run
"""


def help_text() -> str:
    """Usage, sweeps, scales, keys, examples. Imports neither torch nor Hydra."""
    parts = [_USAGE, _sweeps(), _scales(), _keys(), _EXAMPLES]
    return "\n".join(parts)


def _sweeps() -> str:
    lines = ["Sweeps (sweep=)"]
    for name, paths in sweep_files(None).items():
        try:
            question = " ".join(str(read_yaml(paths[0]).get("question", "")).split())
        except ConfigError as error:
            question = f"cannot be read: {error}"
        lines.append(_line(name, question, 24))
    return "\n".join(lines) + "\n"


def _scales() -> str:
    lines = [f"Scales (scale=, here {default_scale()} unless named)"]
    for name in scale_names():
        first = (SCALES / f"{name}.yaml").read_text().partition("\n")[0]
        lines.append(_line(name, first.lstrip("# "), 24))
    return "\n".join(lines) + "\n"


def _keys() -> str:
    """One line per key: `name=default`, its choices, the first sentence of its docstring."""
    about: dict[tuple[str, str], str] = {}
    for module in (ablations.schema, models.config, tasks.config):
        about |= _docstrings(module)
    lines = ["Keys (with their defaults, before scale and sweep)"]
    owners: dict[str, Any] = {"": Config}
    for key in all_keys().values():
        if key.name == "sweep" or key.name.startswith("sweep."):
            continue
        group, _, last = key.name.rpartition(".")
        if key.is_group:
            owners[key.name] = key.hint
            continue
        text = about.get((owners[group].__name__, last), "")
        choices = [arg for hint in options(key.hint) for arg in typing.get_args(hint) if isinstance(arg, str)]
        listed = f"{{{'|'.join(choices)}}} " if choices else ""
        default = "null" if key.default is None else str(key.default).replace("'", "").replace(", ", ",")
        if isinstance(key.default, bool):
            default = default.lower()
        lines.append(_line(f"{key.name}={default_scale() if key.name == 'scale' else default}", listed + text, 46))
    return "\n".join(lines) + "\n"


def _line(left: str, right: str, column: int) -> str:
    line = f"  {left:<{column - 3}} {right}".rstrip()
    return line if len(line) <= _WIDTH else line[: _WIDTH - 3].rstrip() + "..."


def _docstrings(module: ModuleType) -> Mapping[tuple[str, str], str]:
    """(class, field) -> the first sentence of the string under the field, which Python itself does not keep."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if not isinstance(node, ast.ClassDef) or not dataclasses.is_dataclass(getattr(module, node.name)):
            continue
        for member, after in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name) and is_text:
                text = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
                found[node.name, member.target.id] = re.split(r"(?<=[.;])\s", text)[0].rstrip(".;")
    return found
