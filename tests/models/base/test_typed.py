"""A field's bounds stand in its type, and hold wherever a dataclass is built from a dictionary."""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import pytest

from models.base.typed import Above, AtLeast, AtMost, ConfigError, Distinct, NotEmpty, build


@dataclass(frozen=True)
class Inner:
    share: Annotated[float, Above(0), AtMost(1)] = 0.5


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    count: (
        Annotated[int, AtLeast(1), AtMost(10_000)] | Annotated[list[Annotated[int, AtLeast(0)]], Distinct()] | None
    ) = 1
    name: Annotated[str, NotEmpty()] = "x"
    free: float = 0.0
    points: dict[str, list[float]] | None = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inner": {"share": 0}}, "inner.share=0.0: must be above 0"),
        ({"inner": {"share": 1.5}}, "inner.share=1.5: must be at most 1"),
        ({"name": "a\udcff"}, "name=a\\xff: is not UTF-8, in which it would be written down; give it another name"),
        ({"count": 0}, "count=0: must be at least 1"),
        ({"count": 20_000}, "count=20000: must be at most 10,000"),
        ({"count": [1, -1]}, "count[1]=-1: must not be negative"),
        ({"count": [3, 4, 3]}, "count=[3, 4, 3]: 3 stands in it twice; name each once"),
        ({"count": "many"}, "count=many: expected a whole number, got text"),
        ({"count": True}, "count=true: expected a whole number"),
        ({"count": 1 << 63}, "count: a whole number has at most 64 bits, this one 64"),
        ({"free": 10**400}, "free: a whole number has at most 64 bits, this one 1329"),
        ({"name": " "}, "name= : must not be empty"),
        ({"free": math.nan}, "free=nan: must be a finite number"),
        ({"points": {"lr": [1.0, math.inf]}}, "points.lr[1]=inf: must be a finite number"),
    ],
)
def test_what_breaks_a_bound_names_key_value_and_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Outer, values)
    assert str(caught.value) == message


def test_what_keeps_the_bounds_arrives() -> None:
    built = build(Outer, {"inner": {"share": 1}, "count": [2, 0], "free": -3})
    assert built == Outer(Inner(1.0), [2, 0], free=-3.0) and isinstance(built.free, float)
    assert build(Outer, {"count": 10_000}).count == 10_000 and build(Outer, {"count": None}).count is None
