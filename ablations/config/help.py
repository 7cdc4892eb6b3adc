"""What `--help` prints: the questions, the scales, and every key with its default, read off the schema itself."""

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from typing import Any, Literal

from ablations.config.keys import all_keys, default_of
from ablations.config.schema import ArmConfig, Config, ExpectedConfig, MatchedConfig, SearchConfig, SweepConfig
from ablations.config.sweepfile import SCALES, default_scale, read_yaml, scale_names, sweep_files
from ablations.metrics import METRICS
from models.base.typed import ConfigError, options
from tasks.evals.presets import PRESETS

_WIDTH, _CHOICES_WIDTH = 118, 72
_USAGE = """\
python -m ablations.run sweep=NAME [KEY=VALUE ...]

Does a component of DeepSeek-V3 help, by how much, and can this experiment even tell? Trains every arm of a sweep on
the same batches, tests the differences, and prints a table with error bars and a verdict.
"""
_EXAMPLES = """\
Examples
  python -m ablations.run sweep=moe_balance                     the published settings, confirmed on new seeds
  python -m ablations.run sweep=moe_balance dry_run=true        what it would do and how long it would take
  python -m ablations.run sweep=moe_balance scale=smoke         the whole way in minutes; the numbers mean nothing
  python -m ablations.run sweep=moe_balance search=fresh arms=all seeds=8
  python -m ablations.run sweep=moe_balance optim.lr=3e-3       a searched key is pinned for all arms
  python -m ablations.run sweep=attention model=small           a named model size (tiny, small, base)
  python -m ablations.run sweep=mine sweeps_dir=~/questions     a sweep file of your own
  python -m ablations.run sweep=moe_balance launch=ray          on a Ray cluster, or launch=slurm (docs/cluster.md)
  python -m ablations.run sweep=moe_balance data=text data.path=FOLDER   text of your own (docs/corpora.md)
  python -m ablations.run sweep=moe_balance --cfg job           the composed keys, and nothing is run
  python -m ablations.run --help sweep                          the keys of a sweep's file, and the metrics
"""


def help_text() -> str:
    """Usage, sweeps, scales, keys, examples. Imports neither torch nor Hydra."""
    parts = [_USAGE, _sweeps(), _scales(), _presets(), _keys(), _EXAMPLES]
    return "\n".join(parts)


def _sweeps() -> str:
    lines = ["Sweeps (sweep=)"]
    for name, paths in sweep_files(None).items():
        try:
            question = " ".join(str(read_yaml(paths[0]).get("question", "")).split())
        except ConfigError as error:
            question = f"cannot be read: {error}"
        lines.append(_entry(name, question, 24))
    return "\n".join(lines) + "\n"


def _scales() -> str:
    lines = [f"Scales (scale=, here {default_scale()} unless named)"]
    for name in scale_names():
        first = (SCALES / f"{name}.yaml").read_text().partition("\n")[0]
        lines.append(_entry(name, first.lstrip("# "), 24))
    return "\n".join(lines) + "\n"


def _presets() -> str:
    lines = ["Tasks that trials are scored on (eval=, in place of eval.tasks)"]
    return "\n".join([*lines, *(_entry(name, ", ".join(tasks), 24) for name, tasks in PRESETS.items())]) + "\n"


def _keys() -> str:
    """One entry per key: `name=default`, its choices, the first sentence of its docstring."""
    lines = ["Keys (with their defaults, before scale and sweep)"]
    owners: dict[str, Any] = {"": Config}
    for key in all_keys().values():
        if key.name == "sweep" or key.name.startswith("sweep."):
            continue
        group, _, last = key.name.rpartition(".")
        if key.is_group:
            owners[key.name] = key.hint
            continue
        about = _choices(key.hint) + first_sentence(_texts_of(owners[group]).get(last, ""))
        default = default_scale() if key.name == "scale" else _default(key.default)
        lines.append(_entry(f"{key.name}={default}", about, 46))
    return "\n".join(lines) + "\n"


def sweep_help() -> str:
    """What `--help sweep` prints: every key of a sweep's file, and the metrics it can name."""
    parts = ["Keys of a sweep's file (sweeps/NAME.yaml; docs/adding_a_sweep.md has an example)"]
    for title, cls in SWEEP_PARTS.items():
        hints, lines = typing.get_type_hints(cls), [title] if title else []
        for field in dataclasses.fields(cls):
            if dataclasses.is_dataclass(hints[field.name]) or field.name == "name":
                continue
            missing = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            default = "required" if missing else _default(default_of(field))
            about = _choices(hints[field.name]) + _texts_of(cls).get(field.name, "")
            lines.append(_entry(f"{field.name}: {default}", about, 46))
        parts.append("\n".join(lines))
    names = ", ".join(metric.name for metric in METRICS if not metric.yardstick)
    parts.append("Metrics\n" + _wrapped(f"{names}, and task/metric for a score of lm-eval", "  "))
    return "\n\n".join(parts) + "\n"


SWEEP_PARTS: dict[str, Any] = {
    "": SweepConfig,
    "arms.NAME.": ArmConfig,
    "matched. (and arms.NAME.matched.)": MatchedConfig,
    "search.": SearchConfig,
    "expected: a list of": ExpectedConfig,
}


def first_sentence(text: str) -> str:
    """Up to a full stop or semicolon; that of `V3 eq. 17`, or one within parentheses, ends nothing."""
    ends = (match.start() for match in re.finditer(r"(?<=;)\s|(?<!\beq\.)(?<!\bal\.)(?<=\.)\s(?=[^a-z0-9])", text))
    whole = (end for end in ends if text.count("(", 0, end) == text.count(")", 0, end))
    return text[: next(whole, len(text))].rstrip(".;")


def _choices(hint: Any) -> str:
    """`{a|b} ` for a choice, or a list of choices."""
    kinds = [
        arg for kind in options(hint) for arg in (typing.get_args(kind) if typing.get_origin(kind) is list else [kind])
    ]
    words = [str(arg) for kind in kinds if typing.get_origin(kind) is Literal for arg in typing.get_args(kind)]
    listed = "|".join(words)
    return f"{{{listed if len(listed) < _CHOICES_WIDTH else ' | '.join(words)}}} " if words else ""


def _default(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("'", "").replace(", ", ",")


def _entry(left: str, right: str, column: int) -> str:
    """Two columns; nothing is cut: a long text goes on below itself, and stands below a long name."""
    indent = " " * column
    if len(left) + 3 > column and right:
        return f"  {left}\n{_wrapped(right, indent)}"
    return f"  {left:<{column - 2}}{_wrapped(right, indent).lstrip()}".rstrip()


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


@functools.cache
def _texts_of(cls: type) -> Mapping[str, str]:
    """Field -> the string under it, which Python itself does not keep."""
    [node] = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    found = {}
    for member, after in zip(node.body, node.body[1:], strict=False):
        match member, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found
