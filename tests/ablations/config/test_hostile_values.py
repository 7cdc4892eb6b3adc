"""Whatever a key is set to, it ends in one line, or in a plan that says what it would take and starts nothing endless.

Every key of the schema is tried, so that the next one is too.
"""

import copy
import dataclasses
import functools
import math
import typing
from typing import Any, Literal

import pytest
from least_sweep import SWEEP

from ablations.config import sweepfile
from ablations.config.compose import compose
from ablations.config.keys import Key, all_keys
from ablations.config.schema import ArmConfig, ExpectedConfig, MatchedConfig, SearchConfig, SweepConfig
from ablations.sweep import preflight
from ablations.sweep.announce import describe
from ablations.sweep.planning import make_plan
from models.base.typed import ConfigError, options

WHOLE = ("0", "-1", "1.5", "1000000000000", "100000000000000000000", "nan", "[]")
HOSTILE: dict[Any, tuple[str, ...]] = {
    int: WHOLE,
    float: ("-1", "1e300", "nan", "inf", "-inf", "many", "{}"),
    bool: ("2", "maybe", "null"),
    str: ("", " ", "/nowhere/at all", "${x}", "ü"),
    list: ("a", "[a,a]", "[[1]]", "[null]", "{a: 1}"),
    dict: ("a", "[a]", "{}", "{a: 1}", "{a: /nowhere, b: /nowhere}", "{a: {b: c}}", "{1: null}"),
    Literal: ("nonsense", "1", "[]", ""),
}
KEYS = [key for key in all_keys().values() if not key.is_group and not key.name.startswith("sweep")]
GROUPS = sorted({key.name.split(".")[0] if "." in key.name else "" for key in KEYS})
MOST_MINUTES = 1e18
"""What 64 bits of anything can come to; a plan of more than a day is not begun without being told to."""


def values_of(key: Key) -> list[str]:
    kinds = [typing.get_origin(kind) or kind for kind in options(key.hint)]
    return list(dict.fromkeys(value for kind in kinds for value in HOSTILE[kind]))


@pytest.fixture
def base(folder: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> dict[str, str]:
    """A sweep of two arms at smoke; files are read once, since this composes hundreds of times."""
    read, listed = functools.cache(sweepfile.read_yaml), functools.cache(preflight.source_state)
    monkeypatch.setattr(sweepfile, "read_yaml", lambda path: copy.deepcopy(read(path)))
    monkeypatch.setattr(preflight, "source_state", listed)
    monkeypatch.setattr("ablations.sweep.plan.cached_tokens", lambda *_: None)
    words = dict(word.split("=", 1) for word in folder(SWEEP))
    return words | {"scale": "smoke", "search_points": "1", "runs_dir": str(tmp_path / "runs")}


@pytest.mark.parametrize("group", GROUPS)
def test_no_value_of_a_key_ends_in_a_traceback_or_an_endless_plan(group: str, base: dict[str, str]) -> None:
    for key in KEYS:
        if (key.name.split(".")[0] if "." in key.name else "") != group:
            continue
        for value in values_of(key):
            words = [f"{name}={text}" for name, text in {**base, key.name: value}.items()]
            try:
                plan = make_plan(compose(words))
                told = describe(plan)
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000, (words[-1], str(error))
                continue
            assert 0 < plan.minutes < MOST_MINUTES, words[-1]
            assert ("yes_really=true" in told) == (plan.minutes > 24 * 60), words[-1]


ODD: list[Any] = [0, -1, 10**20, 1e300, math.nan, math.inf, "", "nonsense", [], [1, 1], ["a", "a"], {}, {"a": 1}, None]
FILE: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "": (SweepConfig, ()),
    "matched": (MatchedConfig, ("matched",)),
    "search": (SearchConfig, ("search",)),
    "arm": (ArmConfig, ("arms", "long")),
    "claim": (ExpectedConfig, ("expected", 0)),
}
"""The dataclasses of a sweep's file, and where one of each stands in it."""


@pytest.mark.parametrize("part", FILE)
def test_no_value_in_a_sweeps_file_ends_in_a_traceback(
    part: str, base: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cls, way = FILE[part]
    read = sweepfile.read_yaml
    for field in dataclasses.fields(cls):
        for odd in ODD:
            content = copy.deepcopy({**SWEEP, "matched": {}, "search": {}, "expected": [{"arm": "long"}]})
            node: Any = content
            for step in way:
                node = node[step]
            node[field.name] = copy.deepcopy(odd)
            monkeypatch.setattr(
                sweepfile, "read_yaml", lambda path, content=content: content if path.stem == "mine" else read(path)
            )
            try:
                config = compose([f"{name}={text}" for name, text in base.items()])
            except ConfigError as error:
                assert "\n" not in str(error) and ".yaml" in str(error), (part, field.name, odd, str(error))
            else:
                assert make_plan(config).minutes < MOST_MINUTES
